"""The whole of batch mode with NumPy in place of a GPU and a real Triton: every prediction is the CPU path's."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest

from tests.rig import images
from tests.rig.gpu import StandInCuda
from worker.device import Choice
from worker.embedded.triton import TritonServer
from worker.errors import DependencyError
from worker.frames import AnyArray, Frame, Reason, Rejection, SourcePartition
from worker.observe.metrics import Metrics
from worker.pipeline.files import run_files
from worker.settings import BatchingSettings, DecodeSettings, GpuSettings, InferSettings, ModelSettings, Settings

MODEL = "efficientnet_lite0"
FRAMES = 13


class Kept:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.done: set[str] = set()
        self.predictions: list[dict[str, Any]] = []
        self.reasons: dict[str, Reason] = {}

    def write(self, predictions: Sequence[bytes], dead_letters: Iterable[tuple[Frame, Rejection]]) -> None:
        self.predictions += map(msgspec.json.decode, predictions)
        self.reasons |= {frame.id: rejection.reason for frame, rejection in dead_letters}

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None: ...


def frames() -> list[Frame]:
    """Photos of several sizes, formats and orientations, and one that is damaged."""
    values = [images.with_orientation(images.photo(320 + n, 240, n), 1 + n % 8) for n in range(FRAMES - 2)]
    values += [images.encode(images.photo(300, 200, 99), "png"), values[0][: len(values[0]) // 2]]
    return [Frame(SourcePartition("photos", 0), number, value) for number, value in enumerate(values)]


def outcomes(settings: Settings) -> Kept:
    kept = Kept()
    summary = run_files(
        settings, iter(frames()), kept, Metrics(settings.endpoints), lambda count: None, threading.Event()
    )
    assert summary.finished
    return kept


def test_batch_mode_over_a_stand_in_for_a_gpu_predicts_what_the_cpu_does(
    triton: TritonServer, served_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = StandInCuda()
    monkeypatch.setattr("worker.pipeline.filling_gpu.decide", lambda settings: Choice(stand_in.gpu, "a test"))
    monkeypatch.setattr("worker.pipeline.filling_gpu.open_cuda", lambda *arguments: stand_in)
    by_gpu = outcomes(chosen(triton, served_repository, "gpu"))
    assert sum(stand_in.launches) == FRAMES - 1
    monkeypatch.undo()
    by_cpu = outcomes(chosen(triton, served_repository, "cpu"))
    assert by_gpu.reasons == by_cpu.reasons == {f"photos/0/{FRAMES - 1}": Reason.TRUNCATED}
    assert len(by_gpu.predictions) == FRAMES - 1
    for ours, theirs in zip(by_gpu.predictions, by_cpu.predictions, strict=True):
        for told in (ours, theirs):
            del told["predicted_at"], told["timings_ms"]
        scores = [[each.pop("score") for each in told["classes"]] for told in (ours, theirs)]
        assert ours == theirs
        assert scores[0] == pytest.approx(scores[1], abs=1e-3)


class NoSlots(StandInCuda):
    """Memory for pixels on their way there is, and none that Triton could map."""

    def handle(self, array: AnyArray) -> bytes:
        raise DependencyError("the GPU can't be used (operation not supported)")


def test_a_gpu_that_has_no_slots_to_give_leaves_the_cpu_where_the_settings_let_it(
    triton: TritonServer, served_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = NoSlots()
    monkeypatch.setattr("worker.pipeline.filling_gpu.decide", lambda settings: Choice(stand_in.gpu, "a test"))
    monkeypatch.setattr("worker.pipeline.filling_gpu.open_cuda", lambda *arguments: stand_in)
    assert len(outcomes(chosen(triton, served_repository, "auto")).predictions) == FRAMES - 1
    assert not stand_in.launches
    with pytest.raises(DependencyError, match="not supported"):
        outcomes(chosen(triton, served_repository, "gpu"))


def chosen(triton: TritonServer, repository: Path, device: str) -> Settings:
    return Settings(
        device=device,  # type: ignore[arg-type]
        model=ModelSettings(name=MODEL, directory=str(repository / MODEL)),
        infer=InferSettings(url=triton.grpc_url, deadline_ms=60_000, batch_deadline_ms=130_000),
        batching=BatchingSettings(max_batch_size=8),
        decode=DecodeSettings(threads=2),
        gpu=GpuSettings(staging_bytes=96 << 20),
    )
