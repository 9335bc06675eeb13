"""The command calibrate: a threshold and calibrated scores from judged pairs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from whyrank.calibration import CalibrationMethod, write_calibration
from whyrank.cli.common import AsJson, app, choice, evaluation_reported
from whyrank.cli.terminal import Terminal, json_text
from whyrank.errors import InvalidRequest
from whyrank.evaluation.run import target_of

if TYPE_CHECKING:
    from whyrank.evaluation.calibrate import Verdict

__all__: list[str] = []


@app.command("calibrate")
def calibrate_command(
    results: Annotated[Path, typer.Argument(help="A folder that `whyrank eval` wrote.")],
    precision: Annotated[float | None, typer.Option(help="Share of kept documents that should be relevant.")] = None,
    recall: Annotated[float | None, typer.Option(help="Or: share of relevant documents that should be kept.")] = None,
    method: Annotated[str, typer.Option(metavar=choice(CalibrationMethod))] = "temperature",
    rel: Annotated[int, typer.Option(help="The lowest grade that counts as relevant.")] = 1,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("calibration.json"),
    as_json: AsJson = False,
) -> None:
    """Find a threshold, and the probabilities that scores stand for, from judged pairs.

    `whyrank calibrate whyrank-eval/house-MODEL --precision 0.9 --out calibration.json`

    `whyrank calibrate results/scifact --recall 0.95 --method isotonic`

    `whyrank rerank -m MODEL -q QUERY -d documents.jsonl --calibration calibration.json`

    Exit code 1 and `no clean separation` if no threshold reaches the target.
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
        console.plain(f"keep margins of at least {margin}: {threshold.kept} pairs")
        console.plain(f"precision {shown(threshold.precision, threshold.precision_interval)}")
        console.plain(f"recall {shown(threshold.recall, threshold.recall_interval)}")
        console.plain(f"as an option of rerank: --min-score {threshold.score:.6g}")
    console.plain(f"written: {out}")
