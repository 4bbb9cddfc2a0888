"""Dead letters listed and sent back after a repair, and a model that refuses too much, against real servers."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.conftest import MakeSettings
from tests.rig.audit import FrameToSend, TopicReader, committed_lag, produce_frames, wait_until_done
from tests.rig.images import encode, photo
from tests.rig.kafka import MakeTopics
from tests.rig.topics import Topics
from tests.rig.worker import WorkerProcess
from worker.cli import main
from worker.embedded.triton import TritonServer

MODELS = Path(__file__).parent / "models"
SMALL = encode(photo(20, 20, 1), "jpeg")
LARGE = encode(photo(64, 48, 2), "jpeg")
WHITE = encode(np.full((48, 64, 3), 255, np.uint8), "png")  # the model "moody" can't stand it
TRUNCATED = SMALL[: len(SMALL) // 2]

Headrace = Callable[..., tuple[int, list[Any], str]]


@pytest.fixture
def headrace(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[Topics], Headrace]]:
    """`headrace(topics)(arguments...)`: runs the command with `--json`; its exit code, objects on stdout, and stderr."""
    root, hook = logging.getLogger(), threading.excepthook
    handlers, level = root.handlers[:], root.level

    def of(made: Topics) -> Headrace:
        values = {f"{section}.{key}": value for section, each in made.settings.items() for key, value in each.items()}
        flags = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]

        def run(*arguments: str) -> tuple[int, list[Any], str]:
            capsys.readouterr()
            code = main([*arguments, *flags, "--json"])
            out, err = capsys.readouterr()
            return code, [json.loads(each) for each in out.splitlines()], err

        return run

    yield of
    root.handlers[:], threading.excepthook = handlers, hook
    root.setLevel(level)
    logging.captureWarnings(False)


def predictions(made: Topics) -> list[dict[str, Any]]:
    with TopicReader(made.bootstrap_servers, [made.predictions]) as reader:
        return [json.loads(message.value() or b"") for message in reader.read_on()]


def wait_for(what: Callable[[], bool], worker: WorkerProcess, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        worker.check_alive()
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.triton
def test_dead_letters_are_listed_sent_back_after_the_fix_and_refused_the_fourth_time(
    topics: MakeTopics, settings: MakeSettings, headrace: Callable[[Topics], Headrace], tmp_path: Path
) -> None:
    made = topics(partitions=2)
    run = headrace(made)
    frames: list[FrameToSend] = [
        (b"cam-0", SMALL),
        (b"cam-1", LARGE, [("frame-id", b"seven"), ("x", b"")]),
        (b"cam-0", TRUNCATED),
        (None, LARGE),
        (b"cam-0", b""),
    ]
    sent = produce_frames(made.bootstrap_servers, made.frames, frames, partition_of=lambda number: number % 2)
    ids = [f"{made.frames}/{frame.partition}/{frame.offset}" for frame in sent]
    with WorkerProcess(settings(made, ingest={"max_pixels": 1000})) as worker:
        assert wait_until_done(made, sent, 60, worker.check_alive).lost == 0
        assert worker.stop() == 0

    code, listed, _ = run("dlq", "list", "--save", str(tmp_path))
    assert code == 0
    reasons = {1: "too_many_pixels", 2: "truncated", 3: "too_many_pixels", 4: "empty"}
    assert {each["id"]: each["reason"] for each in listed[:-1]} == {ids[n]: reason for n, reason in reasons.items()}
    assert listed[-1] == {"dead_letters": 4, "reasons": {"too_many_pixels": 2, "truncated": 1, "empty": 1}}
    saved = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert saved == {f"{ids[n].replace('/', '-')}.jpeg": frames[n][1] for n in (1, 2, 3)}
    assert run("dlq", "list", "--reason", "truncated", "--stream", "cam-0")[1][0]["id"] == ids[2]

    code, (dry,), said = run("dlq", "replay", "--reason", "too_many_pixels")
    assert (code, dry["chosen"], dry["sent"]) == (0, 2, 0)
    code, (real,), _ = run("dlq", "replay", "--reason", "too_many_pixels", "--yes")
    assert (code, real["chosen"], real["sent"]) == (0, 2, 2)
    code, (again,), _ = run("dlq", "replay", "--reason", "too_many_pixels", "--yes")
    assert (code, again["sent"], again["passed"]) == (0, 0, 2)

    with WorkerProcess(settings(made)) as worker:
        wait_for(lambda: len(predictions(made)) == 3, worker)
        found = {each["replay_of"]: each for each in predictions(made)}
        assert set(found) == {None, ids[1], ids[3]}
        assert (found[ids[1]]["stream"], found[ids[1]]["frame_id"]) == ("cam-1", "seven")
        assert all(each["source"]["partition"] == 1 for id_, each in found.items() if id_)
        for number in (1, 2, 3):
            code, (result,), _ = run("dlq", "replay", "--all", "--source", ids[2], "--yes")
            assert (code, result["sent"]) == (0, 1)
            while run("dlq", "list", "--reason", "truncated")[1][-2]["replays"] < number:
                worker.check_alive()
        assert worker.stop() == 0
    assert run("dlq", "list", "--reason", "truncated")[1][-2]["replay_of"] == ids[2]
    code, (result,), said = run("dlq", "replay", "--source", ids[2], "--yes")
    assert (code, result["sent"], result["refused"]) == (4, 0, 1)
    assert "has been sent back 3 times" in said
    assert run("dlq", "replay", "--source", ids[0], "--yes")[0] == 2, "it never was a dead letter"


@pytest.mark.triton
def test_a_model_that_refuses_everything_stops_the_worker_and_after_its_repair_every_frame_is_predicted(
    topics: MakeTopics, settings: MakeSettings, headrace: Callable[[Topics], Headrace]
) -> None:
    made = topics(partitions=1)
    run = headrace(made)
    sent = produce_frames(made.bootstrap_servers, made.frames, [(b"cam-0", WHITE)] * 20)
    ids = {f"{made.frames}/0/{frame.offset}" for frame in sent}
    with TritonServer.start(MODELS, models=["moody"]) as server:
        broken = settings(made, batching={"max_batch_size": 4}, limits={"inference_consecutive": 6}) | {
            "model": {"name": "moody", "directory": str(MODELS / "moody")},
            "infer": {"url": server.grpc_url},
        }
        with WorkerProcess(broken) as worker:
            assert worker.wait(60) == 4
            sentence = worker.log.splitlines()[-1]
    assert "headrace: model moody gave no answer to 6 of the last 6 frames" in sentence
    assert "a white picture" in sentence
    assert committed_lag(made) >= len(sent) - 4, "the batch that went past the limit comes again"
    assert run("dlq", "list")[1][-1] == {"dead_letters": 4, "reasons": {"inference_rejected": 4}}

    assert run("dlq", "replay", "--reason", "inference_rejected", "--yes")[1][-1]["sent"] == 4
    with WorkerProcess(settings(made)) as worker:
        wait_for(lambda: {each["replay_of"] or each["id"] for each in predictions(made)} == ids, worker)
        assert worker.stop() == 0
