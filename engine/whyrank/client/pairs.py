"""(query, document) pairs whose scores are known or under way. A score depends on its pair alone, whoever asks. No I/O."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import OrderedDict

from whyrank.requests import RerankRequest
from whyrank.types import Document, RankedDocument

__all__ = ["PairBook", "PairKey", "pair_key"]

PairKey = bytes


def pair_key(identity: str | None, request: RerankRequest, document: Document) -> PairKey:
    """`identity`: of the server that answers. A changed model, prompt or start makes all keys new."""
    asked = (identity, request.query, request.instruction, request.truncation, request.cache_salt)
    said = json.dumps([*asked, document.content, dict(document.metadata)], sort_keys=True, default=str)
    return hashlib.blake2b(said.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class PairBook:
    """The rows of the last `most` pairs, and the futures of pairs under way."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: OrderedDict[PairKey, RankedDocument] = OrderedDict()
        self.under_way: dict[PairKey, asyncio.Future[RankedDocument]] = {}

    def get(self, key: PairKey) -> RankedDocument | None:
        row = self._known.get(key)
        if row is not None:
            self._known.move_to_end(key)
        return row

    def put(self, key: PairKey, row: RankedDocument) -> None:
        """A row in error is not kept: the next who asks may be luckier."""
        if row.error is not None or not self._most:
            return
        self._known[key] = row
        while len(self._known) > self._most:
            self._known.popitem(last=False)
