#!/usr/bin/env python3
"""How accurate the verdicts of `whyrank.grounding` are on the pairs of tests/data/claims, by kind and by language.

A pair counts as supported if every sentence is, as altered if one sentence is, and otherwise as unverified. The table goes to
stderr; the last line of stdout is one JSON document.

    scripts/eval_grounding.py
    scripts/eval_grounding.py --wrong          # also lists the pairs with a wrong verdict
    scripts/eval_grounding.py --table second   # the second table, of other documents by another author
    scripts/eval_grounding.py --held-back      # the other half, run once after the last rule has changed
"""

from __future__ import annotations

import argparse
import json
import lzma
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from whyrank.grounding import ground

DATA = Path(__file__).parents[1] / "tests" / "data" / "claims"
NEARLY_VERBATIM = ("verbatim", "near_verbatim")
REWORDED = ("condensed", "reworded")
FORMATS = ("unit_format", "date_format", "number_format")
VERDICTS = ("supported", "altered", "unverified")
TABLES = {"first": "", "second": "second-", "third": "third-"}
"""Each with the prefix of its files' names."""

Row = dict[str, Any]


def load(table: str, held_back: bool) -> tuple[dict[str, Row], list[Row]]:
    """Documents by id, and pairs."""
    beginning = TABLES[table]
    if held_back:
        text = lzma.decompress((DATA / f"{beginning}held-back.jsonl.xz").read_bytes()).decode()
    else:
        text = "".join((DATA / f"{beginning}{name}.jsonl").read_text() for name in ("documents", "pairs"))
    rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    return {row["id"]: row for row in rows if "text" in row}, [row for row in rows if "evidence" in row]


def judge(pair: Row, document: Row) -> Row:
    grounding = ground(pair["evidence"], document["text"])
    verdicts = {sentence.verdict for sentence in grounding.sentences}
    verdict = "altered" if "altered" in verdicts else "supported" if verdicts == {"supported"} else "unverified"
    reasons = sorted({str(sentence.reason) for sentence in grounding.sentences if sentence.reason})
    return pair | {"verdict": verdict, "reasons": reasons, "language": document["language"]}


def share(rows: Iterable[Row], verdict: str, chosen: Callable[[Row], bool]) -> float | None:
    verdicts = [row["verdict"] for row in rows if chosen(row)]
    return round(verdicts.count(verdict) / len(verdicts), 4) if verdicts else None


def figures(rows: list[Row]) -> Row:
    shared = [row for row in rows if not row["faithful"] and row["shares_wording"]]
    kinds = sorted({row["kind"] for row in shared})
    return {
        "pairs": len(rows),
        "false_support": share(rows, "supported", lambda row: not row["faithful"]),
        "nearly_verbatim_supported": share(
            rows, "supported", lambda row: row["faithful"] and row["kind"] in NEARLY_VERBATIM
        ),
        "reworded_altered": share(rows, "altered", lambda row: row["faithful"] and row["kind"] in REWORDED),
        "faithful_altered": share(rows, "altered", lambda row: row["faithful"]),
        "formats_supported": share(rows, "supported", lambda row: row["faithful"] and row["kind"] in FORMATS),
        "altered_by_kind": {
            kind: share([row for row in shared if row["kind"] == kind], "altered", bool) for kind in kinds
        },
        "faithful_unverified": share(rows, "unverified", lambda row: row["faithful"]),
        "unfaithful_unverified": share(rows, "unverified", lambda row: not row["faithful"]),
    }


def print_table(rows: list[Row], key: str) -> None:
    print(f"\n{key:<16}{'':<12}{'pairs':>6}" + "".join(f"{verdict:>12}" for verdict in VERDICTS), file=sys.stderr)
    for faithful in (True, False):
        for name in sorted({row[key] for row in rows if row["faithful"] == faithful}):
            verdicts = [row["verdict"] for row in rows if row["faithful"] == faithful and row[key] == name]
            counts = "".join(f"{verdicts.count(verdict):>12}" for verdict in VERDICTS)
            print(
                f"{name:<16}{'faithful' if faithful else 'unfaithful':<12}{len(verdicts):>6}{counts}", file=sys.stderr
            )


def is_wrong(row: Row) -> bool:
    if row["faithful"]:
        return row["verdict"] == "altered" or (
            row["verdict"] == "unverified" and row["kind"] in NEARLY_VERBATIM + FORMATS
        )
    return row["verdict"] == "supported" or (row["verdict"] == "unverified" and bool(row["shares_wording"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", choices=TABLES, default="first", help="the first by default")
    parser.add_argument("--held-back", action="store_true", help="the half that no rule was written for")
    parser.add_argument("--wrong", action="store_true", help="list the pairs with a wrong verdict")
    parser.add_argument("--documents", nargs="*", help="only pairs of these documents")
    options = parser.parse_args()
    documents, pairs = load(options.table, options.held_back)
    pairs = [pair for pair in pairs if not options.documents or pair["document"] in options.documents]
    rows = [judge(pair, documents[pair["document"]]) for pair in pairs]
    print_table(rows, "kind")
    print_table(rows, "language")
    for row in filter(is_wrong, rows) if options.wrong else ():
        label = "faithful" if row["faithful"] else "unfaithful"
        print(
            f"{row['verdict']:<11}{label} {row['kind']} {row['reasons']} {row['document']}: {row['evidence']}",
            file=sys.stderr,
        )
    print(json.dumps(figures(rows)))


if __name__ == "__main__":
    main()
