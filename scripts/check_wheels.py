#!/usr/bin/env python3
"""Builds whyrank's wheel, installs it into fresh environments with pip and with uv, and uses it there.

    scripts/check_wheels.py [--only WORD] [--envs FOLDER] [--keep]

build: sdist and wheel, twine's check, the contents of the wheel. client: no engine, and errors that name the remedy. cpu:
`whyrank install-engine --cpu`, then `whyrank rerank` on the embedded model. Every framework's extra: its adapter imports. cuda:
only resolved. The last line is one JSON document. Takes half an hour on two cores, and needs a package index and 8 GB of disk.

MTEB requires torch, which is pinned to the CPU build here: the default one brings gigabytes of CUDA.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INSTALLERS = ("pip", "uv")
# An extra, and the adapter module in whyrank.adapters that needs it.
EXTRAS = {
    "langchain": "langchain",
    "llama-index": "llama_index",
    "haystack": "haystack",
    "rerankers": "rerankers",
    "sentence-transformers": "sentence_transformers",
    "mteb": "mteb",
    "mcp": "mcp",
}
QUESTION = ["-q", "boiling point of water", "Everest is high.", "The boiling point of water is 100 °C."]
LIGHT = """
import sys, importlib, whyrank
from whyrank import AsyncClient, Client
from whyrank.errors import FrameworkMissing
assert not {"torch", "vllm", "transformers"} & set(sys.modules)
for name in sys.argv[1:]:
    try:
        importlib.import_module(f"whyrank.adapters.{name}")
    except FrameworkMissing as error:
        assert "whyrank[" in str(error), error
    else:
        raise SystemExit(f"whyrank.adapters.{name} imports without its framework")
"""


class CheckFailed(Exception):
    pass


@dataclass
class Workplace:
    """`envs`: a folder of our own, with a subfolder for each environment."""

    envs: Path
    wheel: Path = field(init=False)

    def __post_init__(self) -> None:
        self.tools = self.envs / "tools" / "bin"
        self.environ = {**os.environ, "PATH": f"{self.tools}:{os.environ['PATH']}", **uv_settings()}
        for name in ("PYTHONPATH", "VIRTUAL_ENV"):
            self.environ.pop(name, None)

    def run(self, *command: str | Path, code: int = 0, cwd: Path | None = None) -> str:
        """What the command printed on stdout and stderr."""
        done = subprocess.run(
            command, cwd=cwd or self.envs, env=self.environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        if done.returncode != code:
            line = " ".join(map(str, command))
            raise CheckFailed(f"exit code {done.returncode}, not {code}: {line}\n{done.stdout[-3000:]}")
        return done.stdout

    def fresh(self, installer: str, name: str) -> Path:
        """The folder of executables in a new environment. One made by uv has no pip."""
        folder = self.envs / f"{name}-{installer}"
        if installer == "uv":
            self.run("uv", "venv", "--clear", "--python", sys.executable, folder)
        else:
            self.run(sys.executable, "-m", "venv", "--clear", folder)
        return folder / "bin"

    def install(self, installer: str, programs: Path, *what: str | Path) -> None:
        if installer == "uv":
            self.run("uv", "pip", "install", "--python", programs / "python", *what)
        else:
            self.run(programs / "python", "-m", "pip", "install", "--disable-pip-version-check", *what)


def uv_settings() -> dict[str, str]:
    """uv does not read pip's configuration, where a machine has its indexes."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    pip = {}
    for line in listed.stdout.splitlines():
        name, _, value = line.partition("=")
        pip[name.split(".")[-1]] = value.strip("'\"")
    names = {
        "index-url": "UV_DEFAULT_INDEX",
        "extra-index-url": "UV_INDEX",
        "find-links": "UV_FIND_LINKS",
        "constraint": "UV_CONSTRAINT",
        "cert": "SSL_CERT_FILE",
    }
    return {ours: pip[theirs] for theirs, ours in names.items() if theirs in pip} | {
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_LINK_MODE": "hardlink",
    }


