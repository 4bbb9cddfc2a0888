"""A served model's folder -> its engine's folder, as a GPU's Triton loads it; and the check of one that is there.

`<out>/<model>/{config.pbtxt, preprocess.toml, labels.txt, engine.json, model.onnx, 1/model.plan}` and, beside the models,
`<out>/server.flags`: the arguments that tritonserver needs for all of them.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from triton_models.build.contract import Wire, read_contract
from triton_models.build.engine.fit import Machine, Server, unfit_builder, unfit_machine
from triton_models.build.engine.manifest import GRAPH, MANIFEST, PLAN, EngineManifest, Hardware, read_manifest
from triton_models.build.engine.process import ASK_TIMEOUT_S, BUILD_TIMEOUT_S, TENSORRT, EngineError, ask, facts
from triton_models.build.folders import BuildError
from triton_models.build.precision import Batch, in_precision, load_graph
from triton_models.build.precision_agreement import Agreement, measured_agreement
from triton_models.build.triton_config import (
    Footprint,
    Precision,
    Runtime,
    optimisation_profile,
    owner_half,
    server_flags,
    triton_config,
)

FLAGS = "server.flags"
_SERVED_MANIFEST = "model.json"
# Of the served folder what the engine's folder gets anew.
_OWN = ("config.pbtxt", _SERVED_MANIFEST, "1", "__pycache__")
# What follows from elsewhere and would stand twice.
_NOT_THE_OWNERS = re.compile(
    r"^\s*(backend|platform|max_batch_size|input|instance_group|dynamic_batching)\b", re.MULTILINE
)
# Scales are the greatest values seen: they settle within some tens of frames, and each more costs a pass.
CALIBRATION_FRAMES = 128

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What to build. Two instances: one copies while the other computes. 64 frames a batch fill a data centre's GPU with
    the shipped models; it is the worker's batching.max_batch_size that decides what is sent.
    """

    server: Server
    precision: Precision = Precision.FP16
    hardware: Hardware = Hardware.THIS
    version_compatible: bool = False
    max_batch_size: int = 64
    instances: int = 2


def build_engine(
    source: Path,
    out: Path,
    options: EngineOptions,
    python: Path,
    batches: Sequence[Batch],
    timing_cache: Path,
    say: Say,
) -> EngineManifest:
    """Make `<out>/<model>` of the served folder `source`, with the TensorRT of `python`; replaces one that is there.

    `batches` are frames as the model takes them: INT8's scales come from the first of them, the agreement from all. `say`
    gets a sentence before anything that takes long. Raises EngineError where TensorRT or the GPU is not the right one or
    refuses the graph, BuildError for all else.
    """
    machine = facts(python)
    if reasons := unfit_builder(machine, options.server, version_compatible=options.version_compatible):
        raise EngineError("; ".join(reasons))
    served, wire, preprocess = _read_served(source)
    owner = _owner_half(source)
    reference = (source / served["onnx"]).read_bytes()
    say(f"converting {served['name']} to {options.precision}")
    graph = in_precision(reference, options.precision, list(calibration(batches)))
    agreed = _agreement(options.precision, reference, graph, batches, say)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{served['name']}-") as scratch:
        folder = Path(scratch) / served["name"]
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns(*_OWN))
        (folder / GRAPH).write_bytes(graph)
        (folder / PLAN).parent.mkdir()
        say(f"building the plan on {machine.device} with TensorRT {machine.tensorrt}; this takes minutes")
        _build_plan(python, folder, wire, options, timing_cache)
        manifest = EngineManifest(
            name=served["name"],
            precision=options.precision,
            source_digest=_digest(reference),
            digest=_digest(graph),
            engine_digest=_digest((folder / PLAN).read_bytes()),
            preprocess=preprocess,
            tensorrt=machine.tensorrt,
            cuda=machine.cuda or "",
            compute_capability=machine.compute_capability or "",
            device=machine.device or "",
            hardware=options.hardware,
            version_compatible=options.version_compatible,
            max_batch_size=options.max_batch_size,
            instances=options.instances,
            row_bytes=row_bytes(graph, wire),
            agreement=agreed,
        )
        manifest.write(folder)
        config = triton_config(
            owner, wire, Runtime.TENSORRT, options.max_batch_size, options.instances, manifest.parameters()
        )
        (folder / "config.pbtxt").write_text(config, encoding="utf-8")
        target = out / manifest.name
        if target.exists():
            shutil.rmtree(target)
        folder.rename(target)
    write_flags(out)
    return manifest


