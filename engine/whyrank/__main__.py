"""The command `whyrank`, with all its commands: those of cli.py and those of evaluation."""

from whyrank import cli_eval  # noqa: F401  # adds its commands to the app
from whyrank.cli import app

__all__ = ["app"]

if __name__ == "__main__":
    app()