def build(place: Workplace) -> None:
    tools, dist = place.envs / "tools", place.envs / "dist"
    place.run(sys.executable, "-m", "venv", "--clear", tools)
    place.install("pip", place.tools, "build", "twine", "uv")
    shutil.rmtree(dist, ignore_errors=True)
    place.run(place.tools / "python", "-m", "build", "--outdir", dist, cwd=ROOT)
    place.run(place.tools / "twine", "check", "--strict", *dist.iterdir())
    (place.wheel,) = dist.glob("*.whl")
    names = zipfile.ZipFile(place.wheel).namelist()
    strangers = [name for name in names if not name.startswith(("whyrank/", "whyrank-")) or "__pycache__" in name]
    needed = {
        f"whyrank/{name}" for name in ("prompts/prism.toml", "locks/cpu.txt", "models/prism-demo/model.safetensors")
    }
    if strangers or not needed <= set(names):
        raise CheckFailed(f"the wheel holds {strangers}, and lacks {needed - set(names)}")


def client(place: Workplace, installer: str) -> None:
    programs = place.fresh(installer, "client")
    place.install(installer, programs, place.wheel)
    place.run(programs / "python", "-c", LIGHT, *EXTRAS.values())
    for command in (["rerank", *QUESTION], ["serve", "demo"], ["doctor", "demo"]):
        output = place.run(programs / "whyrank", *command, code=2)
        if "whyrank install-engine" not in output or "Traceback" in output:
            raise CheckFailed(f"whyrank {command[0]} without an engine printed:\n{output[-2000:]}")


def cpu(place: Workplace, installer: str) -> None:
    programs = place.fresh(installer, "cpu")
    place.install(installer, programs, place.wheel)
    place.run(programs / "whyrank", "install-engine", "--cpu")
    output = place.run(programs / "whyrank", "rerank", "--jsonl", *QUESTION)
    if '{"event": "done"' not in output:
        raise CheckFailed(f"whyrank rerank printed:\n{output[-3000:]}")


def extra(place: Workplace, installer: str, name: str) -> None:
    programs = place.fresh(installer, name)
    held = place.envs / "torch.txt"
    lock = (ROOT / "engine/whyrank/locks/cpu.txt").read_text().splitlines()
    held.write_text(next(line for line in lock if line.startswith("torch==")) + "\n")
    place.install(installer, programs, f"whyrank[{name}] @ {place.wheel.as_uri()}", "-c", held)
    place.run(programs / "python", "-c", f"import whyrank.adapters.{EXTRAS[name]}")


def cuda(place: Workplace, installer: str) -> None:
    lock = ROOT / "engine/whyrank/locks/cuda.txt"
    programs = place.fresh(installer, "cuda")
    place.install(installer, programs, "--dry-run", "-r", lock)


def checks(place: Workplace) -> Iterator[tuple[str, Path, Callable[[], None]]]:
    """Name, environment and the check to run."""
    for installer in INSTALLERS:
        for check in (client, cpu, cuda):
            name = f"{check.__name__}-{installer}"
            yield name, place.envs / name, lambda check=check, installer=installer: check(place, installer)  # type: ignore[misc]
        for one in EXTRAS:
            name = f"{one}-{installer}"
            yield name, place.envs / name, lambda one=one, installer=installer: extra(place, installer, one)  # type: ignore[misc]


def attempt(name: str, check: Callable[[], None]) -> dict[str, object]:
    began = time.monotonic()
    error = ""
    try:
        check()
    except CheckFailed as failure:
        error = str(failure)
    seconds = round(time.monotonic() - began, 1)
    print(f"{name:28} {'FAILED' if error else 'ok':7} {seconds:6.1f} s", error, flush=True)
    return {"name": name, "ok": not error, "seconds": seconds}


def run_checks(place: Workplace, only: str, keep: bool) -> list[dict[str, object]]:
    results = [attempt("build", lambda: build(place))]
    if not results[0]["ok"]:
        return results
    for name, folder, check in checks(place):
        if only in name:
            results.append(attempt(name, check))
            if not keep:
                shutil.rmtree(folder, ignore_errors=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="run only checks whose name has this in it, such as cpu or uv")
    parser.add_argument("--envs", type=Path, help="where environments are made; a temporary folder by default")
    parser.add_argument("--keep", action="store_true", help="do not delete the environments")
    options = parser.parse_args()
    if options.envs:
        options.envs.mkdir(parents=True, exist_ok=True)
    envs = Path(tempfile.mkdtemp(prefix="whyrank-wheels-", dir=options.envs))
    try:
        results = run_checks(Workplace(envs), options.only, options.keep)
    finally:
        if not options.keep:
            shutil.rmtree(envs, ignore_errors=True)
    passed = all(result["ok"] for result in results)
    print(json.dumps({"ok": passed, "checks": results}))
    sys.exit(not passed)


if __name__ == "__main__":
    main()
