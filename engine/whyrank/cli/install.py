"""The command install-engine: the engine, in the versions that whyrank was tried with."""

from __future__ import annotations

from typing import Annotated

import typer

from whyrank.cli.common import app, reported
from whyrank.engine_install import check_gpu, detect_device, install, installer, plan_steps

__all__: list[str] = []


@app.command()
def install_engine(
    cpu: Annotated[
        bool | None, typer.Option("--cpu/--cuda", help="The default: CUDA where nvidia-smi answers, otherwise CPU.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the commands and run nothing.")] = False,
) -> None:
    """Install vLLM and what it needs, in the versions that whyrank was tested with, into this Python's environment.

    Runs pip or, where there is no pip, uv. Takes some minutes: 2.5 GB for CPU, some 10 GB for CUDA.
    """
    with reported() as stdout:
        device = detect_device() if cpu is None else "cpu" if cpu else "cuda"
        if dry_run:
            for step in plan_steps(device, installer()):
                print(step, file=stdout)
            return
        install(device)
        if device == "cuda" and (remark := check_gpu()):
            print(f"The engine is installed, but {remark}.", file=stdout)
            return
        print("The engine is installed. Try: whyrank rerank -q 'boiling point' 'Water boils at 100 °C.'", file=stdout)
