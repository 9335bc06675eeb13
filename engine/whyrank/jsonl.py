"""Writing files safely: JSON lines that a dying process leaves whole, and files that are replaced in one step."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from whyrank.errors import DataError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["LineFile", "cut_half_line", "replace_file"]


class LineFile:
    """Appends whole lines. A process that dies leaves at most one half line, which `cut_half_line` removes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            # Unbuffered: what could not be written is not tried again at the end.
            self._file = path.open("ab", buffering=0)
        except OSError as cause:
            raise DataError(f"{path}: {cause.strerror}") from cause

    def claim(self) -> bool:
        """Lock the file against other processes until it is closed. False: another one has it. True where the system has no
        such locks."""
        if fcntl is None:
            return True
        try:
            fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def append(self, line: str) -> None:
        """After this the line survives the process; after `sync` the machine, too."""
        # Half a surrogate pair, which UTF-8 cannot spell, becomes its JSON escape.
        left = memoryview(line.encode("utf-8", "backslashreplace"))
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as cause:
            raise self._failure(cause) from cause

    def sync(self) -> None:
        try:
            os.fsync(self._file.fileno())
        except OSError as cause:
            raise self._failure(cause) from cause

    def close(self) -> None:
        self._file.close()

    def _failure(self, cause: OSError) -> DataError:
        return DataError(
            f"{self._path}: {cause.strerror}. What was written before is kept: the same command goes on from there"
        )


def cut_half_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("r+b") as file:
        at = file.seek(0, 2)
        while at > 0:  # backwards, block by block, to the last line break
            start = max(0, at - (1 << 16))
            file.seek(start)
            if (last := file.read(at - start).rfind(b"\n")) >= 0:
                file.truncate(start + last + 1)
                return
            at = start
        file.truncate(0)


def replace_file(path: Path, pieces: Iterable[str], errors: str = "strict") -> None:
    """Write a whole file. Whatever happens, there is the old one or the new one, never a part. `errors`: as `open` takes it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n", errors=errors) as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as cause:
        raise DataError(f"{path}: {cause.strerror}") from cause
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
