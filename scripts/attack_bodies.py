"""Attacks by request bodies: wrong types by the million, small bodies with large answers, and work that starves the others."""

from __future__ import annotations

import asyncio
import json
import random
import string
from typing import Any

from attack_registry import attack
from attack_target import Result, Target, post

__all__: list[str] = []

_MAX_ANSWER_MIB = 64
_MIB = 1 << 20
_SENTENCE = "The boiler of the harbour was repaired after the storm of the year before. "


async def _one(target: Target, result: Result, path: str, body: bytes | dict[str, Any], seconds: float = 20) -> None:
    """Sends it, and requires an answer of moderate size that is not a server error."""
    answer = await post(target, path, body, seconds)
    size = len(body) if isinstance(body, bytes) else len(json.dumps(body))
    result.figures |= {"body_mib": round(size / _MIB, 2)} | answer.figures()
    result.require(answer.status != 0, f"no answer in {seconds} s")
    result.require(answer.status < 500 or answer.status in (503, 507), f"status {answer.status}")
    result.require(answer.size <= _MAX_ANSWER_MIB * _MIB, f"an answer of {answer.size >> 20} MiB")


@attack("numbers-as-documents-1mb", 30, path="/v1/rerank", start='"query":"q","documents":', mib=1)
@attack("numbers-as-documents-3mb", 30, path="/v1/rerank", start='"query":"q","documents":', mib=3)
@attack("numbers-as-documents-10mb", 30, path="/v1/rerank", start='"query":"q","documents":', mib=10)
@attack("numbers-as-text-2", 30, path="/v1/score", start='"text_1":"q","text_2":', mib=3)
@attack("numbers-as-queries", 30, path="/v1/rerank", start='"documents":["d"],"queries":', mib=3)
@attack("numbers-as-rank-fields", 30, path="/v1/rerank", start='"query":"q","documents":["d"],"rank_fields":', mib=3)
@attack("numbers-as-texts", 30, path="/rerank", start='"query":"q","texts":', mib=3)
@attack("numbers-as-cohere-documents", 30, path="/v2/rerank", start='"model":"m","query":"q","documents":', mib=3)
@attack("numbers-as-requests", 30, path="/v1/rerank/batch", start='"requests":', mib=3)
async def numbers(target: Target, result: Result, path: str, start: str, mib: float) -> None:
    """A list of numbers where texts belong: refused at the first error, without blocking the loop, in moderate memory."""
    body = b"{" + start.encode() + b"[" + b"1," * int(mib * _MIB / 2) + b"1]}"
    await _one(target, result, path, body)


@attack("empty-objects-31mb", 30, mib=31)
async def empty_objects(target: Target, result: Result, mib: float) -> None:
    """`{}` by the million as documents."""
    await _one(target, result, "/v1/rerank", b'{"query":"q","documents":[' + b"{}," * int(mib * _MIB / 3) + b"{}]}")


@attack("deep-nesting", 30, depth=100_000)
@attack("deep-nesting-10mb", 30, depth=5_000_000)
async def deep_nesting(target: Target, result: Result, depth: int) -> None:
    """Nested lists, as a document and as an unknown key."""
    nested = b"[" * depth + b"]" * depth
    await _one(target, result, "/v1/rerank", b'{"query":"q","documents":[' + nested + b"]}")
    await _one(target, result, "/v1/rerank", b'{"query":"q","documents":["d"],"unknown":' + nested + b"}")


@attack("unknown-keys", 40, queries=1000, keys=10_000)
async def unknown_keys(target: Target, result: Result, queries: int, keys: int) -> None:
    """A quarter of a megabyte of unknown keys together with many queries: naively, each answer would name all of the keys."""
    unknown = {f"unknown key number {number:06}": 1 for number in range(keys)}
    body = {"queries": [f"query {number}" for number in range(queries)], "documents": ["d"]} | unknown
    await _one(target, result, "/v1/rerank", body, 30)


