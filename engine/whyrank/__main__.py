"""`python -m whyrank` is the command `whyrank`."""

from whyrank.cli import app

if __name__ == "__main__":
    app()
