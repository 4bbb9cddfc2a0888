"""CUDA kernels: images in device memory become rows of a batch slot, with the statistics of what the model will see.

`Plan` says what the model wants, `Placement` where one image lands in it; `Preprocess` carries it out on a CUDA stream.
The package knows nothing of the worker, and imports CuPy only where it touches a device.
"""

from __future__ import annotations

from kernels.plan import Placement, Plan, Rect
from kernels.preprocess import Preprocess
from kernels.statistics import SUMS, features, summaries

__all__ = ["SUMS", "Placement", "Plan", "Preprocess", "Rect", "features", "summaries"]
