"""The options of an engine and of `whyrank serve`. Python and the command line derive names, defaults and help from here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from whyrank.errors import InvalidRequest
from whyrank.options import Option, check_options

__all__ = ["DEMO", "Dtype", "EngineConfig", "Route", "ServeOptions"]

Route = Literal["generate", "classify", "encoder"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]

DEMO = "demo"
"""The name of the small model included in whyrank."""
_OWN_OPTION = "EngineConfig has an option of its own for it"
_SCORES_DEPEND = "whyrank sets it, since scores depend on it"
_FIXED_ENGINE_OPTIONS = dict.fromkeys(
    (
        "model revision dtype trust_remote_code max_model_len kv_cache_memory_bytes tensor_parallel_size quantization "
        "gpu_memory_utilization"
    ).split(),
    _OWN_OPTION,
) | dict.fromkeys("runner convert logprobs_mode speculative_config".split(), _SCORES_DEPEND)
_DEMO_FOLDER = Path(__file__).parent / "models" / "prism-demo"


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """One engine for one checkpoint. `model`: a folder, a hub name, or "demo", the small model included in whyrank."""

    model: str
    prompt: Annotated[
        str | None,
        Option(
            "A prompt's name (see `whyrank formats`), or a TOML file of your own. chat asks any chat model yes or no, "
            "chat-grades for a grade from 0 to 3."
        ),
    ] = None
    route: Annotated[Route | None, Option("By default the prompt's first.")] = None
    revision: Annotated[str | None, Option("Branch, tag or commit of a hub model.")] = None
    dtype: Annotated[Dtype, Option("auto: chosen for device and checkpoint.")] = "auto"
    max_length: Annotated[
        int | None,
        Option("Maximum tokens of a prompt; by default the prompt file's limit.", positive=True, unit="tokens"),
    ] = None
    kv_cache_gib: Annotated[
        float | None,
        Option(
            "GiB for the prefix cache. By default nearly all GPU memory; on a CPU what the model can use, at most about 4.",
            positive=True,
            unit="GiB",
        ),
    ] = None
    features: Annotated[
        Literal["given", "auto"],
        Option("auto: compute the features (of the multi-hop reranker) that a document lacks, by simple rules."),
    ] = "given"
    trust_remote_code: Annotated[bool, Option("Run the Python code that the checkpoint ships.")] = False
    calibration: Annotated[
        str | None, Option("The file that `whyrank calibrate` wrote for this model.", metavar="FILE")
    ] = None
    verifier: Annotated[
        str | None,
        Option(
            "A second checkpoint that judges evidence (verify 'model'), with options of its own: MODEL,prompt=NAME.",
            metavar="MODEL",
        ),
    ] = None
    tensor_parallel_size: Annotated[int, Option("GPUs that share one model.", minimum=1)] = 1
    quantization: Annotated[str | None, Option("How vLLM reads or makes quantised weights, e.g. fp8_per_tensor.")] = (
        None
    )
    gpu_memory_utilization: Annotated[
        float | None, Option("Share of a GPU's memory that the engine may use.", minimum=0, maximum=1)
    ] = None
    engine_options: Annotated[
        dict[str, Any], Option("Any other argument of vLLM's engine, by its Python name.", flag=False)
    ] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not self.model:
            raise InvalidRequest("model is empty: give a folder or a hub name such as Qwen/Qwen3-Reranker-0.6B")
        if str(self.dtype) == "int8":
            raise InvalidRequest(
                f"dtype is 'int8': write an int8 checkpoint once with `whyrank quantize {self.model} OUT`, and give OUT as the "
                "model"
            )
        check_options(self)
        for name in self.engine_options:
            if name in _FIXED_ENGINE_OPTIONS:
                raise InvalidRequest(f"engine_options may not hold {name!r}: {_FIXED_ENGINE_OPTIONS[name]}")

    @property
    def is_embedded(self) -> bool:
        """Whether this is the small model included in whyrank."""
        return self.source == str(_DEMO_FOLDER)

    @property
    def source(self) -> str:
        """The folder or hub name to load from."""
        return str(_DEMO_FOLDER) if self.model == DEMO else self.model


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """The options of `whyrank serve` that are neither the engine's nor vLLM's."""

    vllm_routes: Annotated[
        bool,
        Option(
            "Also open vLLM's own routes (/v1/completions, /tokenize, /invocations, ...): raw generation and tokenization "
            "for anyone with a key, without whyrank's limits and with one cache for all keys."
        ),
    ] = False
    protect_metrics: Annotated[
        bool, Option("Require the API key for /metrics, too; then only /health is open to everyone.")
    ] = False
    strict_model: Annotated[
        bool,
        Option("Refuse (404) requests that name another model. By default they are answered with a warning."),
    ] = False
    verbose: Annotated[bool, Option("Show the vLLM command, vLLM's own log and a line for each request.")] = False
    ray: Annotated[
        bool,
        Option("Serve with Ray, on this machine's cluster or on one of its own. Needs whyrank[ray]."),
    ] = False
    replicas: Annotated[int, Option("With --ray: engines behind this address.", minimum=1)] = 1
