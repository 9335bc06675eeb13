"""scripts/conformance.py: how cases are counted, its table, what does not apply, what suites say of themselves."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import conformance
from conformance import (
    Case,
    ConformanceError,
    Outcome,
    judge,
    markdown,
    read_cases,
    read_listed,
    read_suite,
    read_suites,
    see_packages_of,
    table,
)

JUNIT = """<testsuites><testsuite>
<testcase classname="test_x" name="test_a[1-b]"><properties><property name="cases" value="7"/></properties></testcase>
<testcase classname="test_x.TestBest" name="test_b"><failure message="assert 1 == 2">trace</failure></testcase>
<testcase classname="test_x" name="test_c"><error message="no fixture">trace</error></testcase>
<testcase classname="test_x" name="test_d"><skipped message="not today" /></testcase>
</testsuite></testsuites>"""


def test_cases_are_read(tmp_path: Path) -> None:
    (tmp_path / "x.xml").write_text(JUNIT)
    assert read_cases(tmp_path / "x.xml") == [
        Case("test_a[1-b]", None, {"cases": "7"}),
        Case("TestBest::test_b", "failure: assert 1 == 2"),
        Case("test_c", "error: no fixture"),
        Case("test_d", "skipped: not today"),
    ]


def test_cases_are_counted_and_the_list_only_shrinks() -> None:
    cases = [Case("good", None, {"cases": "7"}), Case("bad", "why"), Case("known", "why"), Case("mended", None)]
    outcome = Outcome("x", "generate")
    judge(outcome, cases, {"known": "reason", "mended": "reason", "gone": "reason"})
    assert (outcome.passed, outcome.not_applicable, outcome.figures) == (1, 1, {"cases": "7"})
    assert outcome.failures == {
        "bad": "why",
        "mended": "passes: take it off does_not_apply.toml",
        "gone": "does not exist: take it off does_not_apply.toml",
    }
    assert outcome.tried == 5 and outcome.to_json()["tried"] == 5


def test_the_table() -> None:
    outcomes = [
        Outcome("a", "generate", ["x 1.0"], 3, 1, {"bad": "why"}),
        Outcome("node", "classify", left_out="no npm"),
    ]
    head, first, second = table(outcomes).splitlines()
    assert re.split(r"  +", head) == ["suite", "server", "tried", "passed", "does not apply", "failed", "tried with"]
    assert re.split(r"  +", first) == ["a", "generate", "5", "3", "1", "1", "x 1.0"]
    assert re.split(r"  +", second) == ["node", "classify", "0", "0", "0", "0", "no npm"]


def test_the_table_of_the_docs() -> None:
    outcomes = [Outcome("a", server, ["x 1.0", "y 2"], 3, 1, {"bad": "why"}) for server in conformance.SERVERS]
    outcomes.append(Outcome("node", "classify", left_out="no npm"))
    assert markdown(outcomes).splitlines()[2:] == ["| x 1.0, y 2 | 10 | 6 | 2 | 2 |"]


def test_what_does_not_apply_is_of_a_server_or_of_all(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(
        '[[a]]\nreason = "r"\ncases = ["one", "two"]\n[[a]]\nreason = "s"\nserver = "classify"\ncases = ["three"]\n'
    )
    assert read_listed("a", "generate", tmp_path / "x.toml") == {"one": "r", "two": "r"}
    assert read_listed("a", "classify", tmp_path / "x.toml") == {"one": "r", "two": "r", "three": "s"}
    assert read_listed("b", "classify", tmp_path / "x.toml") == {}


def test_every_suite_says_what_it_needs() -> None:
    suites = {suite.name: suite for suite in read_suites()}
    assert len(suites) >= 10 and {"cohere", "vllm", "openapi"} <= suites.keys()
    for suite in suites.values():
        assert suite.servers and set(suite.servers) <= set(conformance.SERVERS)
        assert suite.works_with or suite.npm or suite.sdist
        assert '"""' in suite.file.read_text().partition("# ///\n")[2].partition("\n")[0], "what it is about"
    named = conformance.tomllib.loads(conformance.LISTED.read_text())
    assert named.keys() <= suites.keys()
    for entries in named.values():
        assert all(entry["cases"] and len(entry["reason"]) > 15 for entry in entries)


@pytest.mark.parametrize(
    ("text", "message"), [("x = 1\n", "has no inline metadata"), ("# /// script\n# dependencies = []\n", "no inline")]
)
def test_a_suite_without_metadata_is_told(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "test_x.py").write_text(text)
    with pytest.raises(ConformanceError, match=message):
        read_suite(tmp_path / "test_x.py")


def test_metadata_with_options(tmp_path: Path) -> None:
    file = tmp_path / "test_x.py"
    lines = ["/// script", "dependencies = [", '    "a>=1",', "]", "[tool.conformance]", "case-seconds = 7"]
    lines += ['servers = ["generate"]', "///", ""]
    file.write_text("\n".join(f"# {line}" if line else "" for line in lines))
    suite = read_suite(file)
    assert (suite.name, suite.dependencies, suite.works_with) == ("x", ("a>=1",), ("a>=1",))
    assert (suite.case_seconds, suite.servers, suite.engine) == (7, ("generate",), False)


def test_the_engines_packages_come_with_what_its_environment_does_at_the_start(tmp_path: Path) -> None:
    engine, site_packages = tmp_path / "engine", tmp_path / "site-packages"
    for folder in (engine, site_packages):
        folder.mkdir()
    (engine / "mended.py").write_text("")
    (engine / "mended.pth").write_text("import mended\n")
    see_packages_of(engine, site_packages)
    program = f"import site, sys; site.addsitedir({str(site_packages)!r}); print('mended' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
