"""The commands: read the environment and the arguments, build the configuration, start what was asked for.

One module a command; data goes to stdout, messages to stderr. `main` is the console script.
"""

from worker.cli.app import main

__all__ = ["main"]
