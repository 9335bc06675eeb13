"""Downloads judged data and writes them as a BEIR folder for `whyrank eval`.

Two packages provide such data. Nothing else needs them, so each is imported only here, and only when named:
"datasets:mteb/scifact" (the hub, or a folder of parquet or JSON lines) and "ir_datasets:beir/scifact/test".
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from whyrank.errors import DataError, EvalNotInstalled, InvalidRequest
from whyrank.evaluation.trec import check_id, run_line
from whyrank.jsonl import json_line, naming

__all__ = ["fetch"]

Files = dict[str, Iterable[str]]
"""A file's name in the folder → its lines."""


def fetch(source: str, folder: Path, split: str = "test") -> dict[str, int]:
    """Writes `source` ("PACKAGE:NAME") into `folder`, and returns the number of lines of each file. `split` names the qrels.
    The folder is written completely or not at all."""
    package, _, name = source.partition(":")
    if not name or package not in _PACKAGES:
        raise InvalidRequest(f"source {source!r}: write {' or '.join(f'{known}:NAME' for known in _PACKAGES)}")
    if folder.exists():
        raise InvalidRequest(f"{folder} already exists: name a new folder")
    try:
        module = importlib.import_module(package)
    except ImportError as cause:
        raise EvalNotInstalled(
            f"data from {package} need that package: pip install {package.replace('_', '-')}"
        ) from cause
    with naming(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with naming(folder), tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        half = Path(scratch) / folder.name
        try:
            files = _PACKAGES[package](module, name, split)
            counts = {file: _write(half / file, lines) for file, lines in files.items()}
        except DataError:
            raise
        # The packages raise one of these for an unknown name, a broken download, a missing network or a missing column.
        except (OSError, ValueError, KeyError, RuntimeError) as cause:
            raise DataError(f"{source}: {type(cause).__name__}: {cause}") from cause
        half.rename(folder)
    return counts


def _write(path: Path, lines: Iterable[str]) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for count, line in enumerate(lines, 1):  # noqa: B007  # the last one is the result
            file.write(line)
    return count


def _from_datasets(datasets: Any, name: str, split: str) -> Files:
    """Data in MTEB's layout: a corpus, queries, judgements as `qrels` or `default`, and perhaps top_ranked."""
    configs = datasets.get_dataset_config_names(name)

    def rows(*names: str, shared: bool = False) -> Iterable[Mapping[str, Any]]:
        """Rows of the first config that exists. `shared`: one for all splits, perhaps in a single split of another name."""
        config = next((config for config in names if config in configs), None)
        if config is None:
            raise DataError(f"{name}: has no part called {' or '.join(names)}; it has {', '.join(configs)}")
        splits = datasets.get_dataset_split_names(name, config)
        chosen = splits[0] if shared and len(splits) == 1 else split
        if chosen not in splits:
            raise DataError(f"{name}: {config} has no split {split!r}; it has {', '.join(splits)}")
        # Streamed: the cache would mistake a folder that has changed for the earlier one of that name.
        return datasets.load_dataset(name, config, split=chosen, streaming=True)  # type: ignore[no-any-return]

    files: Files = {
        "corpus.jsonl": (_text_line(_id_of(row), row["text"], row.get("title")) for row in rows("corpus", shared=True)),
        "queries.jsonl": (_text_line(_id_of(row), row["text"]) for row in rows("queries", shared=True)),
        f"qrels/{split}.tsv": _qrels(
            (row["query-id"], row["corpus-id"], row["score"]) for row in rows("qrels", "default")
        ),
    }
    if "top_ranked" in configs:
        files[f"top_ranked/{split}.jsonl"] = (
            json_line({"query-id": str(row["query-id"]), "corpus-ids": [*map(str, row["corpus-ids"])]})
            for row in rows("top_ranked")
        )
    return files


def _from_ir_datasets(ir_datasets: Any, name: str, split: str) -> Files:
    data = ir_datasets.load(name)
    if lacking := [part for part in ("docs", "queries", "qrels") if not getattr(data, f"has_{part}")()]:
        raise DataError(f"{name}: has no {', no '.join(lacking)}")
    files: Files = {
        "corpus.jsonl": (_text_line(doc.doc_id, *_text_and_title(doc)) for doc in data.docs_iter()),
        "queries.jsonl": (_text_line(query.query_id, _text_and_title(query)[0]) for query in data.queries_iter()),
        f"qrels/{split}.tsv": _qrels((qrel.query_id, qrel.doc_id, qrel.relevance) for qrel in data.qrels_iter()),
    }
    if data.has_scoreddocs():  # in no order: the rank, which is not read, stays 0
        files["run.trec"] = (run_line(s.query_id, s.doc_id, 0, s.score, "first") for s in data.scoreddocs_iter())
    return files


_PACKAGES: Mapping[str, Callable[[Any, str, str], Files]] = {
    "datasets": _from_datasets,
    "ir_datasets": _from_ir_datasets,
}


def _id_of(row: Mapping[str, Any]) -> str:
    return str(row["_id"] if "_id" in row else row["id"])


def _text_and_title(record: Any) -> tuple[str, str | None]:
    """Without a field `text`, the package knows which other fields make up the text; a title is then part of it."""
    return (record.text, getattr(record, "title", None)) if hasattr(record, "text") else (record.default_text(), None)


def _text_line(ident: str, text: str, title: str | None = None) -> str:
    return json_line({"_id": check_id(ident, "fetched"), **({"title": title} if title else {}), "text": text})


def _qrels(judged: Iterable[tuple[Any, Any, Any]]) -> Iterator[str]:
    yield "query-id\tcorpus-id\tscore\n"
    for query, document, grade in judged:
        if int(grade) != grade:
            raise DataError(f"query {query!r} grades document {document!r} with {grade!r}, which is not a whole number")
        yield "\t".join((check_id(str(query), "fetched"), check_id(str(document), "fetched"), f"{int(grade)}\n"))
