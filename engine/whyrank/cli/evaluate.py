"""The commands eval, fetch, calibrate and compare: options in, tables out. The numbers are made in evaluation/."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer
from rich.markup import escape
from rich.table import Table

from whyrank.calibration import CalibrationMethod, write_calibration
from whyrank.cli import render
from whyrank.cli.common import (
    AsJson,
    Model,
    app,
    choice,
    evaluation_reported,
    kept,
    opened,
    reported,
)
from whyrank.cli.flags import Flags, flags_of
from whyrank.cli.terminal import Terminal, json_text
from whyrank.config import EngineConfig
from whyrank.connect import masked
from whyrank.errors import InvalidRequest
from whyrank.evaluation.data import Claims, Collection, open_collection
from whyrank.evaluation.fetch import fetch
from whyrank.evaluation.measures import Measurer
from whyrank.evaluation.presets import HOUSE, NO_PRESET, Preset, load_preset, preset_names
from whyrank.evaluation.results import RESULTS
from whyrank.evaluation.run import EvalRequest, claimed, evaluate, is_finished, open_target, target_of, write_run
from whyrank.jsonl import write_file
from whyrank.options import options_of
from whyrank.process import prepare_process
from whyrank.request import RerankOptions, RerankRequest

# What imports numpy, scipy or Jinja2, which the eval extra brings, is imported by the commands.
if TYPE_CHECKING:
    from whyrank.evaluation.calibrate import Verdict
    from whyrank.evaluation.claims import ClaimsCard
    from whyrank.evaluation.compare import Comparison, Gate
    from whyrank.evaluation.scorecard import Scorecard

__all__: list[str] = []

_RESULTS = Path("whyrank-eval")
# The options of a request and of the engine that may change what is measured.
_OPTIONS = ("instruction", "mode", "evidence_top_n", "evidence_min_score", "evidence_style")
_IDENTITY = ("prompt", "route", "revision", "max_length", "dtype", "quantization", "calibration")

Data = Annotated[
    str | None,
    typer.Option("--data", "-d", help="A BEIR folder, a file of JSON lines, or `house`: whyrank's own corpus."),
]
Run = Annotated[Path | None, typer.Option("--run", help="The first stage: a TREC run, or MTEB's top_ranked.")]
Split = Annotated[str, typer.Option(help="Which qrels of a BEIR folder.")]
_PRESETS = f"A protocol by name: {', '.join(preset_names())}."
PresetName = Annotated[str | None, typer.Option("--preset", help=_PRESETS)]
TopK = Annotated[int | None, typer.Option(help="Candidates a query; the preset's, or 100.")]
Limit = Annotated[int | None, typer.Option(help="Only the first N queries.")]
Measures = Annotated[
    list[str] | None, typer.Option("--measure", help="nDCG@k, AP, RR@k, P@k, R@k, RR(rel=2)@k; more than once.")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Throw away what the folder holds, instead of going on.")]


@app.command("eval")
@flags_of("options", RerankRequest, only=_OPTIONS)
@flags_of("engine", EngineConfig)
def evaluate_command(
    model: Model,
    data: Data = None,
    run: Run = None,
    split: Split = "test",
    preset: PresetName = None,
    out: Annotated[Path | None, typer.Option(help="The folder for results and report.")] = None,
    top_k: TopK = None,
    limit: Limit = None,
    measure: Measures = None,
    fresh: Fresh = False,
    claims: Annotated[
        Path | None,
        typer.Option(
            help='Instead of --data: JSON lines of {"claim", "document", "label": 1 or 0}, to measure a verifier.'
        ),
    ] = None,
    *,
    options: Flags,
    engine: Flags,
    as_json: AsJson = False,
) -> None:
    """Rerank judged data and measure it as trec_eval would. Stopped, it goes on where it was when it is called again.

    `whyrank eval -m Qwen/Qwen3-Reranker-0.6B --data house`

    `whyrank eval -m MODEL --data beir/scifact --run bm25.trec --top-k 100 --out results/scifact`

    `whyrank eval -m "MODEL,prompt=claims-chatml" --claims claims.jsonl`

    `whyrank eval -m MODEL --preset qanchor --data gold.jsonl --json | jq .measures`

    The folder gets results.jsonl, run.trec, report.json and report.html, which shows it all in plots. Exit code 1 where a
    document has no score: it counts as not found, and `failed` in results.jsonl says why.
    """
    if claims is not None:
        _evaluate_claims(model, claims, [data, run, preset, options["instruction"]], out, limit, fresh, engine, as_json)
        return
    with evaluation_reported() as stdout:
        # The name that open_target understands, with all that may change scores.
        defaults = options_of(EngineConfig)
        identity = {name: value for name in _IDENTITY if (value := engine.pop(name)) != defaults[name].default}
        name = ",".join([model, *(f"{key}={value}" for key, value in identity.items())])
        scored_only = options["mode"] == "score"
        given = {
            name: value
            for name, value in options.items()
            if value is not None and (name == "instruction" or not scored_only)
        }
        protocol = load_preset(preset) if preset else NO_PRESET
        request = EvalRequest(
            name, protocol.top_k if top_k is None else top_k, limit, preset, cast(RerankOptions, given)
        )
        collection = _collection(data, run, split, protocol)
        folder = out or _folder(_RESULTS, collection, name)
        card = _scorecard(collection, request, measure or protocol.measures, folder, fresh, engine)
        if as_json:
            print(json_text(card.document()), file=stdout)
        else:
            _show_scorecard(Terminal(file=stdout), card, folder)
    if card.failed:
        raise typer.Exit(1)


def _evaluate_claims(
    model: str,
    path: Path,
    for_ranking: Sequence[object],
    out: Path | None,
    limit: int | None,
    fresh: bool,
    engine: Flags,
    as_json: bool,
) -> None:
    """`for_ranking`: options that go with documents to rank, and not with claims."""
    with evaluation_reported() as stdout:
        from whyrank.checkpoints import make_claims_plan
        from whyrank.evaluation.claims import make_claims_card, open_judge
        from whyrank.verifier import threshold_of

        if any(option is not None for option in for_ranking):
            raise InvalidRequest("with --claims there is no --data, --run, --preset or --instruction: leave them out")
        claims, plan = Claims(path), make_claims_plan(model, engine)
        request = EvalRequest(f"{model},prompt={plan.format.name}", 1, limit)
        folder = out or _folder(_RESULTS, claims, model)
        prepare_process()

        async def run() -> None:
            async with opened(open_judge(plan), model) as judge:
                with render.progress("claims", len(claims.topic_ids[:limit])) as on_progress:
                    await evaluate(claims, judge, request, folder, on_progress)

        with claimed(folder, fresh), kept("evaluated"):
            if not is_finished(claims, request, folder):
                asyncio.run(run())
            card = make_claims_card(folder, claims, model, threshold_of(plan))
            write_file(folder / "report.json", [json.dumps(card.document(), ensure_ascii=False, indent=2) + "\n"])
        if as_json:
            print(json_text(card.document()), file=stdout)
        else:
            _show_claims(Terminal(file=stdout), card)
    if card.failed:
        raise typer.Exit(1)


def _show_claims(console: Terminal, card: ClaimsCard) -> None:
    def shown(value: float | None) -> str:
        return "none" if value is None else f"{value:.4f}"

    table = _table(f"{card.model}, backed from {card.threshold:.4f}", "", "claims", "backed", "not backed", "balanced")
    for name, judged in card.data_sets.items():
        found = (shown(value) for value in (judged.backed_found, judged.unbacked_found, judged.balanced_accuracy))
        table.add_row(escape(name), str(judged.claims), *found)
    console.print(table)
    console.plain(f"balanced accuracy, mean of the data sets: {card.average:.4f}")
    if card.failed:
        console.plain(f"{card.failed} claims without a score count as not backed")


def _scorecard(
    collection: Collection,
    request: EvalRequest,
    measures: Sequence[str],
    folder: Path,
    fresh: bool,
    engine: Mapping[str, Any],
) -> Scorecard:
    """Of results that the folder holds afterwards, with the reports. Errors in what is given come before an engine starts."""
    from whyrank.evaluation.report import html_report
    from whyrank.evaluation.scorecard import make_scorecard

    Measurer(measures).check_judged(collection.highest_grade, collection.judgements)
    RerankRequest.of("query", ["document"], **request.options)
    prepare_process()
    with claimed(folder, fresh):
        _rerank(collection, request, folder, engine)
        card = make_scorecard(folder, measures)
        page = html_report(card, load_preset(request.preset) if request.preset else None)
        with kept("evaluated"):
            write_run(folder)
            write_file(folder / "report.json", [json.dumps(card.document(), ensure_ascii=False, indent=2) + "\n"])
            write_file(folder / "report.html", [page])
    return card


def _collection(data: str | None, run: Path | None, split: str, preset: Preset) -> Collection:
    if data is None and preset.name != "house":
        wanted = f"; preset {preset.name!r} wants: {preset.data}" if preset.name else ""
        raise InvalidRequest(f"--data is missing: give a folder, a file, or house{wanted}")
    if data is None or data == "house":
        return open_collection(HOUSE, run)
    return open_collection(Path(data), run, split)


def _folder(parent: Path, collection: Collection, model: str) -> Path:
    return parent / re.sub(r"[^\w.-]+", "-", f"{collection.name}-{masked(model)}").strip("-.")[-100:]


def _rerank(collection: Collection, request: EvalRequest, folder: Path, engine: Mapping[str, Any]) -> None:
    async def run() -> None:
        async with opened(open_target(request.model, **engine), masked(request.model)) as target:
            with render.progress("queries", len(collection.topic_ids[: request.limit])) as on_progress:
                await evaluate(collection, target, request, folder, on_progress)

    if not is_finished(collection, request, folder):
        with kept("evaluated"):
            asyncio.run(run())


def _show_scorecard(console: Terminal, card: Scorecard, folder: Path) -> None:
    table = _table(f"{card.header.model} on {card.header.data}", "", *card.measures)
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
        f"{costs.pairs} pairs, {costs.pairs_per_second:.1f} a second, {costs.prompt_tokens} prompt tokens, "
        f"{costs.cached_tokens} from the cache"
    )
    if card.failed:
        console.plain(f"{card.failed} documents without a score: 'failed' in {folder / RESULTS}")
    console.plain(f"plots: {folder / 'report.html'}")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=escape(title), title_justify="left")
    for place, name in enumerate(columns):
        table.add_column(escape(name), justify="right" if place else "left")
    return table


@app.command("fetch")
def fetch_command(
    source: Annotated[str, typer.Argument(help="datasets:NAME, of the hub or a local folder, or ir_datasets:NAME.")],
    folder: Annotated[Path, typer.Argument(help="The new BEIR folder, for `whyrank eval --data`.")],
    split: Split = "test",
    as_json: AsJson = False,
) -> None:
    """Bring judged data from elsewhere, by way of the package `datasets` or `ir_datasets`, whichever you have.

    `whyrank fetch datasets:mteb/scifact beir/scifact`

    `whyrank fetch ir_datasets:beir/scifact/test beir/scifact`

    `whyrank eval -m MODEL --data beir/scifact --run bm25.trec`

    Of `datasets` it takes what has MTEB's parts: corpus, queries, qrels or default, and top_ranked where that is there.
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
            console.plain("no first stage came with it: give `whyrank eval` one with --run")


