"""Bare decoding and preprocessing: simplejpeg into a reused buffer, the worker's own transform into a reused slot.

The least that any side must do to a frame before a model sees it. No validation, no orientation, no error handling.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import simplejpeg

from benchmarks.corpus import HEIGHT, WIDTH
from worker.frames import AnyArray, UInt8Array
from worker.preprocess.contract import Contract
from worker.preprocess.cpu import CpuTransform


class Preparing:
    """For one thread. `slot` is (batch, *tensor shape) in the contract's dtype, overwritten row by row."""

    def __init__(self, model_folder: str, batch: int) -> None:
        contract = Contract.load(Path(model_folder) / "preprocess.toml")
        self.slot: AnyArray = np.zeros((batch, *contract.tensor_shape), contract.dtype)
        self._transform = CpuTransform(contract)
        self._pixels = np.empty((HEIGHT, WIDTH, 3), np.uint8)

    def prepare(self, frame: bytes, row: int) -> UInt8Array:
        """Fill a row of the slot; returns the grid that the statistics are taken from, valid until the next call."""
        pixels = simplejpeg.decode_jpeg(frame, colorspace="RGB", buffer=self._pixels)
        return self._transform(pixels, self.slot[row])
