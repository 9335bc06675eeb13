"""Attacks on access: every route without a key, vLLM's raw routes, other tenants' cache and priority, keys in the log."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from attack_registry import attack
from attack_target import Result, Target, post

__all__: list[str] = []

_OPEN = {"/health", "/metrics"}
_PAGES = {"/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json", "/playground"}
"""These hold no data and do not reach the engine; they are reported, but not judged."""

_ENGINE_ROUTES = """
/invocations /tokenize /detokenize /v1/completions /v1/completions/render /v1/chat/completions /v1/chat/completions/batch
/v1/chat/completions/render /v1/responses /v1/messages /v1/messages/count_tokens /generative_scoring /pooling /classify
/v1/embeddings /v2/embed /inference/v1/generate /v1/audio/transcriptions /v1/audio/translations
/scale_elastic_ep /is_scaling_elastic_ep /sleep /wake_up /is_sleeping /collective_rpc /reset_prefix_cache /reset_mm_cache
/reset_encoder_cache /v1/load_lora_adapter /v1/unload_lora_adapter /start_profile /stop_profile /server_info /pause /resume
/is_paused /init_weight_transfer_engine /update_weights /get_world_size /abort_requests /tokenizer_info
""".split()
"""Routes of vLLM's server that generate, tokenise or administer; whyrank needs none of them."""

_OTHER_ROUTES = (
    "/load /version /ping /v1/models /v1/realtime /kv_event_sources /server /stats /score /v1/systemone".split()
)
_DISGUISES = """
//v1/rerank /v1//rerank /v1/rerank/ /V1/rerank /v1/../invocations /health/../v1/rerank /%76%31/rerank /v1%2Frerank
/metrics/../v1/rerank /health/ /metrics/ //invocations /invocations/ /./invocations /health;/v1/rerank /rerank/ /score/
""".split()


@attack("routes-without-key", 60)
async def routes_without_key(target: Target, result: Result) -> None:
    """Every route that the server lists, and every one that vLLM is known for, without a key and with a wrong one.

    The answer must be 401 everywhere except at /health and /metrics; a route that does not exist may answer 404.
    """
    named = await _named_routes(target)
    routes = named | {(method, path) for path in _ENGINE_ROUTES + _OTHER_ROUTES for method in ("GET", "POST")}
    result.figures |= {"routes": len(routes)}
    for what, headers in {"no key": {}, "a wrong key": {"Authorization": "Bearer wrong"}}.items():
        statuses = await _statuses(target, routes, headers)
        let_in = {route: status for route, status in statuses.items() if not _refused(route, status, route in named)}
        judged = [
            f"{method} {path} {status}"
            for (method, path), status in sorted(let_in.items())
            if path not in _OPEN | _PAGES
        ]
        pages = sorted({path for _, path in let_in if path in _PAGES})
        result.figures |= {f"let in with {what}": judged, f"pages open with {what}": pages}
        result.require(not judged, f"{len(judged)} routes let in with {what}: {', '.join(judged[:8])} ...")


def _refused(route: tuple[str, str], status: int, named: bool) -> bool:
    return status == 401 or (status in (404, 405) and not named)


async def _named_routes(target: Target) -> set[tuple[str, str]]:
    async with target.client() as http:
        answer = await http.get("/openapi.json")
    if answer.status_code != 200:
        return set()
    routes = set[tuple[str, str]]()
    for path, methods in answer.json()["paths"].items():
        plain = "/".join("x" if part.startswith("{") else part for part in path.split("/"))
        routes |= {(method.upper(), plain) for method in methods}
    return routes


_BODY: dict[str, Any] = {"query": "q", "documents": ["d"], "prompt": "x", "max_tokens": 1, "priority": -1000}


async def _statuses(
    target: Target, routes: set[tuple[str, str]], headers: dict[str, str]
) -> dict[tuple[str, str], int]:
    async with httpx.AsyncClient(base_url=target.url, headers=headers, timeout=10) as http:
        return {route: await _status(http, *route) for route in sorted(routes)}


async def _status(http: httpx.AsyncClient, method: str, path: str) -> int:
    try:
        body = None if method == "GET" else _BODY
        async with asyncio.timeout(10), http.stream(method, path, json=body) as answer:
            return answer.status_code
    except (httpx.TransportError, TimeoutError):
        return 0


@attack("disguised-paths", 30)
async def disguised_paths(target: Target, result: Result) -> None:
    """Paths that a string comparison may take for others, sent over a raw connection: none is answered without a key."""
    answered = []
    for path in _DISGUISES:
        for method in ("GET", "POST"):
            status = await _raw_status(target, f"{method} {path} HTTP/1.1\r\nHost: x\r\n")
            # /metrics is open, and answers whatever follows it in the path.
            if 200 <= status < 300 and path != "/health/" and not path.startswith("/metrics/"):
                answered.append(f"{method} {path}")
    key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    upgrade = f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n{key}"
    realtime = await _raw_status(target, f"GET /v1/realtime HTTP/1.1\r\nHost: x\r\n{upgrade}")
    result.figures |= {"answered": answered, "websocket": realtime}
    result.require(not answered, f"answered without a key: {', '.join(answered)}")
    result.require(realtime != 101, "a websocket opened without a key")


