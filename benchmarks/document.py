"""From a benchmark's result to docs/performance.md: its tables and plot, with the machine and the date.

The result itself is kept as `docs/figures/NAME.json`, which is also what a later run is checked against. `python -m
benchmarks NAME --write` does it after a run, `python -m benchmarks.document FILE` for a saved object of `--json`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.plots import PLOTTED, plot
from benchmarks.report import best_rows

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "performance.md"
FIGURES = DOCS / "figures"

Result = Mapping[str, Any]


def record_of(name: str, figures: Path = FIGURES) -> Path:
    """Where a benchmark's recorded result lies."""
    return figures / f"{name}.json"


def write(result: Result, page: Path = PAGE, figures: Path = FIGURES) -> None:
    """Record the result, draw it, and put it into its place on the page. Raises ValueError if the page has none."""
    name = result["benchmark"]
    text = spliced(page.read_text(encoding="utf-8"), name, block(result, figures.name))
    figures.mkdir(exist_ok=True)
    record_of(name, figures).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if name in PLOTTED:
        plot(result, figures / f"{name}.svg")
    page.write_text(text, encoding="utf-8")


def has_place(name: str, page: Path = PAGE) -> bool:
    """Whether the page has the two lines between which a benchmark's figures go."""
    text = page.read_text(encoding="utf-8")
    return all(mark in text for mark in _marks(name))


def spliced(page: str, name: str, block_: str) -> str:
    """The page with the block between `<!-- figures: NAME -->` and `<!-- end of NAME -->`. Raises ValueError."""
    start, end = _marks(name)
    before, opened, rest = page.partition(start)
    _, closed, after = rest.partition(end)
    if not (opened and closed):
        raise ValueError(f"the page has no place for {name}: a line {start} and a line {end}")
    return f"{before}{start}\n{block_}\n{end}{after}"


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- figures: {name} -->", f"<!-- end of {name} -->"


def block(result: Result, figures: str) -> str:
    """Markdown: what it was measured on, the ratios, the sides, the plot."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if name != "headrace")
    parts = [
        f"Measured on {result['date']}{', `--quick`' if result['quick'] else ''}: {machine['cores']} cores of "
        f"{machine['cpu']}, {machine['memory_gib']} GiB, {machine['system']}, Python {machine['python']}, "
        f"{result.get('broker', 'no broker')}; load before the start {machine['load']}. {versions}.",
        figures_table(result),
    ]
    if result["benchmark"] == "peers":
        for key in ("full_decode", "bilinear"):
            parts += [f"`{key}`:", figures_table(result[key])]
        parts += [peers_table(result["sides"].values(), kind) for kind in ("contract", "bilinear")]
        parts.append("In brackets the number of processes; * from a short trial, since it did not reach the rounds.")
    elif result["benchmark"] == "decode":
        parts.append(decoders_table(result["sides"], result["frame_kib"]))
    else:
        parts.append(sides_table(result["sides"]))
    if result["benchmark"] in PLOTTED:
        parts.append(f"![{result['benchmark']}]({figures}/{result['benchmark']}.svg)")
    return "\n\n".join(parts)


def figures_table(result: Mapping[str, Any]) -> str:
    """The figures that have a spread."""
    keys = [key for key in result if f"{key}_low" in result]
    return table(
        ("figure", "median", "least", "greatest"),
        ([f"`{key}`", *(f"{result[part]:g}" for part in (key, f"{key}_low", f"{key}_high"))] for key in keys),
    )


def sides_table(sides: Mapping[str, Mapping[str, Any]]) -> str:
    """Frames a second and CPU of each side."""
    roles = list(dict.fromkeys(role for row in sides.values() for role in row["cpu_s_per_1000"]))
    with_rates = any("frames_per_second" in row for row in sides.values())
    return table(
        ("side", *(["frames/s"] if with_rates else []), *(f"CPU ms a frame: {role}" for role in roles)),
        (
            [
                side,
                *([_number(row.get("frames_per_second"))] if with_rates else []),
                *(_number(row["cpu_s_per_1000"].get(role)) for role in roles),
            ]
            for side, row in sides.items()
        ),
    )


def decoders_table(sides: Mapping[str, Mapping[str, Any]], frame_kib: Mapping[str, float]) -> str:
    """CPU a frame of each decoder at each size."""
    cells = {tuple(name.split(" ", 1)): row["cpu_s_per_1000"]["decode"] for name, row in sides.items()}
    return table(
        ("CPU ms a frame", *(f"{size}, {kib:.0f} KiB" for size, kib in frame_kib.items())),
        (
            [decoder, *(_number(cells.get((size, decoder))) for size in frame_kib)]
            for decoder in dict.fromkeys(decoder for _, decoder in cells)
        ),
    )


def peers_table(rows: Iterable[Mapping[str, Any]], kind: str) -> str:
    """Frames a second of each side in its best number of processes, by setting and malloc, with one filter."""
    rows = list(rows)
    best = best_rows(rows, kind)
    sides, settings = (
        list(dict.fromkeys(row[key] for row in rows if row["filter"] == kind)) for key in ("side", "setting")
    )
    columns = [(tuned, setting) for tuned in (False, True) for setting in settings]

    def cell(row: Mapping[str, Any] | None) -> str:
        if row is None:
            return ""
        return f"{row['frames_per_second']:g} ({row['processes']}){'*' if row['trial'] else ''}"

    return table(
        (f"frames/s, {kind} filter", *(f"{setting}{', malloc tuned' if tuned else ''}" for tuned, setting in columns)),
        ([side, *(cell(best.get((side, setting, tuned))) for tuned, setting in columns)] for side in sides),
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right."""
    lines = [head, ["---", *(["---:"] * (len(head) - 1))], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


if __name__ == "__main__":
    for path in sys.argv[1:]:
        write(json.loads(Path(path).read_text(encoding="utf-8").splitlines()[-1]))
