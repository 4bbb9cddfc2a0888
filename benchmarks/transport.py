"""`transport`: what it costs to bring a frame to the model, by the way it travels. No broker; a model that answers at once.

Float32 and uint8 tensors inside gRPC messages, both through shared memory, and the encoded bytes to an ensemble that
decodes and resizes on the server. Every way starts at the same JPEGs in memory and ends with logits; `cpu_<way>` is the CPU
of client and Triton together, relative to uint8 through shared memory, which the worker uses on one host.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.clock import Run, window
from benchmarks.corpus import load_corpus, write_frames
from benchmarks.cpu import CpuSampler
from benchmarks.options import Options
from benchmarks.peer_sides import LOCK
from benchmarks.report import side_row
from benchmarks.rig import say
from benchmarks.sides import child
from benchmarks.sides.transporting import TransportingResult, TransportingSpec
from benchmarks.spread import interleaved, paired_ratio
from benchmarks.variants import Variant, repository_with
from triton_models.build import data_dir
from triton_models.build.contract import read_contract
from worker.embedded.environment import ensure_environment
from worker.embedded.triton import TritonServer

MODEL = "null"
FLOAT32 = Variant("null_float32", MODEL, {"wire_dtype": "float32"})
BATCH = 16
BATCHES, BATCHES_QUICK = 200, 40
ROUNDS, ROUNDS_QUICK = 5, 3
SERVER = Path(__file__).with_name("server")
_TIMEOUT_S = 600.0
_STOP_S = 5.0

_number = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Way:
    """`model` is called; frames are prepared by the contract of `contract`."""

    how: str
    model: str
    contract: str


WAYS = {
    "float32_tensor": Way("tensor", FLOAT32.name, FLOAT32.name),
    "uint8_tensor": Way("tensor", MODEL, MODEL),
    "float32_shared_memory": Way("shared_memory", FLOAT32.name, FLOAT32.name),
    "uint8_shared_memory": Way("shared_memory", MODEL, MODEL),
    "encoded": Way("encoded", "encoded", MODEL),
}
STANDARD = "uint8_shared_memory"


def measure(options: Options) -> dict[str, Any]:
    """Run it; a ratio and a row for each way."""
    batches = -(-options.frames // BATCH) if options.frames else BATCHES_QUICK if options.quick else BATCHES
    data = data_dir()
    with tempfile.TemporaryDirectory(prefix="headrace-benchmark-") as name:
        folder, corpus = Path(name), load_corpus(data)
        write_frames(folder / "frames.msgpack", corpus)
        repository = repository_with([FLOAT32], data, folder)
        add_ensemble(repository, ensure_environment("peers", LOCK, data, say))
        models = [MODEL, FLOAT32.name, "unpack", "encoded"]
        with TritonServer.start(repository, models=models, data=data, say=say) as triton:
            runs: dict[str, list[Run]] = {way: [] for way in WAYS}
            sides = {name: partial(_run, triton, repository, folder, way, batches) for name, way in WAYS.items()}
            for number, way, run in interleaved(sides, options.rounds or (ROUNDS_QUICK if options.quick else ROUNDS)):
                say(f"round {number + 1}, {way}: {run.window.frames_per_second:.1f} frames/s")
                runs[way].append(run)
        return {
            **figures(runs),
            "frames": corpus.source,
            "frame_kib": round(corpus.mean_kib, 1),
            "frames_per_run": batches * BATCH,
            "model": MODEL,
        }


def figures(runs: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    """`cpu_<way>` and `rate_<way>` relative to the standard, and rows."""
    cpu = {way: [sum(run.cpu_s_per_1000.values()) for run in of_way] for way, of_way in runs.items()}
    rates = {way: [run.window.frames_per_second for run in of_way] for way, of_way in runs.items()}
    ratios: dict[str, float] = {}
    for way in runs:
        if way != STANDARD:
            ratios |= paired_ratio(cpu[way], cpu[STANDARD]).keys(f"cpu_{way}")
            ratios |= paired_ratio(rates[way], rates[STANDARD]).keys(f"rate_{way}")
    return {**ratios, "sides": {way: side_row(of_way) for way, of_way in runs.items()}}


def add_ensemble(repository: Path, python: Path) -> None:
    """Lay the model `unpack` and the ensemble `encoded` over it and the null model into a repository.

    `python` is that of the peers' environment, whose packages `unpack` uses.
    """
    wire, _ = read_contract(repository / MODEL / "preprocess.toml")
    (site,) = python.parents[1].glob("lib/python*/site-packages")
    imports = f"{Path(__file__).parents[1]}:{site}"
    shutil.copytree(SERVER / "unpack", repository / "unpack")
    tensor = f"data_type: {wire.triton_dtype} dims: {list(wire.shape)}"
    (repository / "unpack" / "config.pbtxt").write_text(f"""
backend: "python"
max_batch_size: {BATCH}
input [{{ name: "jpeg" data_type: TYPE_STRING dims: [1] }}]
output [{{ name: "image" {tensor} }}]
instance_group [{{ kind: KIND_CPU count: {len(os.sched_getaffinity(0))} }}]
parameters {{ key: "imports" value: {{ string_value: "{imports}" }} }}
parameters {{ key: "model_folder" value: {{ string_value: "{repository / MODEL}" }} }}
""")
    (repository / "encoded" / "1").mkdir(parents=True)
    (repository / "encoded" / "config.pbtxt").write_text(f"""
platform: "ensemble"
max_batch_size: {BATCH}
input [{{ name: "jpeg" data_type: TYPE_STRING dims: [1] }}]
output [{{ name: "logits" data_type: TYPE_FP32 dims: [1000] }}]
ensemble_scheduling {{ step [
  {{ model_name: "unpack" model_version: -1 input_map {{ key: "jpeg" value: "jpeg" }} output_map {{ key: "image" value: "image" }} }},
  {{ model_name: "{MODEL}" model_version: -1 input_map {{ key: "image" value: "image" }} output_map {{ key: "logits" value: "logits" }} }}
] }}
""")


def _run(triton: TritonServer, repository: Path, folder: Path, way: Way, batches: int) -> Run:
    result = folder / f"transport-{next(_number)}.json"
    spec = TransportingSpec(
        how=way.how,
        model=way.model,
        model_folder=str(repository / way.contract),
        triton_url=triton.grpc_url,
        frames_file=str(folder / "frames.msgpack"),
        batch=BATCH,
        batches=batches,
        threads=2 * len(os.sched_getaffinity(0)),  # while one waits for the server another prepares
        result=str(result),
    )
    process = child.start("transporting", spec, folder)
    try:
        with CpuSampler({"client": process.pid, "triton": triton.pid}) as sampler:
            outcome = child.wait_result(process, result, TransportingResult, _TIMEOUT_S)
    finally:
        process.stop(_STOP_S)
    measured = window(outcome.completions)
    return Run(measured, sampler.series.between(measured.start, measured.end))