@app.command("calibrate")
def calibrate_command(
    results: Annotated[Path, typer.Argument(help="A folder that `whyrank eval` wrote.")],
    precision: Annotated[float | None, typer.Option(help="Share of kept documents that should be relevant.")] = None,
    recall: Annotated[float | None, typer.Option(help="Or: share of relevant documents that should be kept.")] = None,
    method: Annotated[str, typer.Option(metavar=choice(CalibrationMethod))] = "temperature",
    rel: Annotated[int, typer.Option(help="The least grade that counts as relevant.")] = 1,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("calibration.json"),
    as_json: AsJson = False,
) -> None:
    """Find the threshold to use, and what scores mean, from judged pairs.

    `whyrank calibrate whyrank-eval/house-MODEL --precision 0.9 --out calibration.json`

    `whyrank calibrate results/scifact --recall 0.95 --method isotonic`

    `whyrank rerank -m MODEL -q QUERY -d documents.jsonl --calibration calibration.json`

    Exit code 1 and `no clean separation` where no threshold does what is asked.
    """
    with evaluation_reported() as stdout:
        from whyrank.evaluation.calibrate import calibrate, fit, judged_pairs

        if precision is not None and recall is not None:
            raise InvalidRequest("give --precision or --recall, not both")
        if method not in get_args(CalibrationMethod):
            raise InvalidRequest(f"method is {method!r}: choose from {', '.join(get_args(CalibrationMethod))}")
        pairs = judged_pairs(results, rel)
        target = recall if recall is not None else precision if precision is not None else 0.9
        verdict = calibrate(pairs, "recall" if recall is not None else "precision", target)
        write_calibration(fit(pairs, method, *target_of(results), verdict), out)  # type: ignore[arg-type]
        if as_json:
            print(json_text({**asdict(verdict), "file": str(out)}), file=stdout)
        else:
            _show_verdict(Terminal(file=stdout), verdict, out)
    if verdict.threshold is None:
        raise typer.Exit(1)


