"""BEIR's corpus.jsonl, of any size: 16 bytes of memory a document, texts read when they are needed."""

from __future__ import annotations

import array
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

from whyrank.errors import DataError
from whyrank.evaluation.files import Line, check_id, json_object, numbered_lines
from whyrank.types import Document

__all__ = ["Corpus"]


class Corpus:
    def __init__(self, path: Path) -> None:
        import numpy as np

        self.path = path
        keys, offsets = array.array("Q"), array.array("q")
        for line in numbered_lines(path):
            keys.append(_key(_id_of(line)))
            offsets.append(line.start)
        order = np.argsort(np.frombuffer(keys, np.uint64), kind="stable") if keys else np.zeros(0, np.int64)
        self._keys = np.array(keys, np.uint64)[order]
        self._offsets = np.array(offsets, np.int64)[order]
        self._refuse_twins()

    def _refuse_twins(self) -> None:
        """Eight bytes of a good hash: two ids of a billion documents hardly ever share them, so a twin is a duplicate."""
        import numpy as np

        (twins,) = np.nonzero(self._keys[1:] == self._keys[:-1])
        if len(twins):
            first, second = self._offsets[twins[0] : twins[0] + 2]
            lines = {line.start: line for line in numbered_lines(self.path) if line.start in (first, second)}
            again = lines[int(second)]
            raise DataError(f"{again.where}: document {_id_of(again)!r} is in line {lines[int(first)].number} already")

    def __len__(self) -> int:
        return len(self._keys)

    def missing(self, ids: Sequence[str]) -> int | None:
        """The position of the first id that is not here."""
        import numpy as np

        if not ids:
            return None
        wanted = np.array([_key(ident) for ident in ids], np.uint64)
        (gone,) = np.nonzero(~np.isin(wanted, self._keys))
        return int(gone[0]) if len(gone) else None

    def documents(self, ids: Iterable[str]) -> list[Document]:
        """Only ids that are here."""
        with self.path.open("rb") as file:
            return [self._read(file, ident) for ident in ids]

    def _read(self, file: BinaryIO, ident: str) -> Document:
        import numpy as np

        file.seek(int(self._offsets[np.searchsorted(self._keys, np.uint64(_key(ident)))]))
        line = Line(self.path, 0, file.readline().decode("utf-8-sig"))
        record = json_object(line)
        title, text = record.get("title") or None, record.get("text")
        metadata = record.get("metadata") or {}
        if record.get("_id") != ident or not isinstance(text, str) or not isinstance(title, str | None):
            raise DataError(f"{self.path}: document {ident!r} is not as it was when it was first read; start again")
        return Document(text, id=ident, title=title, metadata=metadata)


def _key(ident: str) -> int:
    return int.from_bytes(hashlib.blake2b(ident.encode(errors="surrogatepass"), digest_size=8).digest(), "big")


def _id_of(line: Line) -> str:
    record = json_object(line)
    for name in ("_id", "text"):
        if not isinstance(record.get(name), str):
            raise DataError(f"{line.where}: no {name!r} with a string; its keys are {sorted(record)}")
    if not isinstance(record.get("title") or "", str):
        raise DataError(f"{line.where}: 'title' must be a string")
    return check_id(record["_id"], line.where)
