"""Files that grow by whole lines, whatever happens to the process that writes them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TextIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["LineFile", "cut_half_line"]


class LineFile:
    """Appends whole lines of JSON. A process that dies leaves at most one half line, which `cut_half_line` cuts off."""

    def __init__(self, path: Path) -> None:
        # Half a surrogate pair, which UTF-8 cannot spell, becomes its JSON escape.
        self._file: TextIO = path.open("a", encoding="utf-8", newline="\n", errors="backslashreplace")

    def claim(self) -> bool:
        """No other process may claim this file until it is closed. False: one has. Where systems have no such locks, True."""
        if fcntl is None:
            return True
        try:
            fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def append(self, line: str) -> None:
        """From here on a dying process takes nothing away; see `sync` for a dying machine."""
        self._file.write(line)
        self._file.flush()

    def sync(self) -> None:
        """All lines are on the disk when this returns."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


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
