"""Generated values: the same one in another format is supported, another one in the same sentence is altered."""

from __future__ import annotations

import pytest

from whyrank.grounding import ground
from written_values import KINDS, LANGUAGES, Case, cases

COUNT = 40
"""Of each kind and language: 2,400 values in all, each against itself in another format, and against another one."""


def verdict(evidence: str, document: str) -> str:
    (sentence,) = ground(evidence, document).sentences
    return sentence.verdict


def drawn(kind: str, language: str) -> list[Case]:
    return list(cases(kind, language, COUNT, seed=11))


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_value_in_another_format_is_supported(kind: str, language: str) -> None:
    wrong = [
        case.same
        for case in drawn(kind, language)
        if verdict(*(case.sentence.format(written) for written in case.same)) != "supported"
    ]
    assert not wrong


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_another_value_is_altered(kind: str, language: str) -> None:
    wrong = [
        (case.other, case.same[0])
        for case in drawn(kind, language)
        if verdict(case.sentence.format(case.other), case.sentence.format(case.same[0])) != "altered"
    ]
    assert not wrong
