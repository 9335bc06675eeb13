"""Who is called how often, and what is reported of it, by scripts/bench_peers.py."""

from __future__ import annotations

import math
from argparse import Namespace
from pathlib import Path

import pytest

from bench_common import Work
from bench_peers import Bench, Call, Dead, Setup

_DOCUMENTS = 3


class FakeSystem:
    def __init__(self, name: str, seconds: float, margins: list[float], calls: int = 100) -> None:
        self.name, self._call, self._calls = name, Call(seconds, seconds, margins), calls

    def call(self, work: Work) -> Call:
        if not self._calls:
            raise Dead(f"{self.name}: its process died in a call")
        self._calls -= 1
        return self._call


class FakeWriter:
    def work(self, documents: int, seed: str) -> Work:
        return Work(seed, ["text"] * documents, [], [])


@pytest.fixture
def bench() -> Bench:
    args = Namespace(documents=_DOCUMENTS, repeats=5, repeats_of_slow=2, slow=45.0, without=[])
    return Bench(args, Setup(Path("model"), Path("scratch"), 1.0))


def _measure(bench: Bench, *systems: FakeSystem) -> dict:
    ours = FakeSystem("whyrank", 2.0, [0.0, 1.0, 2.0])
    bench._measure({system.name: system for system in (ours, *systems)}, FakeWriter(), 300)
    return bench.result(300)


def test_a_slow_system_is_called_less_often_and_whyrank_each_time(bench):
    slow, fast = (
        FakeSystem(name, seconds, [0.0, 1.0, 2.0]) for name, seconds in [("cross_encoder", 60), ("llama_cpp_bf16", 8)]
    )
    found = _measure(bench, slow, fast)
    calls = {name: figures["calls"] for name, figures in found["systems"].items() if figures}
    assert calls == {"whyrank": 5, "cross_encoder": 2, "llama_cpp_bf16": 5}
    assert found["systems"]["llama_cpp_bf16"]["ratio"] == {"median": 4.0, "min": 4.0, "max": 4.0}
    assert found["systems"]["cross_encoder"]["documents_per_second"]["median"] == 0.05
    assert found["agree"]


@pytest.mark.parametrize(("name", "gap", "agree"), [
    ("onnxruntime_fp32", 0.3, True),
    ("onnxruntime_fp32", 0.9, False),
    ("onnxruntime_int8", 0.9, True),
    ("onnxruntime_int8", math.nan, False),
])  # fmt: skip
def test_margins_must_agree_within_a_share_of_their_spread(bench, name, gap, agree):
    found = _measure(bench, FakeSystem(name, 8, [0.0, 1.0 + gap, 2.0]))
    assert found["margin_spread"] == 0.8165
    assert found["agree"] is agree


def test_a_system_that_dies_gets_no_more_turns_and_keeps_what_was_measured(bench):
    found = _measure(bench, FakeSystem("llama_cpp_q8_0", 8, [0.0, 1.0, 2.0], calls=3))
    assert found["systems"]["llama_cpp_q8_0"]["calls"] == 2  # the first of its calls was the warm-up
    assert bench.failed
    assert bench.notes == ["llama_cpp_q8_0: its process died in a call"]


def test_a_system_that_never_ran_is_null(bench):
    assert _measure(bench, FakeSystem("transformers_loop", 8, [0.0, 1.0, 2.0]))["systems"]["cross_encoder"] is None
