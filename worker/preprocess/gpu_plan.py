"""What the kernels are asked for, and how much memory they may take for it. Pure: no device is touched here.

The contract becomes the kernels' plan, an image's window a placement in it; the staging memory is shared out; and work
for which the GPU's memory does not suffice is done in halves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from kernels import Placement, Plan
from kernels import Rect as KernelRect
from worker.errors import ConfigurationError, GpuMemoryFull
from worker.preprocess.contract import Contract, Rect

Item = TypeVar("Item")
Result = TypeVar("Result")

PIXEL_BYTES = 3
# Each picture begins at a multiple of this, as cudaMalloc aligns, so that rows are read in whole segments.
ALIGNMENT = 256


def plan_of(contract: Contract) -> Plan:
    """The contract as the kernels take it."""
    return Plan(
        contract.width,
        contract.height,
        contract.filter,
        contract.colour,
        contract.layout,
        contract.wire_dtype,
        contract.mean,
        contract.std,
        contract.pad_value or 0,
    )


def placement(contract: Contract, width: int, height: int, orientation: int = 1) -> Placement:
    """Where an image of width x height pixels, seen upright, goes. `orientation` says how it lies in memory."""
    window = contract.window(width, height)
    return Placement(_rect(window.source), _rect(window.destination), orientation)


def cut_placement(contract: Contract, width: int, height: int) -> tuple[Rect, Placement]:
    """The part of an upright image that is read at all, and where that part goes once it lies alone in memory."""
    window = contract.window(width, height)
    source = window.source
    return source, Placement(KernelRect(0, 0, source.width, source.height), _rect(window.destination))


def _rect(rect: Rect) -> KernelRect:
    return KernelRect(rect.x, rect.y, rect.width, rect.height)


def aligned(byte_size: int) -> int:
    """`byte_size` rounded up to where the next picture may begin."""
    return -(-byte_size // ALIGNMENT) * ALIGNMENT


def staging_share(staging_bytes: int, threads: int, max_pixels: int) -> int:
    """Bytes of staging for each decode thread. Raises ConfigurationError if the largest picture would not fit into it."""
    share = staging_bytes // threads // ALIGNMENT * ALIGNMENT
    needed = aligned(max_pixels * PIXEL_BYTES)
    if share < needed:
        raise ConfigurationError(
            f"gpu.staging_bytes is {staging_bytes}, {share} for each of {threads} decode threads, and one picture of "
            f"ingest.max_pixels takes {needed}: set it to {needed * threads}, or lower decode.threads or ingest.max_pixels"
        )
    return share


def in_parts(sizes: Sequence[int], capacity: int) -> list[range]:
    """The indices of `sizes` in as few runs as fit into `capacity` one at a time; one larger than that is a run of its own."""
    runs: list[range] = []
    start = used = 0
    for index, size in enumerate(sizes):
        if index > start and used + size > capacity:
            runs.append(range(start, index))
            start, used = index, 0
        used += size
    if len(sizes) > start:
        runs.append(range(start, len(sizes)))
    return runs


def by_halves(work: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item]) -> list[Result]:
    """`work(items)`, or that of its halves, and so on, where memory does not suffice for all at once.

    Raises GpuMemoryFull where it does not suffice for a single item.
    """
    try:
        return work(items)
    except GpuMemoryFull:
        if len(items) < 2:
            raise
    # Outside the handler: there the traceback would keep what the failed attempt had allocated.
    middle = len(items) // 2
    return by_halves(work, items[:middle]) + by_halves(work, items[middle:])
