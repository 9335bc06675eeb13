"""Judged data loaded with `datasets` and `ir_datasets`, which are other projects' packages and may be absent."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from whyrank.errors import CannotWrite, DataError, EvalNotInstalled, InvalidRequest
from whyrank.evaluation.data import open_collection
from whyrank.evaluation.fetch import fetch

CORPUS = [{"_id": "d1", "title": "Tea", "text": "Boil water. ☕"}, {"_id": "d2", "title": "", "text": "Snow"}]
QUERIES = [{"_id": "q1", "text": "how to make tea"}, {"_id": "q2", "text": "snow?"}]
QRELS = [{"query-id": q, "corpus-id": d, "score": g} for q, d, g in (("q1", "d1", 2.0), ("q1", "d2", 0.0))]
TOP_RANKED = [{"query-id": "q1", "corpus-ids": ["d2", "d1"]}]


def mteb_repository(folder: Path, **parts: list[Mapping[str, object]]) -> Path:
    """Like MTEB's repositories on the hub: one part per configuration, named in the header of README.md."""
    splits = {"corpus": "corpus", "queries": "queries"}
    head = "".join(
        f"- config_name: {part}\n  data_files:\n  - split: {splits.get(part, 'test')}\n    path: {part}.jsonl\n"
        for part in parts
    )
    folder.mkdir()
    (folder / "README.md").write_text(f"---\nconfigs:\n{head}---\n")
    for part, rows in parts.items():
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize("judgements", ["default", "qrels"])
def test_a_dataset_in_mtebs_shape_becomes_a_folder_to_evaluate(judgements: str, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    parts = {"corpus": CORPUS, "queries": QUERIES, judgements: QRELS, "top_ranked": TOP_RANKED}
    source = mteb_repository(tmp_path / "source", **parts)  # type: ignore[arg-type]
    lines = fetch(f"datasets:{source}", tmp_path / "new" / "tea")
    assert lines == {"corpus.jsonl": 2, "queries.jsonl": 2, "qrels/test.tsv": 3, "top_ranked/test.jsonl": 1}
    topic = open_collection(tmp_path / "new" / "tea").topic("q1", 10)
    assert [c.document.content for c in topic.candidates] == ["Snow", "Tea Boil water. ☕"]
    assert topic.judged == {"d1": 2, "d2": 0} and topic.query == "how to make tea"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["tea"]


class Doc(NamedTuple):
    doc_id: str
    title: str
    text: str


class Page(NamedTuple):
    doc_id: str
    title: str
    body: str

    def default_text(self) -> str:
        return f"{self.title} {self.body}"


class Query(NamedTuple):
    query_id: str
    text: str


class Qrel(NamedTuple):
    query_id: str
    doc_id: str
    relevance: int
    iteration: str


class Scored(NamedTuple):
    query_id: str
    doc_id: str
    score: float


class Tea:
    """What a dataset of ir_datasets looks like to its users."""

    judged = True

    def has_docs(self) -> bool:
        return True

    has_queries = has_scoreddocs = has_docs

    def has_qrels(self) -> bool:
        return self.judged

    def docs_iter(self) -> Iterator[NamedTuple]:
        yield from (Doc("d1", "Tea", "Boil water."), Page("d2", "Snow", "It is white."))

    def queries_iter(self) -> Iterator[Query]:
        yield Query("q1", "how to make tea")

    def qrels_iter(self) -> Iterator[Qrel]:
        yield Qrel("q1", "d1", 1, "0")

    def scoreddocs_iter(self) -> Iterator[Scored]:
        yield from (Scored("q1", "d1", 0.25), Scored("q1", "d2", 1.5))


@pytest.fixture
def ir_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unjudged(Tea):
        judged = False

    module = ModuleType("ir_datasets")
    known = {"tea": Tea(), "unjudged": Unjudged()}
    module.load = known.__getitem__  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ir_datasets", module)


@pytest.mark.usefixtures("ir_datasets")
def test_a_dataset_of_ir_datasets_brings_its_first_stage(tmp_path: Path) -> None:
    assert fetch("ir_datasets:tea", tmp_path / "tea", "dev")["run.trec"] == 2
    topic = open_collection(tmp_path / "tea", split="dev").topic("q1", 10)
    assert [(c.document.content, c.first_score) for c in topic.candidates] == [
        ("Snow It is white.", 1.5),
        ("Tea Boil water.", 0.25),
    ]
    assert topic.judged == {"d1": 1}


@pytest.mark.parametrize("part", ["docs", "queries", "qrels", "scoreddocs"])
def test_ids_that_would_forge_lines_are_refused(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forging = "d1\t1\nq1\td2"
    made = {
        "docs": Doc(forging, "Tea", "Boil water."),
        "queries": Query(forging, "how to make tea"),
        "qrels": Qrel("q1", forging, 1, "0"),
        "scoreddocs": Scored("q1", forging, 0.25),
    }

    class Forged(Tea):
        def __getattribute__(self, name: str) -> Any:
            return (lambda: iter([made[part]])) if name == f"{part}_iter" else super().__getattribute__(name)

    module = ModuleType("ir_datasets")
    module.load = lambda name: Forged()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ir_datasets", module)
    with pytest.raises(DataError, match=r"id 'd1.t1.nq1.td2' .* rename it"):
        fetch("ir_datasets:tea", tmp_path / "tea", "dev")
    assert not (tmp_path / "tea").exists()


@pytest.mark.parametrize(
    ("parts", "split", "message"),
    [
        ({"corpus": CORPUS, "default": QRELS}, "test", "has no part called queries; it has corpus, default"),
        ({"corpus": CORPUS, "queries": QUERIES}, "test", "has no part called qrels or default"),
        (
            {"corpus": CORPUS, "queries": QUERIES, "qrels": [{**QRELS[0], "score": 0.5}]},
            "test",
            "query 'q1' grades document 'd1' with 0.5, which is not a whole number",
        ),
        ({"corpus": [{"_id": "d1"}], "queries": QUERIES, "qrels": QRELS}, "test", "KeyError: 'text'"),
        ({"corpus": CORPUS, "queries": QUERIES, "qrels": QRELS}, "dev", "qrels has no split 'dev'; it has test"),
    ],
)
def test_a_dataset_of_another_shape_is_told_and_leaves_nothing(
    parts: dict[str, list[Mapping[str, object]]], split: str, message: str, tmp_path: Path
) -> None:
    pytest.importorskip("datasets")
    source = mteb_repository(tmp_path / "source", **parts)
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match=message):
        fetch(f"datasets:{source}", tmp_path / "out" / "tea", split)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.usefixtures("ir_datasets")
@pytest.mark.parametrize(("name", "message"), [("coffee", "KeyError: 'coffee'"), ("unjudged", "has no qrels")])
def test_what_ir_datasets_does_not_have(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        fetch(f"ir_datasets:{name}", tmp_path / "out")


def test_where_no_folder_can_be_made_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    pytest.importorskip("datasets")
    with pytest.raises(CannotWrite, match="file/data: "):
        fetch("datasets:gone", tmp_path / "file" / "data")


def test_an_existing_folder_is_left_alone_and_a_source_names_its_package(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="already exists: name a new folder"):
        fetch("datasets:x", tmp_path)
    for source in ("mteb/scifact", "datasets:", "beir:scifact"):
        with pytest.raises(InvalidRequest, match="write datasets:NAME or ir_datasets:NAME"):
            fetch(source, tmp_path / "new")


@pytest.mark.parametrize(("package", "install"), [("datasets", "datasets"), ("ir_datasets", "ir-datasets")])
def test_a_missing_package_is_named(
    package: str, install: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # how Python marks a module that cannot be imported
    with pytest.raises(EvalNotInstalled, match=f"pip install {install}$"):
        fetch(f"{package}:x", tmp_path / "new")


def test_the_command(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    source = mteb_repository(tmp_path / "source", corpus=CORPUS, queries=QUERIES, qrels=QRELS)
    command = [sys.executable, "-m", "whyrank", "fetch", f"datasets:{source}", "tea"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "tea/corpus.jsonl: 2 lines"
    assert "give `whyrank eval` one with --run" in done.stdout
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (2, "") and "tea already exists" in done.stderr
