#!/usr/bin/env python3
"""Check deploy/ with the tools that it is for: the manifests against Kubernetes' schemas, the alerts against made-up series.

    python3 -m venv .venv-deploy && .venv-deploy/bin/pip install kubernetes-validate pyyaml
    apt-get install prometheus haproxy        # for promtool and haproxy; what is not installed is skipped, and named
    .venv-deploy/bin/python scripts/check_deploy.py

Of a RayService and a ScaledObject, whose schemas are their operators', the parts that are Kubernetes' own are checked: pod
templates, and how to scale. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["native_parts"]

DEPLOY = Path(__file__).parents[1] / "deploy"
_SERVERS = {"WHYRANK_A": "127.0.0.1:8001", "WHYRANK_B": "127.0.0.1:8002"}
_TOOLS = [
    ["haproxy", "-c", "-f", "haproxy.cfg"],
    ["promtool", "check", "config", "prometheus/prometheus.yml"],
    ["promtool", "check", "rules", "prometheus/alerts.yml"],
    ["promtool", "test", "rules", "prometheus/alerts_test.yml"],
]


def native_parts(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What a manifest holds that Kubernetes itself has a schema for."""
    spec, name = manifest["spec"], {"name": manifest["metadata"]["name"]}
    if manifest["kind"] == "RayService":
        cluster = spec["rayClusterConfig"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            yield {"apiVersion": "v1", "kind": "Pod", "metadata": name, **group["template"]}
    elif manifest["kind"] == "ScaledObject":
        yield {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": name,
            "spec": {
                "scaleTargetRef": {"kind": "Deployment", **spec["scaleTargetRef"]},
                "maxReplicas": spec["maxReplicaCount"],
                "minReplicas": spec["minReplicaCount"],
                "behavior": spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"],
            },
        }
    else:
        yield manifest


def check_manifests(version: str | None) -> dict[str, str | None]:
    """What is wrong with each, by file and kind."""
    import yaml
    from kubernetes_validate import latest_version, validate

    results: dict[str, str | None] = {}
    for file in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        for manifest in yaml.safe_load_all(file.read_text(encoding="utf-8")):
            for number, part in enumerate(native_parts(manifest)):
                what = f"{file.name}: {manifest['kind']}" + (
                    f", {part['kind']} {number}" if part is not manifest else ""
                )
                results[what] = _complaint(lambda part=part: validate(part, version or latest_version(), strict=True))  # type: ignore[misc]
    return results


def _complaint(check: Callable[[], object]) -> str | None:
    try:
        check()
    except Exception as error:  # the validator's own, which have no common base
        return f"{type(error).__name__}: {error}"[:500]
    return None


def run_tool(command: list[str]) -> str | None:
    done = subprocess.run(command, cwd=DEPLOY, capture_output=True, text=True, env=os.environ | _SERVERS, check=False)
    return None if done.returncode == 0 else (done.stdout + done.stderr).strip()[-1000:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--kubernetes", metavar="VERSION", help="such as 1.30; by default the newest that the checker knows"
    )
    options = parser.parse_args()
    results: dict[str, str | None] = {}
    skipped = sorted({command[0] for command in _TOOLS if shutil.which(command[0]) is None})
    try:
        results |= check_manifests(options.kubernetes)
    except ImportError as missing:
        skipped.append(f"kubernetes-validate ({missing})")
    for command in _TOOLS:
        if command[0] not in skipped:
            results[" ".join(command)] = run_tool(command)
    wrong = {what: complaint for what, complaint in results.items() if complaint is not None}
    for what, complaint in wrong.items():
        print(f"{what}: {complaint}", file=sys.stderr)
    print(json.dumps({"ok": not wrong, "checked": [*results], "wrong": [*wrong], "skipped": skipped}))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
