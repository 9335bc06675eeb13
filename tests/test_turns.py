"""Who goes first when calls share the engine."""

from __future__ import annotations

from whyrank.pipeline.turns import CallTurns, Tenant


def test_the_further_a_call_has_come_the_later_its_turn() -> None:
    turns = CallTurns(None)
    assert [turns.priority_of(2048) for _ in range(6)] == [0, 0, 1, 1, 2, 2]


def test_calls_of_a_tenant_use_the_same_turns() -> None:
    tenant = Tenant()
    first, second = CallTurns(tenant), CallTurns(tenant)
    assert [first.priority_of(600) for _ in range(3)] == [0, 0, 1]
    assert [second.priority_of(600) for _ in range(3)] == [1, 2, 2]
    assert CallTurns(Tenant()).priority_of(600) == 0


def test_a_short_call_comes_before_the_rest_of_a_long_one_of_its_tenant() -> None:
    tenant = Tenant()
    long, short = CallTurns(tenant), CallTurns(tenant)
    assert [long.priority_of(2048) for _ in range(10)] == [*range(0, 20, 2)]
    assert short.priority_of(600) == 4


def test_a_call_that_has_ended_does_not_count() -> None:
    tenant = Tenant()
    first, second = CallTurns(tenant), CallTurns(tenant)
    for _ in range(3):
        first.priority_of(4096)
    assert second.priority_of(100) == 4
    first.end()
    first.end()
    assert second.priority_of(100) == 0
    second.end()
    assert tenant.tokens == 0
