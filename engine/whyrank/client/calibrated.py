"""Calibrated scores where the file is the client's and not the server's."""

from __future__ import annotations

from dataclasses import replace

from whyrank.calibration import Calibration
from whyrank.events import Event, EvidenceDone, Finished, Ranked, Scored
from whyrank.ranking import Ranking

__all__ = ["calibrated", "calibrated_event"]


def calibrated(ranking: Ranking, calibration: Calibration | None) -> Ranking:
    """Raises where the server uses another prompt than the calibration was made for."""
    if calibration is None:
        return ranking
    calibration.check_fits(ranking.model, ranking.prompt)
    return replace(ranking, results=tuple(map(calibration.score, ranking.results)))


def calibrated_event(event: Event, calibration: Calibration | None) -> Event:
    if calibration is None:
        return event
    match event:
        case Scored(row) | EvidenceDone(row):
            return replace(event, row=calibration.score(row))
        case Ranked(ranking) | Finished(ranking):
            return replace(event, ranking=calibrated(ranking, calibration))
    return event
