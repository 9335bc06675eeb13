#!/usr/bin/env python3
"""Measures the embedded model on data that it has never seen, with whyrank's own engine.

written    319 queries with 10 candidates each by another author, in fields that were not trained on: ranking, calibration,
           whether a query has an answer at all, contributions, quotations, spans, and documents that only echo the query;
           compared with BM25 and, with --material, with the teacher
generated  questions from the generator with held-out words: ROC AUC for each kind of near miss, ranking, evidence
natural    the hand-written pairs of tests/data/demo/natural.toml

Progress goes to stderr; the last line of stdout is one JSON document.

    scripts/eval_demo_model.py                                   # the model that is shipped
    scripts/eval_demo_model.py --material /tmp/demo-material --write-card      # ... and write the figures into its card
    scripts/eval_demo_model.py /tmp/demo-training/export --questions 40        # a slice
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from demo_exam import (
    ExamQuery,
    auc,
    echo_figures,
    exam,
    explained_figures,
    marks,
    sigmoid,
)
from demo_generated_exam import evidence_figures, label_figures, ranking_figures
from demo_judge import Bm25, Judge, Pair
from demo_samples import HARD
from whyrank import Reranker
from whyrank.config import DEMO, EngineConfig
from whyrank.evaluation.charts import Axis, Chart, Series
from whyrank.evaluation.scorecard import Bins
from whyrank.process import prepare_process

NATURAL = Path(__file__).parents[1] / "tests" / "data" / "demo" / "natural.toml"
_CALIBRATION_STEPS = 10
_TABLE_BEGINS, _TABLE_ENDS = "<!-- figures -->", "<!-- end of figures -->"


def natural() -> list[tuple[Pair, bool]]:
    questions = tomllib.loads(NATURAL.read_text(encoding="utf-8"))["question"]
    return [
        ((entry["query"], text), answers == "yes")
        for entry in questions
        for answers in ("yes", "no")
        for text in entry[answers]
    ]


# The figures.


async def written_figures(
    judge: Judge, queries: Sequence[ExamQuery], material: Path | None, show: int
) -> dict[str, Any]:
    margins = iter(await judge.margins([(query.query, text) for query in queries for text in query.documents]))
    scores = [[sigmoid(next(margins)) for _ in query.documents] for query in queries]
    index = Bm25({text: None for query in queries for text in query.documents})
    figures: dict[str, Any] = {
        "model": marks(queries, scores),
        "bm25": marks(queries, [[index.score(query.query, text) for text in query.documents] for query in queries]),
    }
    if material:
        figures["teacher"] = marks(queries, _by_teacher(material, queries))
    bins = Bins(_CALIBRATION_STEPS)
    for query, row in zip(queries, scores, strict=True):
        for score, relevance in zip(row, query.relevance, strict=True):
            bins.add(score, relevance == 2)
    figures |= {"ece": bins.calibration_error(), "calibration": calibration(bins)}
    figures["echo"] = await echo_figures(judge)
    figures["explained"] = await explained_figures(judge, queries, show)
    return figures


def _by_teacher(material: Path, queries: Sequence[ExamQuery]) -> list[list[float]]:
    from demo_teacher import Teacher

    teacher = Teacher(material)
    asked = teacher.embed([query.query for query in queries])
    read = teacher.embed([text for query in queries for text in query.documents]).reshape(
        len(queries), -1, asked.shape[1]
    )
    similarities: list[list[float]] = (read @ asked[:, :, None]).squeeze(-1).tolist()
    return similarities


async def natural_figures(judge: Judge) -> dict[str, float]:
    rows = natural()
    margins = await judge.margins([pair for pair, _ in rows])
    index = Bm25(pair[1] for pair, _ in rows)
    matched = [index.score(*pair) for pair, _ in rows]

    def divided(scores: Sequence[float]) -> float:
        judged = [(score, relevant) for score, (_, relevant) in zip(scores, rows, strict=True)]
        return auc([s for s, relevant in judged if relevant], [s for s, relevant in judged if not relevant])

    return {"auc": divided(margins), "bm25_auc": divided(matched)}


def calibration(bins: Bins) -> list[dict[str, float]]:
    """For each step of the score that contains any documents: the mean score, and the share of answers."""
    steps = zip(bins.count, bins.relevant, bins.total, strict=True)
    return [{"score": t / count, "answers": right / count, "count": count} for count, right, t in steps if count]


def plot(bins: Sequence[dict[str, float]]) -> str:
    """The calibration as an SVG file."""
    return Chart(
        "How often a score of so much is that of an answer; on the dashed line it would be as often as it says",
        Axis(0, 1, "score"),
        Axis(0, 1, "share of answers"),
        [Series("the written exam", "first", [(b["score"], b["answers"]) for b in bins], "dots")],
        diagonal=True,
    ).file()


# The model's card.


def write_card(figures: dict[str, Any]) -> None:
    """Figures and plot beside the shipped model, and the table in its card."""
    folder = Path(EngineConfig(DEMO).source)
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    (folder / "calibration.svg").write_text(plot(figures["written"]["calibration"]))
    card = folder / "README.md"
    before, _, rest = card.read_text(encoding="utf-8").partition(_TABLE_BEGINS)
    after = rest.partition(_TABLE_ENDS)[2]
    card.write_text(f"{before}{_TABLE_BEGINS}\n{_table(figures)}\n{_TABLE_ENDS}{after}", encoding="utf-8")


def _table(figures: dict[str, Any]) -> str:
    written, generated = figures["written"], figures["generated"]
    label, ranking, evidence = generated["label"], generated["ranking"], generated["evidence"]
    lines = ["| written exam | model | teacher | BM25 |", "|---|---|---|---|"]
    lines += [
        f"| {about} | " + " | ".join(_interval(written[who][name]) for who in ("model", "teacher", "bm25")) + " |"
        for name, about in (
            ("ndcg@10", "nDCG@10 over 10 candidates"),
            ("first", "an answer comes first"),
            ("auc", "ROC AUC of answers against all other texts"),
            ("auc_within", "... within a query"),
            ("answerable_auc", "ROC AUC of the best score: has the query an answer?"),
        )
    ]
    lines += ["", "| | figure |", "|---|---|"]
    echo, explained = written["echo"], written["explained"]
    rows = [
        ("written exam: expected calibration error", f"{written['ece']:.3f}"),
        ("... texts that echo the query, scored above 0.5", f"{echo['above_half']} of {echo['echoes']}"),
        ("... ahead of the answer", f"{echo['ahead_of_the_answer']} of {echo['echoes']}"),
        ("... verbatim evidence holds an answer sentence", f"{explained['quotes_an_answer']:.3f}"),
        ("... the first two spans hold one", f"{explained['spans_hold_an_answer']:.3f}"),
        ("... contributions without a broken word", f"{explained['whole_words']:.3f}"),
        ("... contributions not found altered", f"{explained['not_altered']:.3f}"),
        ("hand-written pairs, ROC AUC", f"{figures['natural']['auc']:.3f} (BM25 {figures['natural']['bm25_auc']:.3f})"),
        ("generated questions, ROC AUC", f"{label['auc']:.3f}"),
    ]
    rows += [
        (f"... against {kind.replace('_', ' ')}", f"{label['auc_by_kind'][kind]:.3f}") for kind in ("random", *HARD)
    ]
    rows += [
        ("... nDCG@10 over 20 candidates", f"{ranking['ndcg@10']:.3f} (BM25 {ranking['bm25_ndcg@10']:.3f})"),
        ("... rewritten evidence holds the answer", f"{evidence['holds_answer']:.3f}"),
        ("... at least 0.9 supported", f"{evidence['grounded']:.3f}"),
    ]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in rows)])


def _interval(figure: dict[str, float]) -> str:
    return f"{figure['value']:.3f} ({figure['low']:.2f} to {figure['high']:.2f})"


async def measure(
    model: str, questions: int, queries: Sequence[ExamQuery], material: Path | None = None, show: int = 0
) -> dict[str, Any]:
    async with Reranker(model, prompt="prism") as reranker:
        judge = Judge(reranker)
        figures: dict[str, Any] = {"written": await written_figures(judge, queries, material, show)}
        print(json.dumps(_rounded(figures), indent=1), file=sys.stderr)
        figures["natural"] = await natural_figures(judge)
        figures["generated"] = {
            "label": await label_figures(judge, questions),
            "ranking": await ranking_figures(judge, questions // 2),
            "evidence": await evidence_figures(judge, questions // 2, show),
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", default=DEMO, help="a folder; the shipped model by default")
    parser.add_argument(
        "--questions", type=int, default=400, help="held-out questions; half as many are ranked and quoted"
    )
    parser.add_argument("--exam", type=int, default=1, help="every how many-th query of the written exam")
    parser.add_argument("--material", type=Path, help="what demo_material.py fetched: measures the teacher, too")
    parser.add_argument("--show", type=int, default=0, help="print so many answers with what was wanted")
    parser.add_argument("--write-card", action="store_true", help="figures, table and plot of the shipped model")
    arguments = parser.parse_args()
    if arguments.write_card and (arguments.checkpoint != DEMO or not arguments.material or arguments.exam > 1):
        parser.error("--write-card is for the shipped model, with all of the exam and with --material")
    prepare_process()
    began = time.monotonic()
    queries = exam()[:: arguments.exam]
    measured = measure(arguments.checkpoint, arguments.questions, queries, arguments.material, arguments.show)
    figures = _rounded(asyncio.run(measured))
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    if arguments.write_card:
        write_card(figures)
    print(json.dumps(figures))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
