"""sentence-transformers: predict() and rank() as its CrossEncoder has them, for code and evaluators written for that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from whyrank.adapters.base import BaseAdapter, framework, numbers_of
from whyrank.adapters.metadata import KEYS, evidence_of, noted
from whyrank.errors import InvalidRequest

with framework(extra="sentence-transformers"):
    import numpy as np

__all__ = ["WhyrankCrossEncoder"]

Activation = Callable[[Any], Any]


class _NoCard:
    """Evaluators write their results into the model's card. The model of a server has no card here, so this ignores them."""

    def set_evaluation_metrics(self, *measured: Any) -> None: ...


class WhyrankCrossEncoder(BaseAdapter):
    """WhyrankCrossEncoder(base_url="http://localhost:8000").rank(query, documents, top_k=5)

    Scores are from 0 to 1, as those of a CrossEncoder with one label. `activation_fn`, if given, is called with a tensor of
    log-odds, and its result is returned: torch.nn.Identity() gives the log-odds. `prompt` is the instruction. Parameters for a
    model in this process (batch_size, device, pool and so on) are accepted and have no effect.
    """

    num_labels: ClassVar[int] = 1
    model_card_data: ClassVar[_NoCard] = _NoCard()

    def predict(
        self,
        inputs: Sequence[Any],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        pool: Any = None,
        chunk_size: int | None = None,
    ) -> Any:
        """One score per (query, text), in order; a single number for a single pair."""
        _refuse_names(prompt_name)
        single = len(inputs) == 2 and all(isinstance(part, str) for part in inputs)
        pairs = [_pair(value, place) for place, value in enumerate([inputs] if single else inputs)]
        scores = _activated(self.numbers_of_pairs(pairs, instruction=prompt), activation_fn)
        converted = _converted(scores, convert_to_numpy, convert_to_tensor)
        return converted[0] if single else converted

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        device: Any = None,
        pool: Any = None,
        chunk_size: int | None = None,
    ) -> list[dict[str, Any]]:
        """`corpus_id`, `score` and, on request, `text`, best first; in mode "evidence" also the evidence (see metadata.py)."""
        _refuse_names(prompt_name)
        if not len(documents):
            return []
        rows = self.rerank_documents(query, documents, top_n=top_k, instruction=prompt).results
        scores = _activated([numbers_of(row, f"documents[{row.index}]") for row in rows], activation_fn)
        results = []
        for row, score in zip(rows, scores, strict=True):
            result: dict[str, Any] = {"corpus_id": row.index, "score": float(score)}
            if return_documents:
                result["text"] = (self.replace_content and evidence_of(row)) or row.document.text
            if row.evidence:
                result |= {key: value for key, value in noted({}, row).items() if key in KEYS[3:]}
            results.append(result)
        return results


def _refuse_names(prompt_name: str | None) -> None:
    if prompt_name is not None:
        raise InvalidRequest(
            f"prompt_name is {prompt_name!r}: there are no named prompts; give prompt, the instruction"
        )


def _pair(value: Any, place: int) -> tuple[str, str]:
    if isinstance(value, str) or len(value) != 2 or not all(isinstance(part, str) for part in value):
        raise InvalidRequest(f"inputs[{place}] is {value!r:.60}: give a pair of strings, query and text")
    query, text = value
    return query, text


def _activated(numbers: Sequence[tuple[float, float]], activation: Activation | None) -> list[float]:
    if activation is None or not numbers:
        return [score for score, _ in numbers]
    import torch

    scores: list[float] = activation(torch.tensor([margin for _, margin in numbers])).tolist()
    return scores


def _converted(scores: list[float], to_numpy: bool, to_tensor: bool) -> Any:
    if to_numpy and not to_tensor:
        return np.array(scores, np.float32)
    import torch

    return torch.tensor(scores) if to_tensor else list(torch.tensor(scores))
