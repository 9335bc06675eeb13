"""Small charts as inline SVG. Colours are the page's CSS variables, so that they follow light, dark and print."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

__all__ = ["Axis", "Chart", "Series", "ticks"]

_HEIGHT = 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 14, 30, 44


@dataclass(frozen=True, slots=True)
class Axis:
    low: float
    high: float
    label: str
    written: Callable[[float], str] = "{:g}".format


@dataclass(frozen=True, slots=True)
class Series:
    """`colour` names a CSS variable of the page; `kind` what is drawn at the points."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]
    kind: str = "bars"
    """bars (x is the left edge; those of several series stand side by side), columns (the same, each as wide as there is
    room), dots on a line, or marks: vertical lines at x."""


@dataclass(frozen=True)
class Chart:
    """`about` is the chart in one sentence, for those who cannot see it. `width`: pixels at which its text is as large as
    the page's; `bar_width` in units of x."""

    about: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    width: int = 480
    bar_width: float = 1.0
    diagonal: bool = False

    def svg(self) -> str:
        parts = [
            f'<svg viewBox="0 0 {self.width} {_HEIGHT}" role="img" aria-label="{escape(self.about)}">',
            f"<title>{escape(self.about)}</title>",
            *self._grid(),
        ]
        for series in self.series:
            parts += self._draw(series)
        return "\n".join([*parts, *self._legend(), "</svg>"])

    def file(self) -> str:
        """The same as a file of its own, which brings the page's colours along."""
        root, rest = self.svg().split(">", 1)
        style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
        size = f'xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{_HEIGHT}"'
        return f"{root} {size}><style>{style}</style>{rest}\n"

    def _across(self, x: float) -> float:
        share = (x - self.x.low) / (self.x.high - self.x.low)
        return _LEFT + min(1.0, max(0.0, share)) * (self.width - _LEFT - _RIGHT)

    def _up(self, y: float) -> float:
        share = (y - self.y.low) / (self.y.high - self.y.low)
        return _HEIGHT - _BOTTOM - min(1.0, max(0.0, share)) * (_HEIGHT - _TOP - _BOTTOM)

    def _grid(self) -> Iterator[str]:
        right, bottom = self.width - _RIGHT, _HEIGHT - _BOTTOM
        for value in ticks(self.y.low, self.y.high):
            y = self._up(value)
            yield f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            yield f'<text class="tick" x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{self.y.written(value)}</text>'
        for value in ticks(self.x.low, self.x.high):
            x = self._across(value)
            yield f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
            yield f'<text class="tick" x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{self.x.written(value)}</text>'
        base = self._up(max(0.0, self.y.low))
        yield f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{base:.1f}" y2="{base:.1f}"/>'
        middle = (_LEFT + right) / 2
        yield f'<text class="label" x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(self.x.label)}</text>'
        yield (
            f'<text class="label" transform="translate(14 {(_TOP + bottom) / 2}) rotate(-90)" '
            f'text-anchor="middle">{escape(self.y.label)}</text>'
        )
        if self.diagonal:
            yield (
                f'<line class="diagonal" x1="{self._across(self.x.low):.1f}" y1="{self._up(self.y.low):.1f}" '
                f'x2="{self._across(self.x.high):.1f}" y2="{self._up(self.y.high):.1f}"/>'
            )

    def _draw(self, series: Series) -> Iterator[str]:
        colour = f"var(--{series.colour})"
        if series.kind in ("bars", "columns"):
            yield from self._bars(series, colour)
        elif series.kind == "marks":
            for x, _ in series.points:
                at, bottom = self._across(x), _HEIGHT - _BOTTOM
                yield f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{bottom}" stroke="{colour}"/>'
        else:
            line = " ".join(f"{self._across(x):.1f},{self._up(y):.1f}" for x, y in series.points)
            yield f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>'
            for x, y in series.points:
                yield f'<circle cx="{self._across(x):.1f}" cy="{self._up(y):.1f}" r="3.5" fill="{colour}"/>'

    def _bars(self, series: Series, colour: str) -> Iterator[str]:
        """Bars narrower than two pixels have no gap between them."""
        all_bars = [series] if series.kind == "columns" else [s for s in self.series if s.kind == "bars"]
        room = self.bar_width / len(all_bars)
        shift = all_bars.index(series) * room
        for x, y in series.points:
            left, right = self._across(x + shift), self._across(x + shift + room)
            gap = 0.15 * (right - left) if right - left > 2 else 0.0
            top, bottom = sorted((self._up(y), self._up(max(0.0, self.y.low))))
            if bottom - top > 0:
                yield (
                    f'<rect x="{left + gap / 2:.2f}" y="{top:.1f}" width="{max(0.4, right - left - gap):.2f}" '
                    f'height="{bottom - top:.1f}" fill="{colour}"/>'
                )

    def _legend(self) -> Iterator[str]:
        """Over the plot, from the left; only where there is more than one thing to tell apart."""
        if len(self.series) < 2:
            return
        x = float(_LEFT)
        for series in self.series:
            yield f'<rect x="{x:.0f}" y="9" width="11" height="11" rx="2" fill="var(--{series.colour})"/>'
            yield f'<text class="label" x="{x + 16:.0f}" y="19">{escape(series.name)}</text>'
            x += 34 + 7.6 * len(series.name)  # room for print, too, where letters are larger


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers from low to high."""
    raw = (high - low) / about
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(place * step, 12) + 0.0 for place in range(first, last + 1)]
