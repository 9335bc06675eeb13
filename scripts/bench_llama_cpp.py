"""llama.cpp as one of the systems that the benchmarks compare: a Qwen3 checkpoint written as GGUF, and its margins.

pip install gguf
CMAKE_ARGS=-DGGML_NATIVE=ON pip install --no-binary llama-cpp-python llama-cpp-python   # compiles for this processor
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench_common import Work, label_ids
from bench_systems import Score
from whyrank.checkpoints import Plan

__all__ = ["gguf_names", "llama_cpp_facts", "llama_cpp_system", "write_gguf"]

# More than a prompt of these benchmarks has. llama.cpp splits what it is given into steps of its own size.
_CONTEXT = 8192
# Its level in llama.cpp's log.
_ERROR = 4


def gguf_names(names: list[str], layers: int) -> dict[str, str]:
    """The name that each tensor of a Qwen3 checkpoint has in a GGUF file."""
    import gguf

    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, layers)
    found = {name: table.get_name(name, try_suffixes=(".weight",)) for name in names}
    if unknown := [name for name, there in found.items() if there is None]:
        raise ValueError(f"GGUF has no name for {unknown[0]}")
    return found


def write_gguf(model: Path, out: Path, kind: str) -> None:
    """As llama.cpp's own script converts it with --outtype bf16 or q8_0: norms stay in float32. The tokenizer is left out,
    since prompts come as ids."""
    import gguf
    from safetensors.torch import load_file

    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    tensors = load_file(model / "model.safetensors")
    out.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(out, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.QWEN3])
    _write_config(writer, config)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind.upper()}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for name, there in gguf_names([*tensors], config["num_hidden_layers"]).items():
        array = tensors[name].float().numpy()
        chosen = gguf.GGMLQuantizationType[kind.upper() if array.ndim > 1 else "F32"]
        writer.add_tensor(there, gguf.quants.quantize(array, chosen), raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_config(writer: Any, config: dict[str, Any]) -> None:
    rotary = config.get("rope_parameters") or config
    writer.add_name("Qwen3")
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(config["vocab_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base(rotary["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])


def _log_errors(level: int, text: bytes, _: Any) -> None:
    if level == _ERROR:
        print(text.decode(errors="replace"), end="", file=sys.stderr)


class _Context:
    """One sequence. What a prompt begins with is not computed again if the one before began with it, as in a slot of
    llama.cpp's server: so frame and query are computed once for a call, and the frame once for all."""

    def __init__(self, path: Path, opened: ExitStack) -> None:
        import llama_cpp

        self._lib: Any = llama_cpp
        self._log = llama_cpp.llama_log_callback(_log_errors)  # C keeps only its address
        llama_cpp.llama_log_set(self._log, ctypes.c_void_p(0))
        threads = len(os.sched_getaffinity(0))
        model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        if not model:
            raise ValueError(f"llama.cpp cannot load {path}")
        opened.callback(llama_cpp.llama_model_free, model)
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = options.n_batch = _CONTEXT
        options.n_threads = options.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(model, options)
        if not self._context:
            raise ValueError(f"llama.cpp cannot make a context of {_CONTEXT} tokens")
        opened.callback(llama_cpp.llama_free, self._context)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = llama_cpp.llama_batch_init(_CONTEXT, 0, 1)
        opened.callback(llama_cpp.llama_batch_free, self._batch)
        self._ids: list[int] = []

    def logits(self, ids: list[int]) -> Any:
        """After the last id; valid until the next call."""
        pairs = zip(self._ids, ids[:-1], strict=False)
        kept = next((place for place, (old, new) in enumerate(pairs) if old != new), min(len(self._ids), len(ids) - 1))
        self._lib.llama_memory_seq_rm(self._memory, 0, kept, -1)
        batch = self._batch
        batch.n_tokens = len(ids) - kept
        for place, token in enumerate(ids[kept:]):
            batch.token[place], batch.pos[place] = token, kept + place
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
            batch.logits[place] = place + kept + 1 == len(ids)
        if code := self._lib.llama_decode(self._context, batch):
            raise RuntimeError(f"llama_decode returned {code}")
        self._ids = ids
        return self._lib.llama_get_logits_ith(self._context, batch.n_tokens - 1)


def llama_cpp_system(path: Path, plan: Plan, opened: ExitStack) -> Score:
    context = _Context(path, opened)
    yes, no = label_ids(plan)

    def read(ids: list[int]) -> float:
        logits = context.logits(ids)
        return float(logits[yes] - logits[no])

    def score(work: Work) -> list[float]:
        return [read(ids) for ids in work.ids]

    return score


def llama_cpp_facts() -> dict[str, str]:
    """What of the processor it was compiled for."""
    import llama_cpp

    return {"compiled_for": llama_cpp.llama_print_system_info().decode().strip()}
