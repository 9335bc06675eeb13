"""The result file: resumable to the byte, in bounded memory, and honest about what it contains."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import pytest

import bench_eval
from bench_eval import HashScorer, write_data
from whyrank.connect import named_options
from whyrank.errors import DataError, InvalidRequest
from whyrank.evaluation.compare import compare
from whyrank.evaluation.data import Collection, open_collection
from whyrank.evaluation.measures import DEFAULT_MEASURES
from whyrank.evaluation.presets import HOUSE, load_preset
from whyrank.evaluation.report import comparison_report, html_report
from whyrank.evaluation.results import COSTS, RESULTS, Result, Row, read_results
from whyrank.evaluation.run import (
    EvalRequest,
    claimed,
    evaluate,
    is_finished,
    open_target,
    target_of,
    write_run,
)
from whyrank.evaluation.scorecard import FIRST, ORACLE, RERANKED, make_scorecard
from whyrank.ranking import Ranking
from whyrank.request import RerankOptions
from whyrank.types import Document, DocumentError, Evidence, Grounding, RankedDocument, Unsupported, Usage

REQUEST = EvalRequest("hash", top_k=20)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    folder = tmp_path_factory.mktemp("eval") / "data"
    write_data(folder, queries=60, depth=20)
    return open_collection(folder)


@pytest.fixture(scope="module")
async def undisturbed(collection: Collection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    await evaluate(collection, HashScorer(), REQUEST, folder)
    return folder


class Failing:
    """Scores like HashScorer, and fails at some query on the way."""

    def __init__(self, after: int) -> None:
        self.left = after

    async def rerank(self, query: str, documents: list[Document], **options: Unpack[RerankOptions]) -> Ranking:
        await asyncio.sleep(0)
        self.left -= 1
        if self.left < 0:
            raise ConnectionError("gone")
        return await HashScorer().rerank(query, documents)


async def test_interrupted_at_twenty_moments_it_is_the_same_file(
    collection: Collection, undisturbed: Path, tmp_path: Path
) -> None:
    """The interruptions are, in turn, failures, cancellations and files cut off in the middle of a line."""
    rng = random.Random(8)
    for moment in range(20):
        if moment % 3 == 0:
            with pytest.raises(ConnectionError):
                await evaluate(collection, Failing(rng.randint(0, 4)), REQUEST, tmp_path)
        else:
            task = asyncio.create_task(evaluate(collection, HashScorer(0.002), REQUEST, tmp_path))
            await asyncio.sleep(rng.uniform(0, 0.004))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        if moment % 3 == 2:
            for name in (RESULTS, COSTS):
                content = (tmp_path / name).read_bytes()
                (tmp_path / name).write_bytes(content[: rng.randint(0, len(content))])
    before = len((tmp_path / RESULTS).read_bytes())
    await evaluate(collection, HashScorer(), REQUEST, tmp_path)
    assert before < len((undisturbed / RESULTS).read_bytes())
    assert (tmp_path / RESULTS).read_bytes() == (undisturbed / RESULTS).read_bytes()
    assert write_run(tmp_path).read_bytes() == write_run(undisturbed).read_bytes()


def test_a_killed_process_leaves_a_file_to_go_on_with(undisturbed: Path, tmp_path: Path) -> None:
    data, results = tmp_path / "data", tmp_path / "out" / RESULTS
    write_data(data, queries=60, depth=20)
    command = [sys.executable, bench_eval.__file__, "--data", str(data), "--out", str(results.parent), "--depth", "20"]
    process = subprocess.Popen([*command, "--pause-s", "0.05"])
    while not results.exists() or results.read_bytes().count(b"\n") < 5:
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 5 <= results.read_bytes().count(b"\n") < 61
    subprocess.run(command, check=True)
    assert results.read_bytes() == (undisturbed / RESULTS).read_bytes()


async def test_what_is_done_needs_no_target(collection: Collection, undisturbed: Path) -> None:
    progress = []
    assert is_finished(collection, REQUEST, undisturbed)
    await evaluate(collection, Failing(0), REQUEST, undisturbed, lambda: progress.append(1))
    assert len(progress) == 60


@pytest.mark.parametrize(
    "other", [EvalRequest("hash", top_k=10), EvalRequest("other", top_k=20), EvalRequest("hash", 20, limit=5)]
)
async def test_another_evaluation_does_not_go_into_the_same_file(
    other: EvalRequest, collection: Collection, undisturbed: Path
) -> None:
    before = (undisturbed / RESULTS).read_bytes()
    with pytest.raises(InvalidRequest, match=r"holds another evaluation .* give --fresh"):
        await evaluate(collection, HashScorer(), other, undisturbed)
    assert (undisturbed / RESULTS).read_bytes() == before


class Other(HashScorer):
    async def rerank(self, query: str, documents: list[Document], **options: Unpack[RerankOptions]) -> Ranking:
        ranking = await super().rerank(query, documents)
        return Ranking(ranking.results, ranking.usage, ranking.model, "hash@2")


async def test_where_no_query_of_those_asked_has_a_relevant_document_there_is_no_number(tmp_path: Path) -> None:
    path = tmp_path / "topics.jsonl"
    topics = [{"query": "q", "candidates": [{"text": "a", "grade": grade}]} for grade in (0, 1)]
    path.write_text("".join(json.dumps(topic) + "\n" for topic in topics))
    await evaluate(open_collection(path), HashScorer(), EvalRequest("hash", limit=1), tmp_path / "out")
    with pytest.raises(
        DataError, match=r"results\.jsonl: no document is judged relevant, and nDCG@10 needs grades of 1"
    ):
        make_scorecard(tmp_path / "out", DEFAULT_MEASURES)


async def test_another_prompt_does_not_go_on_with_the_file(collection: Collection, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError):
        await evaluate(collection, Failing(20), REQUEST, tmp_path)
    assert target_of(tmp_path) == ("hash", "hash@1")
    with pytest.raises(InvalidRequest, match="hash@2"):
        await evaluate(collection, Other(), REQUEST, tmp_path)
    with pytest.raises(DataError, match="queries are done; finish it"):
        make_scorecard(tmp_path, DEFAULT_MEASURES)
    with claimed(tmp_path, fresh=True):
        assert not is_finished(collection, REQUEST, tmp_path)


def test_only_one_process_evaluates_into_a_folder(undisturbed: Path) -> None:
    before = (undisturbed / RESULTS).read_bytes()
    refused = pytest.raises(InvalidRequest, match="choose another --out, or wait")
    with claimed(undisturbed), refused, claimed(undisturbed, fresh=True):
        pass
    assert (undisturbed / RESULTS).read_bytes() == before and (undisturbed / COSTS).exists()
    with claimed(undisturbed):
        pass  # the claim ends with its block


def test_whether_it_is_finished_is_asked_without_writing(
    collection: Collection, undisturbed: Path, tmp_path: Path
) -> None:
    assert not is_finished(collection, REQUEST, tmp_path / "new") and not (tmp_path / "new").exists()
    whole = (undisturbed / RESULTS).read_bytes()
    for content, finished in (
        (whole, True),
        (whole + b'{"query": "\xc3', True),
        (whole[:-1], False),
        (whole[:9], False),
    ):
        (tmp_path / RESULTS).write_bytes(content)
        assert is_finished(collection, REQUEST, tmp_path) == finished
        assert (tmp_path / RESULTS).read_bytes() == content and [*tmp_path.iterdir()] == [tmp_path / RESULTS]


def test_the_scorecard_sets_first_stage_reranked_and_oracle_side_by_side(undisturbed: Path) -> None:
    card = make_scorecard(undisturbed, ("nDCG@10", "AP", "RR@10"))
    first, reranked, oracle = (card.table[system]["nDCG@10"] for system in (FIRST, RERANKED, ORACLE))
    assert first < reranked < oracle <= 1
    assert card.difference is not None and card.difference.low > 0 and card.difference.p < 0.01
    assert card.difference.mean == pytest.approx(reranked - first)
    assert card.gained[0].delta >= card.gained[-1].delta > 0
    assert card.costs.pairs == 60 * 20 and card.costs.prompt_tokens == 64 * 1200 and card.costs.pairs_per_second > 0
    assert not any(card.impossible.values()) and card.missing == card.failed == 0
    # Margins are written so that trec_eval sees the same order when it reads the run file.
    lines = [line.split() for line in write_run(undisturbed).read_text().splitlines()]
    assert len(lines) == 1200 and [line[3] for line in lines[:3]] == ["1", "2", "3"]
    result = next(read_results(undisturbed / RESULTS))
    assert {line[2]: float(line[4]) for line in lines[:20]} == result.reranked()


class Writes:
    """Returns one good document with evidence, and one that fails."""

    async def rerank(self, query: str, documents: list[Document], **options: Unpack[RerankOptions]) -> Ranking:
        assert options.get("mode") == "evidence"
        grounding = Grounding(0.75, (), (Unsupported("number", "7", 0, 1),), ("language",))
        evidence = Evidence("It says so.", "ÉTÉ 1921", "complete", 12, grounding)
        good = RankedDocument(0, documents[0], 1, 0.9, 2.2, evidence=evidence)
        return Ranking((good, RankedDocument(1, documents[1], error=DocumentError("engine", "?"))), Usage(), "m", "p")


async def test_evidence_is_counted_and_failures_are_told(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    document = {"query": "q", "candidates": [{"id": "a", "text": "x" * 80, "grade": 1}, {"id": "b", "text": "y"}]}
    data.write_text(json.dumps({**document, "answers": ["Été 1921", "Rome"]}) + "\n")
    await evaluate(open_collection(data), Writes(), EvalRequest("m", options={"mode": "evidence"}), tmp_path)
    card = make_scorecard(tmp_path, ["P@1"])
    assert card.evidence == {
        "format": 1.0,
        "grounded": 0.75,
        "unsupported": 1.0,
        "compression": 0.1,
        "repetition": 0.0,
        "truncated": 0.0,
        "wrong_language": 1.0,
        "answer_recall": 0.5,
    }
    assert (card.failed, card.written, card.table[RERANKED]["P@1"]) == (1, 1, 1.0)
    assert next(read_results(tmp_path / RESULTS)).failed == {"b": "engine"}


class OrdersLists:
    """HashScorer's order, without its scores; the last document fails."""

    async def rerank(self, query: str, documents: list[Document], **options: Unpack[RerankOptions]) -> Ranking:
        assert options.get("method") == "listwise"
        *rows, last = (await HashScorer().rerank(query, documents)).results
        ordered = [replace(row, rank=rank, score=None, margin=None) for rank, row in enumerate(rows, 1)]
        failed = RankedDocument(last.index, last.document, error=DocumentError("engine", "?"))
        return Ranking((*ordered, failed), Usage(5000, 1000, 50), "hash", "lists@1")


