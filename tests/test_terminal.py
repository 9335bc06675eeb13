"""Foreign text that reaches a terminal: none of it may have an effect there."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys

import pytest

from test_url import replying
from whyrank.cli import render
from whyrank.cli.terminal import Terminal, json_text, printable
from whyrank.doctor import Finding, Report
from whyrank.events import EvidenceDelta, EvidenceDone, Finished, Ranked
from whyrank.ranking import Ranking
from whyrank.types import (
    CheckedSentence,
    Document,
    DocumentError,
    Evidence,
    Grounding,
    RankedDocument,
    Unsupported,
    Usage,
)

HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b31m\x9d8;;http://x\x9c\u202egnp.exe\u2066\x00\x08\x7f\rend"
ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def everything_shown(force_terminal: bool) -> str:
    evidence = Evidence(HOSTILE, HOSTILE, "complete", 9, Grounding(1.0, (), (Unsupported("name", "x", 0, 3),)))
    row = RankedDocument(0, Document(HOSTILE, id=HOSTILE, title=HOSTILE), 1, 0.5, 0.0, evidence=evidence)
    failed = RankedDocument(1, Document("x"), error=DocumentError("engine", HOSTILE))
    ranking = Ranking((row, failed), Usage(), HOSTILE, HOSTILE)
    terminal = Terminal(file=io.StringIO(), force_terminal=force_terminal, width=200)
    with render.show_ranking(terminal, HOSTILE) as tell:
        for event in (Ranked(ranking), EvidenceDelta(0, "evidence", HOSTILE), EvidenceDone(row), Finished(ranking)):
            tell(event)
    for trusted in (True, False):
        report = Report((Finding(HOSTILE, HOSTILE, trusted),))
        terminal.print(render.report_table(report, HOSTILE))
    terminal.print(HOSTILE, markup=False, style="red")
    assert isinstance(terminal.file, io.StringIO)
    return terminal.file.getvalue()


def test_no_text_acts_on_a_terminal() -> None:
    shown = everything_shown(force_terminal=True)
    own = re.compile(
        "\x1b\\[[0-9;]*m|\x1b\\[[0-9]*[AK]|\x1b\\[2K|\x1b\\[\\?25[hl]|\r"
    )  # colours, and redrawing of lines
    assert "gnp.exe" in shown and "\x1b[2J" not in shown
    assert not ACTING.search(own.sub("", shown))


def test_what_goes_to_a_file_has_no_control_characters_at_all() -> None:
    assert not ACTING.search(everything_shown(force_terminal=False))


def test_newlines_tabs_and_writing_of_all_directions_stay() -> None:
    text = "a\tb\nc é 水 يغلي 👩‍👩‍👧 \u200f"
    assert printable(text) == text


def test_json_is_exact_and_acts_on_no_terminal() -> None:
    value = {HOSTILE: [HOSTILE, "水 \ud800", "é\\u202e"]}
    text = json_text(value)
    assert json.loads(text) == value
    assert not ACTING.search(text) and "水" in text
    text.encode()


@pytest.mark.parametrize("form", [(), ("--json",), ("--jsonl",)])
def test_a_servers_error_does_not_act_on_the_terminal(form: tuple[str, ...]) -> None:
    answer = {"error": {"type": "InvalidRequest", "message": f"no\n{HOSTILE}"}}
    with replying(400, answer) as (url, _):
        command = [sys.executable, "-m", "whyrank", "rerank", "--url", url, "-q", "q", "a", *form]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == 2 and done.stdout == b""
    errors = done.stderr.decode()
    assert "error: no\n[2J" in errors
    assert not ACTING.search(errors)


def test_red_is_for_altered_and_grey_for_unverified_sentences() -> None:
    good, wrong, open_one = "Tea is hot.", "It costs 9 euros.", "All love 5 teas."
    text = f"{good} {wrong} {open_one}"
    at = [text.index(part) for part in (good, wrong, open_one)]
    sentences = (
        CheckedSentence(at[0], at[0] + len(good), "supported"),
        CheckedSentence(at[1], at[1] + len(wrong), "altered", "number"),
        CheckedSentence(at[2], at[2] + len(open_one), "unverified", "wording"),
    )
    nine, five = text.index("9 euros"), text.index("5")
    unsupported = (Unsupported("number", "9 euros", nine, nine + 7), Unsupported("number", "5", five, five + 1))
    grounding = Grounding(0.3, (), unsupported, altered=0.4, unverified=0.3, sentences=sentences)
    variant = Evidence("why", "Steam rises.", "complete")
    panel = render.evidence_panel("1", Evidence("why", text, "complete", 9, grounding, variants=(variant,)))
    shown = panel.renderable.renderables[1]  # type: ignore[union-attr]
    assert str(panel.renderable.renderables[2]) == "or: Steam rises."  # type: ignore[union-attr]
    styled = {text[span.start : span.end]: str(span.style) for span in shown.spans}
    assert styled == {open_one: "bright_black", "9 euros": "bold red"}
    assert panel.subtitle == "supported by the document: 30% · altered: 40% · unverified: 30%"
