"""The evaluation as one HTML page that needs nothing else: tables, charts, and what to be careful about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from whyrank.evaluation.charts import Axis, Chart, Series
from whyrank.evaluation.evidence_measures import EVIDENCE_MEASURES
from whyrank.evaluation.html import careful, changes, figure, page, table, verdict
from whyrank.evaluation.presets import Claim, Preset
from whyrank.evaluation.scorecard import FIRST, ORACLE, RERANKED, Bins, Scorecard

__all__ = ["html_report"]

_LATENCY_BINS = 30


def html_report(card: Scorecard, preset: Preset | None = None) -> str:
    sections = [
        _heading(card, preset),
        _warnings(card),
        _measures(card, preset),
        _changes(card),
        _scores(card),
        _evidence(card),
        _speed(card),
        _protocol(preset),
    ]
    return page(f"{card.header.model} on {card.header.data}", sections)


def _heading(card: Scorecard, preset: Preset | None) -> str:
    header = card.header
    facts = [
        f"{len(card.queries)} queries",
        f"up to {header.top_k} candidates each" + (f", found by {header.first_stage}" if header.first_stage else ""),
        f"{card.costs.pairs} pairs",
    ]
    facts += [f"protocol: {preset.title}"] if preset else []
    options = [f"{name}: {value}" for name, value in header.options.items()]
    return (
        f"<header><h1>{escape(header.model)}</h1><p class='lead'>on {escape(header.data)}</p>"
        f"<p>{escape(' · '.join([*facts, *options]))}</p>{_verdict(card)}</header>"
    )


def _verdict(card: Scorecard) -> str:
    if card.difference is None:
        return ""
    return verdict("Reranking makes", card.measures[0], card.difference)


def _warnings(card: Scorecard) -> str:
    warnings = [pair.message for pairs in card.impossible.values() for pair in pairs]
    if card.missing:
        warnings.append(f"{card.missing} judged queries had no candidates. They count as zero.")
    if card.failed:
        warnings.append(f"{card.failed} documents could not be scored. They count as not found.")
    if card.unjudged > 0.1:
        warnings.append(f"{card.unjudged:.0%} of the ten best documents are unjudged and count as not relevant.")
    return careful(warnings)


def _measures(card: Scorecard, preset: Preset | None) -> str:
    rows = [[system, *(f"{row[name]:.4f}" for name in card.measures)] for system, row in card.table.items()]
    defined = (preset.definitions if preset else {}).items()
    entries = [f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in defined if name in card.measures]
    notes = f"The {ORACLE} is the best order of the same candidates. Unjudged among the ten best: {card.unjudged:.1%}."
    checked = "" if any(card.impossible.values()) else " The measures of each row can go together (consistency check)."
    definitions = f"<dl>{''.join(entries)}</dl>" if entries else ""
    shown = table(["", *card.measures], rows)
    return f"<section><h2>Measures</h2>{shown}<p>{escape(notes + checked)}</p>{definitions}</section>"


def _changes(card: Scorecard) -> str:
    if FIRST not in card.values:
        return ""
    lead = card.measures[0]
    deltas = (card.values[RERANKED][lead] - card.values[FIRST][lead]).tolist()
    return changes(lead, "by reranking", deltas, card.gained, card.lost)


def _scores(card: Scorecard) -> str:
    bins = card.calibrated or card.raw
    if not sum(bins.count):
        return ""
    curves = [("score", "first", card.raw)] + (
        [("calibrated score", "second", card.calibrated)] if card.calibrated else []
    )
    errors = "; ".join(f"{name} {bins.calibration_error():.3f}" for name, _, bins in curves)
    figures = [
        (_histogram(card.raw), "Scores of relevant and of other judged documents, each as a share of its kind."),
        (
            _reliability(curves),
            "How many of the judged documents with a score are relevant. On the dashed line scores mean what they say. "
            f"Expected calibration error: {errors}.",
        ),
    ]
    return (
        f"<section><h2>Scores</h2><div class='pair'>{''.join(figure(*entries) for entries in figures)}</div></section>"
    )


def _histogram(bins: Bins) -> Chart:
    width = 1 / len(bins.count)
    relevant = bins.relevant
    others = [count - good for count, good in zip(bins.count, bins.relevant, strict=True)]
    series = []
    for name, colour, counts in (("relevant", "good", relevant), ("not relevant", "muted", others)):
        total = sum(counts)
        points = [(place * width, count / total) for place, count in enumerate(counts)] if total else []
        series.append(Series(f"{name} ({total})", colour, points))
    most = max((y for one in series for _, y in one.points), default=1.0)
    about = "Histogram of scores, relevant documents beside the others"
    return Chart(about, Axis(0, 1, "score"), Axis(0, most * 1.05, "share", "{:.0%}".format), series, bar_width=width)


def _reliability(curves: Sequence[tuple[str, str, Bins]]) -> Chart:
    series = []
    for name, colour, bins in curves:
        rows = zip(bins.count, bins.relevant, bins.total, strict=True)
        points = [(total / count, relevant / count) for count, relevant, total in rows if count]
        series.append(Series(name, colour, points, "dots"))
    about = "Reliability: share of relevant documents over their score"
    return Chart(about, Axis(0, 1, "mean score"), Axis(0, 1, "share relevant"), series, diagonal=True)


def _evidence(card: Scorecard) -> str:
    if not card.evidence:
        return ""
    rows = [[name.replace("_", " "), f"{v:.3f}", EVIDENCE_MEASURES[name]] for name, v in card.evidence.items()]
    return (
        f"<section><h2>Evidence</h2>{table(['', 'mean', 'what it is'], rows)}"
        f"<p>Means over {card.written} written documents. Counted by rule: no model was asked.</p></section>"
    )


def _speed(card: Scorecard) -> str:
    costs = card.costs
    if not costs.latencies:
        return ""
    cached = costs.cached_tokens / costs.prompt_tokens if costs.prompt_tokens else 0.0
    rows = [
        ["pairs per second", f"{costs.pairs_per_second:,.1f}"],
        ["wall time", f"{costs.seconds:,.1f} s"],
        ["prompt tokens", f"{costs.prompt_tokens:,} ({cached:.0%} from the cache)"],
        ["output tokens", f"{costs.output_tokens:,}"],
    ]
    caption = "Time from asking to answer for each query, while others were under way."
    latencies = figure(_latency(costs.latencies), caption)
    return f"<section><h2>Speed</h2><div class='pair'>{table(['', ''], rows)}{latencies}</div></section>"


def _latency(latencies: Sequence[float]) -> Chart:
    ordered = sorted(1000 * seconds for seconds in latencies)
    median, p95 = ordered[len(ordered) // 2], ordered[int(0.95 * (len(ordered) - 1))]
    # A few stragglers would press the rest into one bar: they go to the last one.
    most = min(ordered[-1], 3 * p95) or 1.0
    width = most / _LATENCY_BINS
    counts = [0] * _LATENCY_BINS
    for value in ordered:
        counts[min(_LATENCY_BINS - 1, int(value / width))] += 1
    series = [
        Series("queries", "muted", [(place * width, float(count)) for place, count in enumerate(counts)]),
        Series(f"median {median:,.0f} ms", "first", [(median, 0)], "marks"),
        Series(f"95 % within {p95:,.0f} ms", "second", [(p95, 0)], "marks"),
    ]
    x, y = Axis(0, most, "milliseconds", "{:,g}".format), Axis(0, max(counts) * 1.05, "queries")
    return Chart("Histogram of the queries' latencies", x, y, series, bar_width=width)


def _protocol(preset: Preset | None) -> str:
    if preset is None or not (preset.notes or preset.claims):
        return ""
    notes = "".join(f"<li>{escape(note)}</li>" for note in preset.notes)
    claims = f"<h3>What the source printed</h3>{_claims(preset.claims)}" if preset.claims else ""
    return f"<section><h2>About this protocol</h2><ul>{notes}</ul>{claims}</section>"


def _claims(claims: Iterable[Claim]) -> str:
    """With our check: could this row be true?"""
    claims = list(claims)
    names = list(dict.fromkeys(name for claim in claims for name in claim.means))
    rows = []
    for claim in claims:
        impossible = claim.impossible()
        verdict = f"impossible: {impossible[0].first} with {impossible[0].second}" if impossible else "possible"
        means = [f"{claim.means[name]:.4f}" if name in claim.means else "" for name in names]
        rows.append([claim.system, claim.data, *means, verdict])
    return table(["system", "data", *names, "check"], rows)
