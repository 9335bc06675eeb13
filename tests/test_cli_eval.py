"""eval, calibrate and compare as processes, and evaluation on a real engine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server_process import Server
from test_eval_compare import write_results
from whyrank.evaluation.data import open_collection
from whyrank.evaluation.presets import HOUSE, load_preset
from whyrank.evaluation.results import RESULTS, read_results
from whyrank.evaluation.run import EvalRequest, claimed, evaluate
from whyrank.evaluation.scorecard import make_scorecard


def whyrank(*arguments: object, most_bytes: int | None = None) -> subprocess.CompletedProcess[str]:
    """`most_bytes`: the maximum size of each file that it writes, as if the disk were full then."""
    command = [sys.executable, "-m", "whyrank", *map(str, arguments)]
    if most_bytes is not None:
        command = ["bash", "-c", f'ulimit -f {most_bytes // 1024}; exec "$@"', "bash", *command]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


async def test_a_real_engine_writes_scores_and_evidence_to_evaluate(serve: Callable[..., Any], tmp_path: Path) -> None:
    served = await serve("prism")
    options: Any = {"mode": "evidence", "evidence_top_n": 1, "evidence_min_score": 0.0, "max_evidence_tokens": 12}
    await evaluate(
        open_collection(HOUSE), served.reranker, EvalRequest("tiny", top_k=6, limit=2, options=options), tmp_path
    )
    card = make_scorecard(tmp_path, load_preset("house").measures)
    assert card.written == 2 and set(card.evidence) >= {"format", "grounded", "compression"}
    assert card.costs.pairs == 12 and card.costs.prompt_tokens > 1000 and card.costs.cached_tokens > 0
    assert not any(card.impossible.values()) and card.failed == 0
    for result in read_results(tmp_path / RESULTS):
        assert len(result.reranked()) == 6


def test_eval_calibrate_rerank_and_compare_in_turn(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    model = ("-m", checkpoint("deberta"), "--prompt", "multi-hop")
    out, calibration = tmp_path / "out", tmp_path / "calibration.json"
    done = whyrank("eval", *model, "--preset", "house", "--limit", 12, "--top-k", 12, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["queries"] == 12 and set(report["measures"]) == {"first stage", "reranked", "oracle ceiling"}
    assert report == json.loads((out / "report.json").read_text())
    assert "deberta" in (out / "report.html").read_text()
    assert len((out / "run.trec").read_text().splitlines()) == report["costs"]["pairs"] == 144

    done = whyrank("calibrate", out, "--rel", 2, "--recall", 0.9, "--out", calibration)
    # Random weights: no threshold is useful, and the command must say so. Scores are calibrated all the same.
    assert done.returncode == 1, done.stderr
    assert "no clean separation" in done.stdout
    done = whyrank("rerank", *model, "-q", "tea", "Boil water.", "Everest", "--calibration", calibration, "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["results"]
    assert all(0 <= row["calibrated_score"] <= 1 for row in rows)

    done = whyrank("compare", out, out, "--fail-if", "kendall < 0.99", "--fail-if", "drift_max > 0", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["failed"] == []


def test_a_second_eval_in_one_folder_ends_at_once(tmp_path: Path) -> None:
    out = write_results(tmp_path / "out", 0.3)
    before = {path: path.read_bytes() for path in out.iterdir()}
    with claimed(out):
        done = whyrank("eval", "-m", "gone", "-d", "house", "--out", out, "--fresh")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert f"error: {out}: another evaluation is writing to it: choose another --out, or wait" in done.stderr
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_a_full_disk_is_one_line_and_the_same_eval_goes_on(server: Server, tmp_path: Path) -> None:
    command = ("eval", "-m", server.url, "-d", "house", "--limit", 4, "--top-k", 3, "--out", tmp_path / "out")
    done = whyrank(*command, most_bytes=1024)
    results = tmp_path / "out" / RESULTS
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert f"error: {results}: File too large; what was evaluated is kept: run the same command again" in done.stderr
    done = whyrank(*command)
    assert done.returncode == 0, done.stderr
    names = [RESULTS, "costs.jsonl", "report.html", "report.json", "run.trec", "target.json"]
    assert sorted(path.name for path in results.parent.iterdir()) == sorted(names)
    before = {name: (results.parent / name).read_bytes() for name in names}
    done = whyrank(*command, most_bytes=0)  # everything is evaluated; the reports cannot be written again
    assert done.returncode == 2 and "run.trec: File too large" in done.stderr and "Traceback" not in done.stderr
    assert {path.name: path.read_bytes() for path in results.parent.iterdir()} == before


def test_half_a_surrogate_pair_in_eval_data(server: Server, tmp_path: Path) -> None:
    data, out, odd = tmp_path / "data.jsonl", tmp_path / "out", "a\ud800b"
    texts = [{"id": "good", "text": f"good {odd}", "title": odd, "grade": 1}, {"text": odd, "metadata": {odd: odd}}]
    topic: dict[str, Any] = {"query": f"what {odd}?", "candidates": texts, "answers": [odd], odd: odd}
    data.write_text(json.dumps(topic) + "\n")
    done = whyrank("eval", "-m", server.url, "-d", data, "--out", out, "--json")
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert json.loads(done.stdout) == json.loads((out / "report.json").read_text())
    assert next(read_results(out / RESULTS)).text == f"what {odd}?" and "ud800" in (out / "report.html").read_text()
    for broken in ({"id": odd}, {"query": "q", odd: []}, {"candidates": [{"id": odd, "text": "a"}]}):
        topic = {"query": "q", "candidates": texts} | broken if "query" not in broken else broken
        data.write_text(json.dumps(topic) + "\n")
        done = whyrank("eval", "-m", server.url, "-d", data, "--out", out)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
        assert f"error: {data}, line 1" in done.stderr


def test_documents_without_a_score_are_exit_code_1(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    data, out = tmp_path / "data.jsonl", tmp_path / "out"
    texts = [{"text": "a", "grade": 1}, {"text": "b", "metadata": {"hop": "one"}}]
    data.write_text(json.dumps({"query": "q", "candidates": texts}) + "\n")
    command = ("eval", "-m", checkpoint("deberta"), "--prompt", "multi-hop", "-d", data, "--out", out)
    done = whyrank(*command)
    assert done.returncode == 1, done.stderr
    assert f"1 documents without a score: 'failed' in {out / RESULTS}" in done.stdout
    done = whyrank(*command, "--json")
    assert done.returncode == 1 and json.loads(done.stdout)["documents_without_score"] == 1


@pytest.mark.parametrize(
    ("command", "out"),
    [
        (["eval", "-m", "m", "-d", "house", "--out"], "file/out"),
        (["calibrate", "good", "--out"], "gone/out"),
        (["compare", "good", "good", "--html"], "file/out"),
    ],
)
def test_an_output_that_cannot_be_written_is_one_line(command: list[str], out: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (write_results(tmp_path / "good", 0.3) / "target.json").write_text('{"model": "m", "prompt": "p@1"}')
    command = [sys.executable, "-m", "whyrank", *command, out]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert f"error: {out}: No" in done.stderr


def test_calibrate_and_compare_for_people(tmp_path: Path) -> None:
    good, bad = write_results(tmp_path / "good", 0.3), write_results(tmp_path / "bad", 5.0)
    (good / "target.json").write_text('{"model": "m", "prompt": "p@1"}')
    done = whyrank("calibrate", good, "--precision", 0.9, "--out", tmp_path / "c.json", "--method", "isotonic")
    assert done.returncode == 0, done.stderr
    assert "keep margins of at least" in done.stdout and "precision 0.9" in done.stdout
    page = tmp_path / "page.html"
    done = whyrank("compare", good, bad, "--measure", "nDCG@10", "--fail-if", "high(nDCG@10) < 0", "--html", page)
    assert done.returncode == 1, done.stderr
    assert "failed: high(nDCG@10) < 0 (it is -" in done.stdout
    assert "failed: high(nDCG@10) &lt; 0" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "-m", "m"], "--data is missing: give a folder, a file, or house"),
        (["eval", "-m", "m", "--preset", "qanchor"], "preset 'qanchor' needs: JSON lines {query_id, query, candidates"),
        (["eval", "-m", "m", "--preset", "beir"], "preset 'beir': choose from house, mteb"),
        (["eval", "-m", "m", "-d", "gone"], "gone: No such file"),
        (["eval", "-m", "m", "-d", "house", "--measure", "F1"], "measure 'F1': choose from"),
        (["eval", "-m", "m", "-d", "house", "--top-k", "0"], "top_k is 0"),
        (["eval", "-m", "m", "-d", "house", "--mode", "why"], "mode is 'why': choose from score, evidence"),
        (["calibrate", "gone"], "results.jsonl: No such file"),
        (["calibrate", "gone", "--precision", "0.5", "--recall", "0.5"], "give --precision or --recall, not both"),
        (["calibrate", "gone", "--method", "platt"], "method is 'platt': choose from temperature, isotonic"),
        (["compare", "a", "b", "-d", "house", "--fail-if", "kendall"], "write NAME < NUMBER"),
        (["compare", "a", "b"], "--data is missing"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "whyrank", *arguments], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr and done.stdout == ""


@pytest.mark.parametrize("grade", [0, -1, None, 1])
def test_nothing_relevant_is_an_error_and_no_number(grade: int | None, tmp_path: Path) -> None:
    candidate = {"text": "a"} | ({} if grade is None else {"grade": grade})
    path = tmp_path / "topics.jsonl"
    path.write_text(json.dumps({"query": "q", "candidates": [candidate]}))
    measure = "RR(rel=2)@10" if grade == 1 else "nDCG@10"
    done = whyrank("eval", "-m", "m", "-d", path, "--measure", measure, "--out", tmp_path / "out")
    assert done.returncode == 2 and done.stdout == ""
    assert f"{path}: no document is judged relevant" in done.stderr and measure in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("package", "command"),
    [
        ("pytrec_eval", ["eval", "-m", "m", "-d", "house"]),
        ("numpy", ["compare", "a", "b"]),
        ("numpy", ["calibrate", "a"]),
        ("scipy", ["calibrate", "a"]),
        ("jinja2", ["eval", "-m", "m", "-d", "house"]),
    ],
)
def test_a_light_install_says_what_to_install(package: str, command: list[str]) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; from whyrank.__main__ import app; app({command})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'whyrank[eval]'" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["eval", "fetch", "calibrate", "compare"])
def test_help_has_examples(command: str) -> None:
    done = whyrank(command, "--help")
    assert done.returncode == 0
    assert f"whyrank {command} " in done.stdout
