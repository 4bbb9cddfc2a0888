"""TensorRT engines: from a served model's ONNX graph to a folder that a GPU's Triton loads, and back to what it holds.

Graph in its precision -> plan, built by a TensorRT of the server's very version in an environment of its own
(`process`, `tensorrt_side`) -> served folder with its manifest (`building`, `manifest`), which `fit` holds against a
machine. Nothing here imports TensorRT.
"""

from __future__ import annotations

from triton_models.build.engine.building import EngineOptions, build_engine, check_engine
from triton_models.build.engine.fit import Machine
from triton_models.build.engine.manifest import MANIFEST, EngineManifest, read_manifest

__all__ = [
    "MANIFEST",
    "EngineManifest",
    "EngineOptions",
    "Machine",
    "build_engine",
    "check_engine",
    "read_manifest",
]