async def _raw_status(target: Target, head: str) -> int:
    """The status of the answer to a request that is sent exactly as given; 0 if there is no answer."""
    body = b'{"query":"q","documents":["d"],"prompt":"x","max_tokens":1}'
    reader, writer = await asyncio.open_connection(*target.address)
    try:
        length = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + length.encode() + body)
        async with asyncio.timeout(10):
            line = await reader.readline()
        return int(line.split()[1])
    except (OSError, TimeoutError, IndexError, ValueError):
        return 0
    finally:
        writer.close()


@attack("raw-routes-with-key", 40)
async def raw_routes_with_key(target: Target, result: Result) -> None:
    """With a key: vLLM's routes that generate, tokenise or administer are closed (404)."""
    routes = {(method, path) for path in _ENGINE_ROUTES for method in ("GET", "POST")}
    headers = {"Authorization": f"Bearer {target.keys[0]}"}
    statuses = await _statuses(target, routes, headers)
    there = sorted({f"{path} {status}" for (_, path), status in statuses.items() if status not in (401, 403, 404, 405)})
    result.figures["answering"] = there
    result.require(not there, f"{len(there)} raw routes answer: {', '.join(there[:8])} ...")


@attack("priority", 40, seconds=15)
async def priority(target: Target, result: Result, seconds: float) -> None:
    """Calls of 300 documents that claim top priority, on every route that has a priority: nobody else waits for them."""
    texts = [f"{number}: the boiler of the harbour was repaired after the storm. " * 6 for number in range(300)]
    claims: dict[str, Any] = {"priority": -(10**6), "return_documents": False}
    bodies: dict[str, dict[str, Any]] = {
        "/v1/rerank": {"query": "q", "documents": texts},
        "/v2/rerank": {"model": "demo", "query": "q", "documents": texts},
        "/generative_scoring": {"query": "q", "items": texts, "label_token_ids": [5, 6]},
    }
    statuses = dict[str, int]()

    async def caller(path: str) -> None:
        while True:
            statuses[path] = (await post(target, path, bodies[path] | claims, 15)).status
            await asyncio.sleep(0.1)

    try:
        async with asyncio.timeout(seconds):
            await asyncio.gather(*map(caller, bodies))
    except TimeoutError:
        result.figures["statuses"] = statuses


@attack("odd-priority-and-salt", 30)
async def odd_priority_and_salt(target: Target, result: Result) -> None:
    """Priorities and cache salts of wrong types and sizes: never a server error, and no row fails."""
    odd: list[Any] = ["x", 1e308, 2**63, -(2**70), [1], {}, True, "", "\ud800", "x" * 1_000_000, "a\nb\0"]
    wrong = []
    for name in ("priority", "cache_salt"):
        for value in odd:
            for path in ("/v1/rerank", "/v2/rerank"):
                answer = await post(target, path, {"query": "q", "documents": ["d"], "model": "demo", name: value}, 10)
                failed_row = answer.status == 200 and not answer.json()["results"]
                if not 0 < answer.status < 500 or failed_row:
                    wrong.append(f"{path} {name}={value!r:.20} {answer.status}")
    result.figures["wrong"] = wrong
    result.require(not wrong, f"{len(wrong)} wrong: {', '.join(wrong[:5])}")


@attack("foreign-cache", 30)
async def foreign_cache(target: Target, result: Result) -> None:
    """A tenant who sends another tenant's cache_salt, or its key as the salt, gets no cache hit on the other's prompts."""
    text = "The treaty of the northern lakes was signed by nine villages after the long drought. " * 40
    body: dict[str, Any] = {"query": "Who signed?", "documents": [text], "return_documents": False}
    victim, hostile = target.keys[1], target.keys[0]
    first = await _cached(target, victim, body | {"cache_salt": "shared"})
    again = await _cached(target, victim, body | {"cache_salt": "shared"})
    await _cached(target, victim, body)
    salts = ("shared", victim, f"{victim}:shared", f"{victim}shared", f"{victim}/shared", "None", "0", "1")
    stolen = {salt: await _cached(target, hostile, body | {"cache_salt": salt}) for salt in salts}
    stolen["(none)"] = await _cached(target, hostile, body)
    result.figures |= {"victim_first": first, "victim_again": again, "hostile": stolen}
    gained = [salt for salt, tokens in stolen.items() if tokens > first]
    result.require(not gained, f"cached tokens of another tenant with cache_salt {', '.join(gained)}")


async def _cached(target: Target, key: str, body: dict[str, Any]) -> int:
    async with target.client(key, 20) as http:
        answer = await http.post("/v1/rerank", json=body)
    return int(answer.json()["usage"]["cached_tokens"]) if answer.status_code == 200 else 0


@attack("keys-in-the-log", 10)
async def keys_in_the_log(target: Target, result: Result) -> None:
    """Checks that what the server has printed so far contains none of its keys."""
    if target.log is not None:
        text = target.log.read_text(encoding="utf-8", errors="replace")
        shown = sum(key in text for key in target.keys)
        result.figures["keys_shown"] = shown
        result.require(shown == 0, f"{shown} keys in clear in the server's log")
