"""The command line: each command is options in, one call, rendering out. The app and what commands share are in common.py."""
