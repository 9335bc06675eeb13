"""Files of JSON lines: read with line numbers in errors, and appended to so that a crash loses at most half a line; and files
that are replaced atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

from whyrank.errors import CannotWrite, DataError, InvalidRequest

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "Line",
    "LineFile",
    "SameModel",
    "cut_half_line",
    "json_line",
    "json_object",
    "naming",
    "numbered_lines",
    "read_line",
    "write_file",
]


class Line(NamedTuple):
    """A line that is not blank, without its line break. `start` is the offset of its first byte in the file."""

    path: Path
    number: int
    text: str
    start: int = 0

    @property
    def where(self) -> str:
        return f"{self.path}, line {self.number}"


def numbered_lines(path: Path, finished: bool = False) -> Iterator[Line]:
    """`finished`: skip a last line without line break, which may still be being written."""
    start = 0
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if raw.strip() and not (finished and not raw.endswith(b"\n")):
                    yield _decoded(raw, path, number, start)
                start += len(raw)
    except OSError as cause:
        raise DataError(f"{path}: {cause.strerror}") from cause


def read_line(file: BinaryIO, path: Path, number: int, start: int) -> Line:
    """A line whose `start` is known from an earlier pass over the file."""
    file.seek(start)
    return _decoded(file.readline(), path, number, start)


def _decoded(raw: bytes, path: Path, number: int, start: int) -> Line:
    try:
        # Some editors write a byte order mark at the beginning of a file. It is not part of the first word.
        text = raw.decode("utf-8" if start else "utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as cause:
        raise DataError(f"{path}, line {number}: not UTF-8 text ({cause.reason} at byte {cause.start})") from cause
    return Line(path, number, text, start)


def json_object(line: Line) -> dict[str, Any]:
    """`line` may also hold the text of a whole file: errors name the line within it."""
    try:
        value = json.loads(line.text)
    except json.JSONDecodeError as cause:
        where = line._replace(number=line.number + cause.lineno - 1).where
        raise DataError(f"{where}: not JSON ({cause.msg} at column {cause.colno})") from cause
    if not isinstance(value, dict):
        raise DataError(f"{line.where}: {line.text[:40]!r} is not a JSON object")
    return value


def json_line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"


class LineFile:
    """Appends whole lines of JSON. A process that dies leaves at most one partial line, which `cut_half_line` removes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with naming(path):
            self._file = _opened(path, "a")

    def claim(self, refusal: str) -> None:
        """Lock the file until this LineFile is closed. If it is locked already, close and raise InvalidRequest(refusal). On
        systems without such locks, always succeeds."""
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as cause:
            self._file.close()
            raise InvalidRequest(refusal) from cause

    def empty(self) -> None:
        with naming(self._path):
            self._file.truncate(0)

    def append(self, line: str) -> None:
        """After this, the line survives a crash of the process; see `sync` for a crash of the machine."""
        with naming(self._path):
            self._file.write(line)
            self._file.flush()

    def sync(self) -> None:
        """On return, all lines are on disk."""
        with naming(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        with naming(self._path):
            self._file.close()


def _opened(path: Path, mode: str) -> IO[str]:
    """Lone surrogates, which UTF-8 cannot encode, are written as escapes, which JSON can."""
    return path.open(mode, encoding="utf-8", errors="backslashreplace", newline="\n")


def cut_half_line(path: Path) -> None:
    if not path.exists():
        return
    with naming(path), path.open("r+b") as file:
        at = file.seek(0, 2)
        while at > 0:  # backwards, block by block, to the last line break
            start = max(0, at - (1 << 16))
            file.seek(start)
            if (last := file.read(at - start).rfind(b"\n")) >= 0:
                file.truncate(start + last + 1)
                return
            at = start
        file.truncate(0)


def write_file(path: Path, pieces: Iterable[str]) -> None:
    """Replace the file atomically: all pieces are written to a file beside it, which then takes its place."""
    with naming(path):
        if path.exists() and not path.is_file():  # a device such as /dev/stdout must not be replaced
            with _opened(path, "w") as device:
                device.writelines(pieces)
            return
        path = path.resolve()  # a link keeps pointing to it
        half = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with _opened(half, "w") as file:
                file.writelines(pieces)
                file.flush()
                os.fsync(file.fileno())  # some file systems report only now that they are full
            half.replace(path)
        except BaseException:
            with suppress(OSError):  # the original error is more important
                half.unlink()
            raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turns OSError into CannotWrite, whose message names the file."""
    try:
        yield
    except OSError as cause:
        raise CannotWrite(f"{path}: {cause.strerror or cause}") from cause


class SameModel:
    """Refuses to mix answers of different models or prompts in one file, whatever a server was restarted with."""

    def __init__(self, path: Path, known: tuple[str, str] | None) -> None:
        """`known`: model and prompt of the answers that earlier runs wrote."""
        self._path, self.known = path, known

    def check(self, model: str, prompt: str) -> None:
        self.known = self.known or (model, prompt)
        if self.known != (model, prompt):
            before, now = (f"{model} with {prompt}" for model, prompt in (self.known, (model, prompt)))
            raise InvalidRequest(f"{self._path} was answered by {before}, and now {now} answers: choose another output")