@attack("unknown-keys-batch", 40, requests=1000, keys=10_000)
async def unknown_keys_batch(target: Target, result: Result, requests: int, keys: int) -> None:
    """Unknown keys in a batch in which half of the entries are invalid."""
    unknown = {f"unknown key number {number:06}": 1 for number in range(keys)}
    entries: list[dict[str, Any]] = [{"query": "q", "documents": ["d"]}, {"query": 1, "documents": [1]}]
    await _one(target, result, "/v1/rerank/batch", {"requests": entries * (requests // 2)} | unknown, 30)


@attack("large-document-many-queries", 40, queries=1000, mib=1.1)
async def large_document(target: Target, result: Result, queries: int, mib: float) -> None:
    """One document of 1.1 MB and a thousand queries: the text must not be echoed a thousand times."""
    text = _SENTENCE * int(mib * _MIB / len(_SENTENCE))
    options = {"max_tokens_per_doc": 32, "return_documents": True}
    body = {"queries": [f"query {number}" for number in range(queries)], "documents": [text]} | options
    await _one(target, result, "/v1/rerank", body, 30)


@attack("rank-fields", 30, names=100_000, path="/v1/rerank")
@attack("rank-fields-cohere", 30, names=100_000, path="/cohere/v1/rerank")
async def rank_fields(target: Target, result: Result, names: int, path: str) -> None:
    """A hundred thousand field names for each of 20 documents that have none of these fields."""
    documents = [{"text": _SENTENCE, "id": str(number)} for number in range(20)]
    fields = [f"field{number}" for number in range(names)]
    await _one(target, result, path, {"query": "q", "documents": documents, "rank_fields": fields})


@attack("many-document-keys", 30, keys=300_000)
async def many_document_keys(target: Target, result: Result, keys: int) -> None:
    """A document with hundreds of thousands of fields."""
    document = {"text": "d"} | {f"field{number}": "x" for number in range(keys)}
    await _one(target, result, "/v1/rerank", {"query": "q", "documents": [document], "return_documents": True})


@attack("windows", 40, documents=4, words=100_000)
async def windows(target: Target, result: Result, documents: int, words: int) -> None:
    """Documents of 100,000 tokens in windows of 128: either refused, or read while the others still get answers."""
    chance = random.Random(documents)
    vocabulary = _SENTENCE.split()
    texts = [" ".join(chance.choices(vocabulary, k=words)) for _ in range(documents)]
    options = {"truncation": "windows", "max_tokens_per_doc": 128, "return_documents": False}
    answer = await post(target, "/v1/rerank", {"query": "q", "documents": texts} | options, 20)
    result.figures |= answer.figures()
    result.require(answer.status < 500 or answer.status == 503, f"status {answer.status}")


@attack("writing-64", 40, documents=64)
@attack("writing-300", 40, documents=300)
@attack("writing-1000", 40, documents=1000)
async def writing(target: Target, result: Result, documents: int, seconds: float = 20) -> None:
    """Evidence for many documents beside honest score calls, which may take at most five times as long as alone."""
    texts = [f"{number}: {_SENTENCE * 4}" for number in range(documents)]
    options = {"mode": "evidence", "evidence_top_n": documents, "evidence_min_score": 0, "return_documents": False}
    answer = await post(target, "/v1/rerank", {"query": "Which boiler?", "documents": texts} | options, seconds)
    result.figures |= answer.figures()
    result.figures["cut"] = answer.status == 0
    result.require(answer.status in (0, 200, 429), f"status {answer.status}")


@attack("varied-budgets", 40, seconds=20)
async def varied_budgets(target: Target, result: Result, seconds: float, seed: int = 23) -> None:
    """Every call has different token budgets, each of which could require a grammar of its own."""
    chance, answered = random.Random(seed), 0

    async def caller() -> None:
        nonlocal answered
        while True:
            options = {name: chance.randint(8, 400) for name in ("max_contribution_tokens", "max_evidence_tokens")}
            body = {"query": "q", "documents": [_SENTENCE], "mode": "evidence", "evidence_min_score": 0} | options
            answered += (await post(target, "/v1/rerank", body, 15)).status == 200
            await asyncio.sleep(0.05)

    try:
        async with asyncio.timeout(seconds):
            await asyncio.gather(*(caller() for _ in range(4)))
    except TimeoutError:
        result.figures["answered"] = answered


@attack("odd-text", 30)
async def odd_text(target: Target, result: Result) -> None:
    """Half surrogates, control characters, long runs of combining marks and of one letter: never a server error."""
    texts = [
        "\ud800",
        "\0\x1b]0;x\x07",
        "e" + "\u0301" * 200_000,
        "a" * 2_000_000,
        string.whitespace * 1000,
        "\u202e" * 1000,
    ]
    statuses = []
    for text in texts:
        body = json.dumps({"query": text[:1000], "documents": [text, "d"], "return_documents": False}).encode()
        statuses.append((await post(target, "/v1/rerank", body, 10)).status)
    result.figures["statuses"] = statuses
    result.require(all(0 < status < 500 for status in statuses), f"statuses {statuses}")
