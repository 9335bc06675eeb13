"""The comparison as one HTML page: is one side better, for which queries, and where do the scores drift apart?"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from whyrank.evaluation.charts import Axis, Chart, Series
from whyrank.evaluation.compare import Comparison, Gate
from whyrank.evaluation.html import careful, changes, figure, page, table, verdict

__all__ = ["comparison_report"]

_DRIFT_BINS = 40

_MEANINGS = {
    "kendall": "order of each query's documents: 1 the same, 0 unrelated (Kendall's tau-b, mean over queries)",
    "overlap@10": "share of the ten best that both have",
    "drift": "distance of a document's two scores, on average",
    "drift_p99": "... of 99 % of the documents at most",
    "drift_max": "... at most",
    "margin_drift": "distance of a document's two log-odds, on average",
}


def comparison_report(comparison: Comparison, failed: Sequence[Gate] = ()) -> str:
    lead = next(iter(comparison.differences))
    names = f"{comparison.a.model} and {comparison.b.model}"
    sections = [
        _heading(comparison, lead),
        careful([*(gate.describe(comparison) for gate in failed), *(pair.message for pair in comparison.impossible)]),
        _measures(comparison),
        changes(lead, "from a to b", comparison.deltas.tolist(), comparison.gained, comparison.lost),
        _agreement(comparison),
    ]
    return page(f"{names} on {comparison.a.data}", sections)


def _heading(comparison: Comparison, lead: str) -> str:
    a, b = comparison.a, comparison.b
    facts = f"{comparison.queries} queries · up to {a.top_k} candidates each · {len(comparison.drifts)} pairs"
    return (
        f"<header><h1>a: {escape(a.model)}<br>b: {escape(b.model)}</h1><p class='lead'>on {escape(a.data)}</p>"
        f"<p>{facts}</p>{verdict('Going from a to b makes', lead, comparison.differences[lead])}</header>"
    )


def _measures(comparison: Comparison) -> str:
    rows = []
    for name, found in comparison.differences.items():
        a, b = comparison.means[name]
        interval = f"{found.low:+.4f}\u00a0to\u00a0{found.high:+.4f}"
        rows.append([name, f"{a:.4f}", f"{b:.4f}", f"{found.mean:+.4f}", interval, f"{found.p:.4f}"])
    checked = "" if comparison.impossible else "<p>The measures of each side can go together (consistency check).</p>"
    return f"<section><h2>Measures</h2>{table(['', 'a', 'b', 'b - a', '95 %', 'p'], rows)}{checked}</section>"


def _agreement(comparison: Comparison) -> str:
    figures = comparison.figures()
    rows = [[name, f"{figures[name]:.4f}", meaning] for name, meaning in _MEANINGS.items()]
    drifts = (
        figure(_drift_chart(comparison), "Distance of each document's two scores.") if len(comparison.drifts) else ""
    )
    return f"<section><h2>Agreement</h2>{table(['', '', ''], rows)}{drifts}</section>"


def _drift_chart(comparison: Comparison) -> Chart:
    # A few that drift far would press the rest into one bar: they go to the last one.
    most = min(comparison.drift_max, 2 * comparison.drift_p99) or 1.0
    width = most / _DRIFT_BINS
    counts = [0] * _DRIFT_BINS
    for drift in comparison.drifts.tolist():
        counts[min(_DRIFT_BINS - 1, int(drift / width))] += 1
    shares = [count / len(comparison.drifts) for count in counts]
    series = [
        Series("documents", "muted", [(place * width, share) for place, share in enumerate(shares)]),
        Series(f"mean {comparison.drift_mean:.4f}", "first", [(comparison.drift_mean, 0)], "marks"),
        Series(f"99 % within {comparison.drift_p99:.4f}", "second", [(comparison.drift_p99, 0)], "marks"),
    ]
    x, y = (
        Axis(0, most, "|score of b - score of a|"),
        Axis(0, max(shares) * 1.05, "share of documents", "{:.0%}".format),
    )
    return Chart("Histogram of score drift", x, y, series, width=1000, bar_width=width)
