"""The HTTP client, with the methods and types of the in-process Reranker.

retry.py         when to retry, which replica to use, when to leave one alone (no I/O)
cache.py         scores of (query, document) pairs seen before (no I/O)
encode.py        types to JSON for the server
decode.py        error responses to exceptions; rows are read by wire/
transport.py     HTTP requests, with the retry policy applied
batching.py      combines many calls into few requests
split.py         splits one call into several requests where it is too large for one
async_client.py  AsyncClient
sync_client.py   Client: the same without await
"""

from __future__ import annotations

from whyrank.client.async_client import AsyncClient
from whyrank.client.retry import RetryPolicy
from whyrank.client.sync_client import Client

__all__ = ["AsyncClient", "Client", "RetryPolicy"]