def _show_verdict(console: Terminal, verdict: Verdict, out: Path) -> None:
    def shown(value: float, interval: tuple[float, float]) -> str:
        return f"{value:.3f} (95 % {interval[0]:.3f} to {interval[1]:.3f})"

    console.plain(f"{verdict.pairs} judged pairs of {verdict.queries} queries, {verdict.relevant} relevant")
    console.plain(f"AUC {shown(verdict.auc, verdict.auc_interval)}")
    if (threshold := verdict.threshold) is None:
        console.plain(f"no clean separation: {verdict.no_separation}", style="red")
    else:
        margin = shown(threshold.margin, threshold.margin_interval)
        console.plain(f"keep margins from {margin}: {threshold.kept} pairs")
        console.plain(f"precision {shown(threshold.precision, threshold.precision_interval)}")
        console.plain(f"recall {shown(threshold.recall, threshold.recall_interval)}")
        console.plain(f"as an option of rerank: --min-score {threshold.score:.6g}")
    console.plain(f"written: {out}")


@app.command("compare")
def compare_command(
    a: Annotated[
        str, typer.Argument(help="A folder of `whyrank eval`, or a model, perhaps with options: M,dtype=float32")
    ],
    b: Annotated[str, typer.Argument(help="The other one.")],
    data: Data = None,
    run: Run = None,
    split: Split = "test",
    preset: PresetName = None,
    out: Annotated[Path, typer.Option(help="Where models that are run here leave their results.")] = _RESULTS,
    top_k: TopK = None,
    limit: Limit = None,
    measure: Measures = None,
    fresh: Fresh = False,
    html: Annotated[Path | None, typer.Option("--html", help="Also write the comparison as a page with plots.")] = None,
    fail_if: Annotated[list[str] | None, typer.Option(help='E.g. "delta(nDCG@10) < -0.01"; more than once.')] = None,
    as_json: AsJson = False,
) -> None:
    """Hold two models, prompts, dtypes or earlier results against each other on the same data.

    `whyrank compare results/before results/after --fail-if "high(nDCG@10) < 0" --fail-if "overlap@10 < 0.9"`

    `whyrank compare results/before results/after --html compared.html`

    `whyrank compare "MODEL,dtype=float32" "MODEL,dtype=bfloat16" --data house --fail-if "drift_p99 > 0.02"`

    low and high are the 95 % interval of b - a: high below 0 means that b is surely worse. Exit code 1 where a condition
    holds, or where its figure cannot be computed.
    """
    with evaluation_reported() as stdout:
        from whyrank.evaluation.compare import Gate, compare
        from whyrank.evaluation.report import comparison_report

        gates = [Gate.parse(text) for text in fail_if or ()]
        protocol = load_preset(preset) if preset else NO_PRESET
        names = Measurer(measure or protocol.measures).names
        folders = []
        for side in (a, b):
            folder = Path(side)
            if not (folder / RESULTS).is_file():
                collection = _collection(data, run, split, protocol)
                folder = _folder(out, collection, side)
                request = EvalRequest(side, protocol.top_k if top_k is None else top_k, limit, preset)
                with claimed(folder, fresh):
                    _rerank(collection, request, folder, {})
            folders.append(folder)
        comparison = compare(folders[0], folders[1], names)
        failed = [gate for gate in gates if gate.fires(comparison)]
        if html is not None:
            write_file(html, [comparison_report(comparison, failed)])
        if as_json:
            print(json_text({**comparison.document(), "failed": [str(gate) for gate in failed]}), file=stdout)
        else:
            _show_comparison(Terminal(file=stdout), comparison, failed)
    if failed:
        raise typer.Exit(1)


def _show_comparison(console: Terminal, comparison: Comparison, failed: Sequence[Gate]) -> None:
    table = _table(f"{comparison.queries} queries of {comparison.a.data}", "", "a", "b", "b - a", "95 %", "p")
    for name, difference in comparison.differences.items():
        means = (f"{mean:.4f}" for mean in comparison.means[name])
        interval = f"{difference.low:+.4f} to {difference.high:+.4f}"
        table.add_row(name, *means, f"{difference.mean:+.4f}", interval, f"{difference.p:.4f}")
    console.print(table)
    console.plain(f"a: {comparison.a.model}")
    console.plain(f"b: {comparison.b.model}")
    agreement = (f"{name} {value:.4f}" for name, value in comparison.figures().items() if "(" not in name)
    console.plain("  ".join(agreement))
    for gate in failed:
        console.plain(gate.describe(comparison), style="red")
    for pair in comparison.impossible:
        console.plain(f"impossible: {pair.message}", style="red")
