"""Calibrates scores in the client, where the calibration file is the client's and not the server's."""

from __future__ import annotations

from dataclasses import replace

from whyrank.calibration import Calibration
from whyrank.events import Event, EvidenceDone, Finished, Ranked, Scored
from whyrank.ranking import Ranking

__all__ = ["CalibratedEvents", "calibrated"]


def calibrated(ranking: Ranking, calibration: Calibration | None) -> Ranking:
    """Raises if the server's prompt, or the call's instruction, is not the one that the calibration was made for."""
    if calibration is None:
        return ranking
    calibration.check_fits(ranking.model, ranking.prompt)
    calibration.check_instruction(ranking.prompt)
    return replace(ranking, results=tuple(map(calibration.score, ranking.results)))


class CalibratedEvents:
    """Calibrates one stream's events. Scores are held back until the ranking arrives: only that names the server's prompt."""

    def __init__(self, calibration: Calibration | None) -> None:
        self._calibration = calibration
        self._waiting: list[Event] = []

    def after(self, event: Event) -> list[Event]:
        """The events to emit now that the server has sent this one."""
        if self._calibration is None:
            return [event]
        match event:
            case Scored(row):
                self._waiting.append(Scored(self._calibration.score(row)))
                return []
            case Ranked(ranking):
                fitting = Ranked(calibrated(ranking, self._calibration))
                waiting, self._waiting = self._waiting, []
                return [*waiting, fitting]
            case EvidenceDone(row):
                return [EvidenceDone(self._calibration.score(row))]
            case Finished(ranking):
                return [Finished(calibrated(ranking, self._calibration))]
        return [event]
