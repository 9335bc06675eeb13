"""The RayService's application takes the arguments that the manifest gives it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

ray = pytest.importorskip("ray", reason="Ray is not installed: scripts/test --cluster installs it")


def test_the_manifests_arguments_are_options() -> None:
    from whyrank.cluster.ray_serve import ClusterOptions

    manifest = yaml.safe_load(
        (Path(__file__).parents[1] / "deploy/kubernetes/rayservice.yaml").read_text(encoding="utf-8")
    )
    (application,) = yaml.safe_load(manifest["spec"]["serveConfigV2"])["applications"]
    assert application["import_path"] == "whyrank.cluster.ray_serve:app"
    options = ClusterOptions.model_validate(application["args"])
    assert options.max_replicas == manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["maxReplicas"]
