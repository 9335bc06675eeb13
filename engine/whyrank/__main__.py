"""The command `whyrank`, with all its subcommands."""

# Importing these modules adds their commands to the app.
from whyrank.cli import batch, calibrate, compare, evaluate, install, mcp, quantize, reproduce, rerank, retrieve, serve  # noqa: F401
from whyrank.cli.common import app

__all__ = ["app"]

if __name__ == "__main__":
    app()
