"""Plots of results as SVG, drawn by matplotlib (extra `dev`), the same bytes for the same result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.report import best_rows

OURS_COLOUR, PEER_COLOUR, SERVER_COLOUR = "#1f6f8b", "#b0b7bd", "#e08e45"

Result = Mapping[str, Any]


def plot(result: Result, path: Path) -> None:
    """Draw one of PLOTTED. Raises ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    settings = {"svg.hashsalt": "headrace", "svg.fonttype": "none", "font.size": 9, "axes.spines.right": False}
    with plt.rc_context({**settings, "axes.spines.top": False}):
        figure = PLOTTED[result["benchmark"]](result, plt)
        figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
        plt.close(figure)


def _peers(result: Result, plt: Any) -> Any:
    """A bar for each side in each setting: with malloc as it comes, and, lighter, what tuning it adds."""
    best = best_rows(result["sides"].values(), "contract")
    settings = list(dict.fromkeys(row["setting"] for row in result["sides"].values()))
    figure, axes = plt.subplots(1, len(settings), figsize=(4 * len(settings), 3), squeeze=False)
    for axis, setting in zip(axes[0], settings, strict=True):
        rates: dict[str, dict[bool, float]] = {}
        for (side, of, tuned), row in best.items():
            if of == setting:
                rates.setdefault(side, {})[tuned] = row["frames_per_second"]
        names = sorted(rates, key=lambda name: rates[name].get(False, 0.0))
        colours = [OURS_COLOUR if name.startswith("worker") else PEER_COLOUR for name in names]
        axis.barh(
            names, [rates[name].get(True, 0.0) for name in names], color="none", edgecolor="#555555", linestyle=":"
        )
        axis.barh(names, [rates[name].get(False, 0.0) for name in names], color=colours)
        axis.set_title(setting)
        axis.set_xlabel("frames/s (dotted: malloc tuned)")
    figure.tight_layout()
    return figure


def _scale(result: Result, plt: Any) -> Any:
    """The worker's CPU a frame along each axis; the bare decoder's beside it where frames grow."""
    axes_of: dict[str, dict[str, Mapping[str, float]]] = {}
    for name, row in result["sides"].items():
        axis, _, point = name.partition(" ")
        axes_of.setdefault(axis, {})[point] = row["cpu_s_per_1000"]
    figure, axes = plt.subplots(1, len(axes_of), figsize=(3.2 * len(axes_of), 2.8), squeeze=False)
    for axis, (name, points) in zip(axes[0], axes_of.items(), strict=True):
        for role, colour in (("worker", OURS_COLOUR), ("decoder alone", PEER_COLOUR)):
            shown = [(point, cpu[role]) for point, cpu in points.items() if role in cpu]
            if shown:
                axis.plot(*zip(*shown, strict=True), marker="o", color=colour, label=role)
        axis.set_title(name)
        axis.set_ylabel("CPU ms a frame")
        axis.set_ylim(bottom=0)
        axis.tick_params(axis="x", rotation=30)
    axes[0][-1].legend()
    figure.tight_layout()
    return figure


def _transport(result: Result, plt: Any) -> Any:
    """CPU a frame of client and server, one on the other."""
    sides = result["sides"]
    figure, axis = plt.subplots(figsize=(6, 2.5))
    client = [row["cpu_s_per_1000"]["client"] for row in sides.values()]
    axis.barh(list(sides), client, color=OURS_COLOUR, label="client")
    server = [row["cpu_s_per_1000"]["triton"] for row in sides.values()]
    axis.barh(list(sides), server, left=client, color=SERVER_COLOUR, label="Triton")
    axis.set_xlabel("CPU ms a frame")
    axis.legend()
    return figure


def _decode(result: Result, plt: Any) -> Any:
    """CPU a frame over its encoded size."""
    figure, axis = plt.subplots(figsize=(6, 4))
    lines: dict[str, list[tuple[float, float]]] = {}
    for name, row in result["sides"].items():
        size, _, decoder = name.partition(" ")
        lines.setdefault(decoder, []).append((result["frame_kib"][size], row["cpu_s_per_1000"]["decode"]))
    for decoder, points in lines.items():
        tuned = "malloc" not in decoder
        axis.plot(
            *zip(*points, strict=True), marker="." if tuned else "x", linestyle="-" if tuned else ":", label=decoder
        )
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("KiB a frame")
    axis.set_ylabel("CPU ms a frame")
    axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


PLOTTED: dict[str, Callable[[Result, Any], Any]] = {
    "peers": _peers,
    "scale": _scale,
    "transport": _transport,
    "decode": _decode,
}
