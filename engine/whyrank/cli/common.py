"""What the commands have in common: the app, the options that several of them take, and how errors are reported."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from typing import Annotated, Any, TypeVar, get_args

import typer
from rich.markup import escape

from whyrank.cli import render
from whyrank.cli.terminal import Terminal
from whyrank.config import DEMO
from whyrank.connect import API_KEY_VARIABLE
from whyrank.errors import EvalNotInstalled, RetryableError, WhyrankError

__all__ = [
    "ApiKey",
    "AsJson",
    "Model",
    "OptionalModel",
    "Url",
    "app",
    "choice",
    "demo_model",
    "evaluation_reported",
    "kept",
    "opened",
    "reported",
]

T = TypeVar("T")

app = typer.Typer(
    help="Rerank documents with generative rerankers on vLLM.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
_EVAL_PACKAGES = ("bm25s", "jinja2", "numpy", "pytrec_eval", "scipy", "Stemmer")
_DEMO_NOTE = (
    f'no model given: using "{DEMO}", the small model included in whyrank, which errs where a question is put in other words. '
    "For a real model, for example: {}"
)


def choice(values: Any) -> str:
    return "[" + "|".join(get_args(values)) + "]"


Model = Annotated[str, typer.Option("--model", "-m", help="A folder or a hub name, e.g. Qwen/Qwen3-Reranker-0.6B.")]
OptionalModel = Annotated[
    str | None, typer.Option("--model", "-m", help="A folder or a hub name, to load in this process.")
]
Url = Annotated[
    list[str] | None,
    typer.Option("--url", help="Or the URL of a whyrank server; may be repeated for several servers of one model."),
]
ApiKey = Annotated[str | None, typer.Option(help=f"The server's API key; by default that in {API_KEY_VARIABLE}.")]
AsJson = Annotated[bool, typer.Option("--json", help="Exactly one JSON document on stdout.")]


@asynccontextmanager
async def opened(connection: AbstractAsyncContextManager[T], name: str) -> AsyncIterator[T]:
    """Opens the model or the client, and shows a spinner while a model starts."""
    async with AsyncExitStack() as stack:
        with render.waiting(f"starting {name}"):
            running = await stack.enter_async_context(connection)
        yield running


@contextmanager
def reported() -> Iterator[Any]:
    """Give the command the real stdout, send all other output (engines print, too) to stderr, and report errors in one line."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace") as stdout:
        os.dup2(2, 1)
        try:
            yield stdout
        except WhyrankError as error:
            Terminal(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
            raise typer.Exit(2) from error
        finally:
            stdout.flush()
            os.dup2(stdout.fileno(), 1)


@contextmanager
def evaluation_reported() -> Iterator[Any]:
    """As `reported`; in addition, a missing package of the eval extra is an error that says what to install."""
    with reported() as stdout:
        try:
            yield stdout
        except ModuleNotFoundError as cause:
            if (cause.name or "").partition(".")[0] not in _EVAL_PACKAGES:
                raise
            raise EvalNotInstalled(f"evaluation needs {cause.name}: pip install 'whyrank[eval]'") from cause


@contextmanager
def kept(what: str) -> Iterator[None]:
    """If the command is interrupted, prints that the same command resumes."""
    try:
        yield
    except RetryableError as error:
        error.args = (f"{error}; what was {what} is kept: run the same command again to resume",)
        raise


def demo_model(real: str) -> str:
    """The default model, with a note that it is only for trying out. `real`: how to name a real one."""
    Terminal(stderr=True).print(_DEMO_NOTE.format(real), style="yellow", highlight=False, soft_wrap=True)
    return DEMO
