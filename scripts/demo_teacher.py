#!/usr/bin/env python3
"""The embedded model's teacher: sentence embeddings of all-MiniLM-L6-v2, and the vectors with which the vocabulary starts.

    scripts/demo_teacher.py /tmp/demo-material        # embeds all training texts once; a quarter of an hour on two cores

The cosine of two embeddings says how close two texts are in meaning: the student learns from it for pairs that nobody has
judged.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from demo_material import chinese_glosses, descriptions, teacher_folder
from demo_written import asks, chunks

__all__ = ["Embeddings", "Teacher", "token_vectors"]

_MAX_TOKENS = 256


class Teacher:
    """all-MiniLM-L6-v2 as sentence-transformers runs it: the normalised mean over a text's tokens."""

    def __init__(self, folder: Path) -> None:
        self._folder = teacher_folder(folder)

    @cached_property
    def _model(self) -> tuple[Any, Any]:
        from transformers import AutoModel, AutoTokenizer

        return AutoTokenizer.from_pretrained(self._folder), AutoModel.from_pretrained(self._folder).eval()

    def embed(self, texts: Sequence[str], batch: int = 64) -> np.ndarray:
        tokenizer, model = self._model
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
        for at in range(0, len(order), batch):
            places = order[at : at + batch]
            inputs = tokenizer(
                [texts[i] for i in places],
                padding=True,
                truncation=True,
                max_length=_MAX_TOKENS,
                return_tensors="pt",
            )
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                states = model(**inputs).last_hidden_state.float()
            mask = inputs["attention_mask"][..., None]
            mean = (states * mask).sum(1) / mask.sum(1)
            found[places] = torch.nn.functional.normalize(mean, dim=-1).numpy()
            if at // batch % 50 == 0:
                print(f"embedding: {at} of {len(order)}", file=sys.stderr, flush=True)
        return found


class Embeddings:
    """Embeddings of texts, stored in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[str, int] = {}
        self._matrix = np.zeros((0, 384), dtype=np.float16)
        if path.exists():
            with np.load(path, allow_pickle=False) as held:
                self._matrix = held["matrix"]
                self._rows = {text: i for i, text in enumerate(json.loads(str(held["texts"])))}

    def __contains__(self, text: str) -> bool:
        return text in self._rows

    def of(self, texts: Iterable[str]) -> np.ndarray:
        return self._matrix[[self._rows[text] for text in texts]].astype(np.float32)

    def similarity(self, one: str, other: str) -> float:
        """The cosine; NaN if one of the texts was never embedded."""
        if one not in self._rows or other not in self._rows:
            return float("nan")
        return float(np.dot(*self.of((one, other))))

    def add(self, teacher: Teacher, texts: Iterable[str]) -> None:
        new = [text for text in dict.fromkeys(texts) if text not in self._rows]
        if not new:
            return
        self._matrix = np.concatenate([self._matrix, teacher.embed(new).astype(np.float16)])
        self._rows |= {text: len(self._rows) + i for i, text in enumerate(new)}
        with self._path.open("wb") as out:
            np.savez(out, matrix=self._matrix, texts=np.array(json.dumps(list(self._rows))))


def token_vectors(tokenizer: Any, folder: Path, size: int) -> torch.Tensor:
    """A unit vector of that size for each token, close to those of tokens with similar meaning; a row of zeros for parts of
    words, numbers and punctuation. A Chinese character has the vector of its English meaning."""
    words = [_word(tokenizer.decode([i])) for i in range(len(tokenizer))]
    whole = {word.strip() for word in words if word.startswith(" ")}
    glosses = chinese_glosses(folder)
    texts = [glosses.get(word.strip(), word.strip() if word.strip() in whole else "") for word in words]
    known = sorted({text for text in texts if text})
    vectors = torch.from_numpy(Teacher(folder).embed(known))
    vectors = vectors - vectors.mean(0)
    _, _, axes = torch.linalg.svd(vectors, full_matrices=False)
    reduced = torch.nn.functional.normalize(vectors @ axes[:size].T, dim=-1)
    rows = {text: i for i, text in enumerate(known)}
    have = torch.tensor([bool(text) for text in texts])
    table = torch.zeros(len(texts), size)
    table[have] = reduced[[rows[text] for text in texts if text]]
    return table


def _word(piece: str) -> str:
    """A token in lower case, with the space before it; "" if it is not a word."""
    bare = piece.strip()
    is_word = bare.isalpha() if len(bare) > 1 else bare >= "\u3400"
    return piece.lower() if is_word else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what demo_material.py wrote")
    folder = parser.parse_args().folder
    texts: list[str] = []
    for ask in asks():
        texts += [*ask.texts, *(chunk.text.strip() for document in ask.documents for chunk in chunks(document))]
    for short, long in descriptions(folder)[::4]:
        texts += [short, long]
    Embeddings(folder / "embeddings.npz").add(Teacher(folder), texts)


if __name__ == "__main__":
    main()
