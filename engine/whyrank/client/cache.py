"""The rows of (query, document) pairs that were scored. A score depends on its pair alone, whoever asks. No I/O."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

from whyrank.types import RankedDocument

__all__ = ["CachedRow", "PairKey", "ScoreCache", "pair_key"]

PairKey = bytes


def pair_key(head: bytes, document: bytes) -> PairKey:
    """Of what is asked, as JSON (see encode.py): what travels alike is answered alike."""
    return hashlib.blake2b(b"%d:%b%b" % (len(head), head, document), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class CachedRow:
    """A row without its document, and the model and prompt that gave it."""

    row: RankedDocument
    served: tuple[str, str]


class ScoreCache:
    """The rows of the last `most` pairs, by the instance id of the server that scored them: replicas of one model share it, and
    a server with another model or prompt has another one."""

    def __init__(self, max_pairs: int) -> None:
        self._max_pairs = max_pairs
        self._known: OrderedDict[tuple[str | None, PairKey], CachedRow] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, identity: str | None, key: PairKey) -> CachedRow | None:
        known = self._known.get((identity, key))
        if known is not None:
            self._known.move_to_end((identity, key))
        return known

    def put(self, identity: str | None, key: PairKey, known: CachedRow) -> None:
        """A row in error is not kept: the next who asks may be luckier. Neither is one of a server that says no identity."""
        if known.row.error is not None or identity is None or not self._max_pairs:
            return
        self._known[identity, key] = known
        self._known.move_to_end((identity, key))
        while len(self._known) > self._max_pairs:
            self._known.popitem(last=False)
