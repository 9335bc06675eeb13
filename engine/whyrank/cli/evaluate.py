"""The commands eval and fetch: they parse options and print tables; the numbers are computed in evaluation/."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from whyrank.cli import render
from whyrank.cli.claims import evaluate_claims
from whyrank.cli.common import AsJson, Model, app, evaluation_reported, kept, reported
from whyrank.cli.flags import Flags, flags_of
from whyrank.cli.judged_data import (
    LISTWISE_OPTIONS,
    RESULTS_FOLDER,
    JudgedData,
    folder_for,
    listwise_options,
    rerank_into,
)
from whyrank.cli.terminal import Terminal, json_text
from whyrank.config import EngineConfig
from whyrank.evaluation.data import Collection
from whyrank.evaluation.fetch import fetch
from whyrank.evaluation.measures import Measurer
from whyrank.evaluation.presets import load_preset
from whyrank.evaluation.results import RESULTS
from whyrank.evaluation.run import EvalRequest, claimed, write_run
from whyrank.jsonl import write_file
from whyrank.options import options_of
from whyrank.process import prepare_process
from whyrank.request import RerankOptions, RerankRequest

# Modules that import numpy, scipy or Jinja2 (of the eval extra) are imported inside the commands.
if TYPE_CHECKING:
    from whyrank.evaluation.scorecard import Scorecard

__all__ = ["measured", "target_name"]

# The options of a request and of the engine that may change what is measured.
_EVIDENCE_OPTIONS = ("mode", "evidence_top_n", "evidence_min_score", "evidence_style")
_IDENTITY = ("prompt", "route", "revision", "max_length", "dtype", "quantization", "calibration")


@app.command("eval")
@flags_of("judged", JudgedData)
@flags_of("options", RerankRequest, only=("instruction", *_EVIDENCE_OPTIONS, *LISTWISE_OPTIONS))
@flags_of("engine", EngineConfig)
def evaluate_command(
    *,
    model: Model,
    judged: Flags,
    out: Annotated[Path | None, typer.Option(help="The folder for results and report.")] = None,
    claims: Annotated[
        Path | None,
        typer.Option(
            help='Instead of --data: JSON lines of {"claim", "document", "label": 1 or 0}, to measure a verifier.'
        ),
    ] = None,
    options: Flags,
    engine: Flags,
    as_json: AsJson = False,
) -> None:
    """Rerank judged data and measure it as trec_eval would. If stopped, the same command resumes.

    `whyrank eval -m Qwen/Qwen3-Reranker-0.6B --data house`

    `whyrank eval -m MODEL --data beir/scifact --run bm25.trec --top-k 100 --out results/scifact`

    `whyrank eval -m "MODEL,prompt=claims-chatml" --claims claims.jsonl`

    `whyrank eval -m MODEL --preset qanchor --data gold.jsonl --json | jq .measures`

    The folder gets results.jsonl, run.trec, report.json and report.html, a page with plots. Exit code 1 if a document has no
    score: it counts as not found, and `failed` in results.jsonl says why.
    """
    data = JudgedData(**judged)
    if claims is not None:
        evaluate_claims(model, claims, data, options["instruction"], out, engine, as_json)
        return
    with evaluation_reported() as stdout:
        name = target_name(model, engine)
        request = data.request(name, _rerank_options(options))
        collection = data.collection()
        folder = out or folder_for(RESULTS_FOLDER, collection, name)
        card = measured(collection, request, data.measures, folder, data.fresh, engine)
        if as_json:
            print(json_text(card.document()), file=stdout)
        else:
            _show_scorecard(Terminal(file=stdout), card, folder)
    if card.failed:
        raise typer.Exit(1)


def target_name(model: str, engine: Flags) -> str:
    """The target as open_target reads it: the model with the engine options that may change scores, removed from `engine`."""
    defaults = options_of(EngineConfig)
    identity = {name: value for name in _IDENTITY if (value := engine.pop(name)) != defaults[name].default}
    return ",".join([model, *(f"{key}={value}" for key, value in identity.items())])


def _rerank_options(options: Flags) -> RerankOptions:
    """The options that matter: those of evidence and of lists do not affect other scores."""
    names = ["instruction"] if options["mode"] == "score" else ["instruction", *_EVIDENCE_OPTIONS]
    given = {name: options[name] for name in names if options[name] is not None}
    return cast(RerankOptions, given) | listwise_options(options)


def measured(
    collection: Collection,
    request: EvalRequest,
    measures: Sequence[str],
    folder: Path,
    fresh: bool,
    engine: Flags,
) -> Scorecard:
    """Evaluates into the folder and writes the reports. Errors in options or data are raised before an engine starts."""
    from whyrank.evaluation.report import html_report
    from whyrank.evaluation.scorecard import make_scorecard

    Measurer(measures).check_judged(collection.highest_grade, collection.judgements)
    prepare_process()
    with claimed(folder, fresh):
        rerank_into(folder, collection, request, engine)
        card = make_scorecard(folder, measures)
        page = html_report(card, load_preset(request.preset) if request.preset else None)
        with kept("evaluated"):
            write_run(folder)
            write_file(folder / "report.json", [json.dumps(card.document(), ensure_ascii=False, indent=2) + "\n"])
            write_file(folder / "report.html", [page])
    return card


def _show_scorecard(console: Terminal, card: Scorecard, folder: Path) -> None:
    table = render.figures_table(f"{card.header.model} on {card.header.data}", "", *card.measures)
    for system, row in card.table.items():
        table.add_row(system, *(f"{row[name]:.4f}" for name in card.measures))
    console.print(table)
    if (difference := card.difference) is not None:
        console.plain(
            f"{card.measures[0]}: {difference.mean:+.4f} by reranking, 95 % {difference.low:+.4f} to {difference.high:+.4f}, "
            f"p = {difference.p:.4f}; {difference.better} queries better, {difference.worse} worse"
        )
    for pair in (pair for pairs in card.impossible.values() for pair in pairs):
        console.plain(f"impossible: {pair.message}", style="red")
    for name, value in card.evidence.items():
        console.plain(f"evidence, {name.replace('_', ' ')}: {value:.3f}")
    costs = card.costs
    console.plain(
        f"{costs.pairs} pairs, {costs.pairs_per_second:.1f} per second, {costs.prompt_tokens} prompt tokens, "
        f"{costs.cached_tokens} from the cache"
    )
    if card.failed:
        console.plain(f"{card.failed} documents without a score: 'failed' in {folder / RESULTS}")
    console.plain(f"plots: {folder / 'report.html'}")


@app.command("fetch")
def fetch_command(
    source: Annotated[str, typer.Argument(help="datasets:NAME, of the hub or a local folder, or ir_datasets:NAME.")],
    folder: Annotated[Path, typer.Argument(help="The new BEIR folder, for `whyrank eval --data`.")],
    split: Annotated[str, typer.Option(help="Which qrels of a BEIR folder.")] = "test",
    as_json: AsJson = False,
) -> None:
    """Download judged data with the package `datasets` or `ir_datasets`.

    `whyrank fetch datasets:mteb/scifact beir/scifact`

    `whyrank fetch ir_datasets:beir/scifact/test beir/scifact`

    `whyrank eval -m MODEL --data beir/scifact --run bm25.trec`

    A data set of `datasets` needs MTEB's parts: corpus, queries, and qrels or default; top_ranked is used if it is there.
    """
    with reported() as stdout:
        with render.waiting(f"fetching {source}"):
            counts = fetch(source, folder, split)
        if as_json:
            print(json_text({"folder": str(folder), "lines": counts}), file=stdout)
            return
        console = Terminal(file=stdout)
        for name, count in counts.items():
            console.plain(f"{folder / name}: {count} lines")
        if len(counts) == 3:
            console.plain("it has no first stage: give `whyrank eval` one with --run")
