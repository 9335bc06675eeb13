#!/usr/bin/env python3
"""Released clients and test suites of other projects against `whyrank serve` with the embedded model.

    scripts/conformance                              # everything, on both routes
    scripts/conformance --only cohere                # suites whose name has this in it
    scripts/conformance --only openapi --cases 20000 # as many generated requests
    scripts/conformance --list
    scripts/conformance | tail -n 1 | python -m json.tool

A suite is an ordinary pytest file, scripts/conformance_suites/test_NAME.py, whose inline metadata (PEP 723) names the packages
that it tries. Each gets a virtual environment of its own, which is kept, with what a package index had on the day; --upgrade
brings newer ones. Needs an index and a few GB of disk; suites of Node.js packages are left out where there is no node.
What is known not to apply stands with its reason in conformance_suites/does_not_apply.toml. That list may only shrink: a case
on it that passes, or that no longer exists, is a failure. So is a case that is skipped and not on it.
Progress goes to stderr, then a table to stdout; the last line of stdout is one JSON document. Exit code 1: something failed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import urllib.request
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

import server_process
from check_wheels import uv_settings

__all__ = [
    "Case",
    "Outcome",
    "Suite",
    "judge",
    "markdown",
    "read_cases",
    "read_listed",
    "read_suite",
    "see_packages_of",
    "table",
]

ROOT = Path(__file__).resolve().parents[1]
SUITES = ROOT / "scripts" / "conformance_suites"
LISTED = SUITES / "does_not_apply.toml"
KEY = "conformance-key"
SERVERS: Mapping[str, Sequence[str]] = {
    "generate": ("--api-key", KEY),
    "classify": ("--route", "classify"),
}
"""The routes of the embedded model. One server has a key and the other none."""

_COMMON = ("httpx", "pytest", "pytest-asyncio", "pytest-timeout")
_START_SECONDS = 600
_INSTALL_SECONDS = 1200
_DOWNLOAD_SECONDS = 300
# Clients look for updates and models, and tell their makers of it, unless told not to.
_QUIET = {
    "ANONYMIZED_TELEMETRY": "False",
    "DO_NOT_TRACK": "1",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "NO_PROXY": "127.0.0.1,localhost",
}
_METADATA = re.compile(r"(?m)^# /// script$\s(?P<content>(^#(| .*)$\s)+)^# ///$")


class ConformanceError(Exception):
    """A suite could not be tried at all."""


@dataclass(frozen=True)
class Suite:
    """`works_with`: the packages that it tries, which the table names with their versions. `npm`: packages of Node.js.
    `sdist`: a package whose tests it runs, of the version that the engine has. `engine`: whether it imports the engine's
    packages, too. It is cut after `seconds`, and each case after `case_seconds`."""

    name: str
    file: Path
    dependencies: tuple[str, ...]
    works_with: tuple[str, ...]
    servers: tuple[str, ...] = tuple(SERVERS)
    npm: tuple[str, ...] = ()
    sdist: str | None = None
    engine: bool = False
    seconds: int = 1200
    case_seconds: int = 120


def read_suite(file: Path) -> Suite:
    found = _METADATA.search(file.read_text(encoding="utf-8"))
    if found is None:
        raise ConformanceError(f"{file.name} has no inline metadata: begin it with `# /// script`, as PEP 723 has it")
    lines = found["content"].splitlines()
    metadata = tomllib.loads("\n".join(line[2:] for line in lines))
    options: dict[str, Any] = metadata.get("tool", {}).get("conformance", {})
    values: dict[str, Any] = {name.replace("-", "_"): one for name, one in options.items()}
    values |= {name: tuple(one) for name, one in values.items() if isinstance(one, list)}
    name = file.stem.removeprefix("test_")
    values.setdefault("works_with", tuple(metadata["dependencies"]))
    return Suite(name, file, tuple(metadata["dependencies"]), **values)


def read_suites() -> list[Suite]:
    return [read_suite(file) for file in sorted(SUITES.glob("test_*.py"))]


# What does not apply, and what came out.


def read_listed(suite: str, server: str, file: Path = LISTED) -> dict[str, str]:
    """The cases of a suite that are known not to apply, with the reason. An entry without `server` is for all of them."""
    entries = tomllib.loads(file.read_text(encoding="utf-8")).get(suite, [])
    here = [entry for entry in entries if entry.get("server", server) == server]
    return {case: entry["reason"] for entry in here for case in entry["cases"]}


@dataclass(frozen=True)
class Case:
    """`message`: why it did not pass; None if it did."""

    name: str
    message: str | None
    properties: Mapping[str, str] = field(default_factory=dict)


def read_cases(junit: Path) -> list[Case]:
    """From what pytest writes with --junitxml."""
    return [_case(element) for element in ElementTree.parse(junit).iter("testcase")]


def _case(element: ElementTree.Element) -> Case:
    place = element.get("classname", "").split(".")
    classes = [part for part in place if part[:1].isupper()]
    name = "::".join([*classes, element.get("name", "")])
    properties = {one.get("name", ""): one.get("value", "") for one in element.iter("property")}
    for kind in ("failure", "error", "skipped"):
        if (wrong := element.find(kind)) is not None:
            return Case(name, f"{kind}: {wrong.get('message') or wrong.text or ''}", properties)
    return Case(name, None, properties)


@dataclass
class Outcome:
    """Of one suite against one server."""

    suite: str
    server: str
    versions: list[str] = field(default_factory=list)
    passed: int = 0
    not_applicable: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    figures: dict[str, str] = field(default_factory=dict)
    seconds: float = 0
    left_out: str = ""

    @property
    def tried(self) -> int:
        return self.passed + self.not_applicable + len(self.failures)

    def to_json(self) -> dict[str, Any]:
        return {"tried": self.tried, **vars(self)}


def judge(outcome: Outcome, cases: Iterable[Case], listed: Mapping[str, str]) -> None:
    """Counts the cases. `listed`: those that do not apply."""
    unseen = set(listed)
    for case in cases:
        unseen.discard(case.name)
        outcome.figures |= case.properties
        if case.name in listed:
            if case.message is None:
                outcome.failures[case.name] = "passes: take it off does_not_apply.toml"
            else:
                outcome.not_applicable += 1
        elif case.message is None:
            outcome.passed += 1
        else:
            outcome.failures[case.name] = case.message
    for name in sorted(unseen):
        outcome.failures[name] = "does not exist: take it off does_not_apply.toml"


def table(outcomes: Iterable[Outcome]) -> str:
    rows: list[tuple[str, ...]] = [("suite", "server", "tried", "passed", "does not apply", "failed", "tried with")]
    for one in outcomes:
        counts = (str(number) for number in (one.tried, one.passed, one.not_applicable, len(one.failures)))
        rows.append((one.suite, one.server, *counts, one.left_out or ", ".join(one.versions)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def markdown(outcomes: Sequence[Outcome]) -> str:
    """The table of docs/serving.md, with a suite's servers together."""
    rows = ["| tried with | cases | pass | do not apply | fail |", "|---|---|---|---|---|"]
    for suite in dict.fromkeys(one.suite for one in outcomes if not one.left_out):
        own = [one for one in outcomes if one.suite == suite]
        counts = [sum(one.tried for one in own), sum(one.passed for one in own), sum(one.not_applicable for one in own)]
        failed = sum(len(one.failures) for one in own)
        rows.append(f"| {', '.join(own[0].versions)} | {' | '.join(map(str, counts))} | {failed} |")
    return "\n".join(rows)


