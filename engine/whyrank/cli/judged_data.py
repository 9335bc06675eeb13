"""Judged data as flags of eval and compare, and the folder where its results go."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

from whyrank.cli import render
from whyrank.cli.common import kept, opened
from whyrank.connect import masked
from whyrank.errors import InvalidRequest
from whyrank.evaluation.data import Collection, open_collection
from whyrank.evaluation.presets import HOUSE, NO_PRESET, Preset, load_preset, preset_names
from whyrank.evaluation.run import EvalRequest, evaluate, is_finished, open_target
from whyrank.options import Option
from whyrank.request import RerankOptions

__all__ = ["LISTWISE_OPTIONS", "RESULTS_FOLDER", "JudgedData", "folder_for", "listwise_options", "rerank_into"]

LISTWISE_OPTIONS = ("method", "listwise_window", "listwise_stride", "listwise_passes")

RESULTS_FOLDER = Path("whyrank-eval")


@dataclass(frozen=True, slots=True)
class JudgedData:
    data: Annotated[
        str | None, Option("A BEIR folder, a file of JSON lines, or `house`: whyrank's own corpus.", short_flag="-d")
    ] = None
    run: Annotated[Path | None, Option("The first stage: a TREC run, or MTEB's top_ranked.")] = None
    split: Annotated[str, Option("Which qrels of a BEIR folder.")] = "test"
    preset: Annotated[str | None, Option(f"A protocol by name: {', '.join(preset_names())}.")] = None
    top_k: Annotated[int | None, Option("Candidates per query; the preset's, or 100.")] = None
    limit: Annotated[int | None, Option("Only the first N queries.")] = None
    measure: Annotated[list[str] | None, Option("nDCG@k, AP, RR@k, P@k, R@k, RR(rel=2)@k; may be repeated.")] = None
    fresh: Annotated[bool, Option("Delete what the folder holds instead of resuming.")] = False

    @property
    def protocol(self) -> Preset:
        return load_preset(self.preset) if self.preset else NO_PRESET

    @property
    def measures(self) -> tuple[str, ...]:
        return tuple(self.measure or self.protocol.measures)

    def collection(self) -> Collection:
        if self.data is None and self.preset != "house":
            hint = f"; preset {self.preset!r} needs: {self.protocol.data}" if self.preset else ""
            raise InvalidRequest(f"--data is missing: give a folder, a file, or house{hint}")
        if self.data is None or self.data == "house":
            return open_collection(HOUSE, self.run)
        return open_collection(Path(self.data), self.run, self.split)

    def request(self, model: str, options: RerankOptions | None = None) -> EvalRequest:
        top_k = self.protocol.top_k if self.top_k is None else self.top_k
        return EvalRequest(model, top_k, self.limit, self.preset, options or RerankOptions())


def listwise_options(options: Mapping[str, Any]) -> RerankOptions:
    """Those that were given, if lists are to be ordered."""
    given = {name: options[name] for name in LISTWISE_OPTIONS if options[name] is not None}
    return cast(RerankOptions, given) if options["method"] == "listwise" else RerankOptions()


def folder_for(parent: Path, collection: Collection, model: str) -> Path:
    """Named after data and model."""
    return parent / re.sub(r"[^\w.-]+", "-", f"{collection.name}-{masked(model)}").strip("-.")[-100:]


def rerank_into(folder: Path, collection: Collection, request: EvalRequest, engine: dict[str, Any]) -> None:
    """Starts no engine if the folder already holds all results."""

    async def run() -> None:
        async with opened(open_target(request.model, **engine), masked(request.model)) as target:
            with render.progress("queries", len(collection.topic_ids[: request.limit])) as on_progress:
                await evaluate(collection, target, request, folder, on_progress)

    if not is_finished(collection, request, folder):
        with kept("evaluated"):
            asyncio.run(run())
