"""The server that scripts/conformance started, and what its native route says of the texts that every client sends."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpx

QUERY = "When is lunch?"
DOCUMENTS = [
    "The office is closed on Sundays.",
    "Lunch is at noon.",
    "Everest is 8849 metres high.",
    "Breakfast is served from seven to nine.",
]


@dataclass(frozen=True)
class Served:
    """`key` is the server's API key; one that `is_open` takes any."""

    url: str
    key: str
    model: str
    is_open: bool

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.post(self.url + path, json=body, headers=headers, timeout=60)

    def rows(self, query: str, documents: Iterable[str], **options: Any) -> list[dict[str, Any]]:
        """The native answer's, best first."""
        body = {"query": query, "documents": list(documents), **options}
        answer = self.post("/v1/rerank", body).raise_for_status()
        rows: list[dict[str, Any]] = answer.json()["results"]
        return rows


def _served() -> Served:
    url, key = os.environ["CONFORMANCE_URL"], os.environ["CONFORMANCE_KEY"]
    return Served(url, key, "demo", is_open=httpx.get(f"{url}/v1/models", timeout=60).status_code == 200)


SERVED = _served()


@cache
def expected() -> tuple[tuple[int, float], ...]:
    """(index, score) of DOCUMENTS for QUERY, best first."""
    return tuple((row["index"], row["relevance_score"]) for row in SERVED.rows(QUERY, DOCUMENTS))


def check(found: Iterable[tuple[int, float]], top: int = len(DOCUMENTS)) -> None:
    """That a client's pairs of index and score are the best `top` of what the native route says, in its order."""
    pairs = [*found]
    assert [index for index, _ in pairs] == [index for index, _ in expected()][:top]
    for (_, score), (_, native) in zip(pairs, expected(), strict=False):
        assert abs(score - native) < 2e-3, (score, native)


def check_texts(found: Iterable[tuple[str, float]], top: int = len(DOCUMENTS)) -> None:
    check(((DOCUMENTS.index(text), score) for text, score in found), top)
