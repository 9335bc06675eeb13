"""Dense retrieval: an embedding checkpoint on vLLM's pooling runner, vectors in a file, exact search by matrix products."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from whyrank.checkpoint_files import read_own_json
from whyrank.errors import CheckpointError, DataError
from whyrank.jsonl import naming, write_file
from whyrank.retrieval.passages import Passages
from whyrank.runtimes.vllm_compat import vllm_name

__all__ = ["Dense", "Embedder", "VllmEmbedder", "exact_search", "own_prompts", "read_or_embed"]

Vectors = NDArray[np.float32]

_LONGEST = 8192
"""Tokens of a text that are read."""
_BATCH = 256
"""Documents that are embedded before the file says that they are."""
_BLOCK = 16384
"""Documents that are compared at once."""


class Embedder(Protocol):
    name: str

    def embed(self, texts: Sequence[str], are_queries: bool) -> Vectors:
        """One row for each text, of length one."""


class VllmEmbedder:
    """Any checkpoint that vLLM's pooling runner embeds with. What stands before queries and documents comes from the
    checkpoint's own config_sentence_transformers.json, where it has one."""

    def __init__(self, model: str, **options: Any) -> None:
        """`options`: of vLLM's engine."""
        from transformers import AutoTokenizer

        self.name = model
        self._prompts = own_prompts(model)
        self._tokenizer = AutoTokenizer.from_pretrained(model)
        try:
            # -1: as long as the model and the memory allow.
            self._engine = vllm_name("LLM")(model, runner="pooling", max_model_len=-1, **options)
        except (ValueError, RuntimeError, AssertionError) as cause:
            raise CheckpointError(f"model {model!r}: vLLM cannot embed with it: {cause}") from cause
        self._length = min(_LONGEST, self._engine.llm_engine.model_config.max_model_len)

    def embed(self, texts: Sequence[str], are_queries: bool) -> Vectors:
        before = self._prompts.get("query" if are_queries else "document", "")
        ids = self._tokenizer(
            [before + text for text in texts], truncation=True, max_length=self._length, return_attention_mask=False
        )["input_ids"]
        outputs = self._engine.embed([{"prompt_token_ids": row} for row in ids], use_tqdm=False)
        vectors: Vectors = np.array([output.outputs.embedding for output in outputs], np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors


def own_prompts(model: str) -> Mapping[str, str]:
    """sentence-transformers' table of prompts. "passage" is what some call documents."""
    prompts = (read_own_json(model, "config_sentence_transformers.json") or {}).get("prompts") or {}
    return {"document": prompts.get("passage") or "", **prompts}


class Dense:
    def __init__(self, vectors: Vectors, embedder: Embedder) -> None:
        self.name = embedder.name
        self._vectors, self._embedder = vectors, embedder

    def search(self, queries: Sequence[str], top_k: int) -> Iterator[list[tuple[int, float]]]:
        """For each query the places of the nearest documents and their cosines, best first."""
        for start in range(0, len(queries), _BATCH):
            vectors = self._embedder.embed(queries[start : start + _BATCH], are_queries=True)
            places, scores = exact_search(self._vectors, vectors, top_k)
            for row, row_scores in zip(places.tolist(), scores.tolist(), strict=True):
                yield list(zip(row, row_scores, strict=True))


def exact_search(vectors: Vectors, queries: Vectors, top_k: int) -> tuple[NDArray[np.int64], Vectors]:
    """Places and inner products of the `top_k` best for each query, best first; of equal ones the earlier. Memory: a block."""
    places = np.empty((len(queries), 0), np.int64)
    scores = np.empty((len(queries), 0), np.float32)
    for start in range(0, len(vectors), _BLOCK):
        block = queries @ np.ascontiguousarray(vectors[start : start + _BLOCK]).T
        here = np.broadcast_to(np.arange(start, start + block.shape[1]), block.shape)
        scores, places = np.concatenate((scores, block), 1), np.concatenate((places, here), 1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
        scores, places = np.take_along_axis(scores, order, 1), np.take_along_axis(places, order, 1)
    return places, scores


def read_or_embed(
    passages: Passages, embedder: Embedder, file: Path, on_progress: Callable[[], None] = lambda: None
) -> Vectors:
    """The corpus's vectors, in a file that is mapped into memory. Stopped, it goes on where it was; a file of another corpus or
    model is refused."""
    state = file.with_suffix(".json")
    known = {"model": embedder.name, "corpus": passages.digest()}
    done, size = _read_state(state, known)
    texts, written = passages.texts(done), done
    for _ in range(done):
        on_progress()
    while batch := list(islice(texts, _BATCH)):
        rows = embedder.embed(batch, are_queries=False)
        size = rows.shape[1]
        with naming(file), file.open("r+b" if written else "w+b") as output:
            output.seek(written * size * 4)
            output.write(rows.tobytes())
        written += len(batch)
        write_file(state, [json.dumps({**known, "size": size, "done": written})])
        for _ in batch:
            on_progress()
    return np.memmap(file, np.float32, "r", shape=(len(passages.ids), size))


def _read_state(state: Path, known: Mapping[str, Any]) -> tuple[int, int]:
    """How many documents are embedded, and the vectors' size."""
    if not state.exists():
        return 0, 0
    before = json.loads(state.read_text("utf-8"))
    for name, value in known.items():
        if before.get(name) != value:
            raise DataError(
                f"{state}: its {name} is {before.get(name)!r}, now it is {value!r}: choose another --vectors"
            )
    return before["done"], before["size"]
