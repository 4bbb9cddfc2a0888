"""From images and placements to what a kernel is given: one `JOB` an image and the shape of the launch. Pure.

The structures here are those of preprocess.cu, field by field. Addresses are numbers: the caller owns the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from kernels import axes
from kernels.plan import Placement, Plan, View

# struct Job of preprocess.cu.
JOB = np.dtype(
    [
        *((name, np.uint64) for name in ("source", "columns", "rows", "shares_across", "shares_down")),
        ("channel", np.int64),
        *(
            (name, np.int32)
            for name in ("across", "down", "shrunk_width", "shrunk_height", "x", "y", "width", "height")
        ),
        *((name, np.float32) for name in ("gain", "offset")),
    ]
)
THREADS = 256
TILE = (32, 16)  # pixels of the model's input a block makes


class TableKey(NamedTuple):
    """What determines an axis table: `axes.<kind>(source, target)`."""

    kind: Literal["bilinear_columns", "bilinear_rows", "area", "whole", "antialias"]
    source: int
    target: int

    def build(self) -> axes.Table:
        """The table itself."""
        if self.kind == "bilinear_columns":
            return axes.bilinear(self.source, self.target, "columns")
        if self.kind == "bilinear_rows":
            return axes.bilinear(self.source, self.target, "rows")
        return {"area": axes.area, "whole": axes.whole, "antialias": axes.antialias}[self.kind](
            self.source, self.target
        )


def jobs(
    plan: Plan, views: Sequence[View], placements: Sequence[Placement], address: Callable[[TableKey], int]
) -> npt.NDArray[Any]:
    """(n,) of JOB. `address` gives where an axis table lies in the device's memory.

    Raises ValueError if the two sequences differ in length or a placement leaves its image or the model's input.
    """
    if len(views) != len(placements):
        raise ValueError(f"{len(views)} images came with {len(placements)} placements")
    rows = np.zeros(len(views), JOB)
    for row, view, placement in zip(rows, views, placements, strict=True):
        source, target = placement.source, placement.destination
        _check_inside("source", source, (view.width, view.height), "upright image")
        _check_inside("destination", target, (plan.width, plan.height), "model's input")
        row["source"] = view.address + source.x * view.across + source.y * view.down
        row["across"], row["down"], row["channel"] = view.across, view.down, view.channel
        row["x"], row["y"], row["width"], row["height"] = target
        if plan.filter == "bilinear_antialias":
            row["columns"] = address(TableKey("antialias", source.width, target.width))
            row["rows"] = address(TableKey("antialias", source.height, target.height))
            continue
        # `area` takes the mean along an axis that shrinks, then samples bilinearly along one that grows.
        shrunk = (source.width, source.height)
        if plan.filter == "area":
            shrunk = (min(source.width, target.width), min(source.height, target.height))
            ratio = axes.area_ratio((source.width, source.height), shrunk)
            kind: Literal["area", "whole"] = "area" if ratio is None else "whole"
            row["gain"], row["offset"] = (1.0, 0.0) if ratio is None else ratio
            row["shares_across"] = address(TableKey(kind, source.width, shrunk[0]))
            row["shares_down"] = address(TableKey(kind, source.height, shrunk[1]))
        row["shrunk_width"], row["shrunk_height"] = shrunk
        row["columns"] = address(TableKey("bilinear_columns", shrunk[0], target.width))
        row["rows"] = address(TableKey("bilinear_rows", shrunk[1], target.height))
    return rows


def kernel_name(plan: Plan) -> str:
    """The kernel of preprocess.cu that carries the plan out."""
    return f"preprocess_{plan.filter}"


def grid(plan: Plan, images: int) -> tuple[int, int, int]:
    """Blocks of a launch."""
    return (-(-plan.width // TILE[0]), -(-plan.height // TILE[1]), images)


def scalars(plan: Plan) -> tuple[np.int32, ...]:
    """The kernel's arguments after its four addresses (jobs, levels, slot, sums)."""
    return tuple(
        np.int32(value)
        for value in (
            plan.width,
            plan.height,
            plan.wire.itemsize,
            plan.layout == "nchw",
            plan.colour == "bgr",
            plan.pad_value,
        )
    )


def _check_inside(name: str, rect: tuple[int, int, int, int], size: tuple[int, int], of: str) -> None:
    x, y, width, height = rect
    if x < 0 or y < 0 or x + width > size[0] or y + height > size[1]:
        raise ValueError(f"{name} {rect} leaves the {of} of {size[0]}x{size[1]} pixels")
