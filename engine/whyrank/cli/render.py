"""Terminal output: tables, bars, progress. Progress goes to stderr, and only if that is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from whyrank.cli.terminal import Terminal
from whyrank.events import Event, EvidenceDelta, EvidenceDone, Ranked
from whyrank.prompting.formats import PromptFormat
from whyrank.ranking import Ranking
from whyrank.types import Evidence, Grounding, RankedDocument

if TYPE_CHECKING:
    from whyrank.doctor import Report

__all__ = [
    "Show",
    "evidence_panel",
    "figures_table",
    "formats_table",
    "progress",
    "ranking_table",
    "report_table",
    "show_ranking",
    "spans_panel",
    "waiting",
]

_BAR = 10
_SNIPPET = 160
_WATCHED_FROM = 32
# Characters shown before and after a span.
_CONTEXT = 60


Show = AbstractContextManager[Callable[[Event], None]]
"""A consumer of events: a context manager that is called with each."""


@contextmanager
def show_ranking(console: Terminal, query: str) -> Iterator[Callable[[Event], None]]:
    """The table once all scores are known; below it, each chosen document's evidence as it is written."""
    panels: dict[int, Panel] = {}
    texts: dict[int, dict[str, str]] = {}
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:

        def on_event(event: Event) -> None:
            match event:
                case Ranked(ranking):
                    live.console.print(ranking_table(ranking, query))
                case EvidenceDelta(index, part, text):
                    written = texts.setdefault(index, {"contribution": "", "evidence": ""})
                    written[part] += text
                    so_far = Evidence(written["contribution"], written["evidence"], finish="complete")
                    panels[index] = evidence_panel(f"[{index}]", so_far, done=False)
                case EvidenceDone(row) if row.evidence:
                    panels[row.index] = evidence_panel(f"{row.rank}  {_name(row)}", row.evidence)
                case EvidenceDone(row) if row.spans is not None:
                    panels[row.index] = spans_panel(f"{row.rank}  {_name(row)}", row)
                case _:
                    return
            live.update(Group(*panels.values()), refresh=True)

        yield on_event


def figures_table(title: str, *columns: str) -> Table:
    """A table with names in the first column and numbers in the others."""
    table = Table(title=escape(title), title_justify="left")
    for place, name in enumerate(columns):
        table.add_column(escape(name), justify="right" if place else "left")
    return table


def evidence_panel(title: str, evidence: Evidence, done: bool = True) -> Panel:
    """Contribution above evidence. Altered sentences are red, unverified ones grey, or cyan if the verifier backs them."""
    texts = [Text(evidence.contribution, style="bold"), Text(evidence.evidence)]
    _mark_verdicts(texts[0], evidence.contribution_grounding)
    _mark_verdicts(texts[1], evidence.grounding)
    for variant in evidence.variants:
        wording = Text(variant.evidence)
        _mark_verdicts(wording, variant.grounding)
        texts.append(Text("or: ", style="dim") + wording)
    notes = [] if evidence.finish == "complete" else [f"finish: {evidence.finish}"]
    if grounding := evidence.grounding:
        if grounding.method == "verbatim":
            verdicts = ["sentences of the document" if grounding.spans else "no sentence of the document"]
        else:
            shares = {"supported by the document": grounding.supported, "altered": grounding.altered}
            shares["unverified"] = grounding.unverified
            verdicts = [
                f"{name}: {share:.0%}" for name, share in shares.items() if share or name.startswith("supported")
            ]
        notes = verdicts + notes
        notes += [flag.replace("_", " ") for flag in grounding.flags]
        if verification := grounding.verification:
            notes += [f"backed by {verification.model} alone: {verification.backed:.0%}"] * (verification.backed > 0)
            notes += [f"not all verified: {verification.error}"] * (verification.error is not None)
    body = Group(*texts)
    subtitle = escape(" · ".join(notes)) if done else "writing …"
    return Panel(body, title=escape(title), subtitle=subtitle, title_align="left", subtitle_align="left")


def spans_panel(title: str, row: RankedDocument) -> Panel:
    """The document's text around its spans, which are highlighted."""
    content, spans = row.document.content, sorted(row.spans or (), key=lambda span: span.start)
    text, before = Text(), 0
    for span in spans:
        start, end = max(before, span.start - _CONTEXT), min(len(content), span.end + _CONTEXT)
        text.append("… " if start > before else "")
        text.append(content[start : span.start])
        text.append(content[span.start : span.end], style="bold green")
        before = span.end
        if span is spans[-1]:
            text.append(content[before:end] + ("…" if end < len(content) else ""), style="dim")
    if not spans:
        text.append("no single passage answers the query", style="dim")
    notes = [f"{span.score:.3f}" for span in row.spans or ()] + ["only some sentences were scored"] * row.spans_limited
    return Panel(text, title=escape(title), subtitle=" · ".join(notes), title_align="left", subtitle_align="left")


def _mark_verdicts(text: Text, grounding: Grounding | None) -> None:
    for start, end, style in _verdict_styles(grounding) if grounding else ():
        text.stylize(style, start, end)


def _verdict_styles(grounding: Grounding) -> Iterator[tuple[int, int, str]]:
    """The red parts. If the differing words of an altered sentence are not known, all of it is red."""
    unverified = [one for one in grounding.sentences if one.verdict == "unverified"]
    yield from ((one.start, one.end, "cyan" if grounding.is_backed(one) else "bright_black") for one in unverified)
    differing = [
        item for item in grounding.unsupported if not any(one.start <= item.start < one.end for one in unverified)
    ]
    yield from ((item.start, item.end, "bold red") for item in differing)
    for one in grounding.sentences:
        if one.verdict == "altered" and not any(one.start <= item.start < one.end for item in differing):
            yield one.start, one.end, "red"


def ranking_table(ranking: Ranking, query: str) -> Table:
    usage = ranking.usage
    table = Table(
        title=escape(query),
        caption=f"{escape(ranking.model)} · {escape(ranking.prompt)} · {usage.prompt_tokens} prompt tokens, "
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
        score = "" if row.score is None and row.error is None else _bar(row.score)
        table.add_row(str(row.rank or "–"), score, _number(row.margin), escape(_name(row)), _text(row))
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
    for name in ("routes", "tokens", "fits"):
        table.add_column(name, overflow="fold")
    for fmt in formats:
        labels = fmt.labels
        shown = (
            ("head" if fmt.runs else "list")
            if labels is None
            else " / ".join(str(x) for x in (labels.positive, *labels.between, labels.negative) if x is not None)
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
        table.add_row(mark[finding.good], escape(finding.name), escape(finding.value))
    return table


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """A spinner with a text, on stderr."""
    with Terminal(stderr=True).status(escape(what)):
        yield


@contextmanager
def progress(what: str, count: int) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr, if that is a terminal. Yields a function to call once per finished item."""
    console = Terminal(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    unwatched = count < _WATCHED_FROM or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=unwatched) as bar:
        task = bar.add_task(what, total=count)
        yield lambda: bar.advance(task)
