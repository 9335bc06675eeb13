"""deploy/ fits the server: metrics that it has, limits that it sets, files that are there; and its Dockerfile can be read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from check_deploy import native_parts
from test_metrics import counted
from try_dockerfile import Image, Instruction, read_dockerfile
from whyrank.serving.admission import Limits

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
QUERIES = ["grafana/instances.json", "prometheus/alerts.yml", "prometheus/alerts_test.yml", "kubernetes/keda.yaml"]


def documents_of(name: str) -> list[Any]:
    return [*yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8"))]


@pytest.mark.parametrize("name", QUERIES)
def test_every_metric_that_is_asked_for_exists(name: str) -> None:
    asked = re.findall(r"\b(?:whyrank_[a-z_]+|vllm:[a-z_]+)", (DEPLOY / name).read_text(encoding="utf-8"))
    assert asked
    assert {metric.removesuffix("_bucket") for metric in asked} <= counted()


def test_panels_do_not_lie_on_each_other() -> None:
    panels = json.loads((DEPLOY / "grafana/instances.json").read_text(encoding="utf-8"))["panels"]
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)


def test_every_alert_is_shown_to_fire() -> None:
    (rules,), (tests,) = documents_of("prometheus/alerts.yml"), documents_of("prometheus/alerts_test.yml")
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    fired = {case["alertname"] for test in tests["tests"] for case in test["alert_rule_test"] if "exp_alerts" in case}
    assert fired == alerts


def test_numbers_that_repeat_the_servers_limits_are_its_limits() -> None:
    full = re.search(r"in_flight > (\d+) # four fifths", (DEPLOY / "prometheus/alerts.yml").read_text(encoding="utf-8"))
    assert full and int(full[1]) == 0.8 * Limits().waiting_documents


def test_files_that_compose_mounts_are_there() -> None:
    (compose,) = documents_of("compose.yaml")
    mounted = [
        volume.split(":")[0] for service in compose["services"].values() for volume in service.get("volumes", [])
    ]
    files = [name for name in mounted if name.startswith(".")]
    assert files and all((DEPLOY / name).exists() for name in files)
    scraped = documents_of("prometheus/prometheus.yml")[0]["scrape_configs"][0]["static_configs"][0]["targets"]
    assert {target.split(":")[0] for target in scraped} <= compose["services"].keys()


def test_a_pod_is_asked_for_its_health_and_given_time_to_stop() -> None:
    deployment = documents_of("kubernetes/whyrank.yaml")[0]["spec"]["template"]["spec"]
    (container,) = deployment["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] == "/health" and container[probe]["timeoutSeconds"] > 5
    assert deployment["terminationGracePeriodSeconds"] > 10 + 30 + 30
    assert deployment["securityContext"]["runAsUser"] == int(re.findall(r"--uid (\d+)", dockerfile())[0])


def test_the_parts_of_other_operators_resources_are_found() -> None:
    (service,), (scaled,) = documents_of("kubernetes/rayservice.yaml"), documents_of("kubernetes/keda.yaml")
    assert [part["spec"]["containers"][0]["image"] for part in native_parts(service)] == ["whyrank:cuda-ray"] * 2
    assert [part["kind"] for part in native_parts(scaled)] == ["HorizontalPodAutoscaler"]
    ray = re.search(r"^ray==(\S+)$", (ROOT / "scripts/locks/ray.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert ray and service["spec"]["rayClusterConfig"]["rayVersion"] == ray[1]


def dockerfile() -> str:
    return (DEPLOY / "Dockerfile").read_text(encoding="utf-8")


def test_the_image_runs_the_set_up_script_and_no_pip_of_its_own() -> None:
    steps = read_dockerfile(dockerfile())
    commands = [step.rest for step in steps if step.name == "RUN"]
    assert "scripts/setup --$DEVICE --server" in commands[-1] and not any("pip install" in line for line in commands)
    copied = [name for step in steps if step.name == "COPY" for name in step.rest.split()[:-1]]
    let_through = re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
    assert {*copied, "scripts/setup_ray"} == {*let_through} and all((ROOT / name).exists() for name in copied)


def test_instructions_are_read_as_docker_reads_them() -> None:
    text = 'FROM debian:bookworm\n# a comment\nRUN one \\\n    && two\n\nentrypoint ["x"]\n'
    wanted = [("FROM", "debian:bookworm"), ("RUN", "one && two"), ("ENTRYPOINT", '["x"]')]
    assert read_dockerfile(text) == [Instruction(*pair) for pair in wanted]


def test_what_the_image_starts() -> None:
    image = Image({"DEVICE": "cuda"})
    for step in read_dockerfile(dockerfile()):
        if step.name not in ("FROM", "RUN", "COPY"):
            image.note(step)
    assert [*image.entrypoint, *image.command] == ["whyrank", "serve", "demo"]
    assert image.user == "whyrank" and image.healthcheck[0] == "python" and "/health" in image.healthcheck[-1]
    assert image.arguments == {"DEVICE": "cuda"} and image.environment["PATH"].startswith(f"{image.folder}/.venv/bin:")
    with pytest.raises(SystemExit, match="ONBUILD is an instruction that this script does not know"):
        image.note(Instruction("ONBUILD", "RUN x"))
