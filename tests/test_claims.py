"""Verifiers on judged claims: what a file may hold, balanced accuracy by hand, and the command from end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Unpack

import pytest

from whyrank.checkpoints import make_claims_plan
from whyrank.errors import CheckpointError, DataError
from whyrank.evaluation.calibrate import judged_pairs
from whyrank.evaluation.claims import make_claims_card
from whyrank.evaluation.data import Claims
from whyrank.evaluation.run import EvalRequest, evaluate
from whyrank.ranking import Ranking
from whyrank.request import RerankOptions
from whyrank.types import Document, DocumentError, RankedDocument, Usage


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Sure:
    """Scores a claim by the number in its first word; one without has none."""

    async def rerank(self, query: str, documents: list[Document], **options: Unpack[RerankOptions]) -> Ranking:
        (document,) = documents
        row = RankedDocument(0, document, error=DocumentError("engine", "gave up"))
        word = query.split()[0]
        if word != "none":
            row = RankedDocument(0, document, 1, score=float(word), margin=float(word) * 8 - 4)
        return Ranking((row,), Usage(), "sure", "claims@1")


async def card_of(folder: Path, *rows: dict[str, Any], threshold: float = 0.5) -> Any:
    claims = Claims(write(folder / "claims.jsonl", *rows))
    await evaluate(claims, Sure(), EvalRequest("sure", 1), folder)
    return make_claims_card(folder, claims, "sure", threshold)


def claim(score: str, label: int, dataset: str = "a") -> dict[str, Any]:
    return {"claim": f"{score} of it", "document": "It is so.", "label": label, "dataset": dataset}


async def test_balanced_accuracy_is_the_mean_of_both_kinds_and_of_the_data_sets(tmp_path: Path) -> None:
    first = [claim("0.9", 1), claim("0.6", 1), claim("0.1", 1), claim("0.2", 0)]
    second = [claim("0.9", 1, "b"), claim("0.8", 0, "b"), claim("0.5", 0, "b")]
    card = await card_of(tmp_path, *first, *second)
    assert {name: judged.balanced_accuracy for name, judged in card.data_sets.items()} == {
        "a": pytest.approx((2 / 3 + 1) / 2),
        "b": pytest.approx((1 + 0) / 2),
    }
    assert card.average == pytest.approx(((2 / 3 + 1) / 2 + 0.5) / 2) and card.failed == 0
    assert card.document()["data_sets"]["b"]["unbacked_found"] == 0.0


async def test_the_threshold_decides_and_a_claim_without_a_score_is_not_backed(tmp_path: Path) -> None:
    card = await card_of(tmp_path, claim("0.9", 1), claim("0.6", 1), claim("none", 1), claim("0.6", 0), threshold=0.7)
    judged = card.data_sets["a"]
    assert (judged.backed_found, judged.unbacked_found, card.failed) == (pytest.approx(1 / 3), 1.0, 1)


async def test_a_data_set_of_one_label_has_no_balance(tmp_path: Path) -> None:
    card = await card_of(tmp_path, claim("0.9", 1), claim("0.2", 0), claim("0.9", 1, "b"))
    assert card.data_sets["b"].balanced_accuracy is None and card.average == 1.0
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match="claims of only one label; give both, 1 and 0"):
        await card_of(tmp_path / "other", claim("0.9", 1))


async def test_calibrate_reads_the_results(tmp_path: Path) -> None:
    await card_of(tmp_path, *[claim("0.9", 1)] * 20, *[claim("0.2", 0)] * 20)
    pairs = judged_pairs(tmp_path)
    assert pairs.relevant.tolist() == [1.0] * 20 + [0.0] * 20


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"claim": "c", "document": "d"}, "line 1: label is None: give 1 where the document backs the claim, else 0"),
        ({"claim": "c", "document": "d", "label": "yes"}, "label is 'yes'"),
        ({"claim": "c", "label": 1}, "no string under 'document'; its keys are ['claim', 'label']"),
        ({"document": "d", "label": 1}, "no string under 'claim'"),
    ],
)
def test_a_bad_line_is_named(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        Claims(write(tmp_path / "claims.jsonl", row))
    assert message in str(refused.value)


def test_aggrefacts_own_names_are_taken(tmp_path: Path) -> None:
    rows = [
        {"dataset": "Reveal", "doc": "It is so.", "claim": "So it is.", "label": 0, "contamination_identifier": "x"}
    ]
    claims = Claims(write(tmp_path / "claims.jsonl", *rows))
    topic = claims.topic("1", 1)
    assert (topic.query, topic.candidates[0].document.text, dict(topic.judged)) == (
        "So it is.",
        "It is so.",
        {"document": 0},
    )
    assert claims.data_set("1") == "Reveal"


def test_a_model_that_knows_relevance_alone_is_refused(checkpoint: Callable[[str], Path]) -> None:
    with pytest.raises(CheckpointError, match="prompt 'prism' can judge only relevance"):
        make_claims_plan(f"{checkpoint('qwen3')},prompt=prism", {})


def test_the_command(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    path = write(tmp_path / "claims.jsonl", *(claim("Some", number % 2, "ab"[number % 4 // 2]) for number in range(8)))
    command = [sys.executable, "-m", "whyrank", "eval", "--claims", str(path), "--out", str(tmp_path / "out")]
    model = ["-m", f"{checkpoint('roberta')},prompt=minicheck-roberta"]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *more], capture_output=True, text=True, timeout=240, check=False)

    done = run(*model)
    assert done.returncode == 0, done.stderr
    assert "balanced accuracy, mean of the data sets: 0.5000" in done.stdout  # all claims are the same one
    card = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {name: one["claims"] for name, one in card["data_sets"].items()} == {"a": 4, "b": 4}
    assert card["threshold"] == 0.5 and card["failed"] == 0
    refused = run(*model, "--data", "house")
    assert refused.returncode == 2 and "--claims cannot be combined with --data" in refused.stderr
