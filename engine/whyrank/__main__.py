"""The command `whyrank`, with all its commands: those of cli.py, batch, mcp, and those of evaluation."""

from whyrank import cli_batch, cli_eval, cli_mcp  # noqa: F401  # they add their commands to the app
from whyrank.cli import app

__all__ = ["app"]

if __name__ == "__main__":
    app()
