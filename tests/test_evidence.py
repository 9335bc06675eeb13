"""Evidence mode: what may be written, how it is parsed, and what a call returns if time runs out or the engine fails."""

from __future__ import annotations

import asyncio
import time
from codecs import getincrementaldecoder
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import xgrammar
from transformers import AutoTokenizer

from cards import CARDS
from conftest import Serve, Served, newest_engine
from samples import DOCUMENTS, QUERY, hostile_texts, tokenise_with
from waiting import LoopWatch
from whyrank import Document, EvidenceDelta, EvidenceDone, Finished, InvalidRequest, Ranked, Reranker, Scored
from whyrank.prompting.evidence import (
    SectionReader,
    finish_reason,
    grammar_budgets,
    opening_text,
    parse,
    render,
    split_sections,
    writing_grammar,
)
from whyrank.prompting.formats import builtin_formats
from whyrank.prompting.scoring import LabelRead
from whyrank.prompting.tokens import Ids
from whyrank.runtimes.base import Answer, Generation, GenerationParams, TextDelta
from whyrank.types import Usage
from whyrank.wire.responses import ranking_from_dict, ranking_to_dict

PRISM = builtin_formats()["prism"].continuation
assert PRISM is not None
CONTROL = ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<think>", "</think>"]
BUDGETS = {"contribution": 12, "evidence": 20}

# Without an engine: the grammar and its parser.


def as_characters(ids: Sequence[int]) -> str:
    """One token per character, so that counts can be seen."""
    return "".join(map(chr, ids))


TEXTS = [
    ("Gives the boiling point.", "Water boils at 100 °C."),
    ("", ""),
    ("a < b and a <b> tag", "line one\n\nline </two\n<eviden"),
    ("沸点", "水在一百度沸腾。\n第二行"),
    ("  spaces  ", "ends with <"),
]


@pytest.mark.parametrize("texts", TEXTS)
def test_the_parser_gives_back_what_was_rendered(texts: tuple[str, str]) -> None:
    written = dict(zip(("contribution", "evidence"), texts, strict=True))
    parsed = parse(PRISM, render(PRISM, written))
    assert (dict(parsed.texts), parsed.complete) == (written, True)


@pytest.mark.parametrize(
    ("text", "texts", "complete"),
    [
        ("no", {}, False),
        ("", {}, False),
        ("yes\n<contribution>c</contribution>\n<evidence>e</evidence>", {"contribution": "c", "evidence": "e"}, True),
        (
            "yes <contribution>c</contribution><evidence>e</evidence><|im_end|>",
            {"contribution": "c", "evidence": "e"},
            True,
        ),
        ("yes\n<contribution>c</contribution>\n\n <evidence>\ne\n", {"contribution": "c", "evidence": "\ne\n"}, False),
        ("yes\n<contribution>c</contr", {"contribution": "c"}, False),
        ("yes\n<contribution>c</contribution>\n<evi", {"contribution": "c"}, False),
    ],
)
def test_the_parser_reads_free_and_cut_off_answers(text: str, texts: dict[str, str], complete: bool) -> None:
    parsed = parse(PRISM, text)
    assert (dict(parsed.texts), parsed.complete) == (texts, complete)


@pytest.mark.parametrize("step", [1, 3, 7, 1000])
def test_the_reader_gives_the_texts_without_tags_piece_by_piece(step: int) -> None:
    answer = render(PRISM, {"contribution": "One < two.", "evidence": "Three </ev four\nfive"})
    rest = answer.removeprefix(opening_text(PRISM))
    given = {"contribution": "", "evidence": ""}
    reader = SectionReader(PRISM, {"contribution": 100, "evidence": 100}, as_characters)
    for at in range(0, len(rest), step):
        for part, text in reader.feed(rest[at : at + step], [ord(c) for c in rest[at : at + step]]):
            given[part] += text
    assert given == {"contribution": "One < two.", "evidence": "Three </ev four\nfive"}


GRAMMAR = [
    ("good</contribution>\n<evidence>text\nmore</evidence>", True),
    ("</contribution>\n<evidence></evidence>", True),
    ("a < b </contr</contribution>\n<evidence><b>x</b></evidence>", True),
    ("水沸点</contribution>\n<evidence>一百度。</evidence>", True),
    ("good</contribution>\n<evidence>text", False),
    ("two\nlines</contribution>\n<evidence>text</evidence>", False),
    ("good</contribution><evidence>text</evidence>", False),
    ("good</contribution>\n<evidence>text</evidence> more", False),
    ("good</contribution>\n<evidence>a <contribution> b</evidence>", False),
    ("good <|im_end|></contribution>\n<evidence>text</evidence>", False),
    ("good</contribution>\n<evidence></think></evidence>", False),
]


