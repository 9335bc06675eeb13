"""`whyrank reproduce`: each protocol from its first stage to its figures, on a fixture in BEIR's format."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytrec_eval
import typer
from typer.testing import CliRunner

from bench_eval import HashScorer
from whyrank.__main__ import app
from whyrank.cli.judged_data import JudgedData, folder_for
from whyrank.cli.reproduce import _find_candidates
from whyrank.evaluation.presets import load_preset, reproducible
from whyrank.evaluation.run import evaluate

CUT_AT = {"querit": 100, "qanchor": 20, "prism": 100}
QUERIES, DOCUMENTS = 4, 30


@pytest.fixture(scope="module")
def beir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The public format, with grades 0 to 2."""
    folder, dice = tmp_path_factory.mktemp("beir") / "fixture", random.Random(5)
    (folder / "qrels").mkdir(parents=True)
    words = [f"word{n}" for n in range(40)]
    corpus = [{"_id": f"d{n}", "title": "", "text": " ".join(dice.choices(words, k=12))} for n in range(DOCUMENTS)]
    queries = [{"_id": f"q{n}", "text": " ".join(dice.choices(words, k=4))} for n in range(QUERIES)]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged = [(query["_id"], f"d{n}", n % 3) for query in queries for n in dice.sample(range(DOCUMENTS), 9)]
    lines = ["query-id\tcorpus-id\tscore\n", *(f"{query}\t{doc}\t{grade}\n" for query, doc, grade in judged)]
    (folder / "qrels" / "test.tsv").write_text("".join(lines))
    return folder


def ndcg(beir: Path, run: Path) -> float:
    """trec_eval's mean over the judged queries, from the files alone."""
    judged: dict[str, dict[str, int]] = {}
    for line in (beir / "qrels" / "test.tsv").read_text().splitlines()[1:]:
        query, document, grade = line.split("\t")
        judged.setdefault(query, {})[document] = int(grade)
    scores: dict[str, dict[str, float]] = {}
    for line in run.read_text().splitlines():
        query, _, document, _, score, _ = line.split()
        scores.setdefault(query, {})[document] = float(score)
    values = pytrec_eval.RelevanceEvaluator(judged, {"ndcg_cut.10"}).evaluate(scores)
    return sum(one["ndcg_cut_10"] for one in values.values()) / len(judged)


def check(protocol: str, beir: Path, out: Path, found: dict[str, Any]) -> None:
    preset = load_preset(protocol)
    (first,), (reranked,) = out.glob("*.trec"), out.glob("*/run.trec")
    assert found["measures"]["first stage"]["nDCG@10"] == pytest.approx(ndcg(beir, first), abs=1e-6)
    assert found["measures"]["reranked"]["nDCG@10"] == pytest.approx(ndcg(beir, reranked), abs=1e-6)
    assert len(first.read_text().splitlines()) == QUERIES * min(DOCUMENTS, CUT_AT[protocol])
    assert found["protocol"] == protocol and found["top_k"] == CUT_AT[protocol] and found["queries"] == QUERIES
    assert [claim["measures"] for claim in found["published"]] == [dict(claim.means) for claim in preset.claims]
    differs = " ".join(found["differs"])
    assert preset.reproduction is not None
    assert f"data: fixture; published: {preset.reproduction.published}" in differs
    assert f"the source's own is {preset.reproduction.model}" in differs


@pytest.mark.parametrize("protocol", ["prism", "qanchor", "querit"])
async def test_figures_are_pytrec_evals_and_stand_beside_the_published_ones(
    protocol: str, beir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """On candidates and scores that are there, as after a stop: nothing is searched or scored again."""
    made = load_preset(protocol).reproduction
    assert made is not None
    embedding = made.embedding or "Qwen/Qwen3-Embedding-0.6B"
    run = tmp_path / f"{made.method}-{embedding.replace('/', '-')}.trec"
    dice = random.Random(7)
    lines = [
        f"q{query} Q0 d{document} {rank} {1 / rank:.6f} tag\n"
        for query in range(QUERIES)
        for rank, document in enumerate(dice.sample(range(DOCUMENTS), min(DOCUMENTS, CUT_AT[protocol])), 1)
    ]
    run.write_text("".join(lines))
    judged = JudgedData(data=str(beir), run=run, preset=protocol)
    folder = folder_for(tmp_path, judged.collection(), "hash")
    await evaluate(judged.collection(), HashScorer(), judged.request("hash"), folder)
    command = ["reproduce", protocol, "--data", str(beir), "-m", "hash", "--out", str(tmp_path)]
    assert (await asyncio.to_thread(CliRunner().invoke, app, [*command, "--json"])).exit_code == 0
    found = json.loads(capfd.readouterr().out)
    check(protocol, beir, tmp_path, found)
    if made.embedding:
        assert not any("embedding" in text for text in found["differs"])
    else:
        assert "the source does not name its own" in found["differs"][-1]
    assert (await asyncio.to_thread(CliRunner().invoke, app, command)).exit_code == 0
    table = capfd.readouterr().out
    assert "first stage" in table and "published" in table and "differs:" in table
    assert f"{found['measures']['reranked']['nDCG@10']:.4f}" in table


def test_candidates_are_found_once(beir: Path, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """By a real engine in a process of its own."""
    run, judged = tmp_path / "deep" / "hybrid.trec", {"split": "test", "fresh": False}
    _find_candidates(beir, "hybrid", str(checkpoint("qwen3")), 20, judged, run)
    lines = run.read_text().splitlines()
    assert len(lines) == QUERIES * 20 and all("bm25" in line for line in lines)
    run.write_text("kept")
    _find_candidates(beir, "hybrid", "no such model", 20, judged, run)
    assert run.read_text() == "kept"
    with pytest.raises(typer.Exit):
        _find_candidates(beir / "gone", "hybrid", "x", 20, judged | {"fresh": True}, run)


def test_what_is_wrong_is_told(beir: Path, tmp_path: Path) -> None:
    assert reproducible() == ["prism", "qanchor", "querit"]
    unknown = CliRunner().invoke(app, ["reproduce", "mteb", "--data", str(beir)])
    assert unknown.exit_code == 2
    gone = ["reproduce", "prism", "--data", str(beir / "gone"), "--embedding", "x", "-m", "y", "--out", str(tmp_path)]
    assert CliRunner().invoke(app, gone).exit_code == 2
