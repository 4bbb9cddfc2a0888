"""The table of docs/reliability.md from the lines of a file of runs: one row a fault, written between two markers."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.faults.catalogue import BOTH, FAULTS, Fault
from tests.faults.run import EXACTLY_ONCE

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"
_HEAD = (
    "| | fault | seeds | sent | predicted | by fallback | dead letters | lost | repeated (allowed) | repeated, by id "
    "| out of order | fenced | recovery, s | peak, MiB | at commit | |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
)

Line = Mapping[str, Any]


def write(lines: Iterable[Line], command: str, page: Path = PAGE) -> None:
    """Put the table, with date, machine and command, in place of what is between the markers."""
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n{render(list(lines), command)}\n{END}{after}", encoding="utf-8")


def render(lines: Sequence[Line], command: str) -> str:
    """Markdown: what it was run on, a row for each fault, and a line for each run that fell short."""
    dates = sorted(str(line["at"])[:10] for line in lines) or ["never"]
    when = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    about = f"Seen {when} with `{command}` on {machine()}."
    rows = [_row(fault, [line for line in lines if line["fault"] == fault.number]) for fault in FAULTS]
    short = [
        f"- {line['fault']} {line['name']}, {line['mode']}, seed {line['seed']}: {'; '.join(line['problems'])}"
        for line in lines
        if line["problems"]
    ]
    return "\n".join([about, "", _HEAD, *rows, *(["", "Fell short:", "", *short] if short else [])])


def machine() -> str:
    """Processor, cores and memory."""
    model = platform.processor() or platform.machine()
    cpus = Path("/proc/cpuinfo")
    if cpus.exists():
        names = [
            line.partition(":")[2].strip() for line in cpus.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return f"{os.cpu_count()} cores of {model}, {psutil.virtual_memory().total / 2**30:.0f} GiB"


def _row(fault: Fault, lines: Sequence[Line]) -> str:
    if not lines:
        return f"| {fault.number} | {fault.what} | not run |" + " |" * 13

    def total(name: str) -> str:
        return f"{sum(line[name] for line in lines):,}"

    by_mode = [[line for line in lines if line["mode"] == mode] for mode in BOTH]
    seeds = " + ".join(str(len(of_mode)) for of_mode in by_mode if of_mode)
    least = [line for line in lines if line["mode"] != EXACTLY_ONCE]
    exactly = [line for line in lines if line["mode"] == EXACTLY_ONCE]
    repeated = f"{sum(x['repeated_raw'] for x in least):,} ({sum(x['repeated_allowed'] for x in least):,})"
    if exactly:
        repeated += f" + {sum(x['repeated_raw'] for x in exactly):,} (0)"
    waits = [line["recovery_s"] for line in lines if line["recovery_s"] is not None]
    recovery = f"{statistics.median(waits):.1f}, at most {max(waits):.1f}" if waits else ""
    short = sum(bool(line["problems"]) for line in lines)
    cells = (
        str(fault.number),
        fault.what,
        seeds,
        total("sent"),
        total("predicted"),
        total("fallback"),
        total("dead_lettered"),
        total("lost"),
        repeated,
        total("repeated_by_id"),
        total("out_of_order"),
        total("out_of_order_fenced"),
        recovery,
        f"{max(line['peak_mib'] for line in lines):.0f}",
        ", ".join(sorted({str(line["commit"]) for line in lines})),
        f"**{short} fell short**" if short else "",
    )
    return f"| {' | '.join(cells)} |"
