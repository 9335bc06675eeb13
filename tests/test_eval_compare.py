"""Comparison of two evaluations; thresholds and calibrated scores from judged pairs; the report."""

from __future__ import annotations

import asyncio
import html.parser
import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench_eval import HashScorer, write_data
from whyrank.calibration import read_calibration, write_calibration
from whyrank.errors import DataError, InvalidRequest
from whyrank.evaluation.calibrate import Pairs, calibrate, fit, judged_pairs
from whyrank.evaluation.charts import ticks
from whyrank.evaluation.compare import Gate, compare, kendall
from whyrank.evaluation.consistency import impossible_pairs
from whyrank.evaluation.data import open_collection
from whyrank.evaluation.presets import load_preset, preset_names
from whyrank.evaluation.report import comparison_report, html_report
from whyrank.evaluation.results import COSTS, RESULTS, Header, Result, Row
from whyrank.evaluation.run import EvalRequest, evaluate
from whyrank.evaluation.scorecard import Scorecard, make_scorecard
from whyrank.prompting.scoring import LabelRead, ScoreRule, score_of

MEASURES = ("nDCG@10", "RR@10")


def write_results(folder: Path, noise: float, queries: int = 40, separation: float = 4.0, **header: object) -> Path:
    """Ten documents per query, each relevant with probability 0.4; margins are drawn around the true relevance."""
    folder.mkdir()
    truth, error = random.Random(1), random.Random(f"{noise}{separation}")
    head = replace(Header("made", "f", f"noise {noise}", 10, queries, "bm25"), **header)  # type: ignore[arg-type]
    lines = [head.line()]
    for query in range(queries):
        judged = {f"d{n}": int(truth.random() < 0.4) for n in range(10)}
        margins = {
            d: separation * (grade - 0.5) + truth.gauss(0, 1) + error.gauss(0, noise) for d, grade in judged.items()
        }
        rows = [
            Row(d, -float(n), m, score_of(LabelRead(m), ScoreRule()).score) for n, (d, m) in enumerate(margins.items())
        ]
        lines.append(Result(f"q{query}", f"text <{query}>", tuple(rows), judged).line())
    (folder / RESULTS).write_text("".join(lines))
    return folder


def test_a_copy_is_the_same(tmp_path: Path) -> None:
    a, b = write_results(tmp_path / "a", 0.5), write_results(tmp_path / "b", 0.5)
    comparison = compare(a, b, MEASURES)
    assert (comparison.kendall, comparison.overlap, comparison.drift_max, comparison.queries) == (
        pytest.approx(1),
        1,
        0,
        40,
    )
    assert comparison.differences["nDCG@10"].p == 1
    assert not Gate.parse("kendall < 0.999").fires(comparison)


def test_two_that_stopped_at_the_same_query_are_not_compared(tmp_path: Path) -> None:
    a, b = (write_results(tmp_path / name, 0.5) for name in "ab")
    for folder in (a, b):
        lines = (folder / RESULTS).read_text().splitlines(keepends=True)
        (folder / RESULTS).write_text("".join(lines[:-3]))
    with pytest.raises(DataError, match="37 of 40 queries are done; finish it with whyrank eval"):
        compare(a, b, MEASURES)


def test_a_worse_model_is_seen_and_fails_the_gate(tmp_path: Path) -> None:
    a, b = write_results(tmp_path / "a", 0.1), write_results(tmp_path / "b", 6.0)
    comparison = compare(a, b, MEASURES)
    difference = comparison.differences["nDCG@10"]
    assert difference.high < 0 and difference.p < 0.01
    assert 0 < comparison.kendall < 0.8 and comparison.drift_p99 > comparison.drift_mean > 0
    for text in ("high(nDCG@10) < 0", "delta(nDCG@10)<-0.01", "p(nDCG@10) < .05", "kendall < 0.9", "drift_max > 1e-2"):
        assert Gate.parse(text).fires(comparison), text
    assert not Gate.parse("low(nDCG@10) > 0").fires(comparison)
    assert json.loads(json.dumps(comparison.document()))["figures"]["overlap@10"] == 1.0
    with pytest.raises(InvalidRequest, match=r"choose from kendall, overlap@10, .*high\(nDCG@10\)"):
        Gate.parse("nDCG > 1").fires(comparison)