@pytest.fixture(scope="module")
def matcher(checkpoint: Callable[[str], Path]) -> Callable[[], xgrammar.GrammarMatcher]:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint("qwen3"))
    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=len(tokenizer))
    grammar = writing_grammar(PRISM, BUDGETS, CONTROL)  # type: ignore[arg-type]
    compiled = xgrammar.GrammarCompiler(info).compile_structural_tag(grammar)
    return lambda: xgrammar.GrammarMatcher(compiled)


@pytest.mark.parametrize(("text", "accepted"), GRAMMAR)
def test_the_grammar_accepts_the_format_and_nothing_else(
    text: str, accepted: bool, matcher: Callable[[], xgrammar.GrammarMatcher]
) -> None:
    one = matcher()
    assert (one.accept_string(text) and one.is_completed()) is accepted
    if accepted:
        assert parse(PRISM, opening_text(PRISM) + text).complete


def test_the_grammar_is_the_same_string_every_time() -> None:
    """Because the engine compiles a grammar once per string."""
    once = writing_grammar(PRISM, BUDGETS, CONTROL)  # type: ignore[arg-type]
    assert once == writing_grammar(PRISM, dict(BUDGETS), reversed(CONTROL))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("contribution", "evidence", "finish"),
    [
        ("short", "short", "complete"),
        ("abcdefghijkl", "short", "budget"),
        ("short", "ababababababababababab"[:20], "repetition"),
        ("short", "abcdefghijklmnopqrst", "budget"),
    ],
)
def test_budgets_and_loops_are_told(contribution: str, evidence: str, finish: str) -> None:
    written = f"{contribution}</contribution>\n<evidence>{evidence}</evidence>"
    assert finish_reason(PRISM, BUDGETS, [ord(c) for c in written], as_characters) == finish  # type: ignore[arg-type]


def written_as(contribution: str, evidence: str) -> str:
    return f"{contribution}</contribution>\n<evidence>{evidence}</evidence>"


def finish_of(contribution: str, evidence: str, contribution_budget: int, evidence_budget: int) -> str:
    written = [ord(character) for character in written_as(contribution, evidence)]
    budgets = {"contribution": contribution_budget, "evidence": evidence_budget}
    return finish_reason(PRISM, budgets, written, as_characters)  # type: ignore[arg-type]


def test_few_grammars_serve_all_budgets() -> None:
    """Because the engine keeps what it has compiled, and callers may ask for any budgets."""
    for fmt in builtin_formats().values():
        if (continuation := fmt.continuation) is None:
            continue
        names = [section.name for section in continuation.sections]
        ranges = (range(1, section.max_tokens + 1) for section in continuation.sections)
        pairs = [dict(zip(names, numbers, strict=True)) for numbers in product(*ranges)]
        of_grammar = {tuple(grammar_budgets(continuation, pair).values()) for pair in pairs}
        assert len(of_grammar) <= 64
        strings = {
            writing_grammar(continuation, dict(zip(names, numbers, strict=True)), CONTROL) for numbers in of_grammar
        }
        assert {writing_grammar(continuation, pair, CONTROL) for pair in pairs[::97]} <= strings
        assert all(grammar_budgets(continuation, pair)[name] >= pair[name] for pair in pairs for name in names)


