#!/usr/bin/env python3
"""How many replicas a traffic needs, its p99 and its price, from what a step of the engine costs.

    scripts/capacity.py --step 0.004 2.3e-6 1.2e-5 --max-tokens 16384 \\
        --calls-per-second 50 --documents 100 --tokens 200 --evidence-share 0.1 --p99-ms 500 --price 3
    scripts/bench_score.py --shape qwen3-0.6b --counts 1 20 100 --pair-tokens 100 | tail -n 1 >short.json
    scripts/bench_score.py --shape qwen3-0.6b --counts 1 20 100 --pair-tokens 400 | tail -n 1 >long.json
    scripts/capacity.py --fit short.json long.json --calls-per-second 50

A step of the engine takes A + B * tokens + C * sequences seconds. --step gives the three; --fit finds them in measurements: the
JSON of scripts/bench_score.py, of several --counts and --pair-tokens, or JSON lines of {"steps", "tokens", "sequences",
"seconds"}, where steps may be left out. Then the traffic is simulated on more and more replicas, until the p99 of the time to
all scores is low enough, beginning with as many as do at most --max-load of what they could. scripts/capacity_simulation.py
says what is simulated and what is left out. --spare replicas come on top: those that may be lost, or drained, at any time.

--routing ray: tiles of 32 documents, at most 8 at a replica, as whyrank.cluster does it; balancer: whole calls, as with
deploy/haproxy.cfg.

What this has been checked against: closed forms (M/D/1, full steps, a lone text) in tests/test_capacity.py. It has NOT been
compared with a real run of two replicas, nor on a GPU: leave a margin, and compare before you order machines.

The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from capacity_simulation import Outcome, Routing, StepModel, Traffic, make_calls, offered_load, quantile, simulate

__all__ = ["Answer", "Measured", "fit", "measurements", "replicas_needed"]

# Of the simulated calls: until the queues are as long as they will be.
_WARM_UP = 0.1
_MOST_TRIES = 40
_ROUTINGS = {
    "ray": Routing(),
    "balancer": Routing(tile=None, tiles_per_replica=None, fallbacks=1 << 16, load_factor=1.5),
}


@dataclass(frozen=True, slots=True)
class Measured:
    """What so many steps with so many new tokens and sequences in all took."""

    steps: float
    tokens: float
    sequences: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    replicas: int
    p50: float
    p99: float
    evidence_p99: float | None
    busiest: float
    documents_per_second: float


def measurements(text: str, max_tokens: int, max_sequences: int) -> list[Measured]:
    """Of a document of bench_score.py's, or of JSON lines."""
    parsed = [json.loads(line) for line in text.splitlines() if line.strip()]
    if len(parsed) == 1 and "results" in parsed[0]:
        each = parsed[0]["settings"]["pair_tokens"]
        parsed = [
            {"tokens": n * each, "sequences": n, "seconds": n / row["docs_per_second"]["whyrank"]}
            for row in parsed[0]["results"]
            for n in [row["documents"]]
        ]
    return [
        Measured(
            row.get("steps")
            or max(1, math.ceil(row["tokens"] / max_tokens), math.ceil(row["sequences"] / max_sequences)),
            row["tokens"],
            row["sequences"],
            row["seconds"],
        )
        for row in parsed
    ]


def fit(rows: Sequence[Measured], max_tokens: int, max_sequences: int) -> tuple[StepModel, float]:
    """The model with the smallest relative errors (least squares, none of the three below zero), and the largest of these."""
    import numpy as np
    from scipy.optimize import nnls

    table = np.array([[row.steps, row.tokens, row.sequences] for row in rows]) / np.array(
        [[row.seconds] for row in rows]
    )
    scale = table.max(axis=0)
    if len(rows) < 3 or np.linalg.matrix_rank(table / scale, tol=1e-3) < 3:
        raise SystemExit(
            "these measurements cannot tell a step, its tokens and its sequences apart: measure several numbers of documents "
            "(--counts) with several lengths (--pair-tokens)"
        )
    solved, _ = nnls(table / scale, np.ones(len(rows)))
    values = solved / scale
    errors = np.abs(table @ values - 1)
    fixed, per_token, per_sequence = map(float, values)
    return StepModel(fixed, per_token, per_sequence, max_tokens, max_sequences), float(errors.max())


