"""Files stay complete: the effects of a full disk, a link or a device as the target."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from whyrank.errors import CannotWrite
from whyrank.jsonl import LineFile, write_file

FULL = """
import resource, sys
from pathlib import Path
from whyrank.errors import CannotWrite
from whyrank.jsonl import LineFile, write_file
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
whole, lines = map(Path, sys.argv[1:])
file = LineFile(lines)
for write in (lambda: write_file(whole, ["x" * 600, "y" * 600]), lambda: file.append("z" * 2000)):
    try:
        write()
    except CannotWrite as error:
        print(error)
"""


def test_a_full_disk_is_an_error_with_the_file_and_the_old_file_stays(tmp_path: Path) -> None:
    whole, lines = tmp_path / "whole.json", tmp_path / "lines.jsonl"
    whole.write_text("before")
    command = [sys.executable, "-c", FULL, str(whole), str(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [f"{whole}: File too large", f"{lines}: File too large"], done.stderr
    assert whole.read_text() == "before" and sorted(tmp_path.iterdir()) == [lines, whole]


def test_pieces_that_end_in_an_error_leave_the_old_file(tmp_path: Path) -> None:
    def pieces() -> Iterator[str]:
        yield "half"
        raise ZeroDivisionError

    path = tmp_path / "run.trec"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError):
        write_file(path, pieces())
    assert path.read_text() == "before" and [*tmp_path.iterdir()] == [path]


def test_a_link_goes_on_pointing_and_half_a_surrogate_pair_becomes_its_escape(tmp_path: Path) -> None:
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    target.write_text("before")
    link.symlink_to(target)
    write_file(link, ["a\ud800\n", "é"])
    assert link.is_symlink() and target.read_bytes() == b"a\\ud800\n\xc3\xa9"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
def test_a_device_is_written_to_and_not_replaced() -> None:
    with pytest.raises(CannotWrite, match="/dev/full: No space left on device"):
        write_file(Path("/dev/full"), ["text"])
    assert Path("/dev/full").is_char_device()


def test_where_nothing_can_be_written_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, why in ((tmp_path / "gone" / "a", "No such file"), (tmp_path / "file" / "a", "Not a directory")):
        with pytest.raises(CannotWrite, match=f"{path}: {why}"):
            write_file(path, ["text"])
        with pytest.raises(CannotWrite, match=f"{path}: {why}"):
            LineFile(path)
