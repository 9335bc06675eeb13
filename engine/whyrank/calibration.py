"""The result of `whyrank calibrate`, which turns margins into probabilities. Imports little: engines and clients load it."""

from __future__ import annotations

import json
import math
import warnings
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from whyrank.errors import InvalidRequest
from whyrank.jsonl import write_file
from whyrank.prompting.identity import file_part
from whyrank.types import RankedDocument

__all__ = ["Calibration", "CalibrationMethod", "read_calibration", "write_calibration"]

CalibrationMethod = Literal["temperature", "isotonic"]
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Calibration:
    """temperature: sigmoid(scale * margin + offset). isotonic: linear interpolation between `points` (margin, probability).

    `prompt` is that of a Ranking: margins of another prompt or instruction mean something else. `threshold` is the lowest
    margin worth keeping, None if no threshold reaches the target; `found` has the measurements behind it.
    """

    method: CalibrationMethod
    model: str
    prompt: str
    scale: float = 1.0
    offset: float = 0.0
    points: tuple[tuple[float, float], ...] = ()
    threshold: float | None = None
    found: Mapping[str, Any] | None = None

    def probability(self, margin: float) -> float:
        if self.method == "temperature":
            # Beyond 700, exp overflows; the result is 0 or 1 long before that.
            return 1 / (1 + math.exp(-max(-700.0, min(700.0, self.scale * margin + self.offset))))
        at = bisect_right(self.points, margin, key=lambda point: point[0])
        if at == 0 or at == len(self.points):
            return self.points[min(at, len(self.points) - 1)][1]
        (left, low), (right, high) = self.points[at - 1 : at + 1]
        return low + (high - low) * (margin - left) / (right - left)

    def check_fits(self, model: str, prompt: str) -> None:
        """Another prompt file is an error. Another name is not: folder, hub and server may name the same model differently."""
        if file_part(self.prompt) != file_part(prompt):
            raise InvalidRequest(
                f"calibration: it was made for prompt {self.prompt}, and this engine uses {prompt}: calibrate again"
            )
        if _last_name(self.model) != _last_name(model):
            warnings.warn(
                f"calibration: it was made for {self.model}, and this is {model}; unless they are one model, calibrate again",
                stacklevel=2,
            )

    def fits_instruction(self, prompt: str) -> bool:
        """Whether calls whose Ranking has this prompt, from the same file, have the calibration's instruction."""
        return self.prompt == prompt

    def check_instruction(self, prompt: str) -> None:
        if not self.fits_instruction(prompt):
            raise InvalidRequest(
                f"calibration: it was made for prompt {self.prompt}, and this call's is {prompt}: they differ in the "
                "instruction. Give the one it was made with, calibrate again with this one, or leave the calibration out"
            )

    def score(self, row: RankedDocument) -> RankedDocument:
        """The row with its calibrated score, if it has a margin."""
        return row if row.margin is None else replace(row, calibrated_score=self.probability(row.margin))


def _last_name(model: str) -> str:
    return model.rstrip("/").rpartition("/")[2]


def write_calibration(calibration: Calibration, path: Path) -> None:
    text = json.dumps(
        {"whyrank": "calibration", "version": _VERSION, **asdict(calibration)}, indent=2, ensure_ascii=False
    )
    write_file(path, [text + "\n"])


def read_calibration(path: Path) -> Calibration:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as cause:
        raise InvalidRequest(f"calibration {path}: {cause.strerror}") from cause
    except ValueError as cause:
        raise InvalidRequest(f"calibration {path}: not JSON ({cause})") from cause
    if not isinstance(value, dict) or (value.pop("whyrank", 0), value.pop("version", 0)) != ("calibration", _VERSION):
        raise InvalidRequest(f"calibration {path}: was not written by this version of `whyrank calibrate`")
    try:
        points = tuple((float(margin), float(probability)) for margin, probability in value.pop("points"))
        calibration = Calibration(points=points, **value)
        numbers = (calibration.scale, calibration.offset, *(number for point in points for number in point))
        sound = all(math.isfinite(number) for number in numbers) and list(points) == sorted(points)
    except (KeyError, TypeError, ValueError) as cause:
        raise InvalidRequest(f"calibration {path}: {cause}; write it with `whyrank calibrate`") from cause
    if (
        calibration.method not in get_args(CalibrationMethod)
        or not sound
        or (calibration.method == "isotonic") != bool(points)
    ):
        raise InvalidRequest(
            f"calibration {path}: its numbers are not a valid calibration; write it with `whyrank calibrate`"
        )
    return calibration
