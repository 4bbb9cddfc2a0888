"""What an engine was made of and where: written beside the plan, and carried to the worker as `parameters` of config.pbtxt.

A plan itself tells none of it, and fails with a bare error code on another version or GPU.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from triton_models.build.folders import BuildError
from triton_models.build.precision_agreement import Agreement
from triton_models.build.triton_config import Precision, Runtime

MANIFEST = "engine.json"
PLAN = "1/model.plan"
GRAPH = "model.onnx"  # the graph in its precision: what a plan for another GPU is built from


class Hardware(StrEnum):
    """GPUs that a plan runs on. The wider, the fewer kernels the builder may choose from."""

    THIS = "this"  # the model of GPU it was built on
    SAME_COMPUTE_CAPABILITY = "same_compute_capability"
    AMPERE_PLUS = "ampere_plus"  # compute capability 8.0 and later


@dataclass(frozen=True, slots=True)
class EngineManifest:
    """Digests are `sha256:…`: `source_digest` of the float32 graph, `digest` of the graph the plan was built from,
    `engine_digest` of the plan. `row_bytes` is one frame's input and outputs. `agreement` is None for float32.
    """

    name: str
    precision: Precision
    source_digest: str
    digest: str
    engine_digest: str
    preprocess: str
    tensorrt: str
    cuda: str
    compute_capability: str
    device: str
    hardware: Hardware
    version_compatible: bool
    max_batch_size: int
    instances: int
    row_bytes: int
    agreement: Agreement | None

    def parameters(self) -> dict[str, str]:
        """For config.pbtxt: what a worker copies into its predictions, and what tells an operator the rest."""
        told = {
            "digest": self.digest,
            "preprocess": self.preprocess,
            "runtime": Runtime.TENSORRT.value,
            "precision": self.precision.value,
            "engine_digest": self.engine_digest,
            "source_digest": self.source_digest,
            "tensorrt": self.tensorrt,
            "cuda": self.cuda,
            "compute_capability": self.compute_capability,
            "hardware": self.hardware.value,
            "version_compatible": str(self.version_compatible).lower(),
        }
        return told if self.agreement is None else {**told, "agreement": str(self.agreement)}

    def write(self, folder: Path) -> None:
        """As `engine.json`."""
        (folder / MANIFEST).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> EngineManifest:
    """Of a folder that `build_engine` made. Raises BuildError naming the file and what is wrong with it."""
    path = folder / MANIFEST
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        share = told.pop("agreement")
        return EngineManifest(
            **{
                **told,
                "precision": Precision(told["precision"]),
                "hardware": Hardware(told["hardware"]),
                "agreement": None if share is None else Agreement(**share),
            }
        )
    except OSError as error:
        raise BuildError(f"{folder} holds no engine: {path.name} can't be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BuildError(f"{path} is no manifest of an engine ({error}): build the engine again") from error
