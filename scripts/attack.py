#!/usr/bin/env python3
"""Attacks a server that this script starts on loopback, with hostile callers beside two honest tenants.

    scripts/attack.py                                   # every attack; about 10 minutes, never much more than 15
    scripts/attack.py --list                            # their names
    scripts/attack.py --only silent-bodies-8 sigterm    # some of them
    scripts/attack.py --only none --soak 30             # thirty minutes of mixed hostile traffic, no single attacks
    scripts/attack.py | tail -n 1 | python -m json.tool

Starts `whyrank serve demo` with three API keys on a free port of 127.0.0.1, and stops it at the end. While an attack runs, two
tenants with the other keys send score calls of 5 documents, and a probe requests a small answer every 10 ms. An attack fails if
an honest call is refused or answered wrongly, if the p99 of the honest calls is more than five times what it is without an
attack, if the event loop blocks for 100 ms, if the API process grows by a GiB, or if the attack's own limit is exceeded. An
attack that blocks the server is cut off after its time limit and counts as failed; the server is killed at 8 GiB and restarted.
Progress goes to stderr, then a table to stdout; the last line of stdout is one JSON document. Exit code 1: something failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import attack_access  # noqa: F401  each registers its attacks
import attack_bodies  # noqa: F401
import attack_connections  # noqa: F401
from attack_honest import Observation, watching
from attack_registry import ATTACKS, Attack
from attack_soak import soak
from attack_target import GuardedServer, Result, Target

_QUIET_SECONDS = 120
_MAX_GAP_SECONDS = 0.1
_MAX_P99_FACTOR = 5
_MAX_GROWTH = 1 << 30
_MIN_FILES = 12_000


async def attacked(target: Target, attack: Attack, alone: Observation) -> Result:
    """Runs one attack beside the honest tenants and cuts it off at its time limit."""
    result = Result()
    if attack.ends_server:
        await _cut(target, attack, result)
        return result
    async with watching(target, alone.margins) as watch:
        await asyncio.sleep(1)
        await _cut(target, attack, result)
        seen = await watch.stop()
    result.figures["honest"] = seen.figures()
    judge(result, seen, alone)
    return result


async def _cut(target: Target, attack: Attack, result: Result) -> None:
    began = time.monotonic()
    try:
        async with asyncio.timeout(attack.limit):
            await attack.run(target, result)
    except TimeoutError:
        result.failures.append(f"cut after {attack.limit} s")
    except Exception as error:  # whatever it is, the other attacks must still run
        result.failures.append(f"the attack itself broke off: {error!r:.200}")
    result.figures |= {"attack_s": round(time.monotonic() - began, 1), "load": round(os.getloadavg()[0], 1)}


def judge(result: Result, seen: Observation, alone: Observation) -> None:
    """Checks what must hold for the honest tenants under every attack."""
    result.require(not seen.refused, f"{sum(seen.refused.values())} honest calls refused {dict(seen.refused)}")
    result.require(seen.wrong == 0, f"{seen.wrong} of {seen.pairs} scores wrong")
    result.require(seen.longest_gap < _MAX_GAP_SECONDS, f"the event loop stood for {seen.longest_gap:.2f} s")
    p99, bound = seen.percentile(0.99), _MAX_P99_FACTOR * alone.percentile(0.99)
    result.require(p99 <= bound, f"honest p99 {p99:.2f} s, above {bound:.2f} s")


async def quiet(target: Target) -> Observation:
    """Observes the honest tenants alone: their latencies, and the margins that are correct."""
    async with watching(target) as watch:
        await asyncio.sleep(_QUIET_SECONDS)
        return await watch.stop()


async def run_one(server: GuardedServer, attack: Attack, alone: Observation) -> Result:
    try:
        target = await server.target()
    except RuntimeError as error:
        return Result(failures=[str(error)[:300]])
    began, before = time.monotonic(), server.samples[-1].api if server.samples else 0
    result = await attacked(target, attack, alone)
    peak = max((sample.api for sample in server.samples if sample.at >= began), default=before)
    result.figures |= {"api_peak_mib": peak >> 20, "api_growth_mib": (peak - before) >> 20}
    result.require(peak - before <= _MAX_GROWTH, f"the API process grew by {(peak - before) >> 20} MiB")
    result.require(not server.killed_for_memory, "killed at 8 GiB")
    return result


async def run_all(server: GuardedServer, chosen: list[Attack], options: argparse.Namespace) -> dict[str, Any]:
    end = time.monotonic() + 60 * options.max_minutes
    print("starting the server", file=sys.stderr)
    target = await server.target()
    print(f"{_QUIET_SECONDS} s of honest calls alone", file=sys.stderr)
    alone, results = await quiet(target), dict[str, Result]()
    for number, attack in enumerate(chosen, 1):
        print(f"{number}/{len(chosen)} {attack.name}", file=sys.stderr)
        late = time.monotonic() > end
        results[attack.name] = (
            Result(failures=["not run: out of time"]) if late else await run_one(server, attack, alone)
        )
        print(f"    {'; '.join(results[attack.name].failures) or 'ok'}", file=sys.stderr)
    if options.soak:
        if results:  # in a fresh process, so that this attack's memory can be told apart
            await asyncio.to_thread(server.stop)
        results["soak"] = await soak(server, alone, options.soak, options.seed)
    return {"alone": alone.figures(), "results": results}


def table(alone: dict[str, Any], results: dict[str, Result]) -> str:
    columns = ("attack", "verdict", "refused", "wrong", "p50 s", "p99 s", "max s", "gap ms", "API MiB", "why")
    rows = [columns, ("(alone)", "", *_honest(alone), "", "")]
    for name, result in results.items():
        verdict = "FAIL" if result.failures else "pass"
        honest = _honest(result.figures.get("honest", {}))
        rows.append(
            (name, verdict, *honest, str(result.figures.get("api_peak_mib", "")), "; ".join(result.failures)[:150])
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _honest(figures: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(figures.get(name, "")) for name in ("refused", "wrong", "p50_s", "p99_s", "max_s", "loop_gap_ms"))


def raise_file_limit() -> None:
    """Allows thousands of connections, here and in the server, which inherits the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MIN_FILES if hard == resource.RLIM_INFINITY else min(_MIN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the names of the attacks and stop")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", choices=[*ATTACKS, "none"], help="only these ('none': none)"
    )
    parser.add_argument(
        "--soak", type=float, default=0, metavar="MINUTES", help="then mixed hostile traffic for so long"
    )
    parser.add_argument("--seed", type=int, default=23, help="of the soak's mixture")
    parser.add_argument("--max-minutes", type=float, default=15, help="what is not begun by then is not run, and fails")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.list:
        print("\n".join(f"{attack.name:30} {attack.help}" for attack in ATTACKS.values()))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the server is stopped
    raise_file_limit()
    chosen = [attack for name, attack in ATTACKS.items() if options.only is None or name in options.only]
    with tempfile.TemporaryDirectory() as folder:
        server = GuardedServer(Path(folder))
        try:
            report = asyncio.run(run_all(server, chosen, options))
        finally:
            server.close()
    results: dict[str, Result] = report["results"]
    print(table(report["alone"], results))
    judged = {name: {"pass": not one.failures, "failures": one.failures} | one.figures for name, one in results.items()}
    print(json.dumps({"cpus": os.cpu_count(), "alone": report["alone"], "attacks": judged}))
    sys.exit(any(one.failures for one in results.values()))


if __name__ == "__main__":
    main()
