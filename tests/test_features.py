"""Computed features of the multi-hop reranker."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conftest import Serve, Served
from whyrank import Document, Reranker
from whyrank.pipeline.features import COMPUTED, entities_of, is_causal, role_of, with_features

ALL = {"hop", "role", "entities", "is_causal", "is_reasoning"}
CARD_QUERY = "What is the primary stability issue with perovskite solar cells?"
CARD_TEXT = (
    "While perovskite solar cells have achieved high efficiencies, their adoption is crippled by instability from humidity "
    "and oxygen."
)


def test_the_cards_example_gets_the_cards_features() -> None:
    (document,) = with_features(CARD_QUERY, [Document(CARD_TEXT)], ALL)
    assert document.metadata == {
        "hop": 0,
        "role": "Main_Claim",
        "entities": ["perovskite solar cells"],
        "is_causal": True,
        "is_reasoning": False,
        COMPUTED: sorted(ALL),
    }


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Harbour Systems was founded by Ingrid Solberg in Bergen.", ["Harbour Systems", "Ingrid Solberg", "Bergen"]),
        ("The Nile flows through Egypt. Lunch is at noon.", ["Nile", "Egypt"]),
        ("Water boils. The Bank of England said so to NASA.", ["Bank of England", "NASA"]),
        ("Paris is large. In Paris, the Louvre is open.", ["Paris", "Louvre"]),
        ("nothing here is a name", []),
        ("", []),
    ],
)
def test_entities(text: str, names: list[str]) -> None:
    assert entities_of(text) == names


@pytest.mark.parametrize(
    ("text", "role", "causal"),
    [
        ("According to the survey, 40 % of users left.", "Supporting_Evidence", False),
        ("Bergen is a city on the west coast of Norway.", "Background_Information", False),
        ("The bridge closed because the river rose.", "Main_Claim", True),
        ("Rust leads to leaks.", "Main_Claim", True),
    ],
)
def test_role_and_cause(text: str, role: str, causal: bool) -> None:
    assert (role_of(text), is_causal(text)) == (role, causal)


def test_hops_go_over_shared_entities() -> None:
    texts = [
        "Alan Turing studied at King's College in Cambridge.",
        "King's College was founded by Henry VI.",
        "Bananas are rich in potassium.",
    ]
    documents = with_features("Who founded the college of Alan Turing?", [Document(text) for text in texts], ALL)
    assert [document.metadata["hop"] for document in documents] == [0, 1, 2]


def test_what_a_document_brings_stays() -> None:
    given = Document(CARD_TEXT, metadata={"hop": 3, "role": "Counter_Claim", "entities": ["A", "B", "C"], "page": 7})
    (document,) = with_features(CARD_QUERY, [given], ALL)
    assert {name: document.metadata[name] for name in given.metadata} == given.metadata
    assert document.metadata["is_reasoning"] is True
    assert document.metadata[COMPUTED] == ["is_causal", "is_reasoning"]
    full = Document("text", metadata=dict.fromkeys(ALL, 0))
    assert with_features("query", [full], ALL) == (full,)


async def test_scores_are_those_of_the_same_features_given(serve: Serve) -> None:
    served: Served = await serve("multi-hop")
    config = replace(served.reranker.config, features="auto")
    auto = Reranker.from_runtime(served.runtime, served.plan.encoder, config)
    texts = [CARD_TEXT, "Lunch is at noon.", "Perovskite solar cells decay because water gets in."]
    rows = await auto.score(CARD_QUERY, texts)
    given = with_features(CARD_QUERY, [Document(text) for text in texts], ALL)
    wanted = await served.reranker.score(CARD_QUERY, given)
    assert [row.document.metadata for row in rows] == [document.metadata for document in given]
    assert [row.margin for row in rows] == pytest.approx([row.margin for row in wanted], abs=1e-6)
    (plain,) = await served.reranker.score(CARD_QUERY, [CARD_TEXT])
    assert plain.document.metadata == {} and plain.margin != pytest.approx(rows[0].margin, abs=1e-6)


async def test_prompts_without_features_are_left_alone(serve: Serve) -> None:
    served: Served = await serve("bge-reranker")
    auto = Reranker.from_runtime(served.runtime, served.plan.encoder, replace(served.reranker.config, features="auto"))
    (row,) = await auto.score(CARD_QUERY, [CARD_TEXT])
    assert row.document.metadata == {}
