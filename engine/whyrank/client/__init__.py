"""whyrank over HTTP for agents: the same verbs and types as the in-process Reranker.

policy.py    when to retry, where to send, when to leave a server alone (no I/O)
pairs.py     (query, document) pairs that are known (no I/O)
questions.py types → JSON for the server
answers.py   JSON of the server → types
exchange.py  one HTTP exchange, with the policy applied
batching.py  many calls, few requests
client.py    AsyncClient: the verbs
sync.py      Client: the same without await
"""

from __future__ import annotations

from whyrank.client.client import AsyncClient
from whyrank.client.sync import Client

__all__ = ["AsyncClient", "Client"]
