"""The command quantize: a checkpoint with int8 weights."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from whyrank.cli import render
from whyrank.cli.common import AsJson, app, reported
from whyrank.cli.flags import Flags, flags_of
from whyrank.cli.terminal import Terminal, json_text
from whyrank.config import EngineConfig

__all__: list[str] = []


@app.command("quantize")
@flags_of("options", EngineConfig, ["revision"])
def quantize_command(
    model: Annotated[str, typer.Argument(help='A folder, a hub name, or "demo".')],
    out: Annotated[
        Path, typer.Argument(help="The new folder. Its name decides which prompt fits it, or give --prompt.")
    ],
    *,
    options: Flags,
    as_json: AsJson = False,
) -> None:
    """Write a checkpoint with int8 weights: faster on a CPU with VNNI or AMX, and smaller.

    `whyrank quantize Qwen/Qwen3-Reranker-0.6B int8/Qwen3-Reranker-0.6B`

    `whyrank compare Qwen/Qwen3-Reranker-0.6B int8/Qwen3-Reranker-0.6B --data house`

    Weights per output channel, activations per token, in compressed-tensors' W8A8 format, which plain vLLM opens, too. It needs
    no calibration data. Embeddings, norms and the head stay as they are. The second command shows what it costs.
    """
    with reported() as stdout:
        from whyrank.quantize import int8_instructions, quantize

        with render.waiting(f"quantising {model}"):
            written = quantize(EngineConfig(model, **options), out)
        instructions = int8_instructions()
        if as_json:
            print(json_text({"out": str(out), **asdict(written), "instructions": instructions}), file=stdout)
            return
        mib = (f"{size / (1 << 20):.0f}" for size in (written.bytes_after, written.bytes_before))
        Terminal(file=stdout).plain(f"{out}: {written.layers} layers in int8, {' of '.join(mib)} MiB")
        if instructions is None:
            Terminal(stderr=True).plain(
                "this processor has neither VNNI nor AMX: whyrank opens the result elsewhere only"
            )
