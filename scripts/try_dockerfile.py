#!/usr/bin/env python3
"""Run a Dockerfile's lines in a clean Debian made by debootstrap, where no image can be pulled; then see the server be healthy.

    scripts/try_dockerfile.py                                       # deploy/Dockerfile, some minutes
    scripts/try_dockerfile.py deploy/Dockerfile deploy/Dockerfile.ray --no-server
    scripts/try_dockerfile.py --root /var/tmp/root                  # keep the root, to look around with chroot

Needs root, Debian's package debootstrap, 5 GB of free disk (--folder says where), and a free port 8000. The first file begins
with "FROM debian:SUITE"; those after it go on in the same root. RUN, COPY, ARG, ENV, WORKDIR and USER do what Docker does; each
RUN has its own processes and mounts. pip takes the index, the certificates and the folders of wheels that it has outside.
Then ENTRYPOINT and CMD are started as USER, as process 1, the command of HEALTHCHECK must succeed, and SIGTERM must end it.

The last line of stdout is one JSON document: the root's size, each step's seconds, what /health said, and the exit code.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

import httpx
import psutil

__all__ = ["Image", "Instruction", "read_dockerfile"]

ROOT = Path(__file__).parents[1]
_HEALTH = "http://localhost:8000/health"
_START_SECONDS = 300.0
_STOP_SECONDS = 90.0
_STEP_SECONDS = 1800.0
# By its whole name: the image's PATH need not have it.
_CHROOT = shutil.which("chroot") or "/usr/sbin/chroot"
# Into a namespace of mounts of its own, so that none is left behind.
_ENTER = 'mount -t proc proc "$1/proc" && for f in dev sys; do mount --rbind "/$f" "$1/$f"; done && shift && exec "$@"'


@dataclass(frozen=True, slots=True)
class Instruction:
    name: str
    rest: str


def read_dockerfile(text: str) -> list[Instruction]:
    """Its instructions, with continued lines joined and without comments."""
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    lines = re.sub(r"\\\n\s*", "", kept).splitlines()
    parts = [line.split(maxsplit=1) for line in lines if line.strip()]
    return [Instruction(name.upper(), rest[0] if rest else "") for name, *rest in parts]


@dataclass
class Image:
    """What the instructions have said so far."""

    arguments: dict[str, str]
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    folder: str = "/"
    user: str = "root"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)

    def expanded(self, text: str) -> str:
        return Template(text).safe_substitute(self.arguments | self.environment)

    def note(self, step: Instruction) -> None:
        """Everything but RUN, COPY and FROM, which change the root."""
        match step.name:
            case "ARG":
                name, _, default = step.rest.partition("=")
                self.arguments.setdefault(name, default)
            case "ENV":
                name, _, value = self.expanded(step.rest).partition("=")
                self.environment[name] = value
            case "WORKDIR":
                self.folder = self.expanded(step.rest)
            case "USER":
                self.user = step.rest
            case "ENTRYPOINT":
                self.entrypoint, self.command = json.loads(step.rest), []
            case "CMD":
                self.command = json.loads(step.rest)
            case "HEALTHCHECK":
                found = re.search(r"CMD (\[.*\])", step.rest)
                self.healthcheck = json.loads(found[1]) if found else []
            case "VOLUME" | "EXPOSE":
                pass
            case _:
                raise SystemExit(
                    f"{step.name} is an instruction that this script does not know: teach it, or leave it out"
                )


def pip_settings(root: Path) -> tuple[dict[str, str], list[str]]:
    """Environment variables for pip in the root, and folders to mount there, so that it finds the index that pip finds here."""
    settings = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.endswith("_proxy")}
    if Path("/etc/pip.conf").is_file():
        shutil.copy("/etc/pip.conf", root / "etc/pip.conf")
    if bundle := settings.get("PIP_CERT", os.environ.get("SSL_CERT_FILE")):
        shutil.copy(bundle, root / "outside.crt")
        settings["PIP_CERT"] = "/outside.crt"
    folders = [folder for folder in settings.get("PIP_FIND_LINKS", "").split() if Path(folder).is_dir()]
    return settings, folders


class CleanRoot:
    def __init__(self, path: Path, image: Image) -> None:
        self.path, self.image = path, image
        self.seconds: dict[str, float] = {}

    def build(self, dockerfile: Path, first: bool) -> None:
        for step in read_dockerfile(dockerfile.read_text(encoding="utf-8")):
            began = time.monotonic()
            match step.name:
                case "FROM" if first:
                    self._debootstrap(step.rest)
                case "FROM":
                    continue
                case "RUN":
                    subprocess.run(
                        self._entering(["/bin/sh", "-c", step.rest], pip=True),
                        env=self._environment(pip=True) | self.image.arguments,
                        check=True,
                        stdout=sys.stderr,
                        timeout=_STEP_SECONDS,
                    )
                case "COPY":
                    self._copy(*step.rest.split())
                case _:
                    self.image.note(step)
                    continue
            self.seconds[f"{step.name} {step.rest}"[:60]] = round(time.monotonic() - began, 1)

    def _debootstrap(self, base: str) -> None:
        found = re.fullmatch(r"debian:(\w+)(?:-slim)?", self.image.expanded(base))
        if found is None:
            raise SystemExit(f"FROM {base}: debootstrap makes debian:SUITE alone")
        subprocess.run(
            ["debootstrap", "--variant=minbase", found[1], str(self.path)], check=True, timeout=_STEP_SECONDS
        )
        for name in ("resolv.conf", "hosts"):
            shutil.copy(f"/etc/{name}", self.path / "etc" / name)

    def _copy(self, *words: str) -> None:
        *sources, target = words
        place = self.path / self.image.folder.strip("/") / target
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                goal = place / Path(source).name if target.endswith("/") else place
                goal.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, goal)

    def _environment(self, pip: bool = False) -> dict[str, str]:
        return self.image.environment | (pip_settings(self.path)[0] if pip else {})

    def _entering(self, command: list[str], pip: bool = False) -> list[str]:
        """The command that runs `command` inside, in processes and mounts of its own."""
        mounts = ""
        for folder in pip_settings(self.path)[1] if pip else ():
            inside = shlex.quote(str(self.path / folder.strip("/")))
            mounts += f"mkdir -p {inside} && mount --bind {shlex.quote(folder)} {inside} && "
        inner = f'cd {shlex.quote(self.image.folder)} && exec "$@"'
        chroot = [_CHROOT, f"--userspec={self.image.user}", str(self.path), "/bin/sh", "-c", inner, "sh", *command]
        (self.path / self.image.folder.strip("/")).mkdir(parents=True, exist_ok=True)
        unshared = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        return [*unshared, "sh", "-c", mounts + _ENTER, "sh", str(self.path), *chroot]

    @contextmanager
    def serving(self) -> Iterator[subprocess.Popen[bytes]]:
        home = f"/{self.image.user}" if self.image.user == "root" else _home_of(self.path, self.image.user)
        command = self._entering([*self.image.entrypoint, *self.image.command])
        process = subprocess.Popen(command, env=self._environment() | {"HOME": home}, stdout=sys.stderr)
        try:
            yield process
        finally:
            process.kill()  # and with it, by --kill-child, everything inside
            process.wait()

    def checked(self) -> dict[str, Any]:
        """Starts the server, waits until it is healthy, and stops it as Docker does."""
        began = time.monotonic()
        with self.serving() as process:
            while subprocess.run(
                self._entering(self.image.healthcheck), capture_output=True, env=self._environment()
            ).returncode:
                if process.poll() is not None or time.monotonic() - began > _START_SECONDS:
                    raise SystemExit(f"the server is not healthy after {time.monotonic() - began:.0f} s")
                time.sleep(1)
            result = {"healthy_after_seconds": round(time.monotonic() - began, 1), "health": httpx.get(_HEALTH).json()}
            (inside,) = psutil.Process(process.pid).children()
            result["user"] = inside.uids().real
            inside.terminate()
            return result | {"exit_code": process.wait(_STOP_SECONDS)}


def _home_of(root: Path, user: str) -> str:
    lines = (root / "etc/passwd").read_text(encoding="utf-8").splitlines()
    return next(line.split(":")[5] for line in lines if line.startswith(f"{user}:"))


def gibibytes(folder: Path) -> float:
    """On disk, as du counts it."""
    counted = subprocess.run(
        ["du", "--summarize", "--block-size=1", "--one-file-system", str(folder)], capture_output=True, check=True
    )
    return round(int(counted.stdout.split()[0]) / 2**30, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dockerfiles", nargs="*", type=Path, default=[ROOT / "deploy/Dockerfile"])
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE", help="as for docker build")
    parser.add_argument("--root", type=Path, help="make the root here and keep it; by default a temporary folder")
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes")
    parser.add_argument("--no-server", action="store_true", help="only build")
    options = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        raise SystemExit("this needs root and debootstrap: apt-get install debootstrap")
    path = options.root or Path(tempfile.mkdtemp(prefix="whyrank-root-", dir=options.folder))
    root = CleanRoot(path, Image(dict(one.split("=", 1) for one in options.build_arg)))
    try:
        for number, dockerfile in enumerate(options.dockerfiles):
            root.build(dockerfile, first=number == 0)
        result = {"root_gib": gibibytes(path), "seconds": root.seconds}
        result |= {} if options.no_server else root.checked()
    finally:
        if options.root is None:
            shutil.rmtree(path)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
