"""scripts/capacity.py and its simulation, against closed forms."""

from __future__ import annotations

import json
import math
from statistics import mean

import pytest

from capacity import Measured, fit, measurements, replicas_needed
from capacity_simulation import Call, Routing, StepModel, Traffic, make_calls, offered_load, quantile, simulate

GPU = StepModel(0.004, 2.3e-6, 1.2e-5, 16_384)
ONE_BY_ONE = StepModel(0.01, 0.0, 0.0, max_tokens=1, max_sequences=1)
AT_RANDOM = Routing(tile=None, tiles_per_replica=None, fallbacks=0)


def waits_at_most(seconds: float, rate: float, service: float) -> float:
    """Erlang's and Crommelin's: the probability that a customer of M/D/1 waits at most so long."""
    terms = range(int(seconds / service) + 1)
    return (1 - rate * service) * sum(
        (rate * (k * service - seconds)) ** k / math.factorial(k) * math.exp(-rate * (k * service - seconds))
        for k in terms
    )


@pytest.mark.parametrize("replicas", [1, 3])
def test_calls_of_one_document_wait_as_in_m_d_1(replicas: int) -> None:
    """Replicas that are chosen at random are queues of their own, each with its part of the calls."""
    load, service = 0.5, ONE_BY_ONE.fixed
    calls = make_calls(Traffic(replicas * load / service, documents=1, tokens=1), 25_000, seed=1)
    outcome = simulate(ONE_BY_ONE, calls, replicas, AT_RANDOM)
    assert mean(outcome.scored) == pytest.approx(service + load * service / (2 * (1 - load)), rel=0.03)
    longest = quantile(outcome.scored, 0.99) - service
    assert waits_at_most(longest, load / service, service) == pytest.approx(0.99, abs=0.003)
    assert mean(outcome.busy) == pytest.approx(load, rel=0.02)


def test_a_full_replica_reads_as_many_documents_as_its_steps_hold() -> None:
    calls = [Call(0.0, 64, 1024)] * 50
    outcome = simulate(GPU, calls, 1, Routing())
    steps = 64 * 50 / 16  # 16,384 tokens hold 16 documents
    assert outcome.seconds == pytest.approx(steps * GPU.seconds(16_384, 16))
    assert 64 * 50 / outcome.seconds == pytest.approx(GPU.documents_per_second(1024))
    assert outcome.tokens == 64 * 50 * 1024 and outcome.busy == [pytest.approx(1)]


def test_a_document_that_does_not_fit_is_cut_over_steps() -> None:
    outcome = simulate(GPU, [Call(0.0, 1, 40_000)], 1, Routing())
    assert outcome.scored == [pytest.approx(GPU.seconds(16_384, 1) * 2 + GPU.seconds(40_000 - 2 * 16_384, 1))]


def test_a_lone_text_takes_a_step_for_each_token() -> None:
    outcome = simulate(GPU, [Call(0.0, 10, 100, evidence=(50, 50, 20))], 1, Routing())
    read = GPU.seconds(1000, 10)
    assert outcome.scored == [pytest.approx(read)]
    assert outcome.written == [pytest.approx(read + 20 * GPU.seconds(3, 3) + 30 * GPU.seconds(2, 2))]


def test_tiles_are_spread_and_bounded_and_shorten_the_tail() -> None:
    """Whole calls of 100 documents wait for one replica; in tiles several read one call."""
    traffic = Traffic(0.7 * 8 * GPU.documents_per_second(200) / 100, documents=100, tokens=200)
    calls = make_calls(traffic, 1000, seed=2)
    tiled, whole = simulate(GPU, calls, 8, Routing()), simulate(GPU, calls, 8, AT_RANDOM)
    assert tiled.most_tiles <= 8 and tiled.tokens == whole.tokens == 1000 * 100 * 200
    assert quantile(tiled.scored, 0.99) < 0.6 * quantile(whole.scored, 0.99)
    assert max(tiled.busy) - min(tiled.busy) < max(whole.busy) - min(whole.busy)


def test_a_load_balancer_that_counts_is_better_than_chance() -> None:
    calls = make_calls(Traffic(0.8 * 4 / ONE_BY_ONE.fixed, documents=1, tokens=1), 5000, seed=3)
    counting = Routing(tile=None, tiles_per_replica=None, fallbacks=3, load_factor=1.5)
    assert mean(simulate(ONE_BY_ONE, calls, 4, counting).scored) < 0.7 * mean(
        simulate(ONE_BY_ONE, calls, 4, AT_RANDOM).scored
    )


def test_equal_seeds_give_equal_results() -> None:
    traffic = Traffic(20, documents=50, tokens=200, spread=0.8, evidence_share=0.3)
    runs = [simulate(GPU, make_calls(traffic, 300, seed=4), 3, Routing(), seed=4) for _ in range(2)]
    assert runs[0] == runs[1] and len(runs[0].written) > 50
    assert mean(call.documents for call in make_calls(traffic, 5000, seed=4)) == pytest.approx(50, rel=0.05)


def test_the_fewest_replicas_that_hold_the_limit() -> None:
    traffic = Traffic(40, documents=100, tokens=200)
    found = replicas_needed(GPU, traffic, Routing(), p99=0.1, max_load=0.75, calls=1500, seeds=1)
    assert found.replicas >= offered_load(GPU, traffic) / 0.75 and found.p99 <= 0.1
    fewer = simulate(GPU, make_calls(traffic, 1500, 0), found.replicas - 1, Routing())
    assert quantile(fewer.scored[150:], 0.99) > 0.1
    patient = replicas_needed(GPU, traffic, Routing(), p99=60, max_load=0.75, calls=200, seeds=1)
    assert patient.replicas == math.ceil(offered_load(GPU, traffic) / 0.75) < found.replicas
    with pytest.raises(SystemExit, match="a call that is alone takes"):
        replicas_needed(GPU, traffic, Routing(), p99=0.001, max_load=0.75, calls=100, seeds=1)


def test_the_model_is_found_in_what_it_made() -> None:
    rows = [
        Measured(steps, tokens, sequences, GPU.fixed * steps + GPU.per_token * tokens + GPU.per_sequence * sequences)
        for steps, tokens, sequences in [(1, 300, 1), (1, 6000, 20), (2, 30_000, 100), (1, 2000, 20), (4, 60_000, 150)]
    ]
    model, error = fit(rows, 16_384, 256)
    assert (model.fixed, model.per_token, model.per_sequence) == pytest.approx((0.004, 2.3e-6, 1.2e-5)) and error < 1e-6
    with pytest.raises(SystemExit, match="cannot tell a step, its tokens and its sequences apart"):
        fit([Measured(n, 300 * n, n, 0.1 * n) for n in (1, 2, 3, 4)], 16_384, 256)


def test_measurements_are_read_from_both_forms() -> None:
    bench = {"settings": {"pair_tokens": 300}, "results": [{"documents": 100, "docs_per_second": {"whyrank": 50.0}}]}
    assert measurements(json.dumps(bench), 8192, 256) == [Measured(4, 30_000, 100, 2.0)]
    lines = (
        '{"steps": 2, "tokens": 10, "sequences": 1, "seconds": 0.5}\n{"tokens": 10, "sequences": 600, "seconds": 0.5}\n'
    )
    assert measurements(lines, 8192, 256) == [Measured(2, 10, 1, 0.5), Measured(3, 10, 600, 0.5)]
