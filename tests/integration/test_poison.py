"""Frames that the model can't take, and frames that crash the worker: they are set apart, and everybody else goes on."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.conftest import MakeSettings
from tests.rig.audit import TopicReader, audit, committed_lag, header, produce_frames, wait_until_done
from tests.rig.images import encode, photo
from tests.rig.kafka import MakeTopics
from tests.rig.outcomes import SentFrame
from tests.rig.topics import Topics
from tests.rig.worker import WorkerProcess
from worker.embedded.triton import TritonServer
from worker.pipeline.journal import CRASHES

MODELS = Path(__file__).parent / "models"
WHITE = encode(np.full((48, 64, 3), 255, np.uint8), "png")
RED = encode(np.full((48, 64, 3), (255, 0, 0), np.uint8), "png")


@pytest.fixture(scope="module")
def moody() -> Iterator[TritonServer]:
    with TritonServer.start(MODELS, models=["moody"]) as server:
        yield server


def good(count: int) -> list[tuple[bytes, bytes]]:
    return [(b"cam-0", encode(photo(64, 48, seed), "jpeg")) for seed in range(count)]


def moody_settings(settings: MakeSettings, made: Topics, server: TritonServer) -> dict[str, Any]:
    return settings(made) | {
        "model": {"name": "moody", "directory": str(MODELS / "moody")},
        "infer": {"url": server.grpc_url},
    }


def letters(topics: Topics, frames: list[tuple[bytes, bytes]], sent: list[SentFrame]) -> dict[int, str]:
    """The reason of each dead letter by its frame's number; each is its frame, byte for byte."""
    numbers = {f"{topics.frames}/{place.partition}/{place.offset}": number for number, place in enumerate(sent)}
    reasons = {}
    with TopicReader(topics.bootstrap_servers, [topics.dlq]) as reader:
        for letter in reader.read_on():
            number = numbers[header(letter, "dlq-source").decode()]
            assert (letter.key(), letter.value()) == frames[number]
            reasons[number] = header(letter, "dlq-reason").decode()
    return reasons


@pytest.mark.triton
def test_a_frame_the_model_refuses_is_found_in_its_batch_and_the_others_are_predicted(
    topics: MakeTopics, settings: MakeSettings, moody: TritonServer
) -> None:
    made = topics(partitions=1)
    frames = [*good(6), (b"cam-0", WHITE), *good(5), (b"cam-0", RED), *good(4), (b"cam-0", WHITE), *good(9)]
    sent = produce_frames(made.bootstrap_servers, made.frames, frames)
    with WorkerProcess(moody_settings(settings, made, moody)) as worker:
        result = wait_until_done(made, sent, 120, worker.check_alive)
        assert worker.stop() == 0
    assert result.problems == [], result
    expected = {6: "inference_rejected", 12: "inference_failed", 17: "inference_rejected"}
    assert letters(made, frames, sent) == expected
    with TopicReader(made.bootstrap_servers, [made.predictions]) as reader:
        assert all(json.loads(m.value() or b"")["classes"][0]["label"] == "c" for m in reader.read_on())
    assert committed_lag(made) == 0


@pytest.mark.triton
def test_a_lone_frame_the_model_refuses_is_convicted_by_a_plain_one_that_passes(
    topics: MakeTopics, settings: MakeSettings, moody: TritonServer
) -> None:
    made = topics(partitions=1)
    frames = [(b"cam-0", WHITE)]
    sent = produce_frames(made.bootstrap_servers, made.frames, frames)
    with WorkerProcess(moody_settings(settings, made, moody)) as worker:
        result = wait_until_done(made, sent, 120, worker.check_alive)
        assert worker.stop() == 0
    assert result.problems == [], result
    assert letters(made, frames, sent) == {0: "inference_rejected"}
    assert committed_lag(made) == 0


# Loaded by Python at start: a decoder with a bug in native code.
BROKEN_DECODER = """
import ctypes
import worker.pipeline.filling as filling

decode = filling.decode

def broken(value, facts, target=None):
    if b"BREAK ME" in value:
        BREAKS
    return decode(value, facts, target)

filling.decode = broken
"""


def frames_with_one_that_breaks() -> list[tuple[bytes, bytes]]:
    poison = encode(photo(64, 48), "jpeg", comment=b"BREAK ME")
    assert b"BREAK ME" in poison
    return [*good(20), (b"cam-0", poison), *good(20)]


def test_a_frame_that_crashes_the_worker_is_set_apart_after_three_restarts(
    topics: MakeTopics, settings: MakeSettings, tmp_path: Path
) -> None:
    made = topics(partitions=1)
    (tmp_path / "sitecustomize.py").write_text(BROKEN_DECODER.replace("BREAKS", "ctypes.string_at(0)"))
    frames = frames_with_one_that_breaks()
    sent = produce_frames(made.bootstrap_servers, made.frames, frames)
    tree = settings(made, decode={"crash_folder": str(tmp_path / "crashes")})
    for _ in range(CRASHES):
        with WorkerProcess(tree, env={"PYTHONPATH": str(tmp_path)}) as worker:
            assert worker.wait(60) == -signal.SIGSEGV
    with WorkerProcess(tree, env={"PYTHONPATH": str(tmp_path)}) as worker:
        wait_until_done(made, sent, 60, worker.check_alive)
        assert worker.stop() == 0
    result = audit(made, sent)
    assert result.lost == 0
    assert result.out_of_order == 0
    assert letters(made, frames, sent) == {20: "crashed_worker"}
    assert committed_lag(made) == 0


def test_a_decoder_that_hangs_ends_the_worker_and_its_frame_is_accused(
    topics: MakeTopics, settings: MakeSettings, tmp_path: Path
) -> None:
    made = topics(partitions=1)
    (tmp_path / "sitecustomize.py").write_text(BROKEN_DECODER.replace("BREAKS", "ctypes.CDLL(None).sleep(3600)"))
    sent = produce_frames(made.bootstrap_servers, made.frames, frames_with_one_that_breaks())
    tree = settings(made, decode={"crash_folder": str(tmp_path / "crashes"), "deadline_ms": 2000})
    with WorkerProcess(tree, env={"PYTHONPATH": str(tmp_path)}) as worker:
        assert worker.wait(60) == -signal.SIGABRT
    with WorkerProcess(tree) as worker:  # with a decoder that is well
        done = wait_until_done(made, sent, 60, worker.check_alive)
        assert worker.stop() == 0
        assert f"decoding frame {made.frames}/0/{sent[20].offset} crashed a worker, 1 of {CRASHES} times" in worker.log
    assert done.lost == 0
    assert done.out_of_order == 0