def check_engine(folder: Path, python: Path) -> tuple[EngineManifest, Machine, list[str]]:
    """Manifest, the machine as `python` sees it, and why this engine can't be served here; no reason: it can.

    The plan is deserialised in a process of its own, and only where version and GPU are right. Raises BuildError if the
    folder holds no engine, or the environment can't be asked.
    """
    manifest = read_manifest(folder)
    reasons = _changed_files(folder, manifest)
    machine = facts(python)
    reasons += unfit_machine(manifest, machine)
    if not reasons:
        request = {"action": "check", "module": TENSORRT, "plan": str(folder / PLAN)}
        try:
            told = ask(python, {**request, "version_compatible": manifest.version_compatible}, ASK_TIMEOUT_S)
        except EngineError as error:
            reasons.append(f"the plan does not load: {error}")
        else:
            if told["max_batch_size"] != manifest.max_batch_size:
                reasons.append(
                    f"the plan takes batches of {told['max_batch_size']}, its manifest says {manifest.max_batch_size}"
                )
    return manifest, machine, reasons


def write_flags(out: Path) -> None:
    """`<out>/server.flags` for the engines that are there, one argument a line."""
    manifests = [read_manifest(path.parent) for path in sorted(out.glob(f"*/{MANIFEST}"))]
    needs = [
        Footprint(each.row_bytes, each.max_batch_size, each.instances, each.version_compatible) for each in manifests
    ]
    (out / FLAGS).write_text("".join(f"{flag}\n" for flag in server_flags(needs)), encoding="utf-8")


def calibration(batches: Sequence[Batch]) -> Sequence[Batch]:
    """CALIBRATION_FRAMES of the frames, spread evenly over them, one a batch."""
    frames = [frame[None] for batch in batches for frame in batch]
    step = max(1, len(frames) // CALIBRATION_FRAMES)
    return frames[::step][:CALIBRATION_FRAMES]


def row_bytes(graph: bytes, wire: Wire) -> int:
    """Bytes of one frame's input and of all outputs. Raises BuildError for an output whose size is not fixed."""
    outputs = load_graph(graph).graph.output
    from onnx import helper

    total = math.prod(wire.shape) * np.dtype(wire.dtype).itemsize
    for output in outputs:
        tensor = output.type.tensor_type
        sizes = [dimension.dim_value for dimension in tensor.shape.dim[1:]]
        if not all(sizes):
            raise BuildError(
                f"the output {output.name} has a free dimension besides the batch; the engine needs it fixed"
            )
        total += math.prod(sizes) * helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
    return total


def _agreement(
    precision: Precision, reference: bytes, graph: bytes, batches: Sequence[Batch], say: Say
) -> Agreement | None:
    if precision is Precision.FP32:
        return None
    if not batches:
        raise BuildError("no frames to compare the precisions on: name some with --frames")
    say(f"comparing the verdicts on {sum(map(len, batches))} frames")
    try:
        return measured_agreement(reference, graph, batches)
    except ValueError as error:
        raise BuildError(str(error)) from error


def _build_plan(python: Path, folder: Path, wire: Wire, options: EngineOptions, timing_cache: Path) -> None:
    timing_cache.parent.mkdir(parents=True, exist_ok=True)
    request: dict[str, Any] = {
        "action": "build",
        "module": TENSORRT,
        "onnx": str(folder / GRAPH),
        "plan": str(folder / PLAN),
        "profile": optimisation_profile(wire, options.max_batch_size),
        "hardware": options.hardware.value,
        "version_compatible": options.version_compatible,
        "timing_cache": str(timing_cache),
    }
    ask(python, request, BUILD_TIMEOUT_S)


def _read_served(source: Path) -> tuple[dict[str, str], Wire, str]:
    path = source / _SERVED_MANIFEST
    try:
        served: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BuildError(f"{source} is no served model: {path.name} can't be read ({error})") from error
    if missing := {"name", "onnx"} - served.keys():
        raise BuildError(f"{path} lacks {', '.join(sorted(missing))}: build the models again")
    wire, preprocess = read_contract(source / "preprocess.toml")
    return served, wire, preprocess


def _owner_half(source: Path) -> str:
    owner = owner_half((source / "config.pbtxt").read_text(encoding="utf-8"))
    if extra := sorted(set(_NOT_THE_OWNERS.findall(owner))):
        raise BuildError(
            f"{source / 'config.pbtxt'} sets {', '.join(extra)}, which the engine's config gets from elsewhere: leave name, "
            "output and version_policy"
        )
    return owner


def _changed_files(folder: Path, manifest: EngineManifest) -> list[str]:
    reasons = []
    for name, expected in ((PLAN, manifest.engine_digest), (GRAPH, manifest.digest)):
        path = folder / name
        if not path.is_file():
            reasons.append(f"{name} is missing")
        elif _digest(path.read_bytes()) != expected:
            reasons.append(f"{name} is not the one that its manifest describes: it was replaced or torn")
    config = folder / "config.pbtxt"
    if not config.is_file() or f'"{manifest.engine_digest}"' not in config.read_text(encoding="utf-8"):
        reasons.append("config.pbtxt tells of another engine than its manifest")
    return reasons


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()
