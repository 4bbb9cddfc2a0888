"""`gpu`: the worker's way from encoded frames to predictions on a GPU host, against what NVIDIA's tools make of the same plan.

Frames go through decode threads, kernels, CUDA shared memory and Triton, without Kafka; `perf_analyzer` asks the same Triton
with random batches in CUDA memory, `trtexec` runs the plan alone. All at the same batch, in turn. Without a GPU and a Triton
on it there is nothing to measure, and the reason is printed. Never run so far: docs/gpu.md.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

from benchmarks.corpus import Corpus, load_corpus
from benchmarks.options import Options
from benchmarks.rig import say
from benchmarks.spread import interleaved, paired_ratio, spread
from triton_models.build import data_dir
from worker.device import Choice, decide
from worker.errors import DependencyError, HeadraceError
from worker.frames import Frame, Rejection, SourcePartition
from worker.observe.metrics import Metrics
from worker.pipeline.files import run_files
from worker.preprocess.contract import Contract
from worker.settings import BatchingSettings, InferSettings, ModelSettings, Settings

TRITON, MODEL = "HEADRACE_TEST_GPU_TRITON", "HEADRACE_TEST_GPU_MODEL"
BATCH, IN_FLIGHT = 16, 6  # the worker's defaults
FRAMES, FRAMES_QUICK = 40_000, 8_000
ROUNDS, ROUNDS_QUICK = 5, 3
TOOL_S = 10  # of a round
WARM_UP_SHARE = 0.2  # of the frames, left out of the figure
_TOOL_TIMEOUT_S = 300.0
_DRIVER_VERSION = Path("/sys/module/nvidia/version")
_PERF_ANALYZER = re.compile(r"Throughput: ([\d.]+) infer/sec")
_TRTEXEC = re.compile(r"Throughput: ([\d.]+) qps")


def measure(options: Options) -> dict[str, Any]:
    """`vs_perf_analyzer`, `vs_trtexec` (ours over theirs, None where the tool is missing), or `skipped`."""
    try:
        settings, choice = _settings()
    except HeadraceError as error:
        return {"skipped": str(error)}
    assert choice.gpu is not None
    corpus = load_corpus(data_dir())
    frames = options.frames or (FRAMES_QUICK if options.quick else FRAMES)
    sides: dict[str, Callable[[], float]] = {"headrace": partial(_headrace, settings, corpus, frames)}
    missing = {}
    for name, side in (("perf_analyzer", _perf_analyzer), ("trtexec", _trtexec)):
        try:
            sides[name] = partial(_run_tool, *side(settings))
        except DependencyError as error:
            missing[name] = str(error)
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for number, name, speed in interleaved(sides, options.rounds or (ROUNDS_QUICK if options.quick else ROUNDS)):
        speeds[name].append(speed)
        say(f"round {number + 1}: {name} {speed:.0f} frames/s")
    figures: dict[str, Any] = {}
    for name in ("perf_analyzer", "trtexec"):
        if name in speeds:
            figures |= paired_ratio(speeds["headrace"], speeds[name]).keys(f"vs_{name}")
            figures |= spread(speeds[name]).keys(f"{name}_frames_per_second")
        else:
            figures[f"vs_{name}"] = None
    return {
        **figures,
        **spread(speeds["headrace"]).keys("frames_per_second"),
        "missing": missing,
        "gpu_name": choice.gpu.name,
        "driver": _DRIVER_VERSION.read_text().strip() if _DRIVER_VERSION.exists() else "unknown",
        "model": settings.model.name,
        "batch": BATCH,
        "frames": corpus.source,
        "frames_per_run": frames,
    }


def _settings() -> tuple[Settings, Choice]:
    """As the worker would run here. Raises DependencyError, ConfigurationError."""
    if TRITON not in os.environ or MODEL not in os.environ:
        raise DependencyError(
            f"set {TRITON} to the address of a Triton on this GPU and {MODEL} to its model's folder (docs/gpu.md)"
        )
    folder = Path(os.environ[MODEL])
    settings = Settings(
        device="gpu",
        model=ModelSettings(name=folder.name, directory=str(folder)),
        infer=InferSettings(url=os.environ[TRITON], shared_memory="on"),
        batching=BatchingSettings(max_batch_size=BATCH, max_in_flight=IN_FLIGHT),
    )
    return settings, decide(settings)


class _Nowhere:
    """A sink that keeps nothing: the predictions are made, and writing them is no part of the comparison."""

    def __init__(self) -> None:
        self.done: set[str] = set()

    def write(self, _: Sequence[bytes], dead_letters: Iterable[tuple[Frame, Rejection]], /) -> None:
        """Raises DependencyError for a frame that got no prediction: the figure would be of something else."""
        for frame, rejection in dead_letters:
            raise DependencyError(f"{frame.id} got no prediction: {rejection.detail}")

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None: ...


def _headrace(settings: Settings, corpus: Corpus, count: int) -> float:
    """Frames a second from the end of the warm-up to the last prediction."""
    answered: list[tuple[float, int]] = [(time.monotonic(), 0)]

    def progress(some: int) -> None:
        answered.append((time.monotonic(), answered[-1][1] + some))

    run_files(settings, _frames(corpus, count), _Nowhere(), Metrics(settings.endpoints), progress, threading.Event())
    return rate(answered)


def rate(answered: list[tuple[float, int]]) -> float:
    """Frames a second by (seconds, frames so far), the first WARM_UP_SHARE of the frames left out."""
    end, total = answered[-1]
    start, before = next(each for each in answered if each[1] >= WARM_UP_SHARE * total)
    return (total - before) / (end - start)


def _frames(corpus: Corpus, count: int) -> Iterator[Frame]:
    source = SourcePartition("benchmark", 0)
    for number, value in enumerate(corpus.cycle(count)):
        yield Frame(source, number, value, received_at=time.monotonic())


def _perf_analyzer(settings: Settings) -> tuple[list[str], re.Pattern[str], int]:
    command = [
        *(_tool("perf_analyzer"), "-m", settings.model.name, "-u", settings.infer.url, "-i", "grpc"),
        *("-b", str(BATCH), "--shared-memory", "cuda", "--concurrency-range", str(IN_FLIGHT)),
        *("--measurement-interval", str(TOOL_S * 1000)),
    ]
    return command, _PERF_ANALYZER, 1  # it counts frames


def _trtexec(settings: Settings) -> tuple[list[str], re.Pattern[str], int]:
    folder = Path(settings.model.directory)
    plan = max(folder.glob("*/model.plan"), key=lambda path: int(path.parent.name), default=None)
    if plan is None:
        raise DependencyError(f"{folder} has no TensorRT plan")
    shape = "x".join(map(str, (BATCH, *Contract.load(folder / "preprocess.toml").tensor_shape)))
    options = (f"--loadEngine={plan}", f"--shapes=image:{shape}", f"--duration={TOOL_S}", "--useCudaGraph")
    return [_tool("trtexec"), *options], _TRTEXEC, BATCH  # it counts batches


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise DependencyError(f"{name} is not on PATH; NVIDIA's Triton SDK and TensorRT containers have it")
    return path


def _run_tool(command: list[str], throughput: re.Pattern[str], frames_each: int) -> float:
    """Frames a second, of the last figure that it prints. Raises DependencyError."""
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=_TOOL_TIMEOUT_S, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise DependencyError(f"{command[0]} failed: {error}") from error
    found = throughput.findall(told)
    if not found:
        raise DependencyError(f"{command[0]} printed no throughput: {told[-500:]}")
    return float(found[-1]) * frames_each
