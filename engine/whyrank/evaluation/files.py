"""Text files line by line. Whatever is wrong in one is told with file and line."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from whyrank.errors import DataError

__all__ = ["Line", "check_id", "fingerprint", "json_object", "numbered_lines"]

_UNFIT_FOR_TREC = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Line(NamedTuple):
    """One line that is not blank, without its line break. start and end in bytes, the line break included."""

    path: Path
    number: int
    text: str
    start: int = 0
    end: int = 0

    @property
    def where(self) -> str:
        return f"{self.path}, line {self.number}"


def numbered_lines(path: Path, finished: bool = False) -> Iterator[Line]:
    """`finished`: without a last line that has no line break, which somebody may still be writing."""
    start = 0
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if raw.strip() and not (finished and not raw.endswith(b"\n")):
                    yield Line(path, number, _decoded(raw, path, number), start, start + len(raw))
                start += len(raw)
    except OSError as cause:
        raise DataError(f"{path}: {cause.strerror}") from cause


def _decoded(raw: bytes, path: Path, number: int) -> str:
    try:
        # The mark that some editors put at the beginning of a file is not part of its first word.
        return raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as cause:
        raise DataError(f"{path}, line {number}: not UTF-8 text ({cause.reason} at byte {cause.start})") from cause


def check_id(ident: str, where: str) -> str:
    """The columns of a TREC file end at white space: an id that holds some would be two, or a line of its own."""
    if not ident or _UNFIT_FOR_TREC.search(ident):
        raise DataError(
            f"{where}: id {ident!r:.80} is empty or holds white space, a control character or half a surrogate pair, which "
            "no TREC run can hold: rename it, in judgements and run, too"
        )
    return ident


def json_line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"


def json_object(line: Line) -> dict[str, Any]:
    try:
        value = json.loads(line.text)
    except json.JSONDecodeError as cause:
        raise DataError(f"{line.where}: not JSON ({cause.msg} at column {cause.colno})") from cause
    if not isinstance(value, dict):
        raise DataError(f"{line.where}: {line.text[:40]!r} is no JSON object")
    return value


def fingerprint(*paths: Path) -> str:
    """Tells whether files are still the same."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError as cause:
            raise DataError(f"{path}: {cause.strerror}") from cause
        digest.update(b"\0")
    return digest.hexdigest()[:16]