@pytest.mark.parametrize("budget", [1, 2, 3, 4, 5, 7, 12, 13, 40])
@pytest.mark.parametrize("step", [1, 2, 5, 1000])
def test_a_text_has_no_more_tokens_than_its_caller_allows(budget: int, step: int) -> None:
    """Each byte is a token, so characters take several; parsed as a whole and piece by piece, with pieces of any length."""
    budgets = {"contribution": budget, "evidence": budget + 1}
    texts = {"contribution": "Siedet é bei 100 °C 🫖 <", "evidence": "水在一百度沸腾。</ev <b"}
    written = render(PRISM, texts).removeprefix(opening_text(PRISM)).encode()  # type: ignore[arg-type]
    decode = lambda ids: bytes(ids).decode("utf-8", "replace")  # noqa: E731
    sections = split_sections(PRISM, budgets, written, decode)  # type: ignore[arg-type]
    for section in sections:
        text, limit = texts[section.name], budgets[section.name]
        assert len(section.text.encode()) <= limit
        assert section.text == text.encode()[:limit].decode("utf-8", "ignore")
        assert section.ended is (len(text.encode()) < limit)
    reader, incremental = SectionReader(PRISM, budgets, decode), getincrementaldecoder("utf-8")()  # type: ignore[arg-type]
    given = dict.fromkeys(texts, "")
    for at in range(0, len(written), step):
        for name, more in reader.feed(incremental.decode(written[at : at + step]), list(written[at : at + step])):
            given[name] += more
    assert given == {section.name: section.text for section in sections}


PLAIN = "".join(chr(0x4E00 + n) for n in range(384))  # all characters differ
SENTENCE = PLAIN[200:230]


@pytest.mark.parametrize("cut", range(30))
@pytest.mark.parametrize("earlier", ["short", PLAIN[:40]])
def test_a_loop_is_told_wherever_the_cut_falls_and_whatever_stands_before(earlier: str, cut: int) -> None:
    """A sentence of 30 tokens, after a beginning without repetition."""
    evidence = PLAIN[:20] + SENTENCE * 3 + SENTENCE[:cut]
    assert finish_of(earlier, evidence, 40, len(evidence)) == "repetition"


@pytest.mark.parametrize("size", [1, 2, 7, 20, 21, 64, 100, 128, 192])
def test_a_pattern_may_take_up_to_half_of_the_section(size: int) -> None:
    assert finish_of("short", (PLAIN[:size] * 384)[:384], 40, 384) == "repetition"


def test_a_loop_that_begins_late_is_one() -> None:
    assert finish_of("short", PLAIN[:300] + (PLAIN[300:308] * 11)[:84], 40, 384) == "repetition"
    assert finish_of("short", PLAIN[:340] + "no" * 22, 40, 384) == "repetition"


def test_a_loop_in_an_earlier_text_is_one() -> None:
    assert finish_of(SENTENCE * 4, "short", 120, 20) == "repetition"
    assert finish_of(SENTENCE * 4, PLAIN[:20], 120, 20) == "repetition"


@pytest.mark.parametrize(
    "ending",
    ["", "....", "0000000", "ha ha ha ha ", "| 0 | 0 | 0 ", SENTENCE * 2, PLAIN[:60], PLAIN[:24] + "!"],
)
def test_a_long_text_with_a_little_repetition_is_none(ending: str) -> None:
    evidence = PLAIN[: 384 - len(ending)] + ending
    assert finish_of("short", evidence, 40, 384) == "budget"
    assert finish_of(PLAIN[:40], evidence, 40, 384) == "budget"


def test_a_loop_that_ended_of_itself_is_complete() -> None:
    assert finish_of("short", "no no no no", 40, 384) == "complete"
    assert finish_of("short", SENTENCE * 4, 40, 384) == "complete"


def test_tokens_that_hold_text_and_tag_belong_to_the_text() -> None:
    """At both ends of a section: a full budget is noticed, and so is a loop whose last token differs because it has part of a
    tag."""
    pieces = ["said", ".</contribution>\n<evidence>", "so", " it", " is", ".</", "evidence>"]
    ids = {piece: number for number, piece in enumerate(pieces)}
    decode = lambda written: "".join(pieces[token] for token in written)  # noqa: E731
    loop = [*(ids[piece] for piece in pieces[:2]), *[ids["so"], ids[" it"], ids[" is"]] * 4]
    written = [*loop[:-1], ids[".</"], ids["evidence>"]]
    budgets = {"contribution": 9, "evidence": 12}
    sections = split_sections(PRISM, budgets, written, decode)  # type: ignore[arg-type]
    assert [section.text for section in sections] == ["said.", "so it is" * 3 + "so it."]
    assert finish_reason(PRISM, budgets, written, decode) == "repetition"  # type: ignore[arg-type]
    assert finish_reason(PRISM, budgets | {"evidence": 13}, written, decode) == "complete"  # type: ignore[arg-type]
    assert finish_reason(PRISM, {"contribution": 2, "evidence": 13}, written, decode) == "budget"  # type: ignore[arg-type]


