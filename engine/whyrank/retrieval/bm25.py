"""BM25 as bm25s computes it (Lucene's form, k1 1.5, b 0.75), over words of any language."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import bm25s
import numpy as np
from bm25s.tokenization import Tokenized

from whyrank.errors import DataError, InvalidRequest

__all__ = ["Bm25", "words_of"]

# Scripts that put no spaces between words: Thai, Lao, Myanmar, Khmer, kana, Han.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORDS = re.compile(rf"(?P<unspaced>[{_UNSPACED}]+)|[^\W_{_UNSPACED}]+")


def words_of(text: str) -> Iterator[str]:
    """In small letters. Where a script has no spaces, every two neighbouring characters, as Lucene's CJK analyser has it."""
    for match in _WORDS.finditer(unicodedata.normalize("NFKC", text).casefold()):
        run = match[0]
        if match["unspaced"] and len(run) > 1:
            yield from (first + second for first, second in pairwise(run))
        else:
            yield run


class Bm25:
    name = "bm25"

    def __init__(self, texts: Iterable[str], stemmer: str | None = None) -> None:
        """`stemmer`: a language of PyStemmer, such as english."""
        self._stem = _stemmer(stemmer)
        vocabulary: dict[str, int] = {}
        documents = [
            np.array([vocabulary.setdefault(word, len(vocabulary)) for word in self._words(text)], np.int32)
            for text in texts
        ]
        if not vocabulary:
            raise DataError("the corpus contains no words")
        self._known, self._count = vocabulary, len(documents)
        self._index = bm25s.BM25()
        self._index.index(Tokenized(documents, vocabulary), show_progress=False)

    def search(self, queries: Sequence[str], top_k: int) -> Iterator[list[tuple[int, float]]]:
        """For each query the places of documents that share a word with it, and their scores, best first."""
        for query in queries:
            words = [word for word in self._words(query) if word in self._known]
            if not words:
                yield []
                continue
            (places,), (scores,) = self._index.retrieve([words], k=min(top_k, self._count), show_progress=False)
            yield [(int(at), float(score)) for at, score in zip(places, scores, strict=True) if score > 0]

    def _words(self, text: str) -> list[str]:
        return self._stem(list(words_of(text)))


def _stemmer(language: str | None) -> Callable[[list[str]], list[str]]:
    if language is None:
        return lambda words: words
    import Stemmer

    if language not in Stemmer.algorithms():
        raise InvalidRequest(f"stemmer is {language!r}: choose from {', '.join(Stemmer.algorithms())}")
    stem: Callable[[list[str]], list[str]] = Stemmer.Stemmer(language).stemWords
    return stem
