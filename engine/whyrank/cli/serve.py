"""The commands formats, doctor and serve: list the known families, check a checkpoint, serve it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer

from whyrank.cli import render
from whyrank.cli.common import AsJson, app, demo_model, reported
from whyrank.cli.flags import Flags, flags_of
from whyrank.cli.terminal import Terminal
from whyrank.config import EngineConfig, ServeOptions
from whyrank.errors import INSTALL_ENGINE, EngineNotInstalled
from whyrank.process import prepare_process
from whyrank.prompting.formats import PROMPTS, builtin_formats, to_toml

__all__: list[str] = []


@app.command()
@flags_of("engine", EngineConfig, only=("prompt", "revision", "trust_remote_code"))
def formats(
    where: Annotated[bool, typer.Option("--where", help="Print the folder of the prompt files.")] = False,
    of: Annotated[
        str | None,
        typer.Option(
            "--of", metavar="MODEL", help="Print the prompt file that a checkpoint's own chat template makes."
        ),
    ] = None,
    as_json: AsJson = False,
    *,
    engine: Flags,
) -> None:
    """List the prompt formats that come with whyrank.

    `whyrank formats --of ./my-reranker > my-reranker.toml` for a checkpoint that comes with its own prompt

    `whyrank formats --of ./my-chat-model --prompt chat > my-chat-model.toml`
    """
    with reported() as stdout:
        if of is not None:
            from whyrank.checkpoints import derived_format

            print(to_toml(derived_format(EngineConfig(of, **engine))), end="", file=stdout)
        elif where:
            print(PROMPTS, file=stdout)
        elif as_json:
            print(json.dumps([f.model_dump(mode="json") for f in builtin_formats().values()]), file=stdout)
        else:
            Terminal(file=stdout).print(render.formats_table(builtin_formats().values()))


@app.command()
@flags_of("engine", EngineConfig)
def doctor(
    model: Annotated[str, typer.Argument(help="A folder or a hub name.")],
    pairs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='Check pairs of your own, too: JSON lines of {"query": "...", "documents": ["..."]}, the first 200 pairs.',
        ),
    ] = None,
    *,
    engine: Flags,
) -> None:
    """Check whether a checkpoint can be trusted as served: prompt, labels, ids, parity with transformers, cache.

    `whyrank doctor Qwen/Qwen3-Reranker-0.6B`

    `whyrank doctor Qwen/Qwen3-Reranker-0.6B --pairs my_pairs.jsonl`

    Exit code 1 if it cannot.
    """
    with reported() as stdout:
        from whyrank.doctor import examine, read_pairs

        requests = read_pairs(pairs) if pairs else []
        config = EngineConfig(model, **engine)
        prepare_process()
        with render.waiting(f"examining {model}"):
            report = asyncio.run(examine(config, requests))
        Terminal(file=stdout).print(render.report_table(report, model))
    if not report.trusted:
        raise typer.Exit(1)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
@flags_of("engine", EngineConfig, only=("prompt", "route", "calibration", "verifier"))
@flags_of("options", ServeOptions)
def serve(
    context: typer.Context,
    model: Annotated[str | None, typer.Argument(help="A folder or a hub name.")] = None,
    *,
    engine: Flags,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the vLLM command, with our defaults, and stop.")
    ] = False,
    options: Flags,
) -> None:
    """Serve a checkpoint over HTTP, inside vLLM's own server. Flags of `vllm serve` may follow the model.

    `whyrank serve demo`

    `whyrank serve Qwen/Qwen3-Reranker-0.6B --port 8000 --api-key SECRET`

    `curl localhost:8000/v1/rerank -H "Authorization: Bearer SECRET" -d '{"query": "...", "documents": ["..."]}'`

    Then: `/playground` in a browser, `/docs` for the API, `/metrics` for Prometheus. WHYRANK_MAX_DOCUMENTS, _CHARACTERS,
    _BODY_MIB and _WAITING_DOCUMENTS limit requests. Set TLS and the rest with vLLM's flags.
    """
    with reported():
        try:
            from whyrank.serving.flags import model_in_config_file
            from whyrank.serving.launch import serve as launch
        except ImportError as cause:
            raise EngineNotInstalled(f"the engine is not installed ({cause}): {INSTALL_ENGINE}") from cause

        flags = context.args
        if model is None or model.startswith("-"):  # then it is a flag of vLLM's
            flags = [*([model] if model else []), *flags]
            model = model_in_config_file(flags) or demo_model("whyrank serve Qwen/Qwen3-Reranker-0.6B")
        launch(EngineConfig(model, **engine), flags, dry_run, ServeOptions(**options))
