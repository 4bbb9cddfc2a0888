"""From measured runs to what is printed: rows of a side for the JSON object, and the same as a table for a reader."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.clock import Run
from benchmarks.spread import spread


def cpu_row(runs: Sequence[Run]) -> dict[str, float]:
    """CPU seconds per 1,000 frames of each process: the median over the rounds."""
    return {
        role: round(statistics.median(run.cpu_s_per_1000[role] for run in runs), 4) for role in runs[0].cpu_s_per_1000
    }


def side_row(runs: Sequence[Run]) -> dict[str, Any]:
    """A side's own row: frames a second with its spread, and CPU."""
    rate = spread([run.window.frames_per_second for run in runs])
    return {**rate.keys("frames_per_second"), "cpu_s_per_1000": cpu_row(runs), "rounds": len(runs)}


def best_rows(rows: Iterable[Mapping[str, Any]], kind: str) -> dict[tuple[str, str, bool], Mapping[str, Any]]:
    """Of the rows of `peers` with one filter: (side, setting, malloc tuned) -> its row in its best number of processes.

    Rounds go before trials, then the faster.
    """
    best: dict[tuple[str, str, bool], Mapping[str, Any]] = {}
    for row in sorted(rows, key=lambda row: (not row["trial"], row["frames_per_second"])):
        if row["filter"] == kind:
            best[row["side"], row["setting"], row["malloc_tuned"]] = row
    return best


def short(value: float) -> float:
    """Four digits after the point: a tenth of a microsecond a frame."""
    return round(value, 4)


def print_tables(result: Mapping[str, Any], console: Console) -> None:
    """Figures with their spread, a row for each side, then the remaining facts."""
    figures = Table(title=f"benchmark {result['benchmark']}", title_justify="left")
    for column in ("figure", "median", "least", "greatest"):
        figures.add_column(column, justify="left" if column == "figure" else "right")
    for key, value in result.items():
        if f"{key}_low" in result:
            figures.add_row(key, f"{value:g}", f"{result[f'{key}_low']:g}", f"{result[f'{key}_high']:g}")
    console.print(figures)
    sides: Mapping[str, Mapping[str, Any]] = result.get("sides", {})
    if sides:
        table = Table(
            "side", "frames/s", "CPU s per 1,000 frames", title="sides, median of the rounds", title_justify="left"
        )
        for side, row in sides.items():
            cpu = ", ".join(f"{role} {seconds:.3g}" for role, seconds in row["cpu_s_per_1000"].items())
            rate = row.get("frames_per_second")
            table.add_row(side, "" if rate is None else f"{rate:g}", cpu)
        console.print(table)
    for key, value in result.items():
        if not key.endswith(("_low", "_high")) and f"{key}_low" not in result and key not in ("sides", "benchmark"):
            text = ", ".join(f"{name} {item}" for name, item in value.items()) if isinstance(value, dict) else value
            console.print(f"[bold]{key}[/bold]: {text}", highlight=False, soft_wrap=True)
