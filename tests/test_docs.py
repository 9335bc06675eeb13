"""README and docs/ are correct: their code blocks run, against one server with the embedded model, and print what is shown.

In a block after `<!-- not run: reason -->` only the `whyrank` commands are parsed. Outputs are compared without their digits,
bars and frames, which differ between machines.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from types import CodeType
from typing import Any

import httpx
import pytest
import typer

import whyrank
from server_process import SMALL_CACHE, Server
from whyrank.__main__ import app
from whyrank.adapters.base import BaseAdapter
from whyrank.prompting.formats import load_format

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(
    r"(?:<!-- (?P<note>[^\n]*) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
# It starts an engine of its own: test_package.py runs it, from the README.
SCRIPT = re.compile(r"^if __name__", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """`output`: what the page shows below the block, if anything."""

    language: str
    text: str
    runs: bool
    output: str | None


def blocks_of(page: Path) -> list[Block]:
    content = page.read_text(encoding="utf-8")
    fences = [*FENCE.finditer(content)]
    blocks = []
    for fence, following in zip_longest(fences, fences[1:]):
        shown = following and following["language"] == "text" and not content[fence.end() : following.start()].strip()
        output = following["text"] if shown else None
        blocks.append(Block(fence["language"], fence["text"], fence["note"] is None, output))
    return blocks


@pytest.fixture(scope="module")
def demo(start_server: Any) -> Server:
    server: Server = start_server(Path("demo"), *SMALL_CACHE)
    return server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where commands run: what they write goes here, and scripts and examples are where a checkout has them."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("scripts", "examples"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def for_server(text: str, url: str) -> str:
    """The same command or code, sent to the tests' server where the page means one at port 8000 or would load the demo."""
    text = re.sub(r"whyrank rerank (?!-m|--url)", f"whyrank rerank --url {url} ", text.replace("-m demo", f"-m {url}"))
    return text.replace("http://localhost:8000", url).replace("localhost:8000", url.removeprefix("http://"))


def comparable(output: str) -> list[str]:
    """Only the words, in their order."""
    return re.sub(r"[\d\W_]+", " ", output).split()


def run_bash(text: str, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "COLUMNS": "88", "PYTHONPATH": str(ROOT / "engine")}
    command = ["bash", "-e", "-o", "pipefail", "-c", text]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
    return done.stdout


async def run_python(text: str, names: dict[str, Any]) -> str:
    """Runs it with `await` at top level, as in a notebook."""
    code: CodeType = compile(text, "page", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        value = eval(code, names)
        if asyncio.iscoroutine(value):
            await value
    return stdout.getvalue()


async def close_clients(names: dict[str, Any]) -> None:
    """What a page leaves open."""
    for value in names.values():
        if isinstance(value, whyrank.AsyncClient):
            await value.aclose()
        elif isinstance(value, BaseAdapter):
            value.close()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
async def test_the_blocks_of_a_page_run(page: Path, demo: Server, folder: Path) -> None:
    names: dict[str, Any] = {}
    async with AsyncExitStack() as stack:
        stack.push_async_callback(close_clients, names)
        for block in blocks_of(page):
            if block.runs and not SCRIPT.search(block.text):
                await run_block(block, names, demo, folder)


async def run_block(block: Block, names: dict[str, Any], demo: Server, folder: Path) -> None:
    text = for_server(block.text, demo.url)
    match block.language:
        case "bash":
            output = await asyncio.to_thread(run_bash, text, folder)
        case "python":
            output = await run_python(text, names)
        case _:
            return
    if block.output is not None:
        assert comparable(output.replace(demo.url, "demo")) == comparable(block.output), f"{text}\n{output}"


def commands_of(text: str) -> Iterator[list[str]]:
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] == "whyrank":
            yield words[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page: Path) -> None:
    group: Any = typer.main.get_command(app)
    for block in blocks_of(page):
        if block.language == "bash" and not block.runs:
            for name, *arguments in commands_of(block.text):
                group.commands[name].make_context(name, arguments)


def test_scripts_of_pages_are_the_readmes() -> None:
    scripts = {block.text for page in PAGES for block in blocks_of(page) if SCRIPT.search(block.text)}
    assert len(scripts) == 1 and scripts == {block.text for block in blocks_of(README) if block.language == "python"}


def test_prompt_files_of_pages_are_valid(tmp_path: Path) -> None:
    whole = [block.text for page in PAGES for block in blocks_of(page) if block.language == "toml" and block.runs]
    assert whole
    for text in whole:
        (tmp_path / "my-reranker.toml").write_text(text)
        assert load_format(tmp_path / "my-reranker.toml").fingerprint.startswith("my-reranker@")


def test_what_pages_name_is_there(demo: Server) -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"whyrank\[([\w-]+)\]", text)) <= set(extras)
    assert all((ROOT / path).is_file() for path in re.findall(r"\b(?:scripts|examples|tests)/\w+(?:\.\w+)?", text))
    metrics = httpx.get(f"{demo.url}/metrics").text
    shown = set(re.findall(r"`(whyrank_\w+)`", (ROOT / "docs" / "operations.md").read_text()))
    assert shown == {
        name for name in re.findall(r"^# TYPE (whyrank_\w+)", metrics, re.M) if not name.endswith("_created")
    }


def test_every_public_name_is_in_the_reference() -> None:
    reference = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^(?:::: whyrank\.|\| `|`)(\w+)", reference, re.MULTILINE))
    assert set(whyrank.__all__) <= documented


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 120
