"""The client behind an adapter (one that was passed in, or its own for a URL), and the options of its calls."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any, ClassVar, Self, Unpack, cast

from pydantic import ConfigDict, Field, PrivateAttr, SecretStr, model_validator

from whyrank.base import BaseReranker
from whyrank.client import Client
from whyrank.connect import key_of
from whyrank.errors import FrameworkMissing, InvalidRequest, WhyrankError
from whyrank.ranking import Ranking
from whyrank.request import RerankOptions, RerankRequest
from whyrank.types import DocumentLike, RankedDocument, TruncationPolicy
from whyrank.wire.requests import OptionsRequest

__all__ = ["BaseAdapter", "framework", "numbers_of"]

# Pairs in flight at once: enough to keep a server busy, and few enough for each to be answered in time.
_PAIRS_AT_ONCE = 4096
_making = Lock()
if hasattr(os, "register_at_fork"):  # all but Windows. A child must not begin with a lock that another thread held.
    os.register_at_fork(before=_making.acquire, after_in_parent=_making.release, after_in_child=_making.release)


class BaseAdapter(OptionsRequest):
    """Give `base_url` (or several, of servers with one model) or a `client`, and any option of `rerank`.

    With a base_url or a whyrank.Client, sync and async calls work in every thread and event loop; with an AsyncClient or a
    Reranker, only async calls in its own loop. The API key is not saved with the other settings; if none is given, it is
    taken from WHYRANK_API_KEY. replace_content: the content of documents with evidence or spans is replaced by these.
    """

    zero_is_none: ClassVar[tuple[str, ...]] = ()
    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, hide_input_in_errors=True)

    base_url: str | list[str] | None = Field(None, repr=False)  # it may hold a password
    api_key: SecretStr | None = Field(None, exclude=True, repr=False, strict=False)
    timeout: float = Field(60.0, description="Seconds for one call to the server at base_url, retries included.")
    client: BaseReranker | Client | None = Field(None, exclude=True, repr=False)
    replace_content: bool = False
    truncation: TruncationPolicy | None = None
    _client: Client | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.client is None) == (not self.base_url):
            raise InvalidRequest(
                "give either base_url, the URL of a whyrank server, or client, such as whyrank.Client(...)"
            )
        if self.replace_content and self.mode in (None, "score"):
            raise InvalidRequest(
                "replace_content puts evidence or spans in place of content: it needs a mode other than 'score'"
            )
        RerankRequest.of("query", ["document"], **self.options())
        return self

    def rerank_documents(
        self, query: str, documents: Sequence[DocumentLike], **options: Unpack[RerankOptions]
    ) -> Ranking:
        """`options`: for this call only; None means the adapter's own. The same holds for the methods below."""
        return self._waiting().rerank(query, documents, **self._all(options))

    async def rerank_documents_async(
        self, query: str, documents: Sequence[DocumentLike], **options: Unpack[RerankOptions]
    ) -> Ranking:
        if isinstance(self.client, BaseReranker):
            return await self.client.rerank(query, documents, **self._all(options))
        return await asyncio.wrap_future(self._waiting().begin(query, documents, **self._all(options)))

    def numbers_of_pairs(
        self, pairs: Sequence[tuple[str, str]], **options: Unpack[RerankOptions]
    ) -> list[tuple[float, float]]:
        """Score and margin of every (query, text), in order. Raises if a pair has none."""
        return [
            numbers
            for start in range(0, len(pairs), _PAIRS_AT_ONCE)
            for numbers in self._round(pairs[start : start + _PAIRS_AT_ONCE], start, options)
        ]

    def _round(
        self, pairs: Sequence[tuple[str, str]], start: int, options: RerankOptions
    ) -> Iterator[tuple[float, float]]:
        places: dict[str, list[int]] = {}
        for place, (query, _) in enumerate(pairs):
            places.setdefault(query, []).append(place)
        # Every pair's score is wanted, and nothing but scores.
        whole = self._all(options) | RerankOptions(mode="score", method="pointwise", top_n=None, min_score=None)
        requests = [
            RerankRequest.of(query, [pairs[at][1] for at in positions], **whole) for query, positions in places.items()
        ]
        numbers: dict[int, tuple[float, float]] = {}
        for positions, answer in zip(places.values(), self._waiting().rerank_many(requests), strict=True):
            if not isinstance(answer, Ranking):
                raise answer
            for row in answer.results:
                numbers[positions[row.index]] = numbers_of(row, f"pair {start + positions[row.index]}")
        return (numbers[place] for place in range(len(pairs)))

    def close(self) -> None:
        """Close the adapter's own client. A client that was passed in is left open."""
        with _making:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    # Frameworks copy and pickle adapters: a copy shares a client that was passed in, and creates its own otherwise.

    def __copy__(self) -> Self:
        copied: Self = super().__copy__()
        copied._client = None
        return copied

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        memo = {} if memo is None else memo
        memo[id(self.client)] = self.client
        copied: Self = super(BaseAdapter, self.__copy__()).__deepcopy__(memo)
        return copied

    def __getstate__(self) -> dict[Any, Any]:
        if self.client is not None:
            raise InvalidRequest("an adapter with a client cannot be pickled: give it base_url")
        state: dict[Any, Any] = super(BaseAdapter, self.__copy__()).__getstate__()
        return state

    def _all(self, options: RerankOptions) -> RerankOptions:
        given = {name: value for name, value in options.items() if value is not None}
        return cast(RerankOptions, {**self.options(), **given})

    def _waiting(self) -> Client:
        """Created when first needed: many adapters are only saved or copied."""
        if isinstance(self.client, BaseReranker):
            kind = type(self.client).__name__
            raise InvalidRequest(f"client is a {kind}, which can only be awaited: give a whyrank.Client or base_url")
        if self.client is not None:
            return self.client
        with _making:
            if self._client is None:
                key = self.api_key.get_secret_value() if self.api_key else None
                self._client = Client(self.base_url or [], key_of(key), timeout=self.timeout)
            return self._client


def numbers_of(row: RankedDocument, name: str) -> tuple[float, float]:
    """Score and margin, for frameworks whose results have no field for a missing score: raises if there is none."""
    if row.score is None or row.margin is None:
        raise WhyrankError(f"{name} has no score: {row.error.message if row.error else 'an order has none (method)'}")
    return row.score, row.margin


@contextmanager
def framework(extra: str) -> Iterator[None]:
    """For an adapter's imports: any missing package becomes an error that names the extra, which includes them all."""
    try:
        yield
    except ModuleNotFoundError as cause:
        package = (cause.name or str(cause)).partition(".")[0]
        raise FrameworkMissing(f'{package} is not installed: pip install "whyrank[{extra}]"') from cause
