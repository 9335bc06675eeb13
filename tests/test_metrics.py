"""The dashboard shows exactly what the server counts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import whyrank
from whyrank.serving import metrics

DASHBOARD = Path(whyrank.__file__).parent / "serving" / "grafana.json"


def counted() -> set[str]:
    """Names as Prometheus sees them, without the suffixes of histograms."""
    from prometheus_client import REGISTRY

    assert metrics.count_ranking is not None  # importing the module registers the metrics
    return {
        family.name + ("_total" if family.type == "counter" else "")
        for family in REGISTRY.collect()
        if family.name.startswith("whyrank_")
    }


def test_every_metric_is_on_the_dashboard_and_the_other_way_round() -> None:
    shown = set(re.findall(r"whyrank_[a-z_]+", DASHBOARD.read_text(encoding="utf-8")))
    assert {name.removesuffix("_bucket") for name in shown} == counted()


def test_panels_do_not_lie_on_each_other() -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    corners = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(corners)) == len(panels)
