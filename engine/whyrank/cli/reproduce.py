"""The command reproduce: a published protocol from the first stage to its figures, beside the published ones."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whyrank.cli import render
from whyrank.cli.common import AsJson, app, evaluation_reported
from whyrank.cli.evaluate import measured, target_name
from whyrank.cli.flags import Flags, flags_of
from whyrank.cli.judged_data import RESULTS_FOLDER, JudgedData, folder_for
from whyrank.cli.terminal import Terminal, json_text
from whyrank.config import EngineConfig
from whyrank.errors import InvalidRequest
from whyrank.evaluation.presets import Preset, Reproduction, load_preset, reproducible

if TYPE_CHECKING:
    from whyrank.evaluation.scorecard import Scorecard

__all__: list[str] = []

# Where a source does not name its embedding model.
_DEFAULT_EMBEDDING = "Qwen/Qwen3-Embedding-0.6B"


@app.command("reproduce")
@flags_of("judged", JudgedData, only=["split", "limit", "fresh"])
@flags_of("engine", EngineConfig)
def reproduce_command(
    protocol: Annotated[str, typer.Argument(help="querit, qanchor or prism.")],
    data: Annotated[Path, typer.Option("--data", "-d", help="A BEIR folder: corpus.jsonl, queries.jsonl and qrels.")],
    *,
    model: Annotated[str | None, typer.Option("--model", "-m", help="By default the source's own.")] = None,
    embedding: Annotated[str | None, typer.Option(help="For the first stage. By default the source's own.")] = None,
    judged: Flags,
    out: Annotated[Path | None, typer.Option(help="The folder for candidates, results and report.")] = None,
    engine: Flags,
    as_json: AsJson = False,
) -> None:
    """Find candidates, rerank and measure them as a published table was made, and print both, and what differs.

    `whyrank reproduce querit --data beir/scifact --trust-remote-code`

    `whyrank reproduce qanchor --data annual-reports`

    `whyrank reproduce prism --data beir/nfcorpus -m Qwen/Qwen3-Reranker-0.6B --embedding Qwen/Qwen3-Embedding-0.6B`

    querit: dense candidates, the best 100. qanchor: BM25 and dense candidates fused by rank, the best 20. prism: dense
    candidates, the best 100. If stopped, the same command resumes. `whyrank retrieve` and `whyrank eval` are its two halves.
    """
    with evaluation_reported() as stdout:
        preset, reproduction = _protocol(protocol)
        model, embedding = model or reproduction.model, embedding or reproduction.embedding or _DEFAULT_EMBEDDING
        name = target_name(model, engine)
        where = out or RESULTS_FOLDER / f"{protocol}-{data.name}"
        run = where / f"{reproduction.method}-{re.sub(r'[^A-Za-z0-9._-]+', '-', embedding).strip('-')}.trec"
        _find_candidates(data, reproduction.method, embedding, preset.top_k, judged, run)
        chosen = JudgedData(data=str(data), run=run, preset=protocol, **judged)
        collection = chosen.collection()
        folder = folder_for(where, collection, name)
        card = measured(collection, chosen.request(name), preset.measures, folder, chosen.fresh, engine)
        differs = _differences(reproduction, model, embedding, data.name, chosen.limit)
        if as_json:
            print(json_text(_document(preset, reproduction, card, differs)), file=stdout)
        else:
            _show(Terminal(file=stdout), preset, reproduction, card, differs)
            Terminal(file=stdout).plain(f"plots: {folder / 'report.html'}")
    if card.failed:
        raise typer.Exit(1)


def _protocol(name: str) -> tuple[Preset, Reproduction]:
    preset = load_preset(name) if name in reproducible() else None
    if preset is None or preset.reproduction is None:
        raise InvalidRequest(f"protocol is {name!r}: choose from {', '.join(reproducible())}")
    return preset, preset.reproduction


def _find_candidates(data: Path, method: str, embedding: str, top_k: int, judged: Mapping[str, Any], run: Path) -> None:
    """In a process of its own, so that the embedding engine has left the memory, and bm25s the process, before the reranker
    starts. A run is written when it is complete."""
    if run.exists() and not judged["fresh"]:
        return
    run.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "whyrank", "retrieve", str(data), "--method", method, "--model", embedding]
    command += ["--top-k", str(top_k), "--split", judged["split"], "--out", str(run), "--fresh"]
    ended = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)  # its errors are on stderr already
    if ended.returncode:
        raise typer.Exit(ended.returncode)


def _differences(made: Reproduction, model: str, embedding: str, data: str, limit: int | None) -> list[str]:
    differs = [f"data: {data}; published: {made.published}"]
    if model != made.model:
        differs.append(f"reranker: {model}; the source's own is {made.model}")
    if embedding != made.embedding:
        own = f"the source's is {made.embedding}" if made.embedding else "the source does not name its own"
        differs.append(f"embedding of the first stage: {embedding}; {own}")
    if limit is not None:
        differs.append(f"queries: only the first {limit}")
    return differs


def _document(preset: Preset, made: Reproduction, card: Scorecard, differs: Sequence[str]) -> dict[str, Any]:
    claims = [{"system": claim.system, "data": claim.data, "measures": dict(claim.means)} for claim in preset.claims]
    more = {
        "published": claims,
        "published_about": made.published,
        "differs": list(differs),
        "notes": list(preset.notes),
    }
    return {"protocol": preset.name, **card.document(), **more}


def _show(console: Terminal, preset: Preset, made: Reproduction, card: Scorecard, differs: Sequence[str]) -> None:
    table = render.figures_table(f"{preset.title}: {card.header.model} on {card.header.data}", "", *card.measures)
    for system, row in card.table.items():
        table.add_row(system, *(f"{row[name]:.4f}" for name in card.measures))
    for claim in preset.claims:
        figures = (f"{claim.means[name]:.4f}" if name in claim.means else "–" for name in card.measures)
        table.add_row(f"published: {claim.system}; {claim.data}", *figures)
    console.print(table)
    if not preset.claims:
        console.plain(f"published: {made.published}")
    if (difference := card.difference) is not None:
        interval = f"95 % {difference.low:+.4f} to {difference.high:+.4f}"
        console.plain(
            f"{card.measures[0]}: {difference.mean:+.4f} by reranking, {interval}, {len(card.queries)} queries"
        )
    for text in differs:
        console.plain(f"differs: {text}")
    for note in preset.notes:
        console.plain(f"note: {note}")
