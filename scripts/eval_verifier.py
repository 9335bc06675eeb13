#!/usr/bin/env python3
"""How well a model judges what words leave open, on the pairs of tests/data/claims that are not held back.

    scripts/eval_verifier.py claims.jsonl
    whyrank eval -m "MODEL,prompt=claims-chatml" --claims claims.jsonl --out results    # with --limit N, the first N of them
    scripts/eval_verifier.py claims.jsonl --results results

Only pairs of one sentence, because a model is asked sentence by sentence; English ones first, document by document. From half
of the documents come the thresholds: one for a precision of 0.9, as `whyrank calibrate` finds it, and the one with the best
balanced accuracy. On the others are measured the model alone; the rules alone, which were developed on these very pairs; and
the rules with the model where they leave a sentence open. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from eval_grounding import TABLES, Row, judge, load
from whyrank.evaluation.calibrate import Pairs, calibrate
from whyrank.evaluation.results import RESULTS, read_results
from whyrank.grounding.words import sentences
from whyrank.jsonl import json_line, write_file
from whyrank.prompting.scoring import LabelRead, ScoreRule, score_of

_SEED = 27


def claims() -> list[Row]:
    """Pairs with an id of their own, the document's text, and whether they are for calibration."""
    chance, tables = random.Random(_SEED), list[list[list[Row]]]()
    for table in TABLES:
        documents, pairs = load(table, held_back=False)
        of_document = {name: list[Row]() for name in chance.sample(sorted(documents), len(documents))}
        for pair in pairs:
            document = documents[pair["document"]]
            if len(list(sentences(pair["evidence"]))) == 1:
                more = {"id": f"{table}-{pair['id']}", "text": document["text"], "language": document["language"]}
                of_document[pair["document"]].append(pair | more | {"table": table})
        tables.append(list(of_document.values()))
    groups = [group for group in chain.from_iterable(zip_longest(*tables, fillvalue=[])) if group]
    groups.sort(key=lambda group: group[0]["language"] != "en")
    return [row | {"calibrates": place % 4 < 2} for place, group in enumerate(groups) for row in group]


def line(row: Row) -> str:
    record = {"id": row["id"], "claim": row["evidence"], "document": row["text"], "label": int(row["faithful"])}
    return json_line(record | {"dataset": row["table"]})


def with_verdicts(folder: Path) -> list[Row]:
    """Those that a model has judged, with its margin and the verdict of the rules."""
    margins = {result.query: result.rows[0].margin for result in read_results(folder / RESULTS)}
    return [judge(row, row) | {"margin": margins[row["id"]]} for row in claims() if margins.get(row["id"]) is not None]


def as_pairs(rows: Sequence[Row]) -> Pairs:
    """A document is what resampling takes whole or not at all."""
    ordered, documents = sorted(rows, key=lambda row: -row["margin"]), sorted({row["document"] for row in rows})
    margins = [row["margin"] for row in ordered]
    return Pairs(
        np.array(margins),
        np.array([score_of(LabelRead(margin), ScoreRule(1.0, 0.0)).score for margin in margins]),
        np.array([float(row["faithful"]) for row in ordered]),
        np.array([documents.index(row["document"]) for row in ordered]),
    )


def balanced(rows: Sequence[Row], is_backed: Callable[[Row], bool]) -> dict[str, float]:
    """Shares of the faithful and of the unfaithful pairs that are taken for what they are, and their mean."""
    shares = {}
    for name, faithful in (("backed_found", True), ("unbacked_found", False)):
        right = [is_backed(row) == faithful for row in rows if row["faithful"] == faithful]
        shares[name] = sum(right) / len(right) if right else 0.0
    return {name: round(share, 3) for name, share in (*shares.items(), ("balanced", sum(shares.values()) / 2))}


def thresholds(rows: Sequence[Row]) -> dict[str, float]:
    """As margins."""
    found = {"score 0.5": 0.0}
    verdict = calibrate(as_pairs(rows), "precision", 0.9)
    if verdict.threshold is not None:
        found["precision 0.9"] = verdict.threshold.margin

    def accuracy(least: float) -> float:
        return balanced(rows, lambda row: row["margin"] >= least)["balanced"]

    return found | {"balanced": max(sorted(row["margin"] for row in rows), key=accuracy)}


def report(rows: Sequence[Row]) -> dict[str, Any]:
    test = [row for row in rows if not row["calibrates"]]
    left_open = [row for row in test if row["verdict"] == "unverified"]
    verdict = calibrate(as_pairs(test), "precision", 0.9)
    made: dict[str, Any] = {
        "pairs": {"calibration": len(rows) - len(test), "test": len(test), "left_open": len(left_open)},
        "faithful": {"test": verdict.relevant, "left_open": sum(row["faithful"] for row in left_open)},
        "auc": [round(value, 3) for value in (verdict.auc, *verdict.auc_interval)],
        "rules": balanced(test, lambda row: row["verdict"] == "supported"),
        "rules_and_all_left_open": balanced(test, lambda row: row["verdict"] != "altered"),
    }
    for name, least in thresholds([row for row in rows if row["calibrates"]]).items():

        def is_backed(row: Row, least: float = least) -> bool:
            return bool(row["margin"] >= least)

        def with_rules(row: Row, is_backed: Callable[[Row], bool] = is_backed) -> bool:
            return row["verdict"] == "supported" or (row["verdict"] == "unverified" and is_backed(row))

        right = sum(is_backed(row) == row["faithful"] for row in left_open)
        made[name] = {
            "margin": round(least, 3),
            "model": balanced(test, is_backed),
            "rules_and_model": balanced(test, with_rules),
            "left_open": balanced(left_open, is_backed),
            "left_open_settled_rightly": round(right / len(left_open), 3) if left_open else None,
        }
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claims", type=Path, help="the file of claims to write")
    parser.add_argument("--results", type=Path, help="the folder that `whyrank eval` wrote")
    options = parser.parse_args()
    if options.results:
        print(json.dumps(report(with_verdicts(options.results))))
    else:
        write_file(options.claims, [line(row) for row in claims()])


if __name__ == "__main__":
    main()
