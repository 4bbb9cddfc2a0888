"""Where the kernels run in a test: `kernels.Preprocess` over CuPy, the real one or the one over this process's memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels import SUMS, Placement, Plan, Preprocess
from tests.kernels.cupy_on_cpu import FORWARD, CupyOnCpu

UNWRITTEN = 0xCD  # a slot's bytes before a launch


class Device:
    """Carries out plans, and gives back the slot's rows and their sums as arrays of the host."""

    def __init__(self, cupy: Any, cubins: Path) -> None:
        self.cupy, self.cubins = cupy, cubins
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self._made: dict[Plan, Preprocess] = {}

    def preprocess(self, plan: Plan) -> Preprocess:
        """For `plan`, made once."""
        if plan not in self._made:
            if isinstance(self.cupy, CupyOnCpu):
                with self.cupy.installed():
                    self._made[plan] = Preprocess(plan, self.cubins, max_batch=64)
            else:
                self._made[plan] = Preprocess(plan, self.cubins, max_batch=64)
        return self._made[plan]

    def __call__(
        self,
        plan: Plan,
        images: Sequence[npt.NDArray[np.uint8]],
        placements: Sequence[Placement],
        *,
        summed: bool = True,
        order: int = FORWARD,
    ) -> tuple[Any, Any]:
        """(n, ...) and (n, SUMS), or None for the sums if none are wanted. `order` has no effect on a real device."""
        cupy = self.cupy
        if isinstance(cupy, CupyOnCpu):
            cupy.order = order
        there = [self.there(image) for image in images]
        slot = cupy.asarray(unwritten((len(images), *plan.row_shape), plan.wire))
        sums = cupy.asarray(unwritten((len(images), SUMS), np.dtype(np.uint64))) if summed else None
        cupy.cuda.get_current_stream().synchronize()
        self.preprocess(plan)(there, placements, slot, sums, self.stream)
        self.stream.synchronize()
        return slot.get(), None if sums is None else sums.get()

    def there(self, image: npt.NDArray[np.uint8]) -> Any:
        """`image` in the device's memory, with its strides."""
        reach = sum((length - 1) * stride for length, stride in zip(image.shape, image.strides, strict=True))
        flat = self.cupy.asarray(np.lib.stride_tricks.as_strided(image, (reach + 1,), (1,)))
        return self.cupy.lib.stride_tricks.as_strided(flat, image.shape, image.strides)


def unwritten(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """An array whose bytes show whether somebody wrote them."""
    return np.full((*shape[:-1], shape[-1] * dtype.itemsize), UNWRITTEN, np.uint8).view(dtype)
