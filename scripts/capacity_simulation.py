"""Replicas that read tiles of documents, simulated step by step. Pure: no clock, no I/O; equal seeds give equal results.

A replica computes one step after another. A step has at most `max_tokens` new tokens and `max_sequences` sequences: first a
token for each text that is being written, then documents in the order in which they came, cut where the step is full. It takes
A + B * tokens + C * sequences. Left out: the prefix cache (give the tokens that are new), tokenising, the network, and the few
tokens that a text's document costs again.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

__all__ = ["Calls", "Outcome", "Routing", "StepModel", "Traffic", "make_calls", "offered_load", "quantile", "simulate"]


@dataclass(frozen=True, slots=True)
class StepModel:
    """Seconds of a step: `fixed` + `per_token` * new tokens + `per_sequence` * sequences."""

    fixed: float
    per_token: float
    per_sequence: float
    max_tokens: int = 8192
    max_sequences: int = 256

    def seconds(self, tokens: int, sequences: int) -> float:
        return self.fixed + self.per_token * tokens + self.per_sequence * sequences

    def documents_per_second(self, tokens: float) -> float:
        """With every step full."""
        documents = min(self.max_sequences, self.max_tokens / tokens)
        return documents / (self.fixed + documents * (self.per_token * tokens + self.per_sequence))


@dataclass(frozen=True, slots=True)
class Traffic:
    """Calls come at random (Poisson). `tokens`: new ones of a document. `spread`: sigma of the log-normal distribution of the
    number of documents, with the mean `documents`; 0: always the same."""

    calls_per_second: float
    documents: int
    tokens: int
    spread: float = 0.0
    evidence_share: float = 0.0
    """Of the calls; each has texts written about `evidence_documents`, of `evidence_tokens` each."""
    evidence_documents: int = 5
    evidence_tokens: int = 60


@dataclass(frozen=True, slots=True)
class Routing:
    """`tile`: documents that travel together; None: whole calls. `tiles_per_replica`: how many may be at one replica; others go
    on to one of `fallbacks` further replicas, or wait. `load_factor`: no replica gets more than so many times the mean."""

    tile: int | None = 32
    tiles_per_replica: int | None = 8
    fallbacks: int = 4
    load_factor: float | None = None


@dataclass(frozen=True, slots=True)
class Call:
    arrival: float
    documents: int
    tokens: int
    evidence: Sequence[int] = ()
    """Tokens of each text."""


Calls = Sequence[Call]


@dataclass
class Outcome:
    """Seconds of each call, in the order of their arrival; `written`: of those with evidence, until its end."""

    scored: list[float]
    written: list[float]
    busy: list[float]
    """Share of the time, by replica."""
    tokens: int
    """Read and written."""
    most_tiles: int
    """At one replica at once."""
    seconds: float


@dataclass(eq=False, slots=True)
class _Tile:
    call: int
    documents: int
    candidates: Sequence[int]


@dataclass(eq=False, slots=True)
class _Replica:
    reading: deque[tuple[_Tile, int]] = field(default_factory=deque)
    """Documents, with their tokens that are left to read."""
    writing: list[tuple[int, int]] = field(default_factory=list)
    """Texts: the call, and the tokens left."""
    tiles: int = 0
    stepping: bool = False
    read_now: list[_Tile] = field(default_factory=list)
    busy: float = 0.0


def make_calls(traffic: Traffic, count: int, seed: int) -> list[Call]:
    chance, now, calls = random.Random(f"traffic {seed}"), 0.0, []
    for _ in range(count):
        now += chance.expovariate(traffic.calls_per_second)
        size = chance.lognormvariate(-(traffic.spread**2) / 2, traffic.spread) if traffic.spread else 1.0
        documents = max(1, round(traffic.documents * size))
        writes = min(documents, traffic.evidence_documents) if chance.random() < traffic.evidence_share else 0
        calls.append(Call(now, documents, traffic.tokens, (traffic.evidence_tokens,) * writes))
    return calls


def offered_load(model: StepModel, traffic: Traffic) -> float:
    """Replicas that would be busy all the time; a lower bound: texts are counted as if they cost no step of their own."""
    reading = traffic.documents / model.documents_per_second(traffic.tokens)
    texts = traffic.evidence_share * traffic.evidence_documents * traffic.evidence_tokens
    return traffic.calls_per_second * (reading + texts * (model.per_token + model.per_sequence))


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(len(ranked) * share) - 1)]


def simulate(model: StepModel, calls: Calls, replicas: int, routing: Routing, seed: int = 0) -> Outcome:
    return _Simulation(model, calls, replicas, routing, random.Random(f"routing {seed}")).run()


class _Simulation:
    def __init__(self, model: StepModel, calls: Calls, replicas: int, routing: Routing, chance: random.Random) -> None:
        self._model, self._calls, self._routing, self._chance = model, calls, routing, chance
        self._replicas = [_Replica() for _ in range(replicas)]
        self._waiting: deque[_Tile] = deque()
        self._ends: list[tuple[float, int]] = []
        """When which replica ends its step."""
        self._left = [0] * len(calls)
        """Documents, then texts, that a call still waits for."""
        self._readers: list[list[int]] = [[] for _ in calls]
        self._scored, self._written = [0.0] * len(calls), [0.0] * len(calls)
        self._tokens = self._most_tiles = 0

    def run(self) -> Outcome:
        now = 0.0
        for number, call in enumerate(self._calls):
            now = self._step_until(call.arrival, now)
            self._arrive(number, call)
        now = self._step_until(float("inf"), now)
        written = [end - call.arrival for end, call in zip(self._written, self._calls, strict=True) if call.evidence]
        scored = [end - call.arrival for end, call in zip(self._scored, self._calls, strict=True)]
        busy = [replica.busy / now if now else 0.0 for replica in self._replicas]
        return Outcome(scored, written, busy, self._tokens, self._most_tiles, now)

    def _step_until(self, end: float, now: float) -> float:
        """Ends the steps that end before `end`, and returns when the last of them did."""
        while self._ends and self._ends[0][0] <= end:
            now, place = heapq.heappop(self._ends)
            self._end_step(place, now)
        return now

    def _arrive(self, number: int, call: Call) -> None:
        self._left[number] = call.documents
        size = self._routing.tile or call.documents
        for first in range(0, call.documents, size):
            count = min(len(self._replicas), 1 + self._routing.fallbacks)
            candidates = self._chance.sample(range(len(self._replicas)), count)
            self._place(_Tile(number, min(size, call.documents - first), candidates), call.arrival)

    def _place(self, tile: _Tile, now: float) -> None:
        place = next((place for place in tile.candidates if self._has_room(place)), None)
        if place is None and self._routing.tiles_per_replica is not None:
            self._waiting.append(tile)
        else:
            self._give(tile, tile.candidates[0] if place is None else place, now)

    def _has_room(self, place: int) -> bool:
        tiles, routing = self._replicas[place].tiles, self._routing
        if routing.tiles_per_replica is not None and tiles >= routing.tiles_per_replica:
            return False
        everywhere = sum(replica.tiles for replica in self._replicas) if routing.load_factor else 0
        return not routing.load_factor or tiles + 1 <= max(
            1.0, routing.load_factor * (everywhere + 1) / len(self._replicas)
        )

    def _give(self, tile: _Tile, place: int, now: float) -> None:
        replica, call = self._replicas[place], self._calls[tile.call]
        replica.tiles += 1
        self._most_tiles = max(self._most_tiles, replica.tiles)
        self._readers[tile.call].append(place)
        replica.reading.extend((tile, call.tokens) for _ in range(tile.documents))
        self._begin_step(place, now)

    def _begin_step(self, place: int, now: float) -> None:
        replica = self._replicas[place]
        if replica.stepping or not (replica.reading or replica.writing):
            return
        tokens = sequences = min(len(replica.writing), self._model.max_sequences)
        for tile, read, left in self._fitting(replica, tokens, sequences):
            tokens += read
            sequences += 1
            if left:
                replica.reading.appendleft((tile, left))
            else:
                replica.read_now.append(tile)
        seconds = self._model.seconds(tokens, sequences)
        self._tokens += tokens
        replica.stepping = True
        replica.busy += seconds
        heapq.heappush(self._ends, (now + seconds, place))

    def _fitting(self, replica: _Replica, tokens: int, sequences: int) -> Iterator[tuple[_Tile, int, int]]:
        """What else the step reads: the tile, the tokens now, and those of the same document that are left for the next."""
        room = self._model.max_tokens - tokens
        while replica.reading and room > 0 and sequences < self._model.max_sequences:
            tile, wanted = replica.reading.popleft()
            read = min(wanted, room)
            room -= read
            sequences += 1
            yield tile, read, wanted - read

    def _end_step(self, place: int, now: float) -> None:
        replica = self._replicas[place]
        writing = replica.writing
        stepped = min(len(writing), self._model.max_sequences)
        replica.writing = [(call, left - 1) for call, left in writing[:stepped] if left > 1] + writing[stepped:]
        for call, left in writing[:stepped]:
            if left == 1:
                self._finish_text(call, now)
        read, replica.read_now = replica.read_now, []
        for tile in read:
            self._finish_document(tile, replica, now)
        replica.stepping = False  # only now: the next step takes all that has come
        self._begin_step(place, now)

    def _finish_document(self, tile: _Tile, replica: _Replica, now: float) -> None:
        tile.documents -= 1
        self._left[tile.call] -= 1
        if not self._left[tile.call]:
            self._finish_scores(tile.call, now)
        if not tile.documents:
            replica.tiles -= 1
            self._admit(now)

    def _admit(self, now: float) -> None:
        """Of the tiles that wait, the first for which there is room now: only one can have got any."""
        for number, tile in enumerate(self._waiting):
            if any(map(self._has_room, tile.candidates)):
                del self._waiting[number]
                self._place(tile, now)
                return

    def _finish_scores(self, number: int, now: float) -> None:
        call = self._calls[number]
        self._scored[number] = now
        self._left[number] = len(call.evidence)
        for tokens in call.evidence:
            place = self._chance.choice(self._readers[number])
            self._replicas[place].writing.append((number, tokens))
            self._begin_step(place, now)

    def _finish_text(self, number: int, now: float) -> None:
        self._left[number] -= 1
        if not self._left[number]:
            self._written[number] = now