def simulated(model: StepModel, traffic: Traffic, replicas: int, routing: Routing, calls: int, seeds: int) -> Answer:
    """The middle one of several runs, by their p99."""
    runs = [simulate(model, make_calls(traffic, calls, seed), replicas, routing, seed) for seed in range(seeds)]
    return sorted((_answer(run, replicas, traffic) for run in runs), key=lambda answer: answer.p99)[seeds // 2]


def _answer(run: Outcome, replicas: int, traffic: Traffic) -> Answer:
    scored = run.scored[int(len(run.scored) * _WARM_UP) :]
    written = run.written[int(len(run.written) * _WARM_UP) :]
    return Answer(
        replicas,
        quantile(scored, 0.5),
        quantile(scored, 0.99),
        quantile(written, 0.99) if written else None,
        max(run.busy),
        traffic.calls_per_second * traffic.documents,
    )


def replicas_needed(
    model: StepModel, traffic: Traffic, routing: Routing, p99: float, max_load: float, calls: int, seeds: int
) -> Answer:
    """The fewest replicas whose p99 and load are low enough."""
    least = max(1, math.ceil(offered_load(model, traffic) / max_load))
    alone = simulated(model, replace(traffic, calls_per_second=1e-6), least + _MOST_TRIES, routing, 200, 1)
    if alone.p99 > p99:
        raise SystemExit(
            f"no number of replicas is enough: a call that is alone takes {1000 * alone.p99:.0f} ms (p99). Allow more "
            "(--p99-ms), or send fewer documents or tokens"
        )
    for count in range(least, least + _MOST_TRIES):
        answer = simulated(model, traffic, count, routing, calls, seeds)
        print(f"{count} replicas: p99 {1000 * answer.p99:.0f} ms, busiest {answer.busiest:.0%}", file=sys.stderr)
        if answer.p99 <= p99:
            return answer
    raise SystemExit(
        f"even {least + _MOST_TRIES - 1} replicas are not enough: allow more than {1000 * p99:.0f} ms (--p99-ms)"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--step", nargs=3, type=float, metavar=("A", "B", "C"), help="seconds, of a step, token and sequence"
    )
    source.add_argument("--fit", nargs="+", type=Path, metavar="FILE", help="measurements")
    parser.add_argument("--max-tokens", type=int, default=8192, help="of a step: vLLM's max_num_batched_tokens")
    parser.add_argument("--max-sequences", type=int, default=256, help="of a step: vLLM's max_num_seqs")
    parser.add_argument("--calls-per-second", type=float, required=True)
    parser.add_argument("--documents", type=int, default=100, help="of a call, on average")
    parser.add_argument(
        "--spread", type=float, default=0.0, help="of the number of documents: sigma of a log-normal distribution"
    )
    parser.add_argument("--tokens", type=int, default=200, help="of a document's prompt, without what the cache holds")
    parser.add_argument("--evidence-share", type=float, default=0.0, help="of the calls")
    parser.add_argument("--evidence-documents", type=int, default=5, help="texts of such a call")
    parser.add_argument("--evidence-tokens", type=int, default=60, help="of a text")
    parser.add_argument("--p99-ms", type=float, default=500, help="until all scores are there")
    parser.add_argument("--max-load", type=float, default=0.75, help="share of what replicas could do with full steps")
    parser.add_argument("--routing", choices=_ROUTINGS, default="ray")
    parser.add_argument("--tile", type=int, help="other tiles than the routing's")
    parser.add_argument("--tiles-per-replica", type=int, help="another bound than the routing's")
    parser.add_argument("--spare", type=int, default=1, help="replicas on top")
    parser.add_argument("--price", type=float, help="of a replica's hour, in any currency")
    parser.add_argument("--simulated-calls", type=int, default=5000, help="in each of --seeds runs")
    parser.add_argument("--seeds", type=int, default=3)
    return parser


def _costs(price: float, replicas: int, documents_per_second: float) -> dict[str, float]:
    an_hour = price * replicas
    return {
        "per_hour": round(an_hour, 2),
        "per_million_documents": round(1e6 * an_hour / (3600 * documents_per_second), 3),
    }


def main() -> None:
    options = _parser().parse_args()
    limits = options.max_tokens, options.max_sequences
    result: dict[str, Any] = {}
    if options.fit:
        rows = [row for file in options.fit for row in measurements(file.read_text(encoding="utf-8"), *limits)]
        model, error = fit(rows, *limits)
        result["fit"] = {"measurements": len(rows), "largest_relative_error": round(error, 3)}
    else:
        fixed, per_token, per_sequence = options.step
        model = StepModel(fixed, per_token, per_sequence, *limits)
    evidence = options.evidence_share, options.evidence_documents, options.evidence_tokens
    traffic = Traffic(options.calls_per_second, options.documents, options.tokens, options.spread, *evidence)
    routing = _ROUTINGS[options.routing]
    changed = {"tile": options.tile, "tiles_per_replica": options.tiles_per_replica}
    routing = replace(routing, **{name: value for name, value in changed.items() if value is not None})
    found = replicas_needed(
        model, traffic, routing, options.p99_ms / 1000, options.max_load, options.simulated_calls, options.seeds
    )
    replicas = found.replicas + options.spare
    result |= {
        "step": asdict(model),
        "traffic": asdict(traffic),
        "offered_load": round(offered_load(model, traffic), 2),
        "documents_per_second_of_a_replica": round(model.documents_per_second(traffic.tokens)),
        "replicas": replicas,
        "of_these_spare": options.spare,
        "without_spare": {
            "p50_ms": round(1000 * found.p50, 1),
            "p99_ms": round(1000 * found.p99, 1),
            "evidence_p99_ms": None if found.evidence_p99 is None else round(1000 * found.evidence_p99, 1),
            "busiest": round(found.busiest, 2),
        },
        "cost": None if options.price is None else _costs(options.price, replicas, found.documents_per_second),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
