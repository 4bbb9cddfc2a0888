"""Options that several commands share, and how they become a configuration."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from worker import config
from worker.config import Configuration
from worker.errors import ConfigurationError
from worker.settings import Settings

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="Settings file (TOML)."),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Set one setting; may be given again. Overrides all else."),
]
Json = Annotated[bool, typer.Option("--json", help="The last line of stdout is one JSON object.")]


def load(file: Path | None, sets: Sequence[str] | None) -> Configuration:
    """Defaults, then the file, then the environment, then `--set`. Raises ConfigurationError."""
    return config.load(file, os.environ, flags(sets or ()))


def flags(sets: Sequence[str]) -> dict[str, Any]:
    """`section.key=value` texts as a mapping; a list's values are separated by commas. The last of a key wins."""
    lists = {key for key, value in config.flat(Settings()).items() if isinstance(value, list | tuple)}
    pairs: dict[str, Any] = {}
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigurationError(f"--set {text}: not SECTION.KEY=VALUE, as in --set batching.linger_ms=5")
        key = key.strip()
        pairs[key] = [part.strip() for part in value.split(",")] if key in lists else value
    return pairs