async def test_an_order_without_scores_is_measured_and_compared(
    collection: Collection, undisturbed: Path, tmp_path: Path
) -> None:
    request = EvalRequest("hash", top_k=20, options={"method": "listwise"})
    await evaluate(collection, OrdersLists(), request, tmp_path)
    card, scored = (make_scorecard(folder, ("nDCG@10", "RR@10")) for folder in (tmp_path, undisturbed))
    assert card.table[RERANKED] == scored.table[RERANKED] and card.failed == 60
    assert card.document()["calibration_error"] is None and scored.document()["calibration_error"] > 0
    assert "calibration error" not in html_report(card)
    first = [line.split()[2:5] for line in write_run(tmp_path).read_text().splitlines()[:19]]
    best = next(read_results(undisturbed / RESULTS)).reranked()
    assert first == [[d, str(n), str(-n)] for n, d in enumerate(sorted(best, key=lambda d: -best[d])[:19], 1)]

    comparison = compare(undisturbed, tmp_path, ("nDCG@10",))
    assert comparison.kendall == pytest.approx(1) and comparison.overlap == 1
    assert comparison.document()["figures"]["drift"] is None
    costs = comparison.costs_a_query()
    assert costs["a"]["computed_tokens"] == 20 * 33 and costs["b"]["computed_tokens"] == 4050
    page = comparison_report(comparison)
    assert "Cost of a query" in page and "4,050" in page and "drift" not in page