def test_a_loop_cut_by_the_engine_is_one() -> None:
    written = "short</contribution>\n<evidence>" + SENTENCE * 4 + "</evi"
    assert (
        finish_reason(PRISM, {"contribution": 40, "evidence": 384}, [ord(c) for c in written], as_characters)
        == "repetition"
    )  # type: ignore[arg-type]


def test_an_answer_cut_by_the_engine_is_a_budget() -> None:
    assert finish_reason(PRISM, BUDGETS, [ord(c) for c in "short</contri"], as_characters) == "budget"  # type: ignore[arg-type]


# On real engines.

SMALL: dict[str, Any] = {"mode": "evidence", "evidence_min_score": 0.0}
TINY = {**SMALL, "max_contribution_tokens": 12, "max_evidence_tokens": 20}


@pytest.fixture(params=[("prism",), ("prism", "qwen3_5")], ids=["attention", "hybrid"])
async def served(request: pytest.FixtureRequest, serve: Serve) -> Served:
    served: Served = await serve(*request.param)
    return served


@pytest.fixture
async def prism(serve: Serve) -> Served:
    served: Served = await serve("prism")
    return served


def unfinished(served: Served) -> int:
    engine: Any = served.runtime.engine  # type: ignore[attr-defined]
    return int(engine.get_num_unfinished_requests())


async def test_150_random_runs_write_nothing_but_the_format(served: Served) -> None:
    """There are two engines, so 300 runs; greedy and with high temperature, on documents that try to break out of the
    format."""
    hostile = hostile_texts(["<|im_end|>", "</think>"], count=60)[4:]
    texts = [
        "</evidence>",
        "<contribution></contribution>",
        "<evidence>yes</evidence> no",
        *hostile,
        *DOCUMENTS.values(),
    ]
    texts = [f"{n} {text}" for n, text in enumerate((texts * 3)[:150])]
    rows = []
    for start, temperature in ((0, 0.0), (50, 1.0), (100, 2.0)):
        part = texts[start : start + 50]
        ranking = await served.reranker.rerank(QUERY, part, evidence_top_n=50, temperature=temperature, **TINY)
        rows += ranking.results
    assert len(rows) == 150
    tokenizer = served.plan.encoder
    for row in rows:
        assert row.evidence is not None
        assert row.evidence.finish in ("complete", "budget", "repetition"), row
        assert row.evidence.output_tokens <= 12 + 20 + 64
        assert "\n" not in row.evidence.contribution
        for text in (row.evidence.contribution, row.evidence.evidence):
            assert not any(tag in text for tag in ("<evidence>", "</evidence>", "<contribution>", "</contribution>"))
            assert not any(control in text for control in tokenizer.control_texts())
    assert {row.evidence.finish for row in rows if row.evidence} >= {"budget"}


async def test_every_tag_closes(served: Served) -> None:
    """Below the reranker: the raw tokens parse as a whole, and their budgets hold."""
    encoder, runtime = served.plan.encoder, served.runtime
    prompt = (await asyncio.to_thread(encoder.encode, QUERY, [Document("x")], None, "tail"))[0].prompts[0].ids  # type: ignore[union-attr]
    opening = encoder.encode_frame(opening_text(PRISM))
    runs = [(*prompt, *opening)] * 40
    grammars = [writing_grammar(PRISM, BUDGETS, encoder.control_texts())] * len(runs)
    order = GenerationParams(grammars, 200, 1.5, live=False, salt=None)
    async with aclosing(runtime.write(runs, order)) as pieces:  # type: ignore[attr-defined]
        async for _, written in pieces:
            assert isinstance(written, Generation)
            assert written.reason == "stop"
            text = encoder.decode(written.ids)
            assert parse(PRISM, opening_text(PRISM) + text).complete, text
            # What stands around the texts may be written in any tokens, at worst one for each character.
            assert len(written.ids) <= 12 + 20 + len(render(PRISM, dict.fromkeys(BUDGETS, "")))


async def test_the_prompt_goes_on_as_the_card_would(served: Served) -> None:
    """The forced opening has the ids that the tokenizer gives for the card's whole string."""
    tokenise = tokenise_with(AutoTokenizer.from_pretrained(served.plan.config.model))
    whole = CARDS["prism"](lambda text: tokenise(text + opening_text(PRISM)), QUERY, "water")
    opening = list(served.plan.encoder.encode_frame(opening_text(PRISM)))
    assert whole == CARDS["prism"](tokenise, QUERY, "water") + opening


