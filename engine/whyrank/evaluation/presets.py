"""Protocols by name: which measures, how deep, on which kind of data, and what to know about the numbers that were printed."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from whyrank.errors import InvalidRequest
from whyrank.evaluation.consistency import Impossible, impossible_pairs

__all__ = ["HOUSE", "Claim", "Preset", "load_preset", "preset_names"]

_FOLDER = Path(__file__).parent / "presets"
HOUSE = Path(__file__).parent / "house"
"""The judged corpus that comes with whyrank."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A row of a table that a source printed. `most_relevant`: no query of these data has more relevant documents."""

    system: str
    data: str
    means: Mapping[str, float]
    most_relevant: int | None = None

    def impossible(self) -> list[Impossible]:
        return impossible_pairs(self.means, most_relevant=self.most_relevant)


@dataclass(frozen=True, slots=True)
class Preset:
    """`definitions`: measure → what it is, exactly. `data`: which kind of files it wants. The first measure leads."""

    name: str
    title: str
    data: str
    measures: tuple[str, ...]
    top_k: int = 100
    definitions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()


def preset_names() -> list[str]:
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load_preset(name: str) -> Preset:
    if name not in preset_names():
        raise InvalidRequest(f"preset {name!r}: choose from {', '.join(preset_names())}")
    value: dict[str, Any] = tomllib.loads((_FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    unknown = set(value) - {field.name for field in fields(Preset)}
    if unknown:
        raise InvalidRequest(f"preset {name!r}: unknown keys {sorted(unknown)}")
    claims = tuple(Claim(**claim) for claim in value.pop("claims", ()))
    value |= {key: tuple(value.get(key, ())) for key in ("measures", "notes")}
    return Preset(name=name, claims=claims, **value)
