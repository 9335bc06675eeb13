"""Judged data as people have it, and the errors for broken data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from whyrank.errors import DataError
from whyrank.evaluation.data import Collection, open_collection
from whyrank.evaluation.presets import HOUSE

CORPUS = [
    {"_id": "d1", "title": "Tea", "text": "Boil water."},
    {"_id": "d2", "text": "Snow"},
    {"_id": "q1", "text": "self"},
]
QUERIES = [{"_id": "q1", "text": "how to make tea", "metadata": {"answers": ["boil"]}}, {"_id": "q2", "text": "snow?"}]
BEIR_QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td2\t1\n"
RUN = "q1 Q0 d2 1 1.5 bm25\nq1 Q0 q1 2 9.5 bm25\nq1 Q0 d1 3 2.5 bm25\nelse Q0 d1 1 1 bm25\n"


def lines(records: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def beir(folder: Path, **changed: str | bytes | None) -> Path:
    """A valid folder, with some files replaced or left out."""
    files: dict[str, str | bytes | None] = {
        "corpus": lines(CORPUS),
        "queries": lines(QUERIES),
        "qrels": BEIR_QRELS,
        "run": RUN,
    }
    names = {"corpus": "corpus.jsonl", "queries": "queries.jsonl", "qrels": "qrels/test.tsv", "run": "run.trec"}
    (folder / "qrels").mkdir()
    for key, content in {**files, **changed}.items():
        if content is not None:
            path = folder / names.get(key, key)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def candidates(collection: Collection, query: str, top_k: int = 100) -> list[tuple[str, float | None]]:
    return [(candidate.id, candidate.first_score) for candidate in collection.topic(query, top_k).candidates]


def test_a_beir_folder_with_a_trec_run(tmp_path: Path) -> None:
    collection = open_collection(beir(tmp_path))
    assert list(collection.topic_ids) == ["q1", "q2"]
    topic = collection.topic("q1", 100)
    assert topic.query == "how to make tea" and topic.answers == ("boil",)
    assert topic.judged == {"d1": 2, "d2": 0}
    # Sorted by score, not by the rank column; a document that is the query itself is dropped.
    assert candidates(collection, "q1") == [("d1", 2.5), ("d2", 1.5)]
    assert candidates(collection, "q1", top_k=1) == [("d1", 2.5)]
    assert topic.candidates[0].document.content == "Tea Boil water."
    assert candidates(collection, "q2") == []  # missed by the first stage, and still a topic


@pytest.mark.parametrize(
    "qrels", ["q1 0 d1 2\nq1 0 d2 0\nq2 0 d2 1\n", "q1\td1\t2\nq1\td2\t0\nq2\td2\t1", BEIR_QRELS.replace("\n", "\r\n")]
)
def test_qrels_in_other_spellings(qrels: str, tmp_path: Path) -> None:
    collection = open_collection(beir(tmp_path, qrels=qrels))
    assert collection.topic("q1", 10).judged == {"d1": 2, "d2": 0}
    assert collection.topic("q2", 10).judged == {"d2": 1}


def test_files_as_trec_evals_own_tests_have_them(tmp_path: Path) -> None:
    qrels = "# made by hand\nq1 0 d1 2\n#q1 0 d1 7\nq1\t0\td2\t 0\n# the last\nq2 0 d2#1 1 \n"
    run = "q1\tQ0\td1\t99\t  2.138276\tSTANDARD more junk at\nq1\tQ0\td2\t99\t  1.857372\tSTANDARD end of lines.\n"
    collection = open_collection(beir(tmp_path, qrels=qrels, run=run))
    assert collection.topic("q1", 10).judged == {"d1": 2, "d2": 0}
    assert collection.topic("q2", 10).judged == {"d2#1": 1}
    assert candidates(collection, "q1") == [("d1", 2.138276), ("d2", 1.857372)]


def test_beir_knows_no_comments(tmp_path: Path) -> None:
    queries = lines([{"_id": "#1", "text": "tea"}])
    collection = open_collection(beir(tmp_path, queries=queries, qrels="query-id\tcorpus-id\tscore\n#1\td1\t1\n"))
    assert collection.topic("#1", 10).judged == {"d1": 1}


FORGING = ["d1\nq1 Q0 FORGED 1 99.0 x", "d\t1", "d 1", "d\u00a01", "d\x85", "d\x1b[31m", "d\ud800", "d\x00"]


@pytest.mark.parametrize("ident", FORGING)
def test_an_id_that_no_run_can_hold_is_refused_by_name(ident: str, tmp_path: Path) -> None:
    path = tmp_path / "topics.jsonl"
    fine: dict[str, Any] = {"query": "q", "candidates": [{"id": "d", "text": "a"}]}
    for record in ({**fine, "id": ident}, {**fine, "candidates": [{"id": ident, "text": "a"}]}):
        path.write_text(json.dumps(fine) + "\n" + json.dumps(record))
        with pytest.raises(DataError) as error:
            open_collection(path)
        assert "line 2" in str(error.value) and repr(ident)[:-1] in str(error.value)
        assert "no TREC run can hold: rename it" in str(error.value)
    with pytest.raises(DataError, match=r"corpus\.jsonl, line 1: id 'd"):
        open_collection(beir(tmp_path, corpus=json.dumps({"_id": ident, "text": "x"}) + "\n"))


def test_a_query_id_that_no_run_can_hold_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"queries\.jsonl, line 1: id 'q 1'"):
        open_collection(beir(tmp_path, queries=lines([{"_id": "q 1", "text": "tea"}])))


def test_a_run_in_any_order_with_twins_ties_and_windows_line_ends(tmp_path: Path) -> None:
    run = "\ufeffq1 Q0 d1 1 1 x\r\nq2 Q0 d2 1 1 x\r\n\r\nq1 Q0 d1 1 3 x\r\nq1 Q0 d2 1 3.00000001 x"
    collection = open_collection(beir(tmp_path, run=run))
    # A duplicate counts where it ranks best; 3 and 3.00000001 tie in single precision, and the larger id comes first.
    assert candidates(collection, "q1") == [("d2", 3.00000001), ("d1", 3.0)]
    assert candidates(collection, "q2") == [("d2", 1.0)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("top_ranked.jsonl", '{"query-id": "q1", "corpus-ids": ["d2", "d1", "d2", "q1"]}\n'),
        ("top_ranked.json", '{\n "q1": ["d2", "d1", "d2", "q1"]\n}'),
    ],
)
def test_mtebs_top_ranked(name: str, content: str, tmp_path: Path) -> None:
    collection = open_collection(beir(tmp_path, run=None, **{name: content}))
    assert collection.first_stage == name
    assert candidates(collection, "q1") == [("d2", None), ("d1", None)]


Y = {"id": "y", "text": "y", "title": "T", "metadata": {"hop": 1}}


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    records: list[dict[str, Any]] = [
        {"query": "水", "positive": ["好", "さ"], "negative": "悪", "answers": "42"},
        {
            "query_id": 7,
            "query": "b",
            "candidates": [{"chunk_id": 1, "text": "x", "label": "evidence"}, Y],
        },
    ]
    path.write_text(lines(records))
    collection = open_collection(path)
    assert list(collection.topic_ids) == ["1", "7"]
    assert collection.first_stage is None
    topic = collection.topic("1", 10)
    assert sorted(topic.judged.values()) == [0, 1, 1] and topic.answers == ("42",)
    assert {c.document.text: topic.judged[c.id] for c in topic.candidates} == {"好": 1, "さ": 1, "悪": 0}
    assert candidates(collection, "7") == [("1", None), ("y", None)]
    assert collection.topic("7", 10).judged == {"1": 2}
    assert [dict(c.document.metadata) for c in collection.topic("7", 10).candidates] == [{}, {"hop": 1}]


def test_positives_do_not_stand_first(tmp_path: Path) -> None:
    """In the order of the file, a model that always gives the same score would look perfect."""
    path = tmp_path / "pairs.jsonl"
    path.write_text(lines([{"query": f"q{i}", "positive": [f"good {i}"], "negative": [f"bad {i}"]} for i in range(40)]))
    collection = open_collection(path)
    first = [collection.topic(i, 1) for i in collection.topic_ids]
    assert 10 < sum(topic.judged[topic.candidates[0].id] for topic in first) < 30


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"corpus": lines(CORPUS) + "{oops\n"}, "corpus.jsonl, line 4: not JSON"),
        (
            {"corpus": lines([*CORPUS, {"_id": "d1", "text": "again"}])},
            "corpus.jsonl, line 4: document 'd1' is in line 1",
        ),
        ({"corpus": lines([*CORPUS, {"id": "d4", "text": "x"}])}, "corpus.jsonl, line 4: no string under '_id'"),
        ({"corpus": lines(CORPUS).encode() + b"\xff\n"}, "corpus.jsonl, line 4: not UTF-8"),
        ({"queries": '["q1"]\n'}, "queries.jsonl, line 1: '[\"q1\"]' is not a JSON object"),
        ({"queries": lines([*QUERIES, QUERIES[0]])}, "queries.jsonl, line 3: query 'q1' occurs twice"),
        ({"queries": lines(QUERIES[:1])}, "test.tsv, line 4: query 'q2' is not in"),
        ({"queries": lines([{"_id": "q1", "text": " "}])}, "queries.jsonl, line 1: no 'text'"),
        ({"qrels": BEIR_QRELS + "q2\td1\n"}, "test.tsv, line 5: 2 columns"),
        ({"qrels": BEIR_QRELS + "q2\td1\tgood\n"}, "test.tsv, line 5: grade 'good' is not a whole number"),
        ({"qrels": BEIR_QRELS + "q1\td1\t1\n"}, "test.tsv, line 5: query 'q1' judges document 'd1' a second time"),
        ({"qrels": "query-id\tcorpus-id\tscore\n"}, "test.tsv: contains no judgements"),
        ({"qrels": BEIR_QRELS + "q1\td 1\t1\n"}, "test.tsv, line 5: id 'd 1' is empty or holds white space"),
        ({"run": RUN + "q2 d1 1\n"}, "run.trec, line 5: 3 columns"),
        ({"run": RUN + "q2 Q0 d1 1 high x\n"}, "run.trec, line 5: score 'high' is not a number"),
        ({"run": RUN + "q2 Q0 d1 1 nan x\n"}, "run.trec, line 5: score 'nan' is not finite"),
        ({"run": RUN + "q2 Q0 d1 1 1e39 x\n"}, "run.trec, line 5: score '1e39' is not finite"),
        ({"run": RUN + "q2 Q0 d9 1 1 x\n"}, "run.trec, line 5: document 'd9' is not in the corpus"),
        ({"run": None}, "has none of run.trec"),
        (
            {"run": None, "top_ranked.jsonl": '{"query-id": "q1", "corpus-ids": "d1"}'},
            "line 1: the documents of query 'q1'",
        ),
        (
            {"run": None, "top_ranked.jsonl": '{"query-id": "q1", "corpus-ids": ["d9"]}'},
            "line 1: document 'd9' is not in",
        ),
        (
            {"run": None, "top_ranked.jsonl": '{"corpus-ids": []}'},
            "top_ranked.jsonl, line 1: no string under 'query-id'",
        ),
        ({"run": None, "top_ranked.json": '{"q1": [],\n]'}, "top_ranked.json, line 2: not JSON"),
    ],
)
def test_a_broken_folder_is_told_with_file_and_line(changed: Mapping[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        open_collection(beir(tmp_path, **changed))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"positive": ["a"]}, "line 2: no string under 'query'"),
        ({"query": "q"}, "line 2: no 'positive', 'negative' or 'candidates'"),
        ({"query": "q", "positive": {"text": "a"}}, "line 2: 'positive' must be a list"),
        ({"query": "q", "positive": ["a", 3]}, "line 2: positive[1]: neither a string nor an object"),
        ({"query": "q", "positive": ["a"], "negative": ["a"]}, "line 2: the document 'a' has two different judgements"),
        (
            {"query": "q", "candidates": [{"text": "a", "label": "good"}]},
            "line 2: candidates[0]: label 'good' is not one of",
        ),
        ({"query": "q", "candidates": [{"text": "a", "grade": 0.5}]}, "line 2: candidates[0]: grade 0.5"),
        ({"query": "q", "candidates": [{"id": 1, "text": "a"}, {"id": 1, "text": "b"}]}, "two different documents"),
        ({"id": "1", "query": "q", "positive": []}, "line 2: query id '1' occurs twice"),
    ],
)
def test_broken_json_lines_are_told_with_file_and_line(record: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(lines([{"query": "fine", "positive": ["x"], "negative": ["y"]}, record]))
    with pytest.raises(DataError) as error:
        open_collection(path)
    assert str(path) in str(error.value) and message in str(error.value)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jsonl: No such file"):
        open_collection(tmp_path / "gone.jsonl")
    with pytest.raises(DataError, match=r"has none of qrels/dev\.tsv"):
        open_collection(beir(tmp_path), split="dev")


def test_the_fingerprint_changes_with_the_data(tmp_path: Path) -> None:
    before = open_collection(beir(tmp_path)).fingerprint
    assert open_collection(tmp_path).fingerprint == before
    (tmp_path / "run.trec").write_text(RUN.replace("2.5", "2.6"))
    assert open_collection(tmp_path).fingerprint != before


def test_the_house_corpus_is_large_graded_multilingual_and_made_by_its_script(tmp_path: Path) -> None:
    import make_house_corpus

    collection = open_collection(HOUSE)
    topics = [collection.topic(ident, 20) for ident in collection.topic_ids]
    assert len(topics) >= 60
    assert len((HOUSE / "corpus.jsonl").read_text().splitlines()) >= 600
    assert {grade for topic in topics for grade in topic.judged.values()} == {0, 1, 2}
    assert all(len(topic.candidates) == 20 and 2 in topic.judged.values() for topic in topics)
    files = ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv", "run.trec"]
    assert sum((HOUSE / name).stat().st_size for name in files) < 400_000
    make_house_corpus.make(tmp_path)
    assert all((HOUSE / name).read_bytes() == (tmp_path / name).read_bytes() for name in files)