def test_what_cannot_be_computed_does_not_pass(tmp_path: Path) -> None:
    a = write_results(tmp_path / "a", 0.5, queries=1)
    lines = (a / RESULTS).read_text().splitlines()
    record = json.loads(lines[1])
    record["rows"] = [[document, first, 1.0, 0.7] for document, first, *_ in record["rows"]]
    (a / RESULTS).write_text(f"{lines[0]}\n{json.dumps(record)}\n")
    comparison = compare(a, a, MEASURES)
    assert math.isnan(comparison.kendall) and Gate.parse("kendall < 0").fires(comparison)
    assert comparison.document()["figures"]["kendall"] is None


@pytest.mark.parametrize("text", ["kendall", "kendall = 1", "kendall < high", "< 3", ""])
def test_gates_that_say_nothing(text: str) -> None:
    with pytest.raises(InvalidRequest, match="write NAME < NUMBER"):
        Gate.parse(text)


def test_only_the_same_data_are_compared(tmp_path: Path) -> None:
    a, b = write_results(tmp_path / "a", 0.5), write_results(tmp_path / "b", 0.5, fingerprint="g")
    with pytest.raises(DataError, match="fingerprint is 'f' and 'g'"):
        compare(a, b, MEASURES)
    (b / RESULTS).write_text("".join((a / RESULTS).read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match="one of them is not finished"):
        compare(a, b, MEASURES)


def slow_tau(a: Sequence[float], b: Sequence[float]) -> float:
    pairs = [(a[i] - a[j], b[i] - b[j]) for i in range(len(a)) for j in range(i)]
    agree = sum((x * y > 0) - (x * y < 0) for x, y in pairs)
    return agree / math.sqrt(sum(x != 0 for x, _ in pairs) * sum(y != 0 for _, y in pairs))


def test_kendall_counts_pairs_and_allows_for_ties() -> None:
    rng = random.Random(4)
    for _ in range(50):
        a, b = ([float(rng.randrange(5)) for _ in range(12)] for _ in range(2))
        assert kendall(a, b) == pytest.approx(slow_tau(a, b))


def test_a_threshold_reaches_its_aim_and_tells_how_sure_it_is(tmp_path: Path) -> None:
    pairs = judged_pairs(write_results(tmp_path / "a", 1.0, queries=80))
    for aim, target in (("precision", 0.9), ("recall", 0.95)):
        verdict = calibrate(pairs, aim, target)  # type: ignore[arg-type]
        threshold = verdict.threshold
        assert verdict.no_separation is None and threshold is not None
        kept = pairs.margin >= threshold.margin
        assert threshold.kept == kept.sum()
        assert threshold.precision == pytest.approx(pairs.relevant[kept].mean())
        assert threshold.recall == pytest.approx(pairs.relevant[kept].sum() / pairs.relevant.sum())
        assert getattr(threshold, aim) >= target
        low, high = getattr(threshold, f"{aim}_interval")
        assert low < getattr(threshold, aim) < high and high - low < 0.15
        assert threshold.margin_interval[0] <= threshold.margin <= threshold.margin_interval[1]
        assert threshold.score == pytest.approx(1 / (1 + math.exp(-threshold.margin)))


def test_intervals_hold_what_they_promise() -> None:
    """Pairs of one query resemble each other; resampling pairs instead of queries would give intervals that are too short."""
    rng, held = np.random.default_rng(2), 0
    query = np.repeat(np.arange(50), 8)
    for _ in range(30):
        relevant = (rng.uniform(size=400) < 0.5).astype(float)
        margin = 3 * relevant + np.repeat(rng.normal(0, 1, 50), 8) + rng.normal(0, 1, 400)
        order = np.argsort(-margin)
        low, high = calibrate(
            Pairs(margin[order], margin[order], relevant[order], query[order]), "recall", 0.5
        ).auc_interval
        held += low <= 0.9332 <= high  # the normal distribution's Φ(3 / 2): two margins differ with a deviation of 2
    assert 26 <= held <= 30


def test_no_clean_separation_is_said(tmp_path: Path) -> None:
    chance = calibrate(judged_pairs(write_results(tmp_path / "chance", 1.0, separation=0.0)), "precision", 0.8)
    assert chance.threshold is None and "do not have larger margins than others" in str(chance.no_separation)
    overlapping = judged_pairs(write_results(tmp_path / "overlap", 4.0))
    worst_on_top = replace(
        overlapping, relevant=np.where(np.arange(len(overlapping.margin)) < 3, 0.0, overlapping.relevant)
    )
    unreachable = calibrate(worst_on_top, "precision", 0.99)
    assert unreachable.threshold is None and "no threshold keeps a share of 0.99" in str(unreachable.no_separation)


def test_too_few_pairs_say_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs at least 20 of each"):
        judged_pairs(write_results(tmp_path / "few", 1.0, queries=3))
    with pytest.raises(InvalidRequest, match="target precision is 0"):
        calibrate(judged_pairs(write_results(tmp_path / "a", 1.0)), "precision", 0.0)


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_calibrated_scores_mean_what_they_say(method: str, tmp_path: Path) -> None:
    pairs = judged_pairs(write_results(tmp_path / "fit", 2.0, queries=300))
    fresh = judged_pairs(write_results(tmp_path / "fresh", 2.00001, queries=300))  # new noise, same distribution
    fitted = fit(pairs, method, "m", "p@1", calibrate(pairs, "precision", 0.8))  # type: ignore[arg-type]
    calibrated = np.array([fitted.probability(margin) for margin in fresh.margin.tolist()])
    assert (np.diff(calibrated) <= 1e-12).all()  # falls with the margin
    assert ((calibrated >= 0) & (calibrated <= 1)).all()

    def error(scores: np.ndarray) -> float:
        bins = np.minimum(9, (scores * 10).astype(int))
        return sum(abs((scores - fresh.relevant)[bins == b].sum()) for b in range(10)) / len(scores)

    assert error(calibrated) < 0.04 < error(fresh.score)
    path = tmp_path / "calibration.json"
    write_calibration(fitted, path)
    assert replace(read_calibration(path), found=None) == replace(fitted, found=None)
    assert path.stat().st_size < 60_000


def test_isotonic_pools_violators_and_equal_margins() -> None:
    pairs = Pairs(*(np.array(x, float) for x in ([4, 3, 2, 2, 1, 0], [0] * 6, [1, 0, 1, 1, 0, 0])), np.arange(6))
    fitted = fit(pairs, "isotonic", "m", "p", calibrate(pairs, "recall", 1.0))
    assert fitted.points == ((0, 0), (1, 0), (2, 2 / 3), (3, 2 / 3), (4, 1))
    assert [fitted.probability(x) for x in (-9, 1.5, 2.5, 9)] == [0, pytest.approx(1 / 3), pytest.approx(2 / 3), 1]


def test_equal_margins_are_one_point_before_neighbours_are_pooled() -> None:
    """0.25 at margin 1 and 0.5 at margin 2 already rise, in whichever order the pairs of one margin are."""
    for relevant in ([1, 0, 0, 0, 1, 0], [0, 1, 1, 0, 0, 0]):
        pairs = Pairs(*(np.array(x, float) for x in ([2, 2, 1, 1, 1, 1], [0] * 6, relevant)), np.arange(6))
        assert fit(pairs, "isotonic", "m", "p", calibrate(pairs, "recall", 1.0)).points == ((1, 0.25), (2, 0.5))


def test_separated_pairs_do_not_ask_for_an_infinite_scale() -> None:
    margin, relevant = np.linspace(9, -9, 60), np.array([1.0] * 30 + [0.0] * 30)
    pairs = Pairs(margin, margin, relevant, np.arange(60))
    fitted = fit(pairs, "temperature", "m", "p", calibrate(pairs, "precision", 1.0))
    assert 0.3 < fitted.scale < 30
    assert fitted.probability(1e9) == 1.0 and fitted.probability(-1e9) == pytest.approx(0.0)


def test_margins_that_mean_nothing_say_the_same_for_every_pair() -> None:
    margin, relevant = np.linspace(9, -9, 60), np.array([0.0] * 40 + [1.0] * 20)  # the worse, the more relevant
    pairs = Pairs(margin, margin, relevant, np.arange(60))
    fitted = fit(pairs, "temperature", "m", "p", calibrate(pairs, "precision", 0.9))
    assert fitted.threshold is None
    assert fitted.probability(8.0) == fitted.probability(-8.0) == pytest.approx(1 / 3)


class Tags(html.parser.HTMLParser):
    """Which tags are still open at the end, and what is loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elsewhere: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elsewhere += [value for name, value in attrs if name in ("src", "href") and value]
        self.open += [tag] if tag not in ("br", "meta") else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Scorecard:
    folder = tmp_path_factory.mktemp("report") / "out"
    write_data(folder / "data", queries=30, depth=20)
    asyncio.run(evaluate(open_collection(folder / "data"), HashScorer(), EvalRequest("<model> & co", 20), folder))
    return make_scorecard(folder, MEASURES)


@pytest.mark.parametrize("preset", [None, *preset_names()])
def test_the_report_is_one_sound_page(preset: str | None, card: Scorecard) -> None:
    page = html_report(card, load_preset(preset) if preset else None)
    tags = Tags()
    tags.feed(page)
    assert tags.open == [] and tags.elsewhere == []
    assert "<h1>&lt;model&gt; &amp; co</h1>" in page
    assert page.count("<svg") == 4 and "@media print" in page and "prefers-color-scheme: dark" in page
    assert "Reranking makes nDCG@10 better by" in page
    assert ("impossible: nDCG@10 with RR@10" in page) == (preset == "multi-hop")


def test_the_comparison_is_one_sound_page_too(tmp_path: Path) -> None:
    a, b = write_results(tmp_path / "a", 0.1), write_results(tmp_path / "b", 6.0, model="<b> & co")
    comparison = compare(a, b, MEASURES)
    page = comparison_report(
        comparison, [gate for gate in map(Gate.parse, ["kendall < 0.9"]) if gate.fires(comparison)]
    )
    tags = Tags()
    tags.feed(page)
    assert tags.open == [] and tags.elsewhere == []
    assert "b: &lt;b&gt; &amp; co</h1>" in page and page.count("<svg") == 2
    assert "Going from a to b makes nDCG@10 worse by" in page and "failed: kendall &lt; 0.9 (it is 0." in page
    assert "Lost most" in page and "text &lt;" in page and "Consistency check passed" in page
    assert [extreme.delta for extreme in comparison.lost] == sorted(comparison.deltas)[: len(comparison.lost)]


def test_a_comparison_of_twins_is_still_a_page(tmp_path: Path) -> None:
    a = write_results(tmp_path / "a", 0.5, queries=3)
    page = comparison_report(compare(a, a, MEASURES))
    assert "makes no difference in nDCG@10" in page and "Lost most" not in page


def test_an_impossible_side_is_told(tmp_path: Path) -> None:
    comparison = compare(*[write_results(tmp_path / "a", 0.5)] * 2, MEASURES)
    assert comparison.document()["impossible"] == [] and "<h2>Warnings</h2>" not in comparison_report(comparison)
    wrong = tuple(impossible_pairs({"nDCG@10": 1.0, "RR@10": 0.2}))
    page = comparison_report(replace(comparison, impossible=wrong))
    assert "cannot come from the same judgements" in page and "Consistency check passed" not in page


def test_the_report_runs_the_consistency_check_on_its_own_table(card: Scorecard) -> None:
    assert "<h2>Warnings</h2>" not in html_report(replace(card, unjudged=0.0))
    wrong = {"reranked": {"nDCG@10": 1.0, "RR@10": 0.2}}
    page = html_report(replace(card, impossible={"reranked": impossible_pairs(wrong["reranked"])}))
    assert "nDCG@10 = 1.0000 and RR@10 = 0.2000 cannot come from the same judgements" in page


def test_ten_thousand_queries_make_no_huge_page(card: Scorecard) -> None:
    values = {system: {name: np.tile(v, 400) for name, v in row.items()} for system, row in card.values.items()}
    assert len(html_report(replace(card, values=values))) < 200_000


def test_costs_of_several_sessions_add_up(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "a", 0.5, queries=4)
    base = {"pairs": 10, "seconds": 0.5, "prompt_tokens": 7, "cached_tokens": 3, "output_tokens": 10}
    clock = [(7, 1.0), (7, 2.0), (8, 2.5), (8, 3.0)]  # two seconds, then three in a second session
    lines = (json.dumps({**base, "session": session, "since_start": at}) + "\n" for session, at in clock)
    (folder / COSTS).write_text("".join(lines))
    costs = make_scorecard(folder, MEASURES).costs
    assert (costs.seconds, costs.pairs, costs.pairs_per_second, costs.cached_tokens) == (5.0, 40, 8.0, 12)
    (folder / COSTS).write_text('{"pairs": 3}\n')
    with pytest.raises(DataError, match=r"costs\.jsonl, line 1: not a cost of whyrank eval"):
        make_scorecard(folder, MEASURES)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.37, 0.37), (0, 12_345), (0, 3)])
def test_ticks_are_round_few_and_inside(low: float, high: float) -> None:
    values = ticks(low, high)
    assert 3 <= len(values) <= 8 and low <= values[0] and values[-1] <= high
