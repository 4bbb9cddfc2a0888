"""The inference stage: a filled slot in, an `Answer` or an error out, from Triton or from onnxruntime in this process.

`worker.infer.local.LocalEngine` is not imported here: onnxruntime costs memory that a worker with a Triton need not have.
"""

from __future__ import annotations

from worker.infer.engine import Done, Engine
from worker.infer.triton import TritonEngine

__all__ = ["Done", "Engine", "TritonEngine"]
