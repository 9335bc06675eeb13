"""EmbedAnything's own guide for Qwen3-Reranker, with only the import changed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from whyrank import Document
from whyrank.adapters.embed_anything import Dtype, Reranker
from whyrank.checkpoints import make_plan
from whyrank.config import EngineConfig
from whyrank.errors import InvalidRequest
from whyrank.prompting.scoring import score_of
from whyrank.prompting.tokens import EncodedDocument
from whyrank.runtimes.reference import Reference

DOCUMENTS = [
    "Machine learning is a subset of AI.",
    "The weather is sunny today.",
    "ML algorithms can learn from data.",
    "Pizza is a popular food.",
]
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
QUERIES = ["What is machine learning?", "What is eaten?"]
SCRIPT = """
import asyncio, json, sys
from whyrank.adapters.embed_anything import Dtype, Reranker

def format_query(query, instruction):
    return f"<Instruct>: {instruction}\\n<Query>: {query}\\n"

def format_document(doc):
    return f"<Document>: {doc}"

async def as_in_a_notebook(reranker, queries, documents):
    return reranker.compute_scores(queries, documents, batch_size=2)

if __name__ == "__main__":
    folder, queries, documents, instruction = json.loads(sys.argv[1])
    reranker = Reranker.from_pretrained(folder, dtype=Dtype.F32, prompt="qwen3-reranker", kv_cache_gib=0.25)
    formatted = [format_query(query, instruction) for query in queries], [format_document(doc) for doc in documents]
    answers = {
        "plain": reranker.compute_scores(queries, documents),
        "alone": [[reranker.compute_scores([query], [text])[0][0] for text in documents] for query in queries],
        "formatted": reranker.compute_scores(*formatted, batch_size=4),
        "other": reranker.compute_scores([format_query(queries[0], "Find poems")], documents),
        "notebook": asyncio.run(as_in_a_notebook(reranker, queries, documents)),
        "ranked": [
            [result.query, [[rank.rank, rank.document, rank.relevance_score] for rank in result.documents]]
            for result in reranker.rerank(*formatted, top_k=2)
        ],
    }
    try:
        reranker.rerank("one string", documents, top_k=1)
    except ValueError as error:
        answers["error"] = str(error)
    print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def folder(checkpoint: Callable[[str], Path]) -> Path:
    return checkpoint("qwen3")


def test_the_guide_runs_and_scores_are_those_of_transformers(folder: Path) -> None:
    """Runs in a process of its own, because it must also end, together with its engine, and without a complaint."""
    argument = json.dumps([str(folder), QUERIES, DOCUMENTS, INSTRUCTION])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, argument], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr and "destroyed" not in done.stderr, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    wanted = transformers_scores(folder)
    for name in ("plain", "alone", "formatted", "notebook"):
        assert [score for row in result[name] for score in row] == pytest.approx(
            [score for row in wanted for score in row], abs=1e-5
        ), name
    assert result["error"] == "query is 'one string': give a list of strings"
    assert result["other"][0] != pytest.approx(wanted[0], abs=1e-5)
    for (query, ranks), scores, text in zip(result["ranked"], wanted, QUERIES, strict=True):
        best = sorted(range(len(DOCUMENTS)), key=lambda i: -scores[i])[:2]
        assert query == f"<Instruct>: {INSTRUCTION}\n<Query>: {text}\n"
        assert [rank[:2] for rank in ranks] == [
            [place, f"<Document>: {DOCUMENTS[i]}"] for place, i in enumerate(best, 1)
        ]


def transformers_scores(folder: Path) -> list[list[float]]:
    plan = make_plan(EngineConfig(str(folder), prompt="qwen3-reranker"))
    reference, scores = Reference(plan, "float32"), list[list[float]]()
    for query in QUERIES:
        rows = plan.encoder.encode(query, [Document(text) for text in DOCUMENTS], None, "tail")
        reads = [reference.read(row.prompts[0].ids) for row in rows if isinstance(row, EncodedDocument)]
        scores.append([score_of(read, plan.format.score_rule).score for read in reads])
    return scores


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": Dtype.INT8}, "INT8"),
        ({"path_in_repo": "weights"}, "path_in_repo is 'weights'"),
        ({"revision": 3}, "revision is 3"),
    ],
)
def test_what_it_cannot_load(folder: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        Reranker.from_pretrained(str(folder), **options)  # type: ignore[arg-type]