async def test_scores_are_the_same_in_both_modes(prism: Served) -> None:
    texts = list(DOCUMENTS.values())
    score = {row.index: row.score for row in await prism.reranker.score(QUERY, texts)}
    evidence = {row.index: row.score for row in await prism.reranker.score(QUERY, texts, **TINY)}
    assert evidence == pytest.approx(score, abs=1e-5)


async def test_continuations_reuse_the_scored_prompt(served: Served) -> None:
    words = DOCUMENTS["long"].split()
    texts = [" ".join([str(n), *words[n : n + 150]]) for n in range(24)]
    ranking = await served.reranker.rerank("a query of its own", texts, evidence_top_n=24, **TINY)
    share = ranking.evidence_usage.computed_tokens / ranking.evidence_usage.prompt_tokens
    print(f"\ncontinuations computed {share:.3f} of their prompt tokens")
    assert share <= 0.15


async def test_only_the_chosen_are_continued(prism: Served) -> None:
    fake = FakeWriter(prism, lambda ids: (len(ids) % 7) - 3.0)
    reranker = Reranker.from_runtime(fake, prism.plan.encoder, prism.plan.config)
    texts = ["water " * n for n in range(1, 15)]
    ranking = await reranker.rerank(QUERY, texts, mode="evidence", evidence_top_n=3, evidence_min_score=0.6)
    written = [row for row in ranking.results if row.evidence]
    assert written == list(ranking.results[: len(written)])
    assert 0 < len(written) <= 3
    assert all(row.score is not None and row.score >= 0.6 for row in written)
    assert len(fake.continued) == len({row.document.text for row in written})


async def test_duplicates_share_one_continuation(prism: Served) -> None:
    fake = FakeWriter(prism, lambda ids: 1.0)
    reranker = Reranker.from_runtime(fake, prism.plan.encoder, prism.plan.config)
    ranking = await reranker.rerank(QUERY, ["same", "same", "other"], mode="evidence")
    assert len(fake.continued) == 2
    assert [row.evidence and row.evidence.contribution for row in ranking.results] == ["c"] * 3


class FakeWriter:
    """Scores by a function of the ids, writes a fixed answer at once and ends in the given way."""

    def __init__(
        self, served: Served, score: Callable[[Ids], float], ending: str = "stop", others: Sequence[str] = ()
    ) -> None:
        self.encoder, self.score, self.ending, self.others = served.plan.encoder, score, ending, others
        self.continued: list[Ids] = []

    async def warm_prefix(self, prompts: Sequence[Ids], frame: Ids, salt: str | None) -> Usage:
        return Usage()

    async def read(
        self, prompts: Sequence[Ids], priorities: Sequence[int], salt: str | None
    ) -> AsyncGenerator[Sequence[Answer], None]:
        yield [(i, LabelRead(self.score(prompt))) for i, prompt in enumerate(prompts)]

    async def write(
        self, prompts: Sequence[Ids], order: GenerationParams
    ) -> AsyncGenerator[tuple[int, TextDelta | Generation], None]:
        for i, prompt in enumerate(prompts):
            self.continued.append(prompt)
            first, *others = (
                Generation(self.encoder.encode_frame(f"c</contribution>\n<evidence>{text}</evidence>"), self.ending)  # type: ignore[arg-type]
                for text in ("e", *self.others)
            )
            yield i, replace(first, others=tuple(others))

    def facts(self) -> dict[str, str | int]:
        return {}

    async def aclose(self) -> None: ...


async def test_samples_of_one_request_are_variants_each_with_its_grounding(served: Served) -> None:
    texts, options = list(DOCUMENTS.values())[:3], {**TINY, "evidence_samples": 4, "temperature": 2.0}
    events = [event async for event in served.reranker.stream(QUERY, texts, **options)]
    for row in (event.row for event in events if isinstance(event, EvidenceDone)):
        assert row.evidence is not None and 1 <= len(row.evidence.variants) <= 3
        wordings = [row.evidence.evidence, *(one.evidence for one in row.evidence.variants)]
        assert len(set(wordings)) == len(wordings)
        for one in row.evidence.variants:
            assert one.grounding is not None and not one.variants and one.output_tokens
        pieces = [
            e.text for e in events if isinstance(e, EvidenceDelta) and (e.index, e.part) == (row.index, "evidence")
        ]
        assert "".join(pieces).strip() == row.evidence.evidence
    ranking = await served.reranker.rerank(QUERY, texts, **options)
    assert all(row.evidence and row.evidence.variants for row in ranking.results)
    assert ranking.evidence_usage.output_tokens > sum(
        row.evidence.output_tokens for row in ranking.results if row.evidence
    )
    assert unfinished(served) == 0


