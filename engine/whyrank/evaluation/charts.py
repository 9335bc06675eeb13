"""Small charts as SVG, inline or as files. Colours are CSS variables of the page, so they follow light, dark and print."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined

__all__ = ["Axis", "Chart", "Series", "render", "ticks"]

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **values: Any) -> str:
    """Fills in a template of templates/."""
    return _TEMPLATES.get_template(template).render(values)


@dataclass(frozen=True, slots=True)
class Axis:
    low: float
    high: float
    label: str
    format: Callable[[float], str] = "{:g}".format

    def share(self, value: float) -> float:
        """The value's position between low, 0, and high, 1."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def ticks(self) -> list[tuple[float, str]]:
        return [(value, self.format(value)) for value in ticks(self.low, self.high)]


@dataclass(frozen=True, slots=True)
class Series:
    """`colour` names a CSS variable of the page. `kind` is what is drawn at the points: bars (x is the left edge; bars of
    several series stand side by side), columns (the same, but each as wide as possible), dots on a line, or marks: vertical
    lines at x."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]
    kind: str = "bars"


@dataclass(frozen=True)
class Chart:
    """`about` describes the chart in one sentence, for screen readers. `width`: the pixels at which its text is as large as
    the page's. `bar_width` is in units of x."""

    about: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    width: int = 480
    bar_width: float = 1.0
    diagonal: bool = False

    height: ClassVar[int] = 270
    left: ClassVar[int] = 64
    top: ClassVar[int] = 30
    bottom: ClassVar[int] = height - 44

    def svg(self) -> str:
        return render("chart.svg", chart=self, standalone=False)

    def file(self) -> str:
        """The chart as a file of its own, which includes the page's colours."""
        return render("chart.svg", chart=self, standalone=True) + "\n"

    @property
    def right(self) -> int:
        return self.width - 14

    def across(self, x: float) -> float:
        return self.left + self.x.share(x) * (self.right - self.left)

    def up(self, y: float) -> float:
        return self.bottom - self.y.share(y) * (self.bottom - self.top)

    def bars(self, series: Series) -> Iterator[tuple[float, float, float, float]]:
        """x, y, width and height of each bar. Bars narrower than two pixels have no gap between them."""
        beside = [series] if series.kind == "columns" else [other for other in self.series if other.kind == "bars"]
        room = self.bar_width / len(beside)
        for x, y in series.points:
            left, right = (self.across(x + (beside.index(series) + edge) * room) for edge in (0, 1))
            gap = 0.15 * (right - left) if right - left > 2 else 0.0
            top, bottom = sorted((self.up(y), self.up(max(0.0, self.y.low))))
            if bottom > top:
                yield left + gap / 2, top, max(0.4, right - left - gap), bottom - top


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers from low to high."""
    raw = (high - low) / about
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(place * step, 12) + 0.0 for place in range(first, last + 1)]
