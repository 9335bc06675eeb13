"""What people see in a terminal: tables, bars, progress. Progress goes to stderr and only where someone watches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from whyrank.formats import PromptFormat
from whyrank.reranker import Progress as OnProgress
from whyrank.types import RankedDocument, Ranking

if TYPE_CHECKING:
    from whyrank.doctor import Report

__all__ = ["formats_table", "progress", "ranking_table", "report_table", "waiting"]

_BAR = 10
_SNIPPET = 160
_WATCHED_FROM = 32


def ranking_table(ranking: Ranking, query: str) -> Table:
    usage = ranking.usage
    table = Table(
        title=escape(query),
        caption=f"{escape(ranking.model)} · {ranking.prompt} · {usage.prompt_tokens} prompt tokens, "
        f"{usage.cached_tokens} from the cache",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("score", no_wrap=True)
    table.add_column("margin", justify="right", no_wrap=True)
    table.add_column("id", no_wrap=True, max_width=24)
    table.add_column("document", overflow="fold")
    for row in ranking.results:
        table.add_row(str(row.rank or "–"), _bar(row.score), _number(row.margin), escape(_name(row)), _text(row))
    return table


def _bar(score: float | None) -> str:
    if score is None:
        return "[red]error[/]"
    filled = round(score * _BAR)
    return f"[green]{'█' * filled}[/][dim]{'░' * (_BAR - filled)}[/] {score:.3f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"


def _name(row: RankedDocument) -> str:
    return row.id if row.id is not None else f"[{row.index}]"


def _text(row: RankedDocument) -> str:
    if row.error:
        return f"[red]{escape(row.error.message)}[/]"
    text = " ".join(row.document.content[: 4 * _SNIPPET].split())
    text = escape(text if len(text) <= _SNIPPET else text[:_SNIPPET] + "…")
    cut = row.truncation
    return (
        f"[yellow](read {cut.used_tokens} of {cut.original_tokens} tokens)[/] {text}" if cut and cut.truncated else text
    )


def formats_table(formats: Iterable[PromptFormat]) -> Table:
    table = Table(title="Prompt formats", title_justify="left")
    for name in ("prompt", "labels", "instruction"):
        table.add_column(name, no_wrap=True)
    for name in ("routes", "max tokens", "checkpoints"):
        table.add_column(name, overflow="fold")
    for fmt in formats:
        labels = fmt.labels
        shown = (
            "head"
            if labels is None
            else " / ".join(str(x) for x in (labels.positive, labels.negative) if x is not None)
        )
        instruction = "none" if fmt.instruction is None else "fixed" if fmt.instruction.fixed else "yours"
        names = escape(", ".join(fmt.fits.names))
        table.add_row(fmt.name, shown, instruction, ", ".join(fmt.routes), str(fmt.max_length), names)
    return table


def report_table(report: Report, model: str) -> Table:
    mark = {True: "[green]✓[/]", False: "[red]✗[/]", None: ""}
    colour = "green" if report.trusted else "red"
    table = Table(
        title=escape(model),
        caption=f"[{colour}]{escape(model)} {escape(report.verdict)}[/]"
        if report.trusted
        else f"[{colour}]{escape(report.verdict)}[/]",
        title_justify="left",
        caption_justify="left",
        show_header=False,
    )
    for finding in report.findings:
        table.add_row(mark[finding.good], finding.name, escape(finding.value))
    return table


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """A spinner with a text, on stderr."""
    with Console(stderr=True).status(escape(what)):
        yield


@contextmanager
def progress(what: str, count: int) -> Iterator[OnProgress | None]:
    """A bar for long lists, on stderr; None where nobody would see it move."""
    console = Console(stderr=True)
    if count < _WATCHED_FROM or not console.is_terminal:
        yield None
        return
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=count)
        yield lambda done, total: bar.update(task, completed=done, total=total)
