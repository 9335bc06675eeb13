"""Requests: what is accepted, and the messages with which everything else is refused."""

from typing import Any

import pytest

from whyrank.errors import InvalidRequest
from whyrank.request import RerankRequest
from whyrank.types import Document, Usage


def test_documents_come_as_strings_objects_or_documents() -> None:
    request = RerankRequest.of(
        "q",
        [
            "plain",
            {"text": "t", "id": 7, "title": "T", "hop": 1, "metadata": {"role": "Main_Claim"}},
            Document("d", id="x"),
        ],
    )
    assert request.documents == (
        Document("plain"),
        Document("t", id="7", title="T", metadata={"hop": 1, "role": "Main_Claim"}),
        Document("d", id="x"),
    )
    assert request.documents[1].content == "T t"


@pytest.mark.parametrize(
    ("query", "documents", "options", "message"),
    [
        ("", ["d"], {}, "query is empty"),
        (" \n", ["d"], {}, "query is empty"),
        (None, ["d"], {}, "query is a NoneType"),
        ("q", [], {}, "documents is empty"),
        ("q", "one string", {}, "documents is a str: give a list"),
        ("q", {"text": "d"}, {}, "documents is a dict: give a list"),
        ("q", 5, {}, "documents is a int: give a list"),
        ("q", ["d", 3], {}, "documents[1] is a int"),
        ("q", ["d", {"txt": "d"}], {}, "documents[1] has no 'text': its keys are ['txt']"),
        ("q", ["d", {"image": "u"}], {}, "documents[1] has 'image' and no 'text': whyrank reads texts only; give what"),
        (
            "q",
            [{"content": [{"type": "image_url"}]}],
            {},
            "documents[0] has 'content' and no 'text': whyrank reads texts",
        ),
        ("q", [{"text": None}], {}, "documents[0]: 'text' must be a string, not NoneType"),
        ("q", [{"text": "d", "id": 1.5}], {}, "documents[0]: 'id' must be a string, not float"),
        ("q", [{"text": "d", "title": 1}], {}, "documents[0]: 'title' must be a string"),
        ("q", [{"text": "d", "metadata": "m"}], {}, "documents[0]: 'metadata' must be an object"),
        ("q", ["d"], {"instruction": 1}, "instruction is 1: give a string"),
        ("q", ["d"], {"top_n": 0}, "top_n is 0: give a whole number of at least 1"),
        ("q", ["d"], {"top_n": True}, "top_n is True"),
        ("q", ["d"], {"top_n": 1.5}, "top_n is 1.5"),
        ("q", ["d"], {"min_score": 1.1}, "min_score is 1.1: give a number between 0 and 1"),
        ("q", ["d"], {"min_score": "0.5"}, "min_score is '0.5'"),
        ("q", ["d"], {"mode": "both"}, "mode is 'both': choose from score, evidence"),
        ("q", ["d"], {"evidence_top_n": 0}, "evidence_top_n is 0"),
        ("q", ["d"], {"evidence_min_score": 2}, "evidence_min_score is 2"),
        ("q", ["d"], {"max_evidence_tokens": "all"}, "max_evidence_tokens is 'all'"),
        ("q", ["d"], {"temperature": -1}, "temperature is -1: give a number between 0 and 2"),
        ("q", ["d"], {"deadline_ms": 0}, "deadline_ms is 0: give a positive number of milliseconds"),
        ("q", ["d"], {"max_tokens_per_doc": 0}, "max_tokens_per_doc is 0: give a whole number of at least 1"),
        ("q", ["d"], {"max_tokens_per_doc": 127, "truncation": "windows"}, "size of a window, and at least 128"),
        ("q", ["d"], {"truncation": "left"}, "truncation is 'left': choose from tail, head, middle, windows"),
    ],
)
def test_bad_input_is_named_with_its_remedy(query: Any, documents: Any, options: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        RerankRequest.of(query, documents, **options)
    assert message in str(refused.value)


def test_usage_adds_up() -> None:
    total = Usage(100, 60) + Usage(10, 0)
    assert (total.prompt_tokens, total.cached_tokens, total.computed_tokens) == (110, 60, 50)
