#!/usr/bin/env python3
"""Checks the written texts on which the embedded model is trained, and those on which it is measured (see their READMEs).

    scripts/check_demo_texts.py

Checked: the keys and kinds of every record, lengths, that answers occur in their passage to the letter, that ids and passages
occur only once, that references exist, and that no training text shares six words in a row with a held-out one.
Exit code 1: something is wrong. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import json
import lzma
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TRAIN = Path(__file__).parent / "demo_texts" / "train"
MORE = Path(__file__).parent / "demo_texts" / "more"
HELD_OUT = ROOT / "tests" / "data" / "demo" / "held_out"
_KEYS = {"id", "field", "register", "language", "title", "passage", "queries", "contribution", "answer", "negatives"}
_MORE_KEYS = _KEYS - {"queries", "contribution", "answer"} | {"asks", "unanswered"}
_REGISTERS = set("encyclopaedic manual forum news product contract recipe howto code table".split())
_NEGATIVES = (["same_subject", "near_words"], ["same_subject", "near_words", "echo"])
_SHARED_WORDS = 6


def train_records(folder: Path = TRAIN) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.jsonl")):
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


def held_out(name: str) -> list[dict[str, Any]]:
    """`queries`, with references replaced by the texts that they name, or `echo`."""
    lines = lzma.decompress((HELD_OUT / f"{name}.jsonl.xz").read_bytes()).decode().splitlines()
    records: list[dict[str, Any]] = [json.loads(line) for line in lines]
    by_id = {record["id"]: record for record in records if "id" in record}
    for record in records:
        for candidate in record.get("candidates", ()):
            if "ref" in candidate:
                query, _, number = candidate["ref"].partition("/")
                candidate["text"] = by_id[query]["candidates"][int(number)]["text"]
    return records


def faults_of(record: dict[str, Any]) -> Iterator[str]:
    if record.keys() != _KEYS:
        yield f"keys {sorted(record.keys() ^ _KEYS)}"
        return
    size = len(record["passage"]) if record["language"] == "zh" else len(record["passage"].split())
    low, high = (50, 400) if record["language"] == "zh" else (35, 220)
    if not low <= size <= high:
        yield f"a passage of {size}"
    if record["register"] not in _REGISTERS:
        yield f"register {record['register']}"
    if [query["kind"] for query in record["queries"]] != ["question", "keywords"]:
        yield "kinds of queries"
    if not record["answer"] or any(part not in record["passage"] for part in record["answer"]):
        yield "an answer that does not stand in the passage"
    if [negative["kind"] for negative in record["negatives"]] not in _NEGATIVES:
        yield "kinds of negatives"


def faults_of_more(record: dict[str, Any]) -> Iterator[str]:
    if record.keys() != _MORE_KEYS:
        yield f"keys {sorted(record.keys() ^ _MORE_KEYS)}"
        return
    chinese = record["language"] == "zh"
    size = len(record["passage"]) / 1.6 if chinese else len(record["passage"].split())
    if not 12 <= size <= 230:
        yield f"a passage of {size:.0f}"
    if record["register"] not in _REGISTERS:
        yield f"register {record['register']}"
    if len(record["asks"]) != 2 or any(len(ask["queries"]) != 2 for ask in record["asks"]):
        yield "not two asks of two queries"
    if any(not ask["answer"] or any(part not in record["passage"] for part in ask["answer"]) for ask in record["asks"]):
        yield "an answer that does not stand in the passage"
    if len(record["unanswered"]) != 3:
        yield "not three unanswered queries"
    if [negative["kind"] for negative in record["negatives"]] != _NEGATIVES[0]:
        yield "kinds of negatives"


def runs_of_words(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[^\W_]+", text.lower())
    return {tuple(words[at : at + _SHARED_WORDS]) for at in range(len(words) - _SHARED_WORDS + 1)}


def main() -> None:
    records, more, wrong = list(train_records()), list(train_records(MORE)), list[str]()
    seen = Counter(text for record in (*records, *more) for text in (record["id"], record["passage"]))
    wrong += [f"{text[:60]!r} occurs {count} times" for text, count in seen.items() if count > 1]
    wrong += [f"{record.get('id')}: {fault}" for record in records for fault in faults_of(record)]
    wrong += [f"{record.get('id')}: {fault}" for record in more for fault in faults_of_more(record)]
    queries, echoes = held_out("queries"), held_out("echo")
    exam = {run for one in queries for candidate in one["candidates"] for run in runs_of_words(candidate["text"])}
    exam |= {run for one in echoes for text in (one["answer"], *one["echoes"]) for run in runs_of_words(text)}
    leaks = [record["id"] for record in (*records, *more) if runs_of_words(record["passage"]) & exam]
    for fault in wrong:
        print(fault, file=sys.stderr)
    report = {
        "train": len(records),
        "more": len(more),
        "fields": len({record["field"] for record in (*records, *more)}),
        "chinese": sum(record["language"] == "zh" for record in (*records, *more)),
        "held_out": len(queries),
        "with_answer": sum(any(c["relevance"] == 2 for c in one["candidates"]) for one in queries),
        "faults": len(wrong),
        "passages_sharing_six_words_with_held_out": leaks,
    }
    print(json.dumps(report))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