async def test_leaving_frees_the_engine_of_all_samples(prism: Served) -> None:
    options = {**SMALL, "evidence_samples": 5, "temperature": 1.0, "evidence_top_n": 4}
    async with aclosing(prism.reranker.stream(QUERY, list(DOCUMENTS.values()), **options)) as events:
        async for event in events:
            if isinstance(event, EvidenceDelta):
                break
        assert unfinished(prism) > 0
    assert unfinished(prism) == 0


async def test_a_variant_that_repeats_an_earlier_one_is_left_out(prism: Served) -> None:
    fake = FakeWriter(prism, lambda ids: 1.0, others=("e", "other", " other\n", "", "third"))
    reranker = Reranker.from_runtime(fake, prism.plan.encoder, prism.plan.config)
    options: dict[str, Any] = {"mode": "evidence", "evidence_samples": 6, "temperature": 0.4}
    ranking = await reranker.rerank(QUERY, ["a text"], **options)
    (row,) = ranking.results
    assert row.evidence is not None
    assert [row.evidence.evidence, *(one.evidence for one in row.evidence.variants)] == ["e", "other", "third"]
    body = ranking_to_dict(ranking)
    assert [one["evidence"] for one in body["results"][0]["variants"]] == ["other", "third"]
    assert ranking_from_dict(body, [row.document]).results == ranking.results
    plain = await Reranker.from_runtime(
        FakeWriter(prism, lambda ids: 1.0), prism.plan.encoder, prism.plan.config
    ).rerank(QUERY, ["a text"], mode="evidence")
    assert "variants" not in ranking_to_dict(plain)["results"][0]


async def test_samples_need_a_temperature_and_words_of_the_models_own(prism: Served) -> None:
    with pytest.raises(InvalidRequest, match=r"evidence_samples is 3 and temperature 0, .* such as 0.4"):
        await prism.reranker.rerank(QUERY, ["x"], mode="evidence", evidence_samples=3)
    options: dict[str, Any] = {"mode": "evidence", "evidence_samples": 3, "temperature": 0.4}
    with pytest.raises(InvalidRequest, match="give evidence_style 'rewrite', or leave evidence_samples out"):
        await prism.reranker.rerank(QUERY, ["x"], evidence_style="verbatim", **options)


@pytest.mark.parametrize(("ending", "finish"), [("stop", "complete"), ("abort", "aborted"), ("error", "error")])
async def test_how_the_engine_ended_is_told(prism: Served, ending: str, finish: str) -> None:
    reranker = Reranker.from_runtime(FakeWriter(prism, lambda ids: 1.0, ending), prism.plan.encoder, prism.plan.config)
    (row,) = await reranker.score(QUERY, ["a"], mode="evidence")
    assert row.score is not None and row.evidence is not None
    assert row.evidence.finish == finish


async def test_the_stream_writes_what_the_answer_holds(served: Served) -> None:
    texts = list(DOCUMENTS.values())[:6]
    events = [event async for event in served.reranker.stream(QUERY, texts, evidence_top_n=3, **TINY)]
    order = [type(event) for event in events]
    assert order.index(Ranked) > max(i for i, kind in enumerate(order) if kind is Scored)
    assert order.index(EvidenceDelta) > order.index(Ranked)
    assert order[-1] is Finished
    done = {event.row.index: event.row for event in events if isinstance(event, EvidenceDone)}
    assert len(done) == 3
    for index, row in done.items():
        for part in ("contribution", "evidence"):
            pieces = [e.text for e in events if isinstance(e, EvidenceDelta) and (e.index, e.part) == (index, part)]
            assert "".join(pieces).strip() == getattr(row.evidence, part)
    final = events[-1].ranking  # type: ignore[union-attr]
    assert {row.index: row for row in final.results if row.evidence} == done


