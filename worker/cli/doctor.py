"""`headrace doctor`: checks what the worker stands on, one line each, with the remedy where something is amiss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import typer
from rich.text import Text

from worker.cli import checks
from worker.cli.checks import Finding, Verdict
from worker.cli.options import ConfigFile, Json, Sets, load
from worker.cli.output import result, stdout_console
from worker.errors import ConfigurationError

_STYLES = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}


def doctor(file: ConfigFile = None, sets: Sets = None, as_json: Json = False) -> None:
    """Check configuration, packages, broker, topics, model, Triton and GPU.

    Exit 0 if nothing failed (warnings are allowed), 2 if it is the configuration, 3 if a dependency.
    """
    console = stdout_console()
    findings: list[Finding] = []
    for finding in _examine(file, sets):
        findings.append(finding)
        if not as_json:
            console.print(_line(finding), soft_wrap=True)
    failed = [finding for finding in findings if finding.verdict is Verdict.FAIL]
    exit_code = max((finding.exit_code for finding in failed), default=0)
    if as_json:
        result({"ok": not failed, "exit_code": exit_code, "checks": findings})
    elif not failed:
        console.print("everything the worker needs is there", style="green")
    raise typer.Exit(exit_code)


def _examine(file: ConfigFile, sets: Sequence[str] | None) -> Iterator[Finding]:
    try:
        configuration = load(file, sets)
    except ConfigurationError as error:
        yield Finding("configuration", Verdict.FAIL, str(error), "headrace config schema lists all keys", exit_code=2)
        yield from checks.packages()
        return
    settings = configuration.settings
    changed = sum(origin != "default" for origin in configuration.origins.values())
    yield Finding("configuration", Verdict.OK, f"{len(configuration.origins)} settings, {changed} not the default")
    yield from checks.packages()
    yield from checks.client(settings)
    yield from checks.memory(settings)
    yield from checks.gpu(settings)
    yield from checks.broker(settings)
    yield from checks.model(settings)


def _line(finding: Finding) -> Text:
    line = Text(f"{finding.verdict:4}", style=_STYLES[finding.verdict])
    line.append(f"  {finding.name:14}", style="bold")
    line.append(f"  {finding.detail}", style="default not bold")
    if finding.remedy and finding.verdict is not Verdict.OK:
        line.append(f"\n{'':22}-> {finding.remedy}", style="cyan")
    return line
