"""The texts and queries of a BEIR folder, to be searched."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from whyrank.errors import DataError
from whyrank.evaluation.data import document_id, find_judgements, read_queries
from whyrank.evaluation.trec import read_qrels
from whyrank.jsonl import json_object, numbered_lines

__all__ = ["Passages", "judged_queries"]


class Passages:
    """corpus.jsonl. Ids are kept; texts are read anew each time they are gone through."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "corpus.jsonl"
        self.ids: list[str] = []
        first = dict[str, int]()
        for line in numbered_lines(self.path):
            self.ids.append(ident := document_id(line))
            if first.setdefault(ident, line.number) != line.number:
                raise DataError(f"{line.where}: document {ident!r} is in line {first[ident]} already")
        if not self.ids:
            raise DataError(f"{self.path}: holds no documents")

    def digest(self) -> str:
        """Changes when the file does."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]

    def texts(self, start: int = 0) -> Iterator[str]:
        """Title and text of every document from that place on."""
        for place, line in enumerate(numbered_lines(self.path)):
            if place >= start:
                record = json_object(line)
                yield f"{record.get('title') or ''} {record['text']}".strip()


def judged_queries(folder: Path, split: str) -> dict[str, str]:
    """Texts of the queries that the split judges, in the judgements' order."""
    judged, first_lines = read_qrels(find_judgements(folder, split))
    queries = read_queries(folder / "queries.jsonl", judged)
    for ident in judged:
        if ident not in queries:
            raise DataError(f"{first_lines[ident].where}: query {ident!r} is not in {folder / 'queries.jsonl'}")
    return {ident: queries[ident][0] for ident in judged}
