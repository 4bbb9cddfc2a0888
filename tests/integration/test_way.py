"""The whole way on a real Kafka and a real Triton: every frame sent has exactly one outcome, and the right one."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from confluent_kafka import Message
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from PIL import Image

from tests.integration.conftest import MakeSettings
from tests.rig.audit import (
    TopicReader,
    audit_statistics,
    committed_lag,
    header,
    produce_frames,
    wait_until_committed,
    wait_until_done,
)
from tests.rig.images import bad_frames, encode, photo, with_orientation
from tests.rig.kafka import MakeTopics
from tests.rig.topics import Topics
from tests.rig.worker import WorkerProcess
from worker.embedded.assets import demo_images
from worker.embedded.environment import data_dir
from worker.records import json_schema

Frames = list[tuple[bytes | None, bytes | None]]


def read(topics: Topics, name: str) -> list[Message]:
    with TopicReader(topics.bootstrap_servers, [name]) as reader:
        return reader.read_on()


def values(messages: Sequence[Message]) -> dict[str, dict[str, Any]]:
    """By frame id."""
    return {value["id"]: value for value in (json.loads(message.value() or b"") for message in messages)}


def good_frames(count: int, keys: int = 3) -> Frames:
    pictures = [encode(photo(160, 120, seed), "jpeg", quality=85) for seed in range(8)]
    return [(f"cam-{n % keys}".encode(), pictures[n % len(pictures)]) for n in range(count)]


def test_every_frame_has_one_prediction_in_order_and_its_range_has_statistics(
    topics: MakeTopics, settings: MakeSettings
) -> None:
    made = topics(partitions=3)
    frames: Frames = [*good_frames(200), *((None, value) for _, value in good_frames(40))]
    sent = produce_frames(made.bootstrap_servers, made.frames, frames)
    with WorkerProcess(settings(made)) as worker:
        worker.wait_ready(60)
        audit = wait_until_done(made, sent, 120, worker.check_alive)
        assert worker.stop() == 0
    assert audit.problems == [], audit
    assert audit.duplicates_raw == 0
    assert committed_lag(made) == 0
    predictions = read(made, made.predictions)
    schema = json_schema("prediction")
    for message in predictions:
        jsonschema.validate(json.loads(message.value() or b""), schema)
        assert header(message, "ce_type") == b"headrace.prediction.v1"
    by_id = values(predictions)
    for frame in sent:
        value = by_id[f"{made.frames}/{frame.partition}/{frame.offset}"]
        assert value["stream"] == (None if frame.key is None else frame.key.decode())
        assert value["model"]["name"] == "null"
        assert value["generation"] >= 0
    unkeyed = [m for m in predictions if m.key() is None]
    assert len(unkeyed) == 40
    assert all(m.partition() == json.loads(m.value() or b"")["source"]["partition"] % 3 for m in unkeyed)
    statistics = audit_statistics(made, sent)
    assert statistics.uncovered_ids == ()
    assert statistics.counted == len(sent)
    for message in read(made, made.stats):
        jsonschema.validate(json.loads(message.value() or b""), json_schema("statistics"))


def test_each_bad_frame_amid_good_ones_becomes_a_dead_letter_byte_for_byte(
    topics: MakeTopics, settings: MakeSettings
) -> None:
    made = topics(partitions=2)
    limit = 256 * 1024
    bad = bad_frames(max_frame_bytes=limit)
    assert set(bad) >= {
        "empty", "too_large", "not_an_image", "unsupported_format", "too_many_pixels", "zero_dimension", "truncated", "corrupt",
    }  # fmt: skip
    frames: Frames = []
    expected: dict[int, str] = {}
    for name, value in bad.items():  # "reason" or "reason: what"
        frames += good_frames(5)
        expected[len(frames)] = name.partition(":")[0]
        frames.append((b"cam-0" if value is None else None, value))
    frames += good_frames(5)
    sent = produce_frames(made.bootstrap_servers, made.frames, frames)
    with WorkerProcess(settings(made, ingest={"max_frame_bytes": limit, "max_pixels": 12_000_000})) as worker:
        worker.wait_ready(60)
        audit = wait_until_done(made, sent, 120, worker.check_alive)
        # What is committed was acknowledged, and what was acknowledged is counted.
        assert wait_until_committed(made, 30) == 0
        for reason, count in Counter(expected.values()).items():
            assert worker.metric("frames_dead_lettered_total", reason=reason) == count
        assert worker.stop() == 0
    assert audit.problems == [], audit
    assert committed_lag(made) == 0
    letters = {header(m, "dlq-source").decode(): m for m in read(made, made.dlq)}
    assert len(letters) == len(expected)
    for number, reason in expected.items():
        frame = sent[number]
        letter = letters[f"{made.frames}/{frame.partition}/{frame.offset}"]
        assert header(letter, "dlq-reason").decode() == reason
        assert header(letter, "dlq-detail")
        assert letter.key() == frames[number][0]
        assert (letter.value() or b"") == (frames[number][1] or b"")


def test_a_prediction_too_large_for_its_topic_is_a_dead_letter(topics: MakeTopics, settings: MakeSettings) -> None:
    made = topics(partitions=1)
    with closing(KafkaAdminClient(bootstrap_servers=made.bootstrap_servers)) as admin:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, made.predictions, {"max.message.bytes": "3000"})])
    frames: list[Any] = [
        *good_frames(4),
        (b"cam-0", good_frames(1)[0][1], [("frame-id", b"x" * 2900)]),
        *good_frames(4),
    ]
    sent = produce_frames(made.bootstrap_servers, made.frames, frames)
    with WorkerProcess(settings(made)) as worker:
        worker.wait_ready(60)
        audit = wait_until_done(made, sent, 120, worker.check_alive)
        assert worker.stop() == 0
    assert audit.problems == [], audit
    (letter,) = read(made, made.dlq)
    assert header(letter, "dlq-reason") == b"output_too_large"
    assert header(letter, "frame-id") == b"x" * 2900
    assert (letter.key(), letter.value()) == frames[4][:2]
    assert committed_lag(made) == 0


def labelled_photos() -> list[tuple[bytes, int]]:
    photos = [(image.path.read_bytes(), image.label) for image in demo_images(data_dir()) if image.label is not None]
    assert len(photos) == 20
    return photos


def top1(topics: Topics, sent: Sequence[Any]) -> list[int]:
    by_id = values(read(topics, topics.predictions))
    return [by_id[f"{topics.frames}/{f.partition}/{f.offset}"]["classes"][0]["index"] for f in sent]


def test_labelled_photos_are_recognised_whichever_way_they_are_stored(
    topics: MakeTopics, settings: MakeSettings
) -> None:
    made = topics(partitions=2)
    photos = labelled_photos()
    upright = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data, _ in photos]
    frames: Frames = [(b"plain", data) for data, _ in photos]
    for orientation in range(1, 9):
        # Quality 100 and even sides: nothing but the orientation differs.
        frames += [(f"exif-{orientation}".encode(), with_orientation(rgb, orientation, quality=100)) for rgb in upright]
    sent = produce_frames(made.bootstrap_servers, made.frames, frames)
    with WorkerProcess(settings(made, model="efficientnet_lite2")) as worker:
        worker.wait_ready(60)
        audit = wait_until_done(made, sent, 240, worker.check_alive)
        assert worker.stop() == 0
    assert audit.problems == [], audit
    answers = top1(made, sent)
    right = sum(answer == label for answer, (_, label) in zip(answers[:20], photos, strict=True))
    assert right >= 18
    for orientation in range(1, 9):
        assert answers[20 * orientation : 20 * (orientation + 1)] == answers[20:40], f"orientation {orientation}"


def test_one_changed_line_of_the_contract_changes_the_hash_in_predictions(
    topics: MakeTopics, settings: MakeSettings, served_repository: Path, tmp_path: Path
) -> None:
    seen = []
    original = (served_repository / "null" / "preprocess.toml").read_text()
    for name, text in (
        ("as-it-is", original),
        ("changed", original.replace("crop_fraction = 0.875", "crop_fraction = 0.9")),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "preprocess.toml").write_text(text)
        (folder / "labels.txt").write_text((served_repository / "null" / "labels.txt").read_text())
        made = topics(partitions=1)
        sent = produce_frames(made.bootstrap_servers, made.frames, good_frames(3))
        with WorkerProcess(settings(made) | {"model": {"name": "null", "directory": str(folder)}}) as worker:
            wait_until_done(made, sent, 60, worker.check_alive)
            assert worker.stop() == 0
        seen.append({value["preprocess"] for value in values(read(made, made.predictions)).values()})
    assert len(seen[0]) == len(seen[1]) == 1
    assert seen[0] != seen[1]


def test_a_model_of_another_shape_is_refused_at_start_with_both_shapes_named(
    topics: MakeTopics, settings: MakeSettings, served_repository: Path
) -> None:
    made = topics(partitions=1)
    model = {"name": "efficientnet_lite0", "directory": str(served_repository / "efficientnet_lite2")}
    with WorkerProcess(settings(made) | {"model": model}) as worker:
        assert worker.wait(60) == 2
        assert "224" in worker.log
        assert "260" in worker.log


def test_a_missing_topic_is_named_and_never_created(topics: MakeTopics, settings: MakeSettings) -> None:
    made = topics(partitions=1)
    tree = settings(made)
    tree["topics"]["predictions"] = "nobody-made-this"
    with WorkerProcess(tree) as worker:
        assert worker.wait(60) == 3
        assert "nobody-made-this" in worker.log


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_compressed_topics_are_read(topics: MakeTopics, settings: MakeSettings, codec: str) -> None:
    made = topics(partitions=1)
    sent = produce_frames(made.bootstrap_servers, made.frames, good_frames(20), settings={"compression.type": codec})
    with WorkerProcess(settings(made)) as worker:
        audit = wait_until_done(made, sent, 60, worker.check_alive)
        assert worker.stop() == 0
    assert audit.problems == [], audit
