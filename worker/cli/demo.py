"""`headrace demo`: the whole way on this machine, with real servers and real pictures, and an independent count at the end.

An embedded broker, Triton and a worker process are started; frames go in, and a reader that knows nothing of the worker
counts what comes out. Three quarters of the frames are sent at once and give the throughput, the rest is paced at half
of that and gives the latency.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from triton_models.build import CLASSIFIERS, DETECTORS, BuildError, build_repository, data_dir
from worker import config
from worker.cli.broker import Reader, Sender, create_topics
from worker.cli.demo_frames import demo_frames
from worker.cli.demo_report import Report, show
from worker.cli.demo_run import DemoRun
from worker.cli.draw import QUALITY, decoded
from worker.cli.options import Json
from worker.cli.output import end_with, progress, result, stdout_console
from worker.embedded.broker import EmbeddedBroker
from worker.embedded.process import ServerProcess
from worker.embedded.triton import TritonServer, unsupported_reason
from worker.errors import DependencyError, FramesLost
from worker.ingest.validate import ImageLimits, inspect
from worker.settings import Settings

PARTITIONS = 4
# Tansu lets a group's first member wait for half of it.
SESSION_TIMEOUT_MS = 6_000
STOP_S = 30.0  # above the worker's drain grace
LOCAL_SETTINGS = "local.toml"
DRAWINGS = "demo-drawings"


class DemoModel(StrEnum):
    """What the demo serves."""

    CLASSIFIER = "classifier"
    DETECTOR = "detector"


@dataclass(frozen=True, slots=True)
class _Shown:
    """`name` is served; it is built with its `family`, and weights of others are not fetched."""

    name: str
    family: tuple[str, ...]
    task: str
    max_batch_size: int

    def flags(self, folder: Path) -> dict[str, Any]:
        """The settings that belong to the model in this folder."""
        return {
            "model.name": self.name,
            "model.directory": str(folder),
            "model.task": self.task,
            "batching.max_batch_size": self.max_batch_size,
        }


SHOWN = {
    DemoModel.CLASSIFIER: _Shown("efficientnet_lite2", CLASSIFIERS, "classify", 16),
    # A frame takes a CPU 0.1 s: in batches of 16, with six under way, the last would wait for most of its deadline.
    DemoModel.DETECTOR: _Shown("centernet", DETECTORS, "detect", 4),
}


def demo(
    frames: Annotated[int, typer.Option(min=1, help="How many frames to send.")] = 200,
    model: Annotated[DemoModel, typer.Option(help="What looks at them.")] = DemoModel.CLASSIFIER,
    as_json: Json = False,
) -> None:
    """Run broker, Triton and a worker on this machine, send real pictures through, and count what comes out.

    Exit 0 only if every frame has its outcome.
    """
    data = data_dir()
    shown = SHOWN[model]
    with ExitStack() as stack:
        bar = stack.enter_context(progress(hidden=as_json))
        tell: Callable[[str], None] = bar.console.print
        folder = _models(data, tell, shown.family) / shown.name
        planned = list(demo_frames(frames, data))
        broker = stack.enter_context(EmbeddedBroker())
        settings = _settings(broker.bootstrap_servers, shown.flags(folder), _triton(stack, folder, data, tell))
        create_topics(settings, PARTITIONS)
        tell("starting the worker")
        worker = _worker(stack, settings, data)
        report = Report(settings.infer.backend, broker.kind, len(planned))
        task = bar.add_task("frames through the worker", total=len(planned))
        run = DemoRun(settings, planned, worker, report, lambda: bar.advance(task))
        outputs = (settings.topics.predictions, settings.topics.dead_letters)
        reader = stack.enter_context(Reader(settings, outputs, from_beginning=True))
        limit = settings.ingest.max_frame_bytes
        with Sender(settings, limit, acknowledged=lambda: None) as sender:
            run.traffic(reader, sender)
        ended_early = worker.exit_code is not None
        exit_code = worker.stop(STOP_S)
        run.rest(reader)
    if model is DemoModel.DETECTOR:
        tell(f"frames with their boxes are in {_drawings(run, data)}")
    if as_json:
        result(report.fields(run.audit))
    else:
        show(stdout_console(), report, run.audit, _next_commands(shown, folder, data))
    complaints = run.audit.complaints()
    if ended_early or exit_code != 0:
        complaints.append(f"the worker ended with {exit_code}; the last it said was:\n{worker.tail()}\n")
    if complaints:
        end_with(FramesLost(f"{'; '.join(complaints)}. The worker's log is {worker.log_path}"))


def _models(data: Path, tell: Callable[[str], None], names: Sequence[str]) -> Path:
    tell("models: built once, from weights that come in packages")
    try:
        return build_repository(data, names=names)
    except BuildError as error:
        raise DependencyError(str(error)) from error


def _triton(stack: ExitStack, model: Path, data: Path, tell: Callable[[str], None]) -> str | None:
    """Address of an embedded Triton; None where it can't run and the local engine takes its place."""
    if (reason := unsupported_reason()) is None:
        try:
            return stack.enter_context(TritonServer.start(model.parent, [model.name], data, tell)).grpc_url
        except DependencyError as error:
            reason = str(error)
    tell(f"Triton can't run here, the local engine (onnxruntime in the worker) takes its place: {reason}")
    return None


def _settings(bootstrap_servers: str, model: dict[str, Any], triton_url: str | None) -> Settings:
    # Not from the environment: settings made for another broker must not lead the demo there.
    flags: dict[str, Any] = {
        "kafka.bootstrap_servers": bootstrap_servers,
        "kafka.group_id": "headrace-demo",
        "kafka.session_timeout_ms": SESSION_TIMEOUT_MS,
        "infer.backend": "local" if triton_url is None else "triton",
        "admin.port": 0,
    }
    flags |= model
    if triton_url is not None:
        flags["infer.url"] = triton_url
    return config.load(flags=flags).settings


def _worker(stack: ExitStack, settings: Settings, data: Path) -> ServerProcess:
    """`headrace run` as an operator starts it, on a settings file of its own."""
    ours = {name for name in os.environ if name.startswith(config.ENV_PREFIX)} - config.ENV_OTHER
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    file = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-demo-"))) / "headrace.toml"
    file.write_text(config.to_toml(settings), encoding="utf-8")
    command = [sys.executable, "-m", "worker.cli", "run", "-c", str(file)]
    log = data / "logs" / f"demo-worker-{os.getpid()}.log"
    return stack.enter_context(ServerProcess(command, log, environment))


def _drawings(run: DemoRun, data: Path) -> Path:
    """Folder of the first frames in which something was found, in place of those of the demo before."""
    folder = data / DRAWINGS
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for frame, fields in run.pictured:
        picture = decoded(frame.value, inspect(frame.value, ImageLimits()), fields)
        picture.save(folder / f"{frame.id}.jpg", "JPEG", quality=QUALITY)
    return folder


def _next_commands(shown: _Shown, folder: Path, data: Path) -> list[str]:
    """A settings file is left in the data folder with which `batch` needs no server."""
    file = data / LOCAL_SETTINGS
    settings = config.load(flags={"infer.backend": "local"} | shown.flags(folder)).settings
    file.write_text(config.to_toml(settings), encoding="utf-8")
    drawn = " --draw drawn" if shown.task == "detect" else ""
    return [
        f"headrace batch YOUR_PHOTOS --out predictions.jsonl{drawn} -c {file}",
        "headrace demo --model detector"
        if shown.task == "classify"
        else "headrace demo --model detector --frames 2000",
    ]
