"""An evaluation, or the comparison of two, as one self-contained HTML page: tables, charts and warnings. The pages are in
templates/; the charts are made here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from whyrank.evaluation.charts import Axis, Chart, Series, render
from whyrank.evaluation.compare import Comparison, Gate
from whyrank.evaluation.measures import EVIDENCE_MEASURES
from whyrank.evaluation.presets import Preset
from whyrank.evaluation.scorecard import FIRST, ORACLE, RERANKED, Bins, Scorecard
from whyrank.evaluation.significance import Values

__all__ = ["comparison_report", "html_report"]

_MAX_BARS = 600


def html_report(card: Scorecard, preset: Preset | None = None) -> str:
    measure = card.measures[0]
    change_chart = None
    if FIRST in card.values:
        deltas = card.values[RERANKED][measure] - card.values[FIRST][measure]
        change_chart = _change_chart(measure, "by reranking", deltas)
    bins = {"score": card.raw, "calibrated score": card.calibrated}
    curves = {name: values for name, values in bins.items() if values and sum(values.count)}
    return render(
        "report.html",
        card=card,
        preset=preset,
        oracle=ORACLE,
        evidence_measures=EVIDENCE_MEASURES,
        warnings=_warnings(card),
        change_chart=change_chart,
        curves=curves,
        score_chart=_score_chart(card.raw),
        reliability_chart=_reliability_chart(curves),
        latency_chart=_latency_chart(card.costs.latencies) if card.costs.latencies else None,
    )


def comparison_report(comparison: Comparison, failed: Sequence[Gate] = ()) -> str:
    measure = next(iter(comparison.differences))
    return render(
        "compare.html",
        comparison=comparison,
        figures=comparison.figures(),
        costs=comparison.costs_a_query(),
        measure=measure,
        warnings=[gate.describe(comparison) for gate in failed] + [pair.message for pair in comparison.impossible],
        change_chart=_change_chart(measure, "from a to b", comparison.deltas),
        drift_chart=_drift_chart(comparison) if len(comparison.drifts) else None,
    )


def _warnings(card: Scorecard) -> list[str]:
    warnings = [pair.message for pairs in card.impossible.values() for pair in pairs]
    if card.missing:
        warnings.append(f"{card.missing} judged queries had no candidates. They count as zero.")
    if card.failed:
        warnings.append(f"{card.failed} documents could not be scored. They count as not found.")
    if card.unjudged > 0.1:
        warnings.append(f"{card.unjudged:.0%} of the ten best documents are unjudged and count as not relevant.")
    return warnings


def _change_chart(measure: str, why: str, deltas: Values) -> Chart:
    """The change of the main measure, one bar per query."""
    falling = sorted(deltas.tolist(), reverse=True)
    step = max(1, -(-len(falling) // _MAX_BARS))
    bars = list(enumerate(falling[::step]))
    limit = max([0.1, *(abs(delta) for _, delta in bars)])
    better, worse = [bar for bar in bars if bar[1] > 0], [bar for bar in bars if bar[1] < 0]
    return Chart(
        f"Change of {measure} {why} for each query: {sum(d > 0 for d in falling)} better, {sum(d < 0 for d in falling)} worse",
        Axis(0, max(1, len(bars)), f"queries{f' (one of {step})' if step > 1 else ''}, by change"),
        Axis(-limit, limit, f"change of {measure}", lambda value: f"{value:+.2g}" if value else "0"),
        [Series("better", "good", better, "columns"), Series("worse", "bad", worse, "columns")],
        width=1000,
    )


def _score_chart(bins: Bins) -> Chart:
    width, series = 1 / len(bins.count), []
    others = [count - good for count, good in zip(bins.count, bins.relevant, strict=True)]
    for name, colour, counts in (("relevant", "good", bins.relevant), ("not relevant", "muted", others)):
        total = sum(counts)
        points = [(place * width, count / total) for place, count in enumerate(counts)] if total else []
        series.append(Series(f"{name} ({total})", colour, points))
    y = Axis(0, 1.05 * max((y for one in series for _, y in one.points), default=1.0), "share", "{:.0%}".format)
    about = "Histogram of scores, relevant documents beside the others"
    return Chart(about, Axis(0, 1, "score"), y, series, bar_width=width)


def _reliability_chart(curves: Mapping[str, Bins]) -> Chart:
    series = []
    for (name, bins), colour in zip(curves.items(), ("first", "second"), strict=False):
        rows = zip(bins.count, bins.relevant, bins.total, strict=True)
        points = [(total / count, relevant / count) for count, relevant, total in rows if count]
        series.append(Series(name, colour, points, "dots"))
    about = "Reliability: share of relevant documents over their score"
    return Chart(about, Axis(0, 1, "mean score"), Axis(0, 1, "share relevant"), series, diagonal=True)


def _latency_chart(latencies: Sequence[float]) -> Chart:
    ordered = sorted(1000 * seconds for seconds in latencies)
    median, p95 = ordered[len(ordered) // 2], ordered[int(0.95 * (len(ordered) - 1))]
    high = min(ordered[-1], 3 * p95) or 1.0
    bars, width = _histogram(np.array(ordered), high, bins=30)
    series = [
        Series("queries", "muted", bars),
        Series(f"median {median:,.0f} ms", "first", [(median, 0)], "marks"),
        Series(f"95 % within {p95:,.0f} ms", "second", [(p95, 0)], "marks"),
    ]
    x = Axis(0, high, "milliseconds", "{:,g}".format)
    y = Axis(0, max(count for _, count in bars) * 1.05, "queries")
    return Chart("Histogram of the queries' latencies", x, y, series, bar_width=width)


def _drift_chart(comparison: Comparison) -> Chart:
    mean, p99 = comparison.drift_mean, comparison.drift_p99
    high = min(comparison.drift_max, 2 * p99) or 1.0
    bars, width = _histogram(comparison.drifts, high, bins=40)
    shares = [(x, count / len(comparison.drifts)) for x, count in bars]
    series = [
        Series("documents", "muted", shares),
        Series(f"mean {mean:.4f}", "first", [(mean, 0)], "marks"),
        Series(f"99 % within {p99:.4f}", "second", [(p99, 0)], "marks"),
    ]
    x = Axis(0, high, "|score of b - score of a|")
    y = Axis(0, max(share for _, share in shares) * 1.05, "share of documents", "{:.0%}".format)
    return Chart("Histogram of score drift", x, y, series, width=1000, bar_width=width)


def _histogram(values: Values, high: float, bins: int) -> tuple[list[tuple[float, float]], float]:
    """Bars from 0 to `high`, and their width. The last bar includes all larger values: a few outliers would otherwise squeeze
    the rest into one bar."""
    width = high / bins
    counts = np.bincount(np.minimum((values / width).astype(int), bins - 1), minlength=bins)
    return [(place * width, float(count)) for place, count in enumerate(counts)], width