async def test_leaving_during_the_writing_frees_the_engine(prism: Served) -> None:
    texts = list(DOCUMENTS.values())
    async with aclosing(prism.reranker.stream(QUERY, texts, evidence_top_n=10, **SMALL)) as events:
        async for event in events:
            if isinstance(event, EvidenceDelta):
                break
        assert unfinished(prism) > 0
    assert unfinished(prism) == 0


async def test_a_large_call_leaves_places_to_scores_and_to_others_who_write(prism: Served) -> None:
    seats = prism.runtime.engine.vllm_config.scheduler_config.max_num_seqs  # type: ignore[attr-defined]
    done, peak = list[str](), 0
    began = asyncio.Event()

    async def write(name: str, count: int) -> None:
        nonlocal peak
        texts = [f"{name} {n}" for n in range(count)]
        async with aclosing(prism.reranker.stream(QUERY, texts, evidence_top_n=count, **TINY)) as events:
            async for event in events:
                if isinstance(event, EvidenceDelta):
                    peak = max(peak, unfinished(prism))
                    began.set()
        done.append(name)

    large = asyncio.create_task(write("large", 3 * seats))
    await began.wait()
    await write("small", 5)
    await large
    assert done == ["small", "large"]
    assert peak <= seats // 2 + 5  # the small call is scored meanwhile


@pytest.mark.parametrize("milliseconds", [100, 400, 1500])
async def test_a_deadline_holds_and_leaves_nothing_running(prism: Served, milliseconds: int) -> None:
    took = []
    for attempt in range(5):
        texts = [f"{attempt} {milliseconds} {n} {DOCUMENTS['long'][:3000]}" for n in range(60)]
        async with LoopWatch() as watch:
            began = time.perf_counter()
            ranking = await prism.reranker.rerank(QUERY, texts, evidence_top_n=60, deadline_ms=milliseconds, **SMALL)
            seconds = time.perf_counter() - began
        # Without the time for which other work on the machine kept us from answering.
        took.append(1000 * (seconds - watch.seconds_without_cpu(since=began + 0.9 * milliseconds / 1000)))
        assert unfinished(prism) == 0
        assert len(ranking.results) == 60
        late = [row for row in ranking.results if row.error]
        assert all(row.error and row.error.code == "deadline" for row in late)
        scored = [row for row in ranking.results if row.score is not None]
        assert len(scored) + len(late) == 60
        assert all(
            row.evidence is None or row.evidence.finish in ("deadline", "budget", "repetition") for row in scored
        )
        assert late or any(row.evidence and row.evidence.finish == "deadline" for row in scored)
    # The engine's process may be held up, too, but not every time.
    assert min(took) <= milliseconds * 1.1


async def test_scores_survive_an_engine_that_dies_while_writing(checkpoint: Callable[[str], Path]) -> None:
    async with Reranker(str(checkpoint("qwen3")), prompt="prism", kv_cache_gib=0.5) as reranker:
        engine = newest_engine()
        events = []
        async for event in reranker.stream(QUERY, list(DOCUMENTS.values()), evidence_top_n=10, **SMALL):
            if isinstance(event, EvidenceDelta) and not any(isinstance(e, EvidenceDelta) for e in events):
                engine.kill()
            events.append(event)
        assert isinstance(events[-1], Finished)
        rows = events[-1].ranking.results
        assert all(row.score is not None for row in rows)
        assert [row.evidence.finish for row in rows if row.evidence].count("error") >= 9
        assert reranker._runtime.engine.get_num_unfinished_requests() == 0  # type: ignore[union-attr]


async def test_budgets_beyond_the_prompts_are_refused(prism: Served) -> None:
    with pytest.raises(InvalidRequest, match="max_evidence_tokens is 9000: prompt 'prism' allows at most 384"):
        await prism.reranker.rerank(QUERY, ["x"], mode="evidence", max_evidence_tokens=9000)


async def test_a_prompt_without_continuation_says_so(serve: Serve) -> None:
    zerank: Served = await serve("zerank")
    with pytest.raises(InvalidRequest, match="prompt 'zerank' describes no continuation"):
        await zerank.reranker.rerank(QUERY, ["x"], mode="evidence")


async def test_a_route_that_only_scores_says_so(serve: Serve) -> None:
    classify: Served = await serve("prism", "qwen3", "classify")
    with pytest.raises(InvalidRequest, match="this route only scores"):
        await classify.reranker.rerank(QUERY, ["x"], mode="evidence")
