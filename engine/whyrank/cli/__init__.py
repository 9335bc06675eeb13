"""The command line. Each command parses options, makes one call and renders the result; common.py has what commands share."""
