"""The texts and queries of a BEIR folder, to be searched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from whyrank.errors import DataError
from whyrank.evaluation.data import document_id, fingerprint, read_judged
from whyrank.jsonl import json_object, numbered_lines
from whyrank.types import Document

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
                raise DataError(f"{line.where}: document {ident!r} is already in line {first[ident]}")
        if not self.ids:
            raise DataError(f"{self.path}: contains no documents")

    def digest(self) -> str:
        """Changes when the file does."""
        return fingerprint(self.path)

    def texts(self, start: int = 0) -> Iterator[str]:
        """Title and text of every document from that place on."""
        for place, line in enumerate(numbered_lines(self.path)):
            if place >= start:
                record = json_object(line)
                yield Document(record["text"], title=record.get("title")).content.strip()


def judged_queries(folder: Path, split: str) -> dict[str, str]:
    """Texts of the queries that the split judges, in the judgements' order."""
    _, grades, queries = read_judged(folder, split)
    return {ident: queries[ident][0] for ident in grades}
