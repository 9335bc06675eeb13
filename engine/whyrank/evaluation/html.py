"""What both reports are made of: the page around them, its verdict and warnings, tables, figures, changes by query."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources

from whyrank.evaluation.charts import Axis, Chart, Series
from whyrank.evaluation.significance import Difference
from whyrank.evaluation.top_movers import Mover

__all__ = ["careful", "changes", "figure", "page", "table", "verdict"]

_MOST_BARS = 600


def page(title: str, sections: Iterable[str]) -> str:
    """One that needs nothing else. Empty sections are left out."""
    style = resources.files("whyrank.evaluation").joinpath("report.css").read_text(encoding="utf-8")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n'
        + "\n".join(section for section in sections if section)
        + "\n</main>\n</body>\n</html>\n"
    )


def verdict(who: str, lead: str, difference: Difference) -> str:
    """The one sentence that somebody in a hurry reads."""
    if difference.low > 0 or difference.high < 0:
        word = "better" if difference.mean > 0 else "worse"
        sentence = f"{who} {lead} {word} by {abs(difference.mean):.4f}"
    else:
        sentence = f"{who} no difference in {lead} that these queries could show ({difference.mean:+.4f})"
    return (
        f"<p class='verdict'>{escape(sentence)}: 95 % interval {difference.low:+.4f} to {difference.high:+.4f} "
        f"(paired bootstrap), p = {difference.p:.4f} (permutation test); {difference.better} queries better, "
        f"{difference.worse} worse, {difference.same} the same.</p>"
    )


def careful(warnings: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    return f"<section class='careful'><h2>Be careful</h2><ul>{items}</ul></section>" if items else ""


def changes(lead: str, why: str, deltas: Sequence[float], gained: Sequence[Mover], lost: Sequence[Mover]) -> str:
    """Query by query: the change of the leading measure, and the queries with most of it."""
    deltas = sorted(deltas, reverse=True)
    step = max(1, -(-len(deltas) // _MOST_BARS))
    shown = deltas[::step]
    most = max([0.1, *map(abs, shown)])
    better = [(float(place), delta) for place, delta in enumerate(shown) if delta > 0]
    worse = [(float(place), delta) for place, delta in enumerate(shown) if delta < 0]
    chart = Chart(
        f"Change of {lead} {why} for each query: {sum(d > 0 for d in deltas)} better, {sum(d < 0 for d in deltas)} worse",
        Axis(0, max(1, len(shown)), f"queries{f' (one of {step})' if step > 1 else ''}, by change"),
        Axis(-most, most, f"change of {lead}", lambda value: f"{value:+.2g}" if value else "0"),
        [Series("better", "good", better, "columns"), Series("worse", "bad", worse, "columns")],
        width=1000,
    )
    tables = [
        f"<div><h3>{title}</h3>{table(['query', 'text', 'change'], map(_cells, extremes))}</div>"
        for title, extremes in (("Gained most", gained), ("Lost most", lost))
        if extremes
    ]
    return f"<section><h2>Query by query</h2>{figure(chart)}<div class='pair'>{''.join(tables)}</div></section>"


def _cells(extreme: Mover) -> list[str]:
    text = extreme.text if len(extreme.text) <= 90 else extreme.text[:89] + "…"
    return [extreme.query, text, f"{extreme.delta:+.3f}"]


def figure(chart: Chart, caption: str = "") -> str:
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{chart.svg()}{below}</figure>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rows = list(rows)
    numeric = [all(_is_number(row[at]) for row in rows) for at in range(len(head))]

    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=number' if number else ''}>{escape(cell)}</{tag}>"
            for cell, number in zip(row, numeric, strict=True)
        )

    top = f"<thead><tr>{cells(head, 'th')}</tr></thead>" if any(head) else ""
    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f"<div class='wide'><table>{top}<tbody>{body}</tbody></table></div>"


def _is_number(cell: str) -> bool:
    return cell == "" or cell.lstrip("+-").replace(".", "", 1).isdecimal()
