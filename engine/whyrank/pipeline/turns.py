"""The order in which the engine takes prompts of calls that run at the same time."""

from __future__ import annotations

__all__ = ["CallTurns", "Tenant"]

_TOKENS_OF_A_TURN = 4096
_TOKENS_OF_A_TENANTS_TURN = 1024


class Tenant:
    """The calls of one tenant that are in progress. `tokens`: of each, what it has sent to the engine, but at most 4,096."""

    def __init__(self) -> None:
        self.tokens = 0


class CallTurns:
    """A call takes turns of 4,096 tokens, so that short calls do not wait for long ones to end.

    Where there are several tenants, they take turns of 1,024, and all calls of a tenant use the same ones: a tenant with few
    calls does not wait for another's many."""

    def __init__(self, tenant: Tenant | None) -> None:
        """`tenant`: None where there is only one."""
        self._tenant, self._tokens = tenant, 0

    def priority_of(self, prompt_length: int) -> int:
        """For the call's next prompt. The engine prefers lower numbers."""
        before, counted = self._tokens, self._counted()
        self._tokens += prompt_length
        if self._tenant is None:
            return before // _TOKENS_OF_A_TURN
        others = self._tenant.tokens - counted
        self._tenant.tokens = others + self._counted()
        return (others + before) // _TOKENS_OF_A_TENANTS_TURN

    def end(self) -> None:
        if self._tenant is not None:
            self._tenant.tokens -= self._counted()
        self._tokens = 0

    def _counted(self) -> int:
        """Of a long call only so much, for the short calls of the same tenant."""
        return min(_TOKENS_OF_A_TURN, self._tokens)
