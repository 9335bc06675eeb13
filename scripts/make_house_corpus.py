#!/usr/bin/env python3
"""Makes whyrank's own judged corpus from scripts/house_corpus.toml: a BEIR folder with a BM25 first stage.

From the file's templates eleven texts are made about every invented place; a query about one of its facts is answered by two of
them (grade 2), the other nine are only about the right place (grade 1), and texts that say the same about other places are
judged 0. The last place of each language is asked about in another language. Hand-written topics follow. The same file gives
the same corpus, byte for byte.

    scripts/make_house_corpus.py [folder]
"""

from __future__ import annotations

import json
import math
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
HOUSE = HERE.parent / "engine" / "whyrank" / "evaluation" / "house"
FACTS = ("built", "hours", "fee", "way", "height")
GRADES = {"answers": 2, "related": 1, "wrong": 0}
DEPTH = 20

Corpus = dict[str, str]
Qrels = dict[str, dict[str, int]]


def main() -> None:
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else HOUSE)


def make(folder: Path) -> None:
    source = tomllib.loads((HERE / "house_corpus.toml").read_text(encoding="utf-8"))
    corpus: Corpus = {}
    queries: dict[str, str] = {}
    qrels: Qrels = {}
    add_places(source, corpus, queries, qrels)
    add_topics(source["topics"], corpus, queries, qrels)
    write(folder, corpus, queries, qrels)
    print(f"{len(queries)} queries, {len(corpus)} documents, {sum(map(len, qrels.values()))} judgements in {folder}")


def add_places(source: dict[str, Any], corpus: Corpus, queries: dict[str, str], qrels: Qrels) -> None:
    languages = source["languages"]
    for turn, (language, templates) in enumerate(languages.items()):
        for place, name in enumerate(templates["names"]):
            values = {key: row[(place + turn) % len(row)] for key, row in source["facts"].items()} | {"name": name}
            texts = [(fact, text) for fact in FACTS for text in templates[fact]["texts"]]
            texts.append(("other", templates["teaser"]))
            for number, (fact, text) in enumerate(texts):
                corpus[f"{language}{place}-{fact}{number % 2}"] = capital(text.format(**values))
            fact = FACTS[(place + turn) % len(FACTS)]
            foreign = list(languages)[(turn + 1) % len(languages)] if name == templates["names"][-1] else language
            query = f"{language}{place}"
            queries[query] = capital(languages[foreign][fact]["query"].format(**values))
        for place in range(len(templates["names"])):
            fact = FACTS[(place + turn) % len(FACTS)]
            qrels[f"{language}{place}"] = dict(judged_places(language, place, fact, corpus))


def judged_places(language: str, queried: int, fact: str, corpus: Corpus) -> Iterator[tuple[str, int]]:
    for document in corpus:
        place, _, about = document.partition("-")
        if place == f"{language}{queried}":
            yield document, 2 if about.startswith(fact) else 1
        elif place.startswith(language) and about.startswith(fact):
            yield document, 0


def capital(text: str) -> str:
    return text[0].upper() + text[1:]


def add_topics(topics: list[dict[str, Any]], corpus: Corpus, queries: dict[str, str], qrels: Qrels) -> None:
    for number, topic in enumerate(topics):
        query = f"hand{number}"
        queries[query], qrels[query] = topic["query"], {}
        judged = [(text, grade) for kind, grade in GRADES.items() for text in topic[kind]]
        for at, (text, grade) in enumerate(judged):
            # Shuffled: trec_eval breaks ties by id, so ids must not reveal the grade.
            document = f"{query}-{3 * at % len(judged)}"
            corpus[document] = text
            qrels[query][document] = grade


class Bm25:
    """Over words, and over pairs of characters where a script has no spaces. k1 = 0.9, b = 0.4."""

    def __init__(self, corpus: Corpus) -> None:
        self._counts = {document: Counter(terms(text)) for document, text in corpus.items()}
        self._lengths = {document: sum(counts.values()) for document, counts in self._counts.items()}
        self._mean = sum(self._lengths.values()) / len(self._lengths)
        self._holding = Counter(term for counts in self._counts.values() for term in counts)

    def best(self, query: str, depth: int) -> list[tuple[str, float]]:
        scores = {document: self._score(terms(query), document) for document in self._counts}
        ordered = sorted(scores, key=lambda document: (-scores[document], document))
        return [(document, scores[document]) for document in ordered[:depth]]

    def _score(self, query: list[str], document: str) -> float:
        counts, total = self._counts[document], 0.0
        damp = 0.9 * (0.6 + 0.4 * self._lengths[document] / self._mean)
        for term in query:
            if (count := counts[term]) > 0:
                rare = math.log(1 + (len(self._counts) - self._holding[term] + 0.5) / (self._holding[term] + 0.5))
                total += rare * count * 1.9 / (count + damp)
        return total


def terms(text: str) -> list[str]:
    words = []
    for word in re.findall(r"\w+", text.lower()):
        if re.search(r"[\u3040-\u30ff\u4e00-\u9fff]", word):
            words += [word[at : at + 2] for at in range(max(1, len(word) - 1))]
        else:
            words.append(word)
    return words


def write(folder: Path, corpus: Corpus, queries: dict[str, str], qrels: Qrels) -> None:
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    write_lines(folder / "corpus.jsonl", (as_json(_id=ident, text=text) for ident, text in corpus.items()))
    write_lines(folder / "queries.jsonl", (as_json(_id=ident, text=text) for ident, text in queries.items()))
    judged = (f"{query}\t{document}\t{grade}" for query in qrels for document, grade in qrels[query].items())
    write_lines(folder / "qrels" / "test.tsv", ["query-id\tcorpus-id\tscore", *judged])
    bm25 = Bm25(corpus)
    rankings = ((query, bm25.best(text, DEPTH)) for query, text in queries.items())
    lines = (f"{q} Q0 {d} {rank} {s:.4f} bm25" for q, best in rankings for rank, (d, s) in enumerate(best, 1))
    write_lines(folder / "run.trec", lines)


def as_json(**record: str) -> str:
    return json.dumps(record, ensure_ascii=False)


def write_lines(path: Path, lines: Any) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