def beir(folder: Path) -> Path:
    write_data(folder, queries=6, depth=12)
    return folder


def mteb(folder: Path) -> Path:
    run = (line.split() for line in (beir(folder) / "run.trec").read_text().splitlines())
    lists: dict[str, list[str]] = {}
    for query, _, document, *_ in run:
        lists.setdefault(query, []).append(document)
    (folder / "run.trec").unlink()
    (folder / "top_ranked").mkdir()
    rows = (json.dumps({"query-id": query, "corpus-ids": documents}) + "\n" for query, documents in lists.items())
    (folder / "top_ranked" / "test.jsonl").write_text("".join(rows))
    return folder


def pairs(folder: Path) -> Path:
    rows = ({"query": f"question {n}?", "positive": [f"question {n}? {n}"], "negative": ["a", "b"]} for n in range(6))
    return jsonl(folder, rows)


def labelled(folder: Path) -> Path:
    labels = ("irrelevant", "evidence", "related")
    hits = [{"chunk_id": n, "text": f"{'question?' * (n % 3)} text {n}", "label": labels[n % 3]} for n in range(20)]
    return jsonl(folder, ({"query_id": n, "query": "question?", "candidates": hits} for n in range(6)))


def jsonl(folder: Path, rows: Iterable[object]) -> Path:
    path = folder.with_suffix(".jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("preset", "write"),
    [
        ("querit", beir),
        ("prism", beir),
        ("mteb", mteb),
        ("multi-hop", pairs),
        ("qanchor", labelled),
        ("house", lambda _: HOUSE),
    ],
)
async def test_every_protocol_runs_on_data_of_its_kind(
    preset: str, write: Callable[[Path], Path], tmp_path: Path
) -> None:
    chosen, data = load_preset(preset), write(tmp_path / "data")
    request = EvalRequest("hash", chosen.top_k, limit=6, preset=preset)
    await evaluate(open_collection(data), HashScorer(), request, tmp_path / "out")
    card = make_scorecard(tmp_path / "out", chosen.measures)
    assert tuple(card.table[RERANKED]) == chosen.measures and len(card.queries) == 6
    assert all(0 < card.table[RERANKED][name] <= card.table[ORACLE][name] <= 1 for name in chosen.measures)
    assert (FIRST in card.table) == (preset != "multi-hop")
    assert not any(card.impossible.values())


