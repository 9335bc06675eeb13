"""The command `whyrank`, with all its commands."""

from whyrank.cli import batch, evaluate, install, mcp, rerank, serve  # noqa: F401  # they add their commands to the app
from whyrank.cli.common import app

__all__ = ["app"]

if __name__ == "__main__":
    app()
