"""Files that are written hold whole lines, or the old content, whatever happens meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from whyrank.errors import DataError
from whyrank.jsonl import LineFile, cut_half_line, replace_file

# The nearest to a full disk that needs no root: files of this process may not grow beyond so many bytes.
FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from whyrank.errors import DataError
from whyrank.jsonl import LineFile, replace_file
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
try:
    {action}
except DataError as error:
    print(error)
"""


def on_a_full_disk(action: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK.format(action=action)], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_a_file_that_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    replace_file(path, ["old"])
    told = on_a_full_disk(f"replace_file(Path({str(path)!r}), ['x' * 90, 'y' * 90])")
    assert told.startswith(f"{path}: File too large")
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]


def test_pieces_that_fail_leave_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    replace_file(path, ["old"])
    with pytest.raises(ZeroDivisionError):
        replace_file(path, (str(1 // n) for n in (1, 0)))
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]


def test_lines_that_do_not_fit_are_named_and_the_others_kept(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    told = on_a_full_disk(
        f"file = LineFile(Path({str(path)!r})); [file.append('x' * 39 + chr(10)) for _ in range(9)]; file.close()"
    )
    assert told.startswith(f"{path}: File too large") and "the same command goes on" in told
    cut_half_line(path)
    assert path.read_text() == ("x" * 39 + "\n") * 2


@pytest.mark.parametrize("name", ["missing/out.jsonl", "file/out.jsonl"])
def test_a_place_where_no_file_can_be_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    for write in (LineFile, lambda path: replace_file(path, ["x"])):
        with pytest.raises(DataError, match=rf"{name}: (No such file or directory|Not a directory)"):
            write(tmp_path / name)


def test_half_a_surrogate_pair_becomes_its_escape(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "out.jsonl")
    file.append(json.dumps({"id": "\ud800"}, ensure_ascii=False) + "\n")
    file.close()
    assert json.loads((tmp_path / "out.jsonl").read_text()) == {"id": "\ud800"}