async def test_queries_without_candidates_count_as_zero(tmp_path: Path) -> None:
    write_data(tmp_path / "data", queries=4, depth=10)
    run = tmp_path / "data" / "run.trec"
    run.write_text("".join(line for line in run.read_text().splitlines(keepends=True) if not line.startswith("q0 ")))
    await evaluate(open_collection(tmp_path / "data"), HashScorer(), REQUEST, tmp_path)
    card = make_scorecard(tmp_path, ["R@100"])
    assert card.missing == 1
    assert card.values[RERANKED]["R@100"].tolist() == [0, 1, 1, 1]


def test_who_counts_as_not_relevant() -> None:
    rows = (Row("a", None, 1.0, 0.7), Row("b", None, 0.0, 0.5))
    assert Result("q", "?", rows, {"a": 2, "c": 0}).relevance() == {"a": True}
    assert Result("q", "?", rows, {"a": 1, "c": 1}).relevance() == {"a": True, "b": False}
    assert Result("q", "?", rows, {"a": 1, "b": 2, "c": 0}).relevance(2) == {"a": False, "b": True}


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda text: "", "is not a result file"),
        (lambda text: text.replace('"topics"', '"tropics"'), "line 1: not a header"),
        (lambda text: text.replace('"rows"', '"cows"', 1), "line 2: not a result of whyrank eval"),
        (lambda text: text.replace('"query":"q1"', "query", 1), "line 3: not JSON"),
    ],
)
def test_a_broken_result_file_is_told(
    break_it: Callable[[str], str], message: str, undisturbed: Path, tmp_path: Path
) -> None:
    (tmp_path / RESULTS).write_text(break_it((undisturbed / RESULTS).read_text()))
    with pytest.raises(DataError, match=message):
        make_scorecard(tmp_path, DEFAULT_MEASURES)


def test_fifty_thousand_pairs_in_little_memory_and_time() -> None:
    """The benchmark in a smaller size, in a process of its own, so that its memory is measured alone. A million: see its
    --help."""
    command = [sys.executable, bench_eval.__file__, "--queries", "500", "--depth", "100"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured["pairs"] == 50_000
    assert measured["peak_mib"] < 200
    assert measured["seconds"] < 30


def test_targets_with_options() -> None:
    name = "org/model,dtype=float32,max_length=512,trust_remote_code=true,kv_cache_gib=0.5"
    options = {"dtype": "float32", "max_length": 512, "trust_remote_code": True, "kv_cache_gib": 0.5}
    assert named_options(name) == ("org/model", options)
    for bad, message in (
        ("m,color=red", "not an engine option"),
        ("m,max_length=x", "a number"),
        ("m,model=n", "not an engine option"),
    ):
        with pytest.raises(InvalidRequest, match=message):
            named_options(bad)


async def test_a_target_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="dtype is 'fp32'"):
        async with open_target("m,dtype=fp32"):
            pass
    with pytest.raises(InvalidRequest, match="top_k is 0"):
        EvalRequest("m", top_k=0)
