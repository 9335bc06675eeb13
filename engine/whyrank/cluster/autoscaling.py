"""How many replicas Ray Serve should run: by the tokens that wait, because messages differ too much in size.

Ray runs this in its controller, from a copy of this module's code: it must not import anything of whyrank's.
"""

from __future__ import annotations

from typing import Any

__all__ = ["QueuedTokens"]


class QueuedTokens:
    """An autoscaling policy. Each replica reports `tokens` and `messages`, both in progress (EngineReplica.load); Ray itself
    counts the messages that wait in the ingress for room in a replica. Ray applies bounds and delays to the result."""

    def __init__(self, target_tokens: float) -> None:
        """`target_tokens`: what a replica should have in progress, with its share of what waits."""
        self._target = target_tokens

    def __call__(self, context: Any) -> tuple[float, dict[str, Any]]:
        reports = context.aggregated_metrics or {}
        if not reports.get("tokens"):
            return context.target_num_replicas, {}  # nothing is known yet
        tokens, messages = (sum(reports[name].values()) for name in ("tokens", "messages"))
        if messages:  # those that wait are like those in progress
            tokens += (context.total_queued_requests or 0) * tokens / messages
        return tokens / self._target, {}
