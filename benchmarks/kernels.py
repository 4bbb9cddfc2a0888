"""`kernels`: how close each CUDA kernel comes to the memory's speed on this GPU.

Bytes that have to move (source pixels the filter reads, once, and the rows it writes) over time, against a plain copy on the
same device in the same round. Without a GPU there is nothing to measure, and the reason is printed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np

from benchmarks.options import Options
from benchmarks.spread import interleaved, paired_ratio, spread
from kernels import SUMS, Placement, Plan, Preprocess, Rect
from kernels.plan import Filter

SIDE = 224
SIZES = {"768x576": (768, 576), "1080p": (1920, 1080)}
BATCH = 64  # 85 MB and 398 MB of images: more than any GPU's cache holds
COPY_BYTES = 512 << 20
ROUNDS, ROUNDS_QUICK = 15, 5
LAUNCHES = 10  # in a row between two events: a launch's own cost doesn't show
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def measure(options: Options) -> dict[str, Any]:
    """`bandwidth_ratio`: achieved / copy bandwidth by kernel and frame size, median; or `skipped`."""
    try:
        import cupy
    except ImportError as error:
        return {"skipped": f"CuPy can't be imported ({error}): install the extra `gpu` on a host with a GPU"}
    if not cupy.cuda.is_available():
        return {"skipped": "CuPy finds no CUDA device"}

    stream = cupy.cuda.Stream(non_blocking=True)
    with tempfile.TemporaryDirectory(prefix="headrace-cubins-") as cubins:
        work, moved = _copy(cupy, stream)
        sides: dict[str, Callable[[], float]] = {"copy": _timed(cupy, stream, work, moved)}
        for size, (width, height) in SIZES.items():
            images = [cupy.asarray(_noise(width, height, seed)) for seed in range(BATCH)]
            for name in get_args(Filter):
                work, moved = _kernel(cupy, stream, Path(cubins), name, images)
                sides[f"{name}_{size}"] = _timed(cupy, stream, work, moved)
        for side in sides.values():
            side()  # compiled, loaded, tables uploaded
        speeds: dict[str, list[float]] = {name: [] for name in sides}
        for _, name, speed in interleaved(sides, options.rounds or (ROUNDS_QUICK if options.quick else ROUNDS)):
            speeds[name].append(speed)

    ratios = {name: paired_ratio(values, speeds["copy"]) for name, values in speeds.items() if name != "copy"}
    about = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    return {
        "bandwidth_ratio": {name: round(ratio.value, 3) for name, ratio in ratios.items()},
        "bandwidth_ratio_least": {name: round(ratio.low, 3) for name, ratio in ratios.items()},
        "bandwidth_ratio_greatest": {name: round(ratio.high, 3) for name, ratio in ratios.items()},
        **spread([speed / 1e9 for speed in speeds["copy"]]).keys("copy_gb_per_s"),
        "gpu_name": about["name"].decode(),
        "driver": cupy.cuda.runtime.driverGetVersion(),
    }


def _copy(cupy: Any, stream: Any) -> tuple[Callable[[], None], int]:
    """A copy within the device's memory, and how many bytes it moves: each is read and written."""
    source, target = cupy.zeros(COPY_BYTES, np.uint8), cupy.empty(COPY_BYTES, np.uint8)

    def work() -> None:
        target.data.copy_from_device_async(source.data, COPY_BYTES, stream)

    return work, 2 * COPY_BYTES


def _kernel(cupy: Any, stream: Any, cubins: Path, name: Filter, images: list[Any]) -> tuple[Callable[[], None], int]:
    """The batch stretched onto the model's input with its statistics, and how many bytes have to move for it."""
    plan = Plan(SIDE, SIDE, name, "rgb", "nchw", "float16", MEAN, STD)
    run = Preprocess(plan, cubins, len(images))
    slot = cupy.empty((len(images), *plan.row_shape), plan.wire)
    sums = cupy.empty((len(images), SUMS), np.uint64)
    height, width, _ = images[0].shape
    placements = [Placement(Rect(0, 0, width, height), Rect(0, 0, SIDE, SIDE))] * len(images)
    # `bilinear` reads four pixels for each it makes, the other two all there are.
    read = min(4 * SIDE * SIDE, width * height) if name == "bilinear" else width * height

    def work() -> None:
        run(images, placements, slot, sums, stream)

    return work, len(images) * read * 3 + slot.nbytes


def _timed(cupy: Any, stream: Any, work: Callable[[], None], moved: int) -> Callable[[], float]:
    """Bytes a second of `work`, by the device's clock."""

    def side() -> float:
        begin, end = cupy.cuda.Event(), cupy.cuda.Event()
        begin.record(stream)
        for _ in range(LAUNCHES):
            work()
        end.record(stream)
        end.synchronize()
        return moved * LAUNCHES / (float(cupy.cuda.get_elapsed_time(begin, end)) / 1000)

    return side


def _noise(width: int, height: int, seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
