"""Measures compared with pytrec_eval and with an independent version in plain Python; significance; impossible tables."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping

import numpy as np
import pytest
import pytrec_eval

from whyrank.errors import InvalidRequest
from whyrank.evaluation.consistency import impossible_pairs
from whyrank.evaluation.measures import Measure, Measurer, unjudged_share
from whyrank.evaluation.presets import load_preset, preset_names
from whyrank.evaluation.significance import paired_difference
from whyrank.evaluation.trec import run_line

Judged = dict[str, int]
Scores = dict[str, float]

NAMES = ("nDCG@10", "nDCG", "AP", "AP@20", "RR", "P@10", "R@5", "RR(rel=2)", "P(rel=2)@3", "AP(rel=2)")
TREC = ("ndcg_cut_10", "ndcg", "map", "map_cut_20", "recip_rank", "P_10", "recall_5", "recip_rank", "P_3", "map")


def random_case(rng: random.Random) -> tuple[dict[str, Judged], dict[str, Scores]]:
    """Queries with ties, near-ties, unjudged documents, negative and graded judgements; some queries are missing."""
    qrels: dict[str, Judged] = {}
    run: dict[str, Scores] = {}
    for query in range(rng.randint(1, 6)):
        documents = [f"d{n}" for n in range(rng.randint(1, 40))]
        judged = rng.sample(documents, k=rng.randint(1, len(documents)))
        qrels[f"q{query}"] = {document: rng.choice([-2, -1, 0, 0, 1, 1, 2, 3]) for document in judged}
        if rng.random() < 0.85:
            retrieved = rng.sample(documents, k=rng.randint(1, len(documents)))
            levels = rng.randint(1, 8)
            run[f"q{query}"] = {d: rng.randrange(levels) * 7.3 - 20 + rng.choice([0, 1e-9]) for d in retrieved}
    return qrels, run


def test_500_random_runs_equal_pytrec_eval() -> None:
    """pytrec_eval gets 0 for negative grades, which may crash it. Their meaning is compared with the definitions below."""
    rng, measurer = random.Random(11), Measurer(NAMES)
    for _ in range(500):
        qrels, run = random_case(rng)
        shown = {
            query: {document: max(0, grade) for document, grade in judged.items()} for query, judged in qrels.items()
        }
        theirs = {
            rel: pytrec_eval.RelevanceEvaluator(
                shown,
                {"ndcg_cut.10", "ndcg", "map", "map_cut.20", "recip_rank", "P.3,10", "recall.5"},
                relevance_level=rel,
            ).evaluate(run)
            for rel in (1, 2)
        }
        for query, judged in qrels.items():
            ours = measurer.measure(judged, run.get(query, {}))
            for name, trec, value in zip(NAMES, TREC, ours, strict=True):
                expected = (
                    theirs[2 if "rel=2" in name else 1].get(query, {}).get(trec, 0.0)
                )  # missing queries count as 0
                assert value == pytest.approx(expected, abs=1e-6), (name, judged, run.get(query))


def by_hand(judged: Mapping[str, int], scores: Mapping[str, float]) -> list[float]:
    """nDCG@10, AP, RR@10, P@10 and nDCG_returned@10, written from the definitions."""
    order = sorted(scores, key=lambda d: (np.float32(scores[d]), d), reverse=True)
    gains = [max(0, judged.get(document, 0)) for document in order]
    relevant = sum(grade > 0 for grade in judged.values())

    def dcg(values: list[int]) -> float:
        return sum(value / math.log2(rank + 1) for rank, value in enumerate(values[:10], 1))

    ideal = dcg(sorted((max(0, grade) for grade in judged.values()), reverse=True))
    returned = dcg(sorted(gains[:10], reverse=True))
    hits = [rank for rank, gain in enumerate(gains, 1) if gain > 0]
    ap = sum(place / rank for place, rank in enumerate(hits, 1)) / relevant if relevant else 0.0
    rr = 1 / hits[0] if hits and hits[0] <= 10 else 0.0
    precision = sum(rank <= 10 for rank in hits) / 10
    return [dcg(gains) / ideal if ideal else 0, ap, rr, precision, dcg(gains) / returned if returned else 0]


def test_500_random_runs_equal_the_definitions() -> None:
    rng, measurer = random.Random(12), Measurer(["nDCG@10", "AP", "RR@10", "P@10", "nDCG_returned@10"])
    for _ in range(500):
        qrels, run = random_case(rng)
        for query, scores in run.items():
            assert measurer.measure(qrels[query], scores) == pytest.approx(by_hand(qrels[query], scores), abs=1e-6)


def test_margins_tell_apart_what_scores_cannot() -> None:
    """1 - 1e-9 and 1 - 2e-9 are the same number in single precision; their log-odds differ."""
    judged, measurer = {"a": 1, "b": 0}, Measurer(["RR@10"])
    assert measurer.measure(judged, {"a": 1 - 1e-9, "b": 1 - 2e-9}) == [0.5]
    margins = {"a": math.log(1e9), "b": math.log(5e8)}
    assert measurer.measure(judged, margins) == [1.0]
    written = {d: float(run_line("q", d, 1, margin, "x").split()[4]) for d, margin in margins.items()}
    assert measurer.measure(judged, written) == [1.0]


def test_the_returned_ideal_forgives_what_the_first_stage_missed() -> None:
    judged = {"found": 1, "missed": 2}
    assert Measurer(["nDCG_returned@10"]).measure(judged, {"found": 1.0}) == [1.0]
    assert Measurer(["nDCG@10"]).measure(judged, {"found": 1.0})[0] < 0.4


def test_rr_has_a_depth() -> None:
    scores = {f"d{n:02}": -float(n) for n in range(20)}
    assert Measurer(["RR@10", "RR@11", "RR"]).measure({"d10": 1}, scores) == pytest.approx([0, 1 / 11, 1 / 11])


@pytest.mark.parametrize(
    ("text", "shown"), [("ndcg@5", "nDCG@5"), ("MAP", "AP"), ("mrr@10", "RR@10"), ("P(rel=2)@3",) * 2]
)
def test_measures_by_their_usual_names(text: str, shown: str) -> None:
    assert str(Measure.parse(text)) == shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("F1", "choose from nDCG@k"),
        ("P", "give a depth"),
        ("nDCG@0", "give a depth"),
        ("P(rel=0)@3", "1 or more"),
        ("", "choose"),
    ],
)
def test_measures_that_do_not_exist(text: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        Measure.parse(text)


def test_unjudged_share() -> None:
    assert unjudged_share({"a": 0}, {"a": 3.0, "b": 2.0}) == 0.5
    assert unjudged_share({}, {}) == 0.0


def test_a_difference_that_is_there_and_one_that_is_not() -> None:
    rng = np.random.default_rng(1)
    a = rng.uniform(size=60)
    better = paired_difference(a, a + rng.normal(0.1, 0.1, 60))
    assert 0 < better.low < 0.1 < better.high and better.p < 0.001
    nothing = paired_difference(a, a + rng.normal(0.0, 0.1, 60))
    assert nothing.low < 0 < nothing.high and nothing.p > 0.05
    same = paired_difference(a, a)
    assert (same.mean, same.low, same.high, same.p, same.same) == (0, 0, 0, 1, 60)
    assert paired_difference(a, a[::-1]) == paired_difference(a, a[::-1])


def test_the_permutation_test_equals_the_exact_one() -> None:
    a, b = np.zeros(8), np.array([0.3, 0.1, 0.2, -0.1, 0.4, 0.05, 0.15, -0.05])
    extreme = [abs(np.dot(signs, b)) >= b.sum() - 1e-9 for signs in itertools.product((-1, 1), repeat=8)]
    assert paired_difference(a, b).p == pytest.approx(np.mean(extreme), abs=0.01)


def test_the_multi_hop_table_is_impossible() -> None:
    claims = {(claim.system, claim.data): claim.impossible() for claim in load_preset("multi-hop").claims}
    hotpot = claims["multi-hop-rag-reranker", "HotpotQA"]
    assert [(pair.first, pair.second) for pair in hotpot] == [("nDCG@10", "RR@10")]
    assert "RR@10 lies between 1.0000 and 1.0000" in hotpot[0].message
    assert {key for key, impossible in claims.items() if not impossible} == {
        ("multi-hop-rag-reranker", "2Wiki"),
        ("Qwen3-Reranker-0.6B", "2Wiki"),
    }


def test_map_alone_gives_it_away_where_relevant_documents_are_few() -> None:
    means = {"nDCG@10": 1.0, "AP": 0.1506}
    assert not impossible_pairs(means)
    assert impossible_pairs(means, most_relevant=2)


@pytest.mark.parametrize("graded", [False, True])
def test_no_true_table_is_called_impossible(graded: bool) -> None:
    rng, measurer = random.Random(3), Measurer(["nDCG@10", "AP", "RR@10", "P@10"])
    for _ in range(150):
        rows = []
        for _ in range(rng.randint(1, 4)):
            documents = [f"d{n}" for n in range(rng.choice([3, 12, 60]))]
            grades = [0, 1, 1, 5] if graded else [0, 0, 1]
            judged = {document: rng.choice(grades) for document in documents}
            judged |= {f"missed{n}": 1 for n in range(rng.choice([0, 0, 2, 40]))}
            rows.append(measurer.measure(judged, {d: rng.random() + rng.choice([0, 2]) * judged[d] for d in documents}))
        means = dict(zip(measurer.names, np.mean(rows, axis=0).tolist(), strict=True))
        assert not impossible_pairs({name: round(mean, 4) for name, mean in means.items()}, graded=graded)


def test_presets_are_sound() -> None:
    assert preset_names() == ["house", "mteb", "multi-hop", "prism", "qanchor", "querit"]
    for preset in map(load_preset, preset_names()):
        assert Measurer(preset.measures).names == preset.measures
        assert set(preset.definitions) <= set(preset.measures) and preset.definitions
        assert preset.notes and preset.data
    with pytest.raises(InvalidRequest, match="choose from house, mteb"):
        load_preset("beir")
