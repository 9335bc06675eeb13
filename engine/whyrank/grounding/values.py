"""What amounts, dates and times mean, and when two mean the same: 90 minutes are 1.5 h, 2/3 is two thirds, 8 p.m. is 20:00."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Amount", "Date", "Dates", "Time", "Unit", "Value", "implies", "same_value"]

_CONVERTED = 0.02  # so far may an amount in another system of units be rounded: 5 miles are 8 km


CURRENCIES = frozenset({"euro", "dollar", "pound", "franc"})
"""Those with a hundredth."""


class Unit(NamedTuple):
    """`factor`: its worth in the dimension's own measure, counted from `zero` (Fahrenheit)."""

    dimension: str
    factor: float
    zero: float = 0.0


class Amount(NamedTuple):
    """All that it may mean (1,500 is 1500 or 1.5): `values` in the dimension's own measure, `plain` without the unit.

    `step`: half of its last digit, in the own measure; `per`: what it is counted by (euros per litre); `scaled`: by a
    "million" after it.
    """

    values: tuple[float, ...]
    plain: tuple[float, ...]
    unit: Unit | None = None
    per: Unit | None = None
    step: float = 0.0
    scaled: float = 1.0

    @property
    def dimension(self) -> str | None:
        return self.unit.dimension if self.unit else None

    def with_unit(self, unit: Unit | None) -> Amount:
        if unit is None:
            return self
        values = tuple((value - unit.zero) * unit.factor for value in self.plain)
        return self._replace(values=values, unit=unit, step=self.step * unit.factor)

    def like_following(self, other: Amount) -> Amount:
        """The 5 of "5 to 10 million euros"; "5 to 10 million" may begin at 5."""
        plain = self.plain
        if self.scaled == 1.0 != other.scaled:
            plain = (*plain, *(value * other.scaled for value in plain))
        return self._replace(plain=plain, values=plain).with_unit(other.unit)

    def plus(self, part: float) -> Amount:
        plain = tuple(value + part for value in self.plain)
        return self._replace(plain=plain, values=plain, unit=None).with_unit(self.unit)

    def is_rest_of(self, larger: Amount) -> bool:
        """The 40 minutes of "1 hour 40 minutes", the 50 of "3 euros 50"."""
        if self.unit is None and larger.unit is not None and larger.unit == Unit(larger.unit.dimension, 1.0):
            return larger.unit.dimension in CURRENCIES and 9 < self.plain[0] < 100 and self.plain[0] % 1 == 0
        if self.unit is None or larger.unit is None or self.dimension != larger.dimension or self.unit.zero:
            return False
        return self.unit.factor < larger.unit.factor and 0 < self.values[0] < larger.unit.factor

    def with_rest(self, rest: Amount) -> Amount:
        added = rest.values[0] if rest.unit else rest.plain[0] / 100
        return self._replace(values=(self.values[0] + added,), plain=(math.nan,), step=rest.step)

    def equals(self, other: Amount) -> bool:
        mine, others = self.dimension, other.dimension
        if mine and others and mine != others:
            return False
        if mine == others:
            if self.per and other.per:
                return self.per.dimension == other.per.dimension and _meet(
                    [value / self.per.factor for value in self.values],
                    [value / other.per.factor for value in other.values],
                )
            return _meet(self.values, other.values) or self._is_converted(other)
        return ("share" in (mine, others) and _meet(self.values, other.values)) or _meet(self.plain, other.plain)

    def _is_converted(self, other: Amount) -> bool:
        if self.unit is None or other.unit is None:
            return False
        digits = math.log10(self.unit.factor / other.unit.factor)
        if math.isclose(digits, round(digits), abs_tol=1e-9) or self.unit.dimension in ("time", "months", "share"):
            return False
        step = max(self.step, other.step)
        return any(abs(one - two) <= min(step, _CONVERTED * abs(two)) for one in self.values for two in other.values)


def _meet(some: Sequence[float], others: Sequence[float]) -> bool:
    return any(one == other or math.isclose(one, other, rel_tol=1e-5) for one in some for other in others)


class Time(NamedTuple):
    """Minutes since midnight, in all readings: without "a.m." or "Uhr", 4:10 may be in the afternoon."""

    minutes: frozenset[int]

    def equals(self, other: Time) -> bool:
        return not self.minutes.isdisjoint(other.minutes)


Date = tuple[int | None, int, int | None]
"""Year, month, day."""


class Dates(NamedTuple):
    """All that a date may mean: 3/4/2021 is in March or April. 3/4 may be a fraction, too."""

    readings: tuple[Date, ...]
    fraction: Amount | None = None

    def equals(self, other: Dates) -> bool:
        """One that says less is the same, and where one names no year, the years are not compared."""
        return any(_is_within(mine, theirs) for mine in self.readings for theirs in other.readings)


def _is_within(date: Date, other: Date) -> bool:
    (year, month, day), (other_year, other_month, other_day) = date, other
    return month == other_month and day in (None, other_day) and (year is None or other_year in (None, year))


Value = Amount | Time | Dates


def same_value(mine: Value | None, theirs: Value | None) -> bool:
    if mine.__class__ is theirs.__class__:
        return mine is not None and mine.equals(theirs)  # type: ignore[arg-type]
    if isinstance(mine, Amount) and isinstance(theirs, Dates):
        year = mine.unit is None and any(date[0] in mine.plain for date in theirs.readings)
        return year or (theirs.fraction is not None and mine.equals(theirs.fraction))
    return isinstance(mine, Dates) and mine.fraction is not None and same_value(mine.fraction, theirs)


def implies(source: Value | None, claim: Value | None) -> bool:
    """Whether the source's value is the claim's, or says more: stricter than `same_value`, which finds what to compare.

    No unit, divisor or year may be new, and of a number's readings the likeliest counts."""
    if isinstance(source, Amount) and isinstance(claim, Amount):
        same_kind = source.dimension == claim.dimension and (source.per is None) == (claim.per is None)
        likeliest = (one._replace(values=one.values[:1], plain=one.plain[:1]) for one in (source, claim))
        return same_kind and next(likeliest).equals(next(likeliest))
    if isinstance(source, Dates) and isinstance(claim, Dates):
        return any(
            _is_within(mine, theirs) and (mine[0] is None or theirs[0] is not None)
            for mine in claim.readings
            for theirs in source.readings
        )
    return isinstance(source, Time) and isinstance(claim, Time) and source.equals(claim)
