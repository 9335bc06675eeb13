"""Tiles and where they go, with replicas of a few lines that can be lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from whyrank.cluster.remote import RemoteGenerativeRuntime, Tile, TileAnswers, WrittenPiece
from whyrank.errors import EngineDead
from whyrank.prompting.scoring import LabelRead
from whyrank.prompting.tokens import Ids
from whyrank.runtimes.base import Generation, GenerationParams, TextDelta, TokenRead
from whyrank.types import DocumentError


class Replicas:
    """Two; a key's parity says which. `lost`: how many messages still find their replica dead."""

    def __init__(self, lost: int = 0, after_text: bool = False) -> None:
        self.lost, self.after_text = lost, after_text
        self.tiles: list[tuple[str, Tile]] = []
        self.written: list[tuple[str, list[Ids]]] = []

    async def read(self, key: str, tile: Tile) -> TileAnswers:
        self._fail()
        self.tiles.append((key, tile))
        answers: list[tuple[int, Any]] = [
            (
                place,
                TokenRead(tuple(map(float, tile.tokens))) if tile.tokens else LabelRead(float(sum(ids)), 0.0, len(ids)),
            )
            for place, ids in enumerate(tile.prompts)
        ]
        return TileAnswers(f"r{int(key, 16) % 2}", answers)

    async def write(
        self, key: str, prompts: Sequence[Ids], order: GenerationParams
    ) -> AsyncGenerator[WrittenPiece, None]:
        if not self.after_text:
            self._fail()
        self.written.append((key, list(prompts)))
        for place, ids in enumerate(prompts):
            yield "r0", place, TextDelta(order.grammars[place], ids)
            if self.after_text:
                self._fail()
            yield "r0", place, Generation(ids, "stop")

    def _fail(self) -> None:
        if self.lost:
            self.lost -= 1
            raise EngineDead("lost")


def order(*grammars: str) -> GenerationParams:
    return GenerationParams(grammars, max_tokens=8, temperature=0.0, live=True, salt=None)


async def read(runtime: RemoteGenerativeRuntime, prompts: Sequence[Ids], salt: str | None = None) -> dict[int, Any]:
    return {at: answer async for some in runtime.read(prompts, [0] * len(prompts), salt) for at, answer in some}


async def write(
    runtime: RemoteGenerativeRuntime, prompts: Sequence[Ids], order: GenerationParams
) -> list[tuple[int, TextDelta | Generation]]:
    return [piece async for piece in runtime.write(prompts, order)]


def test_a_tile_is_one_message_with_the_frame_of_its_prompts() -> None:
    async def scenario() -> None:
        replicas = Replicas()
        runtime = RemoteGenerativeRuntime(replicas, {"engine": "fake"})
        await runtime.warm_prefix([(1, 2, 3)], (1, 2), None)
        await runtime.warm_prefix([(7, 2, 3)], (7,), None)
        answers = await read(runtime, [(1, 2, 5), (1, 2, 6)])
        assert [answers[at].positive for at in (0, 1)] == [8, 9]
        ((_, tile),) = replicas.tiles
        assert tile.frame == (1, 2)
        assert runtime.facts() == {"engine": "fake"}

    asyncio.run(scenario())


def test_equal_tiles_have_equal_keys_and_tenants_have_their_own() -> None:
    async def scenario() -> None:
        replicas = Replicas()
        runtime = RemoteGenerativeRuntime(replicas, {})
        for prompts, salt in (([(1, 2)], None), ([(1, 2)], None), ([(1, 3)], None), ([(1, 2)], "tenant")):
            await read(runtime, prompts, salt)
        same, again, other, of_tenant = (key for key, _ in replicas.tiles)
        assert same == again
        assert len({same, other, of_tenant}) == 3

    asyncio.run(scenario())


def test_tokens_of_a_prompt_that_continues_another_are_read_where_that_was() -> None:
    async def scenario() -> None:
        replicas = Replicas(lost=1)
        runtime = RemoteGenerativeRuntime(replicas, {})
        await runtime.warm_prefix([(1, 2)], (1,), "tenant")
        for prompts in ([(1, 2), (1, 3)], [(1, 2, 7), (1, 3, 7)], [(1, 3, 7, 8, 9)], [(1, 4)]):
            reads = [
                read
                async for some in runtime.read_tokens(prompts, [5, 6], [0] * len(prompts), "tenant")
                for read in some
            ]
            assert reads == [(place, TokenRead((5.0, 6.0))) for place in range(len(prompts))]
        first, second, third, other = (key for key, _ in replicas.tiles)
        assert first == second == third != other
        assert {(tile.frame, tuple(tile.tokens), tile.salt) for _, tile in replicas.tiles} == {((1,), (5, 6), "tenant")}

    asyncio.run(scenario())


@pytest.mark.parametrize("lost", [1, 2])
def test_a_lost_replica_costs_another_try(lost: int) -> None:
    async def scenario() -> None:
        runtime = RemoteGenerativeRuntime(Replicas(lost), {})
        assert (await read(runtime, [(1, 2)]))[0].positive == 3

    asyncio.run(scenario())


def test_when_all_are_lost_each_document_says_so() -> None:
    async def scenario() -> None:
        runtime = RemoteGenerativeRuntime(Replicas(lost=3), {})
        answers = await read(runtime, [(1, 2), (1, 3)])
        assert all(isinstance(error, DocumentError) and error.code == "unreachable" for error in answers.values())
        assert len(answers) == 2

    asyncio.run(scenario())


def test_evidence_is_written_where_its_tile_was_read() -> None:
    async def scenario() -> None:
        replicas = Replicas()
        runtime = RemoteGenerativeRuntime(replicas, {})
        await read(runtime, [(1, 1), (1, 2)])
        await read(runtime, [(2, 1), (2, 2)])
        opening = (9, 8)
        written = [(2, 2, *opening), (1, 2, *opening), (1, 1, *opening)]
        pieces = await write(runtime, written, order("a", "b", "c"))
        texts = {at: piece.text for at, piece in pieces if isinstance(piece, TextDelta)}
        assert texts == {0: "a", 1: "b", 2: "c"}
        assert {at: piece.ids for at, piece in pieces if isinstance(piece, Generation)} == {
            0: written[0],
            1: written[1],
            2: written[2],
        }
        first, second = (key for key, _ in replicas.tiles)
        assert dict(replicas.written) == {second: written[:1], first: written[1:]}

    asyncio.run(scenario())


def test_evidence_that_nobody_has_seen_is_written_anew() -> None:
    async def scenario() -> None:
        runtime = RemoteGenerativeRuntime(Replicas(lost=1), {})
        pieces = await write(runtime, [(1, 2), (1, 3)], order("a", "b"))
        ends = [(at, piece.reason) for at, piece in pieces if isinstance(piece, Generation)]
        assert sorted(ends) == [(0, "stop"), (1, "stop")]

    asyncio.run(scenario())


def test_evidence_cut_off_in_the_middle_ends_with_an_error() -> None:
    async def scenario() -> None:
        runtime = RemoteGenerativeRuntime(Replicas(lost=1, after_text=True), {})
        pieces = await write(runtime, [(1, 2), (1, 3)], order("a", "b"))
        ends = [(at, piece.reason) for at, piece in pieces if isinstance(piece, Generation)]
        assert sorted(ends) == [(0, "error"), (1, "stop")]

    asyncio.run(scenario())
