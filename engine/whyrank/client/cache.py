"""A cache of scored (query, document) pairs. A score depends on its pair alone, whichever call requested it. No I/O."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

from whyrank.types import RankedDocument

__all__ = ["CachedRow", "PairKey", "ScoreCache", "pair_key"]

PairKey = bytes


def pair_key(head: bytes, document: bytes) -> PairKey:
    """Hash of the pair's JSON as sent (see encode.py): equal bytes get equal answers."""
    return hashlib.blake2b(b"%d:%b%b" % (len(head), head, document), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class CachedRow:
    """A row without its document, and the model and prompt that produced it."""

    row: RankedDocument
    served: tuple[str, str]


class ScoreCache:
    """The rows of the last `max_pairs` pairs, by the instance id of the server that scored them. Replicas of one model have
    the same id and share rows; a server with another model or prompt has a different id."""

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
        """Rows in error are not stored, so that the next call tries again; nor are rows of a server without an instance id."""
        if known.row.error is not None or identity is None or not self._max_pairs:
            return
        self._known[identity, key] = known
        self._known.move_to_end((identity, key))
        while len(self._known) > self._max_pairs:
            self._known.popitem(last=False)
