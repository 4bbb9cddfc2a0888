"""Decoded pixels to the model's input, as the model's own contract says."""

from __future__ import annotations

from worker.preprocess.contract import Contract, Rect, Window
from worker.preprocess.cpu import CpuTransform

__all__ = ["Contract", "CpuTransform", "Rect", "Window"]