# Environments.


class Environments:
    """Virtual environments in a folder, one a suite, made anew when what it asks for has changed."""

    def __init__(self, folder: Path, upgrade: bool) -> None:
        self._folder = folder
        self._upgrade = upgrade
        self._environ = {**os.environ, **uv_settings()}
        for name in ("PYTHONPATH", "VIRTUAL_ENV"):
            self._environ.pop(name, None)
        folder.mkdir(parents=True, exist_ok=True)
        self._uv = shutil.which("uv") or str(self._own_uv())

    def _own_uv(self) -> Path:
        tools = self._folder / "tools"
        if not (tools / "bin" / "uv").exists():
            self._run(sys.executable, "-m", "venv", "--clear", tools)
            self._run(tools / "bin" / "python", "-m", "pip", "install", "--quiet", "uv")
        return tools / "bin" / "uv"

    def _run(self, *command: str | Path, cwd: Path | None = None) -> str:
        try:
            done = subprocess.run(
                command,
                cwd=cwd or self._folder,
                env=self._environ,
                text=True,
                timeout=_INSTALL_SECONDS,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        except subprocess.TimeoutExpired as cause:
            raise ConformanceError(f"not done after {_INSTALL_SECONDS} s: {' '.join(map(str, command))}") from cause
        if done.returncode != 0:
            raise ConformanceError(f"{' '.join(map(str, command))}\n{done.stdout[-3000:]}")
        return done.stdout

    def python_of(self, suite: Suite) -> Path:
        """The interpreter of the suite's environment, which is made if need be."""
        folder = self._folder / suite.name
        python = folder / "bin" / "python"
        requirements = [self._own(one) for one in (*_COMMON, *suite.dependencies)]
        stamp = folder / "conformance-stamp"
        wanted = hashlib.sha256(json.dumps([requirements, suite.engine, sys.executable]).encode()).hexdigest()
        if self._upgrade or not stamp.exists() or stamp.read_text() != wanted:
            # torch brings gigabytes of CUDA, unless it is held to the engine's own, which is for the CPU.
            held = self._folder / "held.txt"
            lock = (ROOT / "engine/whyrank/locks/cpu.txt").read_text().splitlines()
            held.write_text(next(line for line in lock if line.startswith("torch==")) + "\n")
            self._run(self._uv, "venv", "--clear", "--python", sys.executable, folder)
            self._run(self._uv, "pip", "install", "--python", python, *requirements, "-c", held)
            stamp.write_text(wanted)
        if suite.engine:
            (site_packages,) = (folder / "lib").glob("python*/site-packages")
            engine = next(Path(path) for path in sys.path if path.endswith("site-packages"))
            see_packages_of(engine, site_packages)
        return python

    @staticmethod
    def _own(requirement: str) -> str:
        """whyrank is this checkout."""
        return f"{requirement} @ {ROOT.as_uri()}" if re.match(r"whyrank\b(?!-)", requirement) else requirement

    def versions(self, suite: Suite, python: Path) -> list[str]:
        listed = json.loads(self._run(self._uv, "pip", "list", "--quiet", "--format", "json", "--python", python))
        found = {one["name"].lower(): one["version"] for one in listed}
        names = [re.split(r"[\[<>=!~ ]", one)[0] for one in suite.works_with]
        versions = [f"{name} {found[name.lower()]}" for name in names if name.lower() in found and name != "whyrank"]
        if suite.sdist:
            versions.append(f"{suite.sdist} {_engine_version(suite.sdist)}")
        for package in suite.npm:
            manifest = self._node_folder(suite) / "node_modules" / package / "package.json"
            versions.append(f"{package} {json.loads(manifest.read_text())['version']} (npm)")
        return versions

    def _node_folder(self, suite: Suite) -> Path:
        return self._folder / f"{suite.name}-node"

    def node_modules(self, suite: Suite) -> Path:
        folder = self._node_folder(suite)
        stamp, wanted = folder / "conformance-stamp", " ".join(suite.npm)
        if not stamp.exists() or stamp.read_text() != wanted or self._upgrade:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            (folder / "package.json").write_text("{}")
            self._run("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *suite.npm, cwd=folder)
            stamp.write_text(wanted)
        return folder / "node_modules"

    def tests_of(self, package: str) -> Path:
        """The folder of a package's source distribution, with its tests alone. uv's lock has the address and the hash; to ask
        for the file by name would build it."""
        wanted = _engine_version(package)
        folder = self._folder / f"{package}-{wanted}"
        if folder.exists():
            return folder
        asked, lock = self._folder / "sdist.in", self._folder / "pylock.sdist.toml"
        asked.write_text(f"{package}=={wanted}\n")
        self._run(self._uv, "pip", "compile", "--quiet", "--no-deps", "--format", "pylock.toml", "-o", lock, asked)
        sdist = tomllib.loads(lock.read_text())["packages"][0]["sdist"]
        with urllib.request.urlopen(sdist["url"], timeout=_DOWNLOAD_SECONDS) as answer:
            content = answer.read()
        if hashlib.sha256(content).hexdigest() != sdist["hashes"]["sha256"]:
            raise ConformanceError(f"the source distribution of {package} is not the one of its hash")
        with tempfile.TemporaryDirectory(dir=self._folder) as unpacked, tempfile.TemporaryFile() as file:
            file.write(content)
            file.seek(0)
            with tarfile.open(fileobj=file) as archive:
                members = [one for one in archive.getmembers() if "/tests/" in one.name]
                archive.extractall(unpacked, members, filter="data")
            (top,) = Path(unpacked).iterdir()
            top.rename(folder)
        return folder


def see_packages_of(engine: Path, site_packages: Path) -> None:
    """Lets an environment import another one's packages. Its .pth files are obeyed, too: torchvision may need one."""
    (site_packages / "engine.pth").write_text(f"import site; site.addsitedir({str(engine)!r})\n")


def _engine_version(package: str) -> str:
    """vLLM's is built for CPUs under another name, with its version."""
    for name in (package, f"{package}-cpu"):
        with contextlib.suppress(PackageNotFoundError):
            return version(name)
    raise ConformanceError(f"{package} is not installed here: its tests are those of the version that is served")


# Runs.


@contextlib.contextmanager
def served(name: str, log: Path) -> Iterator[str]:
    """The address of a server, which is stopped at the end."""
    flags = [*SERVERS[name], "--vllm-routes", "--verbose", *server_process.SMALL_CACHE]
    quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    server = server_process.start(Path("demo"), flags, log, patience=_START_SECONDS, **quiet)
    try:
        yield server.url
    finally:
        family = [*psutil.Process(server.process.pid).children(recursive=True), psutil.Process(server.process.pid)]
        server.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.process.wait(60)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def environment_of(suite: Suite, url: str, environments: Environments, cases: int) -> dict[str, str]:
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environ |= _QUIET | {"CONFORMANCE_URL": url, "CONFORMANCE_KEY": KEY, "CONFORMANCE_CASES": str(cases)}
    if suite.npm:
        environ["CONFORMANCE_NODE_MODULES"] = str(environments.node_modules(suite))
    if suite.sdist:
        environ["CONFORMANCE_SDIST"] = str(environments.tests_of(suite.sdist))
    return environ


def run_pytest(suite: Suite, python: Path, environ: Mapping[str, str], folder: Path) -> list[Case]:
    junit = folder / f"{suite.name}.xml"
    junit.unlink(missing_ok=True)
    command: list[str | Path] = [
        python,
        "-m",
        "pytest",
        suite.file,
        "--junitxml",
        junit,
        "-o",
        "junit_family=xunit1",
        "-q",
    ]
    command += ["-c", SUITES / "pytest.ini", "--timeout", str(suite.case_seconds)]
    with (folder / f"{suite.name}.log").open("wb") as log:
        try:
            subprocess.run(
                command, env=environ, cwd=folder, stdout=log, stderr=subprocess.STDOUT, timeout=suite.seconds
            )
        except subprocess.TimeoutExpired as cause:
            raise ConformanceError(f"cut after {suite.seconds} s; see {log.name}") from cause
    if not junit.exists():
        raise ConformanceError(f"pytest came to nothing:\n{Path(log.name).read_text(errors='replace')[-2000:]}")
    return read_cases(junit)


def try_suite(suite: Suite, server: str, url: str, environments: Environments, folder: Path, cases: int) -> Outcome:
    outcome, began = Outcome(suite.name, server), time.monotonic()
    if suite.npm and shutil.which("npm") is None:
        outcome.left_out = "left out: no npm here"
        return outcome
    try:
        python = environments.python_of(suite)
        environ = environment_of(suite, url, environments, cases)
        outcome.versions = environments.versions(suite, python)
        judge(outcome, run_pytest(suite, python, environ, folder), read_listed(suite.name, server))
    except ConformanceError as error:
        outcome.failures["(the suite itself)"] = str(error)
    outcome.seconds = round(time.monotonic() - began, 1)
    return outcome


def run(suites: Sequence[Suite], servers: Sequence[str], options: argparse.Namespace) -> list[Outcome]:
    environments, outcomes = Environments(options.cache, options.upgrade), list[Outcome]()
    for server in servers:
        chosen = [suite for suite in suites if server in suite.servers]
        if not chosen:
            continue
        folder = options.cache / f"results-{server}"
        folder.mkdir(exist_ok=True)
        _progress(f"starting the {server} server")
        with served(server, folder / "server.log") as url:
            for number, suite in enumerate(chosen, 1):
                _progress(f"{server} {number}/{len(chosen)} {suite.name}")
                outcomes.append(try_suite(suite, server, url, environments, folder, options.cases))
                _report(outcomes[-1])
    return outcomes


def _report(outcome: Outcome) -> None:
    counts = f"{outcome.passed} of {outcome.tried} passed, {outcome.not_applicable} do not apply"
    _progress(f"    {outcome.left_out or counts}, {outcome.seconds:g} s {outcome.figures or ''}")
    for name, message in outcome.failures.items():
        _progress(f"    FAILED {name}: {message[:600]}")


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORD", help="only suites whose name has this in it")
    parser.add_argument("--server", choices=SERVERS, help="only this one of the two servers")
    parser.add_argument(
        "--cases", type=int, default=500, help="how many requests the suite openapi makes up; default 500"
    )
    parser.add_argument("--upgrade", action="store_true", help="install anew, with what the index has today")
    parser.add_argument("--markdown", action="store_true", help="print the table as docs/serving.md has it")
    parser.add_argument("--list", action="store_true", help="print the suites and stop")
    default = Path(tempfile.gettempdir()) / "whyrank-conformance"
    parser.add_argument("--cache", type=Path, default=default, help=f"where environments are kept; default {default}")
    options = parser.parse_args()
    options.cache = options.cache.absolute()
    return options


def main() -> None:
    options = arguments()
    suites = [suite for suite in read_suites() if options.only in suite.name]
    if not suites:
        sys.exit(f"no suite has {options.only!r} in its name; scripts/conformance --list names them")
    if options.list:
        print("\n".join(f"{suite.name:24} {', '.join(suite.works_with)}" for suite in suites))
        return
    outcomes = run(suites, [options.server] if options.server else [*SERVERS], options)
    print(markdown(outcomes) if options.markdown else table(outcomes))
    failed = sum(len(one.failures) for one in outcomes)
    totals = {name: sum(getattr(one, name) for one in outcomes) for name in ("tried", "passed", "not_applicable")}
    print(json.dumps({"ok": not failed, **totals, "failed": failed, "suites": [one.to_json() for one in outcomes]}))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
