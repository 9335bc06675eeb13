"""The command `whyrank`, with all its commands."""

from whyrank import cli, cli_batch, cli_eval, cli_mcp  # noqa: F401  # they add their commands to the app
from whyrank.cli_common import app

__all__ = ["app"]

if __name__ == "__main__":
    app()
