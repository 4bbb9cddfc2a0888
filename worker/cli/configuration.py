"""`headrace config`: the settings in force and where each came from, their check, and the published schemas."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import msgspec
import typer
from rich.text import Text

from worker import config, records
from worker.cli.options import ConfigFile, Json, Sets, load
from worker.cli.output import result, stdout_console
from worker.errors import ConfigurationError

app = typer.Typer(help="Show, check and describe settings.", no_args_is_help=True)

SETTINGS = "settings"


@app.command()
def show(file: ConfigFile = None, sets: Sets = None, as_json: Json = False) -> None:
    """Print the settings in force as TOML keys, each with its origin: default, file, environment variable or flag."""
    configuration = load(file, sets)
    values = config.flat(configuration.settings)
    if as_json:
        result({"settings": values, "origins": dict(configuration.origins)})
        return
    console = stdout_console()
    width = max(len(f"{key} = {_toml(value)}") for key, value in values.items())
    for key, value in values.items():
        line = Text(f"{key} = {_toml(value)}")
        origin = configuration.origins[key]
        line.pad_right(width - len(line))
        line.append(f"  # {origin}", style="dim" if origin == "default" else "bold cyan")
        console.print(line, soft_wrap=True)


@app.command()
def check(file: ConfigFile = None, sets: Sets = None, as_json: Json = False) -> None:
    """Say whether the settings are valid; exit 2 with the reason if not."""
    configuration = load(file, sets)
    changed = sum(origin != "default" for origin in configuration.origins.values())
    if as_json:
        result({"ok": True, "settings": len(configuration.origins), "not_default": changed})
    else:
        sys.stdout.write(f"ok: {len(configuration.origins)} settings, {changed} of them not the default\n")


@app.command()
def schema(
    name: Annotated[
        str, typer.Argument(help="settings, or a kind of record: " + ", ".join(records.SCHEMAS))
    ] = SETTINGS,
    as_json: Json = False,
) -> None:
    """Print a JSON Schema: of the settings file, or of the records on a topic."""
    if name != SETTINGS and name not in records.SCHEMAS:
        raise ConfigurationError(f"no schema {name}; there are {', '.join([SETTINGS, *records.SCHEMAS])}")
    document = config.json_schema() if name == SETTINGS else records.json_schema(name)
    if as_json:
        result(document)
    else:
        sys.stdout.write(json.dumps(document, indent=2) + "\n")


def _toml(value: object) -> str:
    # JSON's strings, numbers, booleans and arrays of them are written the same in TOML.
    return msgspec.json.encode(value).decode()
