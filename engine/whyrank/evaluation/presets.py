"""Evaluation protocols by name: measures, depth, kind of data, and caveats about the published numbers."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from whyrank.errors import InvalidRequest
from whyrank.evaluation.consistency import Impossible, impossible_pairs
from whyrank.evaluation.measures import DEFAULT_MEASURES

__all__ = ["HOUSE", "NO_PRESET", "Claim", "Preset", "Reproduction", "load_preset", "preset_names", "reproducible"]

_FOLDER = Path(__file__).parent / "presets"
HOUSE = Path(__file__).parent / "house"
"""The judged corpus that is included in whyrank."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A row of a published table."""

    system: str
    data: str
    means: Mapping[str, float]

    def impossible(self) -> list[Impossible]:
        return impossible_pairs(self.means)


@dataclass(frozen=True, slots=True)
class Reproduction:
    """What the published figures were made with: how candidates were found, the models, and the data. `embedding`: None where
    the source does not name its own."""

    method: Literal["dense", "hybrid"]
    model: str
    published: str
    embedding: str | None = None


@dataclass(frozen=True, slots=True)
class Preset:
    """`definitions`: measure → its exact definition. `data`: the kind of files it needs. The first measure is the main one.
    `reproduction`: for those that `whyrank reproduce` runs as a whole."""

    name: str
    title: str
    data: str
    measures: tuple[str, ...]
    top_k: int = 100
    definitions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
    reproduction: Reproduction | None = None

    @property
    def claimed_measures(self) -> list[str]:
        return list(dict.fromkeys(name for claim in self.claims for name in claim.means))


NO_PRESET = Preset("", "", "", DEFAULT_MEASURES)


def preset_names() -> list[str]:
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load_preset(name: str) -> Preset:
    if name not in preset_names():
        raise InvalidRequest(f"preset {name!r}: choose from {', '.join(preset_names())}")
    value: dict[str, Any] = tomllib.loads((_FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    value |= {key: tuple(value.get(key, ())) for key in ("measures", "notes")}
    value["claims"] = tuple(Claim(**claim) for claim in value.get("claims", ()))
    if "reproduction" in value:
        value["reproduction"] = Reproduction(**value["reproduction"])
    return Preset(name=name, **value)


def reproducible() -> list[str]:
    return [name for name in preset_names() if load_preset(name).reproduction is not None]
