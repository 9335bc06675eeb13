#!/usr/bin/env python3
"""Checks whether a version of vLLM has everything that whyrank uses of it, by reading its wheel, which is not installed.

    scripts/check_vllm.py 0.32.0 0.33.0          # downloads the wheels, 350 MB each
    scripts/check_vllm.py --wheel vllm-0.33.0-cp38-abi3-manylinux_2_28_x86_64.whl
    scripts/check_vllm.py --folder .venv/lib/python3.11/site-packages

What is looked up is listed in engine/whyrank/runtimes/vllm_compat.py: names with their modules, arguments, fields of objects,
environment variables and error texts. The last line of stdout is one JSON document. Exit code 1: something is missing.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from whyrank.runtimes import vllm_compat

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class Package:
    """The source files of one version of vLLM, in the folder that contains the package."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.module = cache(self._module)

    def _module(self, name: str) -> ast.Module | None:
        path = self._folder / name.replace(".", "/")
        source = next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)
        return ast.parse(source.read_text(encoding="utf-8")) if source else None

    def home(self, name: str) -> str | None:
        """The first of a name's possible modules that defines it."""
        return next((module for module in vllm_compat.NAMES[name] if name in self._names(module)), None)

    def _names(self, module: str) -> set[str]:
        tree = self.module(module)
        return set(_top_level_names(tree.body)) if tree else set()

    def definition(self, module: str, name: str) -> Definition | None:
        """A class or function, even if the module only imports it."""
        tree = self.module(module)
        for node in _statements(tree.body) if tree else ():
            if isinstance(node, Definition) and node.name == name:
                return node
            if isinstance(node, ast.ImportFrom) and any((a.asname or a.name) == name for a in node.names):
                original = next(a.name for a in node.names if (a.asname or a.name) == name)
                return self.definition(_absolute(module, node), original)
        return None

    def members(self, module: str, name: str) -> set[str]:
        """Arguments of a function; fields, properties, methods and arguments of a class and its bases."""
        definition = self.definition(module, name)
        if definition is None:
            return set()
        if not isinstance(definition, ast.ClassDef):
            return _arguments(definition)
        names: set[str] = set()
        for node in ast.walk(definition):
            match node:
                case (
                    ast.AnnAssign(target=ast.Name(id=field))
                    | ast.Attribute(value=ast.Name(id="self"), attr=field, ctx=ast.Store())
                ):
                    names.add(field)
                case ast.FunctionDef(name="__init__") | ast.FunctionDef(name="__new__"):
                    names |= _arguments(node)
                case ast.FunctionDef(name=method):
                    names.add(method)
        for base in definition.bases:
            if isinstance(base, ast.Name):
                names |= self.members(module, base.id)
        return names

    def method(self, module: str, name: str, method: str) -> set[str]:
        """The arguments of a method, of the class or of one of its bases."""
        definition = self.definition(module, name)
        if not isinstance(definition, ast.ClassDef):
            return set()
        for node in definition.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == method:
                return _arguments(node)
        bases = (base.id for base in definition.bases if isinstance(base, ast.Name))
        return next(filter(None, (self.method(module, base, method) for base in bases)), set())

    def lacking_texts(self, texts: Iterable[str], under: str) -> list[str]:
        left = list(texts)
        for path in sorted((self._folder / under).rglob("*.py")):
            source = path.read_text(encoding="utf-8")
            left = [text for text in left if text not in source]
        return left


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """All statements of a module, including those under `if` and `try`."""
    for node in body:
        yield node
        for part in ("body", "orelse", "finalbody"):
            if isinstance(node, ast.If | ast.Try):
                yield from _statements(getattr(node, part, []))


def _top_level_names(body: Iterable[ast.stmt]) -> Iterator[str]:
    for node in _statements(body):
        match node:
            case ast.FunctionDef(name="__getattr__"):  # the name is created on first use
                yield from (c.value for c in ast.walk(node) if isinstance(c, ast.Constant) and isinstance(c.value, str))
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.name
            case ast.Import() | ast.ImportFrom():
                yield from (alias.asname or alias.name for alias in node.names)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                yield name


def _absolute(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    return ".".join([*module.split(".")[: -node.level], *filter(None, [node.module])])


def _arguments(node: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    return {argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}


def missing(folder: Path) -> list[str]:
    """What whyrank uses but this vLLM does not have."""
    package = Package(folder)
    homes = {name: package.home(name) for name in vllm_compat.NAMES}
    lacking = [f"{name}: in none of {', '.join(vllm_compat.NAMES[name])}" for name, home in homes.items() if not home]
    for target, wanted in vllm_compat.ARGUMENTS.items():
        name, _, method = target.partition(".")
        if home := homes[name]:
            known = package.method(home, name, method) if method else package.members(home, name)
            lacking += [f"{target}: no argument {argument}" for argument in wanted if argument not in known]
    for target, wanted in vllm_compat.FIELDS.items():
        module, _, name = target.rpartition(".")
        known = package.members(module, name)
        lacking += [f"{target}: no field {one}" for one in wanted if one not in known]
    variables = package.lacking_texts((f'"{name}"' for name in vllm_compat.ENVIRONMENT), "vllm")
    texts = package.lacking_texts(vllm_compat.ERROR_TEXTS, "vllm")
    return [*lacking, *(f"environment: {name}" for name in variables), *(f"error text: {text}" for text in texts)]


def unpacked(wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.endswith(".py")])
    return folder


def downloaded(version: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"vllm=={version}", "-d", str(folder)]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def sources(options: argparse.Namespace, temporary: Path) -> Iterator[tuple[str, Path]]:
    """The label to print for each, and the folder that contains its package `vllm`."""
    for folder in options.folder:
        yield str(folder), folder
    for wheel in options.wheel:
        yield wheel.name, unpacked(wheel, temporary / wheel.stem)
    for version in options.version:
        place = temporary / version
        yield version, unpacked(downloaded(version, place), place / "sources")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", nargs="*", help="to download")
    parser.add_argument("--wheel", type=Path, action="append", default=[])
    parser.add_argument("--folder", type=Path, action="append", default=[], help="which holds an unpacked vllm")
    options = parser.parse_args()
    if not (options.version or options.wheel or options.folder):
        parser.error("name a version, a wheel or a folder")
    with tempfile.TemporaryDirectory() as temporary:
        results = {name: missing(folder) for name, folder in sources(options, Path(temporary))}
    for name, lacking in results.items():
        print(f"{name}: " + ("has all" if not lacking else "lacks\n  " + "\n  ".join(lacking)), file=sys.stderr)
    print(json.dumps({"ok": not any(results.values()), "missing": results}))
    sys.exit(any(results.values()))


if __name__ == "__main__":
    main()
