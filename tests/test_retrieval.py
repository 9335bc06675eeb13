"""First stages: words, BM25, exact search, fusion, embeddings that survive an interruption, and the command."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from whyrank.errors import DataError, InvalidRequest
from whyrank.evaluation import HOUSE
from whyrank.evaluation.data import open_collection
from whyrank.retrieval.bm25 import Bm25, words_of
from whyrank.retrieval.dense import Dense, exact_search, own_prompts, read_or_embed
from whyrank.retrieval.first_stage import fused
from whyrank.retrieval.passages import Passages, judged_queries


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The lamp's red, isn't it?", "the lamp s red isn t it"),
        ("STRASSE Straße", "strasse strasse"),
        ("林海公司", "林海 海公 公司"),
        ("水 100°C", "水 100 c"),
        ("v2.0_beta ½", "v2 0 beta 1 2"),
        ("カタカナ and かな", "カタ タカ カナ and かな"),
        ("", ""),
    ],
)
def test_words(text: str, words: str) -> None:
    assert " ".join(words_of(text)) == words


def random_texts(count: int, seed: int) -> list[str]:
    dice = random.Random(seed)
    words = [f"w{i}" for i in range(300)]
    weights = [1 / (i + 1) for i in range(300)]
    return [" ".join(dice.choices(words, weights, k=dice.randint(1, 60))) for _ in range(count)]


def lucene_bm25(query: str, documents: Sequence[str], k1: float = 1.5, b: float = 0.75) -> list[float]:
    """Computed from the formula, one document at a time."""
    counted = [Counter(text.split()) for text in documents]
    mean = sum(sum(count.values()) for count in counted) / len(documents)
    scores = []
    for count in counted:
        score, length = 0.0, sum(count.values())
        for word in query.split():
            holding = sum(word in other for other in counted)
            if holding:
                weight = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
                score += weight * count[word] / (count[word] + k1 * (1 - b + b * length / mean))
        scores.append(score)
    return scores


def test_bm25_is_the_formula() -> None:
    documents, queries = random_texts(150, 1), ["w3 w40 w7", "w299", "w1 w1 w200 unknown", "unknown"]
    for query, results in zip(queries, Bm25(documents).search(queries, 150), strict=True):
        wanted = lucene_bm25(query, documents)
        assert {place for place, _ in results} == {at for at, score in enumerate(wanted) if score > 0}
        assert [score for _, score in results] == pytest.approx([wanted[place] for place, _ in results], rel=1e-5)
        assert [score for _, score in results] == sorted((score for _, score in results), reverse=True)


def test_stemmed_words_meet() -> None:
    documents = ["They are running late.", "The cat sat."]
    assert list(Bm25(documents).search(["runs"], 2)) == [[]]
    ((place, _),) = next(Bm25(documents, "english").search(["runs"], 2))
    assert place == 0
    with pytest.raises(InvalidRequest, match=r"stemmer is 'elvish': choose from .*english"):
        Bm25(documents, "elvish")


def test_a_corpus_without_words_is_told() -> None:
    with pytest.raises(DataError, match="no words"):
        Bm25(["...", ""])


def test_exact_search_is_numpys() -> None:
    dice = np.random.default_rng(2)
    vectors = dice.standard_normal((40_000, 12), np.float32)  # three blocks
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[30_000:30_050] = vectors[:50]  # of equal vectors the earlier one comes first
    queries = dice.standard_normal((7, 12), np.float32)
    queries[0] = vectors[3]
    places, scores = exact_search(vectors, queries, 25)
    whole = queries @ vectors.T
    wanted = np.argsort(-whole, axis=1, kind="stable")[:, :25]
    assert np.allclose(scores, np.take_along_axis(whole, wanted, 1), atol=1e-5)
    assert (places == wanted).mean() > 0.99  # products computed in blocks may differ in their last bit
    assert places[0, :2].tolist() == [3, 30_003]


def test_fusion_counts_ranks_alone() -> None:
    one, other = [(4, 9.0), (2, 8.0), (7, 0.1)], [(2, 0.9), (5, 0.8)]
    assert fused([one, other], 3) == [
        (2, pytest.approx(1 / 62 + 1 / 61)),
        (4, pytest.approx(1 / 61)),
        (5, pytest.approx(1 / 62)),
    ]


class Lengths:
    """Embeds a text as two numbers that are unique to it; raises an error after a given number of batches."""

    name = "lengths"

    def __init__(self, batches: int = 1 << 30) -> None:
        self.left = batches

    def embed(self, texts: Sequence[str], are_queries: bool) -> np.ndarray:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return np.array([[len(text), sum(map(ord, text)) % 97] for text in texts], np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    texts = random_texts(700, 3)
    lines = [json.dumps({"_id": f"d{at}", "title": "", "text": text}) + "\n" for at, text in enumerate(texts)]
    (tmp_path / "corpus.jsonl").write_text("".join(lines))
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "w3 w9"}\n{"_id": "q2", "text": "w50"}\n')
    (tmp_path / "qrels.txt").write_text("q1 0 d1 1\nq2 0 d2 1\n")
    return tmp_path


def test_embedding_goes_on_where_it_was_stopped(folder: Path, tmp_path: Path) -> None:
    passages, file = Passages(folder), tmp_path / "vectors.f32"
    with pytest.raises(KeyboardInterrupt):
        read_or_embed(passages, Lengths(2), file)
    done = 0

    def on_progress() -> None:
        nonlocal done
        done += 1

    second = Lengths(1)
    vectors = read_or_embed(passages, second, file, on_progress)
    assert second.left == 0 and done == 700
    assert np.array_equal(vectors, Lengths().embed(list(passages.texts()), False))
    assert np.array_equal(read_or_embed(passages, Lengths(0), file), vectors)


def test_vectors_of_another_corpus_or_model_are_refused(folder: Path, tmp_path: Path) -> None:
    file, other = tmp_path / "vectors.f32", Lengths()
    read_or_embed(Passages(folder), Lengths(), file)
    other.name = "other"
    with pytest.raises(DataError, match="its model is 'lengths', now it is 'other': choose another --vectors"):
        read_or_embed(Passages(folder), other, file)
    with (folder / "corpus.jsonl").open("a") as corpus:
        corpus.write('{"_id": "new", "text": "new"}\n')
    with pytest.raises(DataError, match="its corpus is"):
        read_or_embed(Passages(folder), Lengths(), file)


def test_queries_are_asked_in_batches(folder: Path, tmp_path: Path) -> None:
    dense = Dense(read_or_embed(Passages(folder), Lengths(), tmp_path / "v.f32"), Lengths())
    queries = [f"query {n}" for n in range(600)]
    results = list(dense.search(queries, 5))
    assert len(results) == 600 and all(len(row) == 5 for row in results)
    assert results[599] == next(dense.search(queries[599:], 5))


def test_only_judged_queries_are_asked(folder: Path) -> None:
    (folder / "queries.jsonl").write_text(
        '{"_id": "q2", "text": "b"}\n{"_id": "x", "text": "c"}\n{"_id": "q1", "text": "a"}\n'
    )
    assert judged_queries(folder, "test") == {"q1": "a", "q2": "b"}


def test_a_document_that_is_there_twice_is_told(folder: Path) -> None:
    with (folder / "corpus.jsonl").open("a") as corpus:
        corpus.write('{"_id": "d7", "text": "again"}\n')
    with pytest.raises(DataError, match=r"line 701: document 'd7' is already in line 8"):
        Passages(folder)


def whyrank(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "whyrank", *arguments]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"}  # in GiB; vLLM would take as much as it finds
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=environment)


def test_the_command_writes_what_eval_reads(tmp_path: Path) -> None:
    for name in ("corpus.jsonl", "queries.jsonl"):
        (tmp_path / name).write_bytes((HOUSE / name).read_bytes())
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_bytes((HOUSE / "qrels" / "test.tsv").read_bytes())
    done = whyrank("retrieve", str(tmp_path), "--top-k", "10", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    collection = open_collection(tmp_path)
    candidates = [collection.topic(ident, 10).candidates for ident in collection.topic_ids]
    assert result["queries"] == len(candidates) and result["found"] == sum(map(len, candidates)) > 0
    again = whyrank("retrieve", str(tmp_path))
    assert again.returncode == 2 and "already exists: give another --out, or --fresh" in " ".join(again.stderr.split())
    unnamed = whyrank("retrieve", str(tmp_path), "--method", "dense", "--fresh")
    assert unnamed.returncode == 2 and "need --model" in unnamed.stderr


def test_dense_vectors_are_those_of_transformers(checkpoint: Callable[[str], Path], folder: Path) -> None:
    """A real engine in a process of its own; the checkpoint's own prompt is put before queries."""
    model = checkpoint("qwen3")
    lines = (folder / "corpus.jsonl").read_text().splitlines(keepends=True)[:12]
    (folder / "corpus.jsonl").write_text("".join(lines))
    done = whyrank("retrieve", str(folder), "--method", "hybrid", "-m", str(model), "--top-k", "5", "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout) == {"run": str(folder / "run.trec"), "documents": 12, "queries": 2, "found": 10}
    vectors = np.fromfile(folder / "run.f32", np.float32).reshape(12, -1)
    assert np.allclose(vectors, transformers_vectors(model, list(Passages(folder).texts())), atol=1e-4)


def test_what_stands_before_texts_is_the_checkpoints_own(tmp_path: Path) -> None:
    assert own_prompts(str(tmp_path)) == {"document": ""}
    (tmp_path / "config_sentence_transformers.json").write_text('{"prompts": {"query": "Query:", "passage": "Text: "}}')
    assert own_prompts(str(tmp_path)) == {"document": "Text: ", "passage": "Text: ", "query": "Query:"}


def transformers_vectors(model: Path, texts: Sequence[str]) -> np.ndarray:
    """The last token's vector, normalised."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, net = AutoTokenizer.from_pretrained(model), AutoModel.from_pretrained(model, dtype=torch.float32)
    with torch.inference_mode():
        rows = [net(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, -1] for text in texts]
    return np.array([(row / row.norm()).numpy() for row in rows])
