"""The id under which clients keep a server's scores: shared by all servers that give the same scores, never by two that may
not."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from inprocess import FakeRuntime, InProcess, prism_plan
from whyrank.checkpoints import Plan
from whyrank.serving.instance import instance_id


@pytest.fixture
def folder(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A checkpoint that a test may modify."""
    return Path(shutil.copytree(checkpoint("qwen3"), tmp_path / "model"))


def id_of(plan: Plan, model: str = "tiny", **facts: str) -> str:
    runtime = FakeRuntime(plan.encoder)
    runtime.facts = lambda: {**facts}  # type: ignore[method-assign]
    return instance_id(plan, runtime, model)


def test_processes_and_copies_of_a_server_agree(folder: Path, tmp_path: Path) -> None:
    assert InProcess(prism_plan(folder), "key").service.instance_id == InProcess(prism_plan(folder)).service.instance_id
    copy = shutil.copytree(folder, tmp_path / "elsewhere", copy_function=shutil.copy2)
    assert id_of(prism_plan(copy)) == id_of(prism_plan(folder))


def test_whatever_may_change_a_score_changes_the_id(folder: Path, tmp_path: Path) -> None:
    plan = prism_plan(folder)
    calibration = tmp_path / "calibration.json"
    calibration.write_text("{}")
    ids = [id_of(plan), id_of(plan, "large"), id_of(plan, dtype="bfloat16"), id_of(plan, dtype="float32")]
    ids.append(id_of(replace(plan, route="classify")))
    ids.append(id_of(replace(plan, format=plan.format.model_copy(update={"name": "other"}))))
    for more in ({"revision": "v2"}, {"calibration": str(calibration)}):
        ids.append(id_of(replace(plan, config=replace(plan.config, **more))))
    config = folder / "config.json"
    config.write_text(config.read_text() + "\n")
    ids.append(id_of(plan))
    (weights,) = folder.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes())  # the same size, with another modification time
    ids.append(id_of(plan))
    assert len({*ids}) == len(ids)


def test_a_commit_of_the_hub_is_the_same_wherever_it_lies(folder: Path, tmp_path: Path) -> None:
    ids = set()
    for machine in ("a", "b"):
        snapshot = tmp_path / machine / "snapshots" / ("0f" * 20)
        snapshot.parent.mkdir(parents=True)
        shutil.copytree(folder, snapshot, copy_function=shutil.copyfile)  # with new modification times
        ids.add(id_of(prism_plan(snapshot)))
    assert len(ids) == 1


def test_a_checkpoint_that_cannot_be_looked_at_is_the_same_in_one_server_only(folder: Path) -> None:
    plan = prism_plan(folder)
    unknown = replace(plan, config=replace(plan.config, model="nobody/nothing"))
    process = multiprocessing.current_process()
    key, here = process.authkey, id_of(unknown)
    context = multiprocessing.get_context("fork")
    ids = context.SimpleQueue()
    child = context.Process(target=lambda: ids.put(id_of(unknown)))
    child.start()
    assert ids.get() == here == id_of(unknown)
    child.join()
    try:
        process.authkey = b"that of another server's processes"
        assert id_of(unknown) != here
    finally:
        process.authkey = key
