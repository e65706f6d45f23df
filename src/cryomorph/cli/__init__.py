"""The command line: `main.py` chooses, one thin file for each command does. Nothing imports it."""
