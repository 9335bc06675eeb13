"""Samples about the meaning of words: WordNet entries for their words, and descriptions of Debian packages for their titles.

There are far more of them than of the written texts, and they teach which words are close in meaning.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from math import exp
from pathlib import Path

from demo_material import Synset, common_synsets, descriptions, synsets
from demo_samples import Sample, Sentence
from demo_teacher import Embeddings

__all__ = ["LexiconSource"]

_FORMS = (
    "{w}",
    "{w} meaning",
    "what is {w}",
    "What does {w} mean?",
    "definition of {w}",
    "another word for {w}",
    "explain {w}",
)
_ENTRIES = ("{w}: {g}.", "{W} means {g}.", "{W} - {g}.", "{W}: {g}. {e}", "{W} is {g}.")
# How the teacher's cosine becomes a probability: fitted to the labels of the written texts.
_SLOPE, _MIDDLE = 11.0, 0.52


class LexiconSource:
    def __init__(self, seed: str, folder: Path, embeddings: Embeddings) -> None:
        self.chance = random.Random(seed)
        self._embeddings = embeddings
        self._synsets = synsets(folder)
        self._known = common_synsets(folder)
        self._kinds = _kinds(folder)
        self._described = tuple(
            pair for pair in descriptions(folder) if pair[0] in embeddings and pair[1] in embeddings
        )

    def definition(self, relevant: bool) -> Sample:
        """A dictionary page. The word that the query asks for may be on it, or only a synonym, or neither."""
        synset = self._synsets[self.chance.choice(self._known)]
        word = self.chance.choice(synset.words)
        others = [
            self._synsets[key]
            for key in self.chance.sample(self._known, k=min(self.chance.randint(1, 4), len(self._known)))
        ]
        entries = [Sentence(self._entry(other, "")) for other in others if word not in other.words]
        text = self._entry(synset, word) if relevant else self._entry(self._beside(synset, word), word)
        entry = Sentence(text, subject=relevant, attribute=True, answers=relevant)
        entries.insert(self.chance.randint(0, len(entries)), entry)
        query = self.chance.choice(_FORMS).format(w=word)
        return Sample(query, "answer" if relevant else "other_subject", tuple(entries), "\n")

    def description(self) -> Sample:
        """A title and a description, of the same thing or of one that the teacher finds close; we have only its judgement."""
        short, long = self.chance.choice(self._described)
        if self.chance.random() < 0.5:
            drawn = [pair[1] for pair in self.chance.sample(self._described, k=min(12, len(self._described)))]
            nearness = [self._embeddings.similarity(short, text) for text in drawn]
            long = drawn[max(range(len(drawn)), key=nearness.__getitem__)]
        near = self._embeddings.similarity(short, long)
        target = 1 / (1 + exp(-_SLOPE * (near - _MIDDLE)))
        return Sample(short, "teacher", (Sentence(long),), target=target, similarity=near)

    def _entry(self, synset: Synset, word: str) -> str:
        """Half of the time without the word that the query asks for, so that only the meaning tells."""
        names = [name for name in synset.words if name != word] or list(synset.words)
        name = word if word in synset.words and self.chance.random() < 0.5 else self.chance.choice(names)
        example = self.chance.choice(synset.examples) if synset.examples else ""
        text = self.chance.choice(_ENTRIES).format(w=name, W=name[0].upper() + name[1:], g=synset.gloss, e=example)
        if name == word and example and word not in example and self.chance.random() < 0.3:
            text = example[0].upper() + example[1:] + "."
        return text.strip()

    def _beside(self, synset: Synset, word: str) -> Synset:
        """Another meaning of the same kind, or any other meaning."""
        same = [key for key in self._kinds.get(synset.above, ()) if word not in self._synsets[key].words]
        pool: Sequence[str] = same if same and self.chance.random() < 0.6 else self._known
        while word in (found := self._synsets[self.chance.choice(pool)]).words:
            pool = self._known
        return found


@cache
def _kinds(folder: Path) -> dict[str, list[str]]:
    """Common meanings, grouped by what they are a kind of."""
    found: dict[str, list[str]] = {}
    known = synsets(folder)
    for key in common_synsets(folder):
        found.setdefault(known[key].above, []).append(key)
    return found
