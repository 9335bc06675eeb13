"""`whyrank eval --claims`: how well a model judges whether documents back claims."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from whyrank.cli import render
from whyrank.cli.common import evaluation_reported, kept, opened
from whyrank.cli.flags import Flags
from whyrank.cli.judged_data import RESULTS_FOLDER, JudgedData, folder_for
from whyrank.cli.terminal import Terminal, json_text
from whyrank.errors import InvalidRequest
from whyrank.evaluation.data import Claims
from whyrank.evaluation.run import EvalRequest, claimed, evaluate, is_finished
from whyrank.jsonl import write_file
from whyrank.process import prepare_process

if TYPE_CHECKING:
    from whyrank.evaluation.claims import ClaimsCard

__all__ = ["evaluate_claims"]


def evaluate_claims(
    model: str,
    path: Path,
    data: JudgedData,
    instruction: str | None,
    out: Path | None,
    engine: Flags,
    as_json: bool,
) -> None:
    """Of `data`, only the limit and `fresh` apply to claims."""
    with evaluation_reported() as stdout:
        from whyrank.checkpoints import make_claims_plan
        from whyrank.evaluation.claims import make_claims_card, open_judge
        from whyrank.verifier import threshold_of

        if any(option is not None for option in (data.data, data.run, data.preset, instruction)):
            raise InvalidRequest(
                "--claims cannot be combined with --data, --run, --preset or --instruction: leave them out"
            )
        claims, plan = Claims(path), make_claims_plan(model, engine)
        request = EvalRequest(f"{model},prompt={plan.format.name}", 1, data.limit)
        folder = out or folder_for(RESULTS_FOLDER, claims, model)
        prepare_process()

        async def run() -> None:
            async with opened(open_judge(plan), model) as judge:
                with render.progress("claims", len(claims.topic_ids[: data.limit])) as on_progress:
                    await evaluate(claims, judge, request, folder, on_progress)

        with claimed(folder, data.fresh), kept("evaluated"):
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

    table = render.figures_table(
        f"{card.model}, backed from {card.threshold:.4f}", "", "claims", "backed", "not backed", "balanced"
    )
    for name, judged in card.data_sets.items():
        shares = (judged.backed_found, judged.unbacked_found, judged.balanced_accuracy)
        table.add_row(escape(name), str(judged.claims), *map(shown, shares))
    console.print(table)
    console.plain(f"balanced accuracy, mean of the data sets: {card.average:.4f}")
    if card.failed:
        console.plain(f"{card.failed} claims without a score count as not backed")
