"""Files that stay whole, whatever happens to the process or the disk: lines that are appended, and files written at once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from whyrank.errors import CannotWrite, InvalidRequest

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["LineFile", "cut_half_line", "naming", "write_file"]


class LineFile:
    """Appends whole lines of JSON. A process that dies leaves at most one half line, which `cut_half_line` cuts off."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with naming(path):
            self._file = _opened(path, "a")

    def claim(self, refusal: str) -> None:
        """Until this is closed nobody else can claim the file; who tries gets InvalidRequest(refusal) and a closed LineFile.
        Where systems have no such locks, everybody can."""
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
        """From here on a dying process takes nothing away; see `sync` for a dying machine."""
        with naming(self._path):
            self._file.write(line)
            self._file.flush()

    def sync(self) -> None:
        """All lines are on the disk when this returns."""
        with naming(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        with naming(self._path):
            self._file.close()


def _opened(path: Path, mode: str) -> IO[str]:
    """Half a surrogate pair, which UTF-8 cannot spell, is written as its escape, which JSON understands."""
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
    """The file holds all pieces afterwards, or is what it was before: they go to a file beside it, which takes its place."""
    with naming(path):
        if path.exists() and not path.is_file():  # /dev/stdout: must not be replaced
            with _opened(path, "w") as device:
                device.writelines(pieces)
            return
        path = path.resolve()  # a link goes on pointing to it
        half = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with _opened(half, "w") as file:
                file.writelines(pieces)
                file.flush()
                os.fsync(file.fileno())  # some file systems only now say that they are full
            half.replace(path)
        except BaseException:
            with suppress(OSError):  # what went wrong before is the news
                half.unlink()
            raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Where the system cannot do what is done inside, the error names the file."""
    try:
        yield
    except OSError as cause:
        raise CannotWrite(f"{path}: {cause.strerror or cause}") from cause
