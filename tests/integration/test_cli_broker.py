"""produce, tail and doctor against a real Kafka."""

from __future__ import annotations

import json
import logging
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

from tests.rig.kafka import Broker, MakeTopics
from tests.rig.topics import Topics
from worker.cli import main
from worker.cli.broker import Reader, Sender
from worker.embedded.triton import TritonServer
from worker.publish.messages import Message
from worker.settings import KafkaSettings, Settings, TopicSettings


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Commands send all logging to the stderr of their time, which a test's capture closes."""
    root, hook = logging.getLogger(), threading.excepthook
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], threading.excepthook = handlers, hook
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(7)
    for name in ("cam-1/a.jpg", "cam-1/b.jpg", "cam-2/c.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    writer = cv2.VideoWriter(str(tmp_path / "photos" / "film.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for number in range(4):
        writer.write(np.full((48, 64, 3), 50 * number, np.uint8))
    writer.release()
    return tmp_path / "photos"


@pytest.fixture
def fresh(kafka: Broker) -> Iterator[list[str]]:
    """Flags that name topics which do not exist; what a test creates is deleted."""
    tag = uuid.uuid4().hex[:10]
    names = {"frames": f"f-{tag}", "predictions": f"p-{tag}", "dead_letters": f"d-{tag}", "statistics": f"s-{tag}"}
    values = {"kafka.bootstrap_servers": kafka.bootstrap_servers}
    values |= {f"topics.{key}": name for key, name in names.items()}
    yield [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    admin.delete_topics(list(names.values()), raise_errors=False)
    admin.close()


def _last(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    last: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return last


def _flags(settings: Settings) -> list[str]:
    names = settings.topics
    values = {"kafka.bootstrap_servers": settings.kafka.bootstrap_servers, "topics.frames": names.frames}
    values |= {"topics.predictions": names.predictions, "topics.dead_letters": names.dead_letters}
    values |= {"topics.statistics": names.statistics}
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def _settings(made: Topics) -> Settings:
    topics = TopicSettings(
        frames=made.frames, predictions=made.predictions, dead_letters=made.dlq, statistics=made.stats
    )
    return Settings(kafka=KafkaSettings(bootstrap_servers=made.bootstrap_servers), topics=topics)


def test_produce_names_a_missing_topic_and_ends_with_3(
    photos: Path, fresh: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["produce", str(photos), *fresh, "--json"]) == 3
    captured = capsys.readouterr()
    assert "missing on" in captured.err
    assert json.loads(captured.out.splitlines()[-1])["exit_code"] == 3


def test_produce_creates_topics_whose_size_limits_fit_each_other(
    photos: Path, fresh: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["produce", str(photos), *fresh, "--create", "--partitions", "3", "--json"]) == 0
    sent = _last(capsys)
    assert (sent["sent"], sent["refused"], sent["partitions"]) == (7, 0, 3)
    main(["doctor", *fresh, "--set", "infer.backend=local", "--json"])
    checks = {check["name"]: check for check in _last(capsys)["checks"]}
    assert checks["dead letters"]["verdict"] == "ok"
    assert [name for name in checks if name.startswith("topic ") and checks[name]["verdict"] != "ok"] == []
    assert "frame size" not in checks


def test_what_produce_sends_is_what_the_contract_says(photos: Path, topics: MakeTopics, tmp_path: Path) -> None:
    settings = _settings(topics(partitions=2))
    assert main(["produce", str(photos), "--key", "per-folder", *_flags(settings)]) == 0
    consumer = KafkaConsumer(bootstrap_servers=settings.kafka.bootstrap_servers, auto_offset_reset="earliest")
    consumer.assign([TopicPartition(settings.topics.frames, number) for number in range(2)])
    records: list[Any] = []
    while len(records) < 7:
        records += [record for batch in consumer.poll(timeout_ms=10_000).values() for record in batch]
    consumer.close()
    by_id = {dict(record.headers)["frame-id"].decode(): record for record in records}
    photo = by_id[f"{photos}/cam-1/a.jpg/0/0"]
    assert photo.value == (photos / "cam-1/a.jpg").read_bytes()
    assert photo.key == b"cam-1"
    assert dict(photo.headers)["content-type"] == b"image/jpeg"
    assert dict(photo.headers)["captured-at"].endswith(b"Z")
    assert dict(by_id[f"{photos}/cam-2/c.png/0/0"].headers)["content-type"] == b"image/png"
    film = [by_id[f"{photos}/film.avi/0/{number}"] for number in range(4)]
    assert {record.key for record in film} == {b"film.avi"}
    assert all(record.value.startswith(b"\xff\xd8\xff") for record in film)
    assert [record.offset for record in film] == sorted(record.offset for record in film)


def test_produce_stops_at_its_limit_and_loops_until_then_with_ids_of_their_own(
    photos: Path, topics: MakeTopics, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = _settings(topics(partitions=1))
    assert main(["produce", str(photos), "--loop", "--limit", "10", *_flags(settings), "--json"]) == 0
    assert _last(capsys)["sent"] == 10
    with Reader(settings, [settings.topics.frames], from_beginning=True) as reader:
        ids: list[bytes] = []
        while len(ids) < 10:
            ids += [record.headers["frame-id"] for record in reader.poll(5.0)]
    assert len(set(ids)) == 10


def test_produce_keeps_to_its_rate(photos: Path, topics: MakeTopics, capsys: pytest.CaptureFixture[str]) -> None:
    settings = _settings(topics(partitions=1))
    assert main(["produce", str(photos), "--rate", "10", *_flags(settings), "--json"]) == 0
    seconds = _last(capsys)["seconds"]
    assert isinstance(seconds, float)
    assert seconds >= 0.6  # the seventh frame is due 0.6 s after the first; slower machines take longer


def test_a_frame_the_topic_does_not_take_is_named_and_the_rest_is_sent(
    photos: Path, topics: MakeTopics, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = _settings(topics(partitions=1, configs={"max.message.bytes": "20000"}))
    (photos / "big.jpg").write_bytes(b"\xff\xd8\xff" + bytes(30_000))
    assert main(["produce", str(photos), *_flags(settings)]) == 4
    err = capsys.readouterr().err
    assert "big.jpg/0/0 is not sent" in err
    assert "7 frames" in err


def test_tail_shows_predictions_and_dead_letters(topics: MakeTopics, capsys: pytest.CaptureFixture[str]) -> None:
    settings = _settings(topics(partitions=1))
    prediction = {
        "id": "frames/3/1042", "frame_id": None, "stream": "cam-7", "generation": 1,
        "source": {"topic": "frames", "partition": 3, "offset": 1042},
        "captured_at": "2026-11-23T06:00:00.000Z", "captured_at_source": "header",
        "predicted_at": "2026-11-23T06:00:00.027Z",
        "image": {"format": "jpeg", "width": 768, "height": 576, "decoder": "simplejpeg"},
        "model": {"name": "m", "version": "1", "digest": "d", "runtime": "r", "precision": "p", "served_by": "primary"},
        "preprocess": "sha256:", "task": "classify", "classes": [{"index": 285, "label": "Egyptian cat", "score": 0.83}],
        "timings_ms": {"queued": 1, "decode": 1, "batch": 1, "infer": 1},
    }  # fmt: skip
    letter = [("dlq-reason", b"truncated"), ("dlq-detail", b"ends early"), ("dlq-source", b"frames/0/7")]
    acknowledged: list[int] = []
    with Sender(settings, 1_000_000, lambda: acknowledged.append(1)) as sender:
        sender.send(Message(settings.topics.predictions, b"cam-7", json.dumps(prediction).encode(), []))
        sender.send(Message(settings.topics.dead_letters, b"cam-8", b"\xff\xd8", letter))
        sender.drain()
    assert len(acknowledged) == 2
    common = ["--from-beginning", "--limit", "1", *_flags(settings)]
    assert main(["tail", *common]) == 0
    shown = capsys.readouterr().out
    assert all(part in shown for part in ("cam-7", "frames/3/1042", "Egyptian cat 0.83", "27 ms"))
    assert main(["tail", *common, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == prediction
    assert main(["tail", "--dead-letters", *common]) == 0
    shown = capsys.readouterr().out
    assert all(part in shown for part in ("cam-8", "frames/0/7", "truncated", "ends early"))
    assert main(["tail", "--dead-letters", *common, "--json"]) == 0
    assert _last(capsys)["reason"] == "truncated"


def test_doctor_names_missing_topics_and_a_dead_letter_topic_that_is_too_small(
    topics: MakeTopics, fresh: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", *fresh, "--json"]) == 3
    found = _last(capsys)["checks"]
    assert sum(check["name"].startswith("topic ") and check["verdict"] == "fail" for check in found) == 4
    settings = _settings(topics(partitions=1, configs={"max.message.bytes": "40000000"}))
    assert main(["doctor", *_flags(settings)]) in {2, 3}
    shown = capsys.readouterr().out
    assert "max.message.bytes=40065536" in shown


def test_doctor_is_content_where_everything_is_there_and_names_a_model_that_does_not_fit(
    topics: MakeTopics, triton: TritonServer, served_repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = topics(partitions=2, configs={"max.message.bytes": "1000000"})
    arguments = ["doctor", *_flags(_settings(made)), "--set", f"infer.url={triton.grpc_url}"]
    arguments += ["--set", "model.name=efficientnet_lite2"]
    directory = "--set", f"model.directory={served_repository / 'efficientnet_lite2'}"
    assert main([*arguments, *directory, "--json"]) == 0
    checks = {check["name"]: check for check in _last(capsys)["checks"]}
    assert checks["model"]["verdict"] == checks["contract"]["verdict"] == checks["dead letters"]["verdict"] == "ok"
    assert checks["frame size"]["verdict"] == "warn"  # the topic takes less than ingest.max_frame_bytes
    other = "--set", f"model.directory={served_repository / 'efficientnet_lite0'}"
    assert main([*arguments, *other, "--json"]) == 2
    checks = {check["name"]: check for check in _last(capsys)["checks"]}
    assert "(260, 260, 3)" in checks["model"]["detail"]
    assert "(224, 224, 3)" in checks["model"]["detail"]


def test_doctor_ends_with_2_for_a_wrong_setting_and_still_checks_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--set", "kafka.nope=1", "--json"]) == 2
    last = _last(capsys)
    assert last["exit_code"] == 2
    assert "crc32c" in {check["name"] for check in last["checks"]}
