"""The command compare: two models, or two earlier results, on the same data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whyrank.cli import render
from whyrank.cli.common import AsJson, app, evaluation_reported
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
from whyrank.errors import InvalidRequest
from whyrank.evaluation.measures import Measurer
from whyrank.evaluation.results import RESULTS
from whyrank.evaluation.run import claimed
from whyrank.jsonl import write_file
from whyrank.request import RerankOptions, RerankRequest

if TYPE_CHECKING:
    from whyrank.evaluation.compare import Comparison, Gate

__all__: list[str] = []


@app.command("compare")
@flags_of("judged", JudgedData)
@flags_of("method_of_b", RerankRequest, only=LISTWISE_OPTIONS)
def compare_command(
    a: Annotated[
        str, typer.Argument(help="A folder of `whyrank eval`, or a model, perhaps with options: M,dtype=float32")
    ],
    b: Annotated[str, typer.Argument(help="The other one.")],
    *,
    judged: Flags,
    method_of_b: Flags,
    out: Annotated[Path, typer.Option(help="Where the results of models that are run here go.")] = RESULTS_FOLDER,
    html: Annotated[Path | None, typer.Option("--html", help="Also write the comparison as a page with plots.")] = None,
    fail_if: Annotated[list[str] | None, typer.Option(help='E.g. "delta(nDCG@10) < -0.01"; may be repeated.')] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two models, prompts, dtypes or earlier results on the same data.

    `whyrank compare results/before results/after --fail-if "high(nDCG@10) < 0" --fail-if "overlap@10 < 0.9"`

    `whyrank compare results/before results/after --html compared.html`

    `whyrank compare "MODEL,dtype=float32" "MODEL,dtype=bfloat16" --data house --fail-if "drift_p99 > 0.02"`

    `whyrank compare MODEL,prompt=chat MODEL,prompt=chat --method listwise --data house`

    --method and the options of lists are for b; a scores every document by itself. low and high are the 95 % interval of
    b - a: high below 0 means that b is surely worse. Exit code 1 where a condition holds, or where its figure cannot be
    computed.
    """
    with evaluation_reported() as stdout:
        from whyrank.evaluation.compare import Gate, compare
        from whyrank.evaluation.report import comparison_report

        data = JudgedData(**judged)
        gates = [Gate.parse(text) for text in fail_if or ()]
        lists = listwise_options(method_of_b)
        names = Measurer(data.measures).names
        comparison = compare(_results_of(a, data, out), _results_of(b, data, out, lists), names)
        failed = [gate for gate in gates if gate.fires(comparison)]
        if html is not None:
            write_file(html, [comparison_report(comparison, failed)])
        if as_json:
            print(json_text({**comparison.document(), "failed": [str(gate) for gate in failed]}), file=stdout)
        else:
            _show_comparison(Terminal(file=stdout), comparison, failed)
    if failed:
        raise typer.Exit(1)


def _results_of(side: str, data: JudgedData, parent: Path, lists: RerankOptions | None = None) -> Path:
    """The folder of an earlier evaluation, or one in `parent` for a model, which is evaluated now."""
    folder = Path(side)
    if not (folder / RESULTS).is_file():
        collection, request = data.collection(), data.request(side, lists)
        folder = folder_for(parent, collection, f"{side}-listwise" if lists else side)
        with claimed(folder, data.fresh):
            rerank_into(folder, collection, request, {})
    elif lists:
        raise InvalidRequest(f"--method listwise: {side} is a folder of results: leave it out, or name a model")
    return folder


def _show_comparison(console: Terminal, comparison: Comparison, failed: Sequence[Gate]) -> None:
    table = render.figures_table(
        f"{comparison.queries} queries of {comparison.a.data}", "", "a", "b", "b - a", "95 %", "p"
    )
    for name, difference in comparison.differences.items():
        means = (f"{mean:.4f}" for mean in comparison.means[name])
        interval = f"{difference.low:+.4f} to {difference.high:+.4f}"
        table.add_row(name, *means, f"{difference.mean:+.4f}", interval, f"{difference.p:.4f}")
    console.print(table)
    for side, header in (("a", comparison.a), ("b", comparison.b)):
        method = f", {header.options['method']}" if "method" in header.options else ""
        console.plain(f"{side}: {header.model}{method}")
    for side, costs in comparison.costs_a_query().items():
        console.plain(
            f"a query of {side}: {costs['seconds']:.3f} s, {costs['prompt_tokens']:,.0f} tokens of prompts, "
            f"{costs['computed_tokens']:,.0f} computed, {costs['output_tokens']:,.0f} of them written"
        )
    figures = {name: value for name, value in comparison.figures().items() if "(" not in name}
    agreement = (f"{name} {value:.4f}" for name, value in figures.items() if not math.isnan(value))
    console.plain("  ".join(agreement))
    for gate in failed:
        console.plain(gate.describe(comparison), style="red")
    for pair in comparison.impossible:
        console.plain(f"impossible: {pair.message}", style="red")
