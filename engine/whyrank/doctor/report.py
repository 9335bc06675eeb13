"""What the checks find, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["PARITY", "Facts", "Finding", "Report"]

Facts = Mapping[str, str | int]
"""`Runtime.facts`: engine, dtype, block size and the like."""

PARITY = "parity"
"""The name of the finding about scores."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `good` is None if there is nothing to judge."""

    name: str
    value: str
    good: bool | None = None


@dataclass(frozen=True, slots=True)
class Report:
    findings: tuple[Finding, ...]

    @property
    def trusted(self) -> bool:
        return all(finding.good is not False for finding in self.findings)

    @property
    def is_compared(self) -> bool:
        """Whether there was a reference for the scores."""
        return all(finding.good is not None for finding in self.findings if finding.name == PARITY)

    @property
    def verdict(self) -> str:
        bad = [f"{finding.name}: {finding.value}" for finding in self.findings if finding.good is False]
        if bad:
            return "do not trust these scores: " + "; ".join(bad)
        return (
            "can be trusted as served"
            if self.is_compared
            else "shows no fault, but its scores were compared with nothing"
        )
