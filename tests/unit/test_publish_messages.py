"""Predictions, dead letters and their headers, as the published contract has them."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import jsonschema
import numpy as np
import pytest

from worker.frames import Frame, ImageFacts, ModelIdentity, Reason, Rejection, Row, SourcePartition, Stage
from worker.publish.messages import (
    Composer,
    Message,
    Target,
    captured_at,
    model_record,
    rfc3339,
    text,
)
from worker.publish.order import Reorder
from worker.records import ClassScore, OffsetRange, StatisticsRecord, StreamStatistics, Timings, json_schema
from worker.statistics import FEATURES, Collector

MODEL = model_record(ModelIdentity("m", "1", "sha256:aa", "onnxruntime", "fp32"), "primary")
ROW = Row(0, ImageFacts("jpeg", 40, 30, 3, orientation=6), "simplejpeg", 1.0)
TIMINGS = Timings(queued=1.0, decode=1.0, batch=1.0, infer=1.0)


def composer(prediction_bytes: int = 10_000, dead_letter_bytes: int = 10_000) -> Composer:
    return Composer(
        Target("predictions", 4, prediction_bytes),
        Target("frames.dlq", 3, dead_letter_bytes),
        Target("frames.stats", 2, 10_000),
        "kafka://c/frames/t",
        "classify",
    )


def frame(**changes: Any) -> Frame:
    given: dict[str, Any] = {
        "source": SourcePartition("frames", 5),
        "offset": 42,
        "value": b"jpeg",
        "timestamp_ms": 1_000,
    }
    return Frame(**(given | changes))


def predict(given: Frame, made_by: Composer | None = None) -> Message | Rejection:
    fields = {"classes": [ClassScore(index=1, label="tench", score=0.5)]}
    return (made_by or composer()).prediction(
        given, ROW, MODEL, "sha256:bb", fields, TIMINGS, captured_at(given), "2026-01-01T00:00:00.000Z", 3
    )


def headers(message: Message) -> dict[str, bytes]:
    return dict(message.headers)


def test_a_prediction_follows_its_published_schema_and_names_its_frame() -> None:
    message = predict(frame(key=b"cam-7", headers=(("frame-id", b"a"), ("frame-id", b"b"), ("traceparent", b"00-x"))))
    assert isinstance(message, Message)
    value = json.loads(message.value or b"")
    jsonschema.validate(value, json_schema("prediction"))
    assert value["id"] == "frames/5/42"
    assert value["frame_id"] == "b", "of a repeated header the last wins"
    assert value["stream"] == "cam-7"
    assert (value["image"]["width"], value["image"]["height"]) == (30, 40), "upright"
    assert "embedding" not in value
    assert headers(message)["ce_id"] == b"frames/5/42"
    assert headers(message)["ce_source"] == b"kafka://c/frames/t"
    assert headers(message)["ce_type"] == b"headrace.prediction.v1"
    assert headers(message)["traceparent"] == b"00-x"
    assert message.partition is None


def test_a_frame_without_a_key_goes_to_its_partition_modulo_n() -> None:
    message = predict(frame())
    assert isinstance(message, Message)
    assert message.partition == 5 % 4
    assert json.loads(message.value or b"")["stream"] is None


def test_a_prediction_larger_than_its_topic_takes_is_a_rejection() -> None:
    rejection = predict(frame(headers=(("frame-id", b"x" * 900),)), composer(prediction_bytes=1500))
    assert isinstance(rejection, Rejection)
    assert rejection.reason is Reason.OUTPUT_TOO_LARGE


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"2026-01-01T00:00:00Z", (1_767_225_600_000, "header")),
        (b"2026-01-01T01:00:00.250+01:00", (1_767_225_600_250, "header")),
        (b"1767225600000", (1_767_225_600_000, "header")),
        (b"2026-01-01T00:00:00", (1_000, "broker")),
        (b"yesterday", (1_000, "broker")),
        (b"9" * 40, (1_000, "broker")),
        (b"\xff", (1_000, "broker")),
    ],
)
def test_capture_times_are_read_or_taken_from_the_broker(header: bytes, expected: tuple[int, str]) -> None:
    assert captured_at(frame(headers=(("captured-at", header),))) == expected


def test_key_bytes_that_are_no_utf8_are_percent_encoded() -> None:
    assert text(b"cam-\xff\xc3\xa9") == "cam-%FFé"


def test_times_are_written_in_utc_with_milliseconds() -> None:
    assert rfc3339(1_767_225_600_250) == "2026-01-01T00:00:00.250Z"
    assert rfc3339(-5) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(10**18).startswith("9999-")


def test_a_dead_letter_carries_key_value_and_headers_as_they_came_and_replaces_older_verdicts() -> None:
    given = frame(
        key=b"k", value=b"\x00rubbish", headers=(("dlq-reason", b"old"), ("frame-id", b"7"), ("frame-id", b"8"))
    )
    message = composer().dead_letter(given, Rejection(Reason.CORRUPT, "why", Stage.DECODE, 2))
    assert (message.key, message.value) == (b"k", b"\x00rubbish")
    assert message.headers[:2] == [("frame-id", b"7"), ("frame-id", b"8")]
    assert [value for name, value in message.headers if name == "dlq-reason"] == [b"corrupt"]
    assert headers(message)["dlq-stage"] == b"decode"
    assert headers(message)["dlq-attempts"] == b"2"
    assert headers(message)["dlq-source"] == b"frames/5/42"


def test_what_the_client_cant_express_is_empty_and_named() -> None:
    message = composer().dead_letter(
        frame(value=None, headers=(("x", None),)), Rejection(Reason.EMPTY, "why", Stage.VALIDATE)
    )
    assert message.value == b""
    assert headers(message)["dlq-nulls"] == b"header:x,value" or headers(message)["dlq-nulls"] == b"value,header:x"


def test_a_value_the_dlq_cant_take_is_left_out_and_its_hash_stands_for_it() -> None:
    value = b"v" * 5000
    message = composer(dead_letter_bytes=2000).dead_letter(
        frame(value=value), Rejection(Reason.TOO_LARGE, "why", Stage.VALIDATE)
    )
    assert message.value == b""
    assert headers(message)["dlq-value-sha256"] == hashlib.sha256(value).hexdigest().encode()


def test_a_key_the_dlq_cant_take_is_left_out_too_and_named() -> None:
    message = composer(dead_letter_bytes=2000).dead_letter(
        frame(key=b"k" * 5000, headers=(("x", b"y" * 5000),)), Rejection(Reason.CORRUPT, "why", Stage.DECODE)
    )
    assert message.size <= 2000
    assert headers(message)["dlq-left-out"] == b"key,headers"
    assert headers(message)["dlq-source"] == b"frames/5/42"
    assert "x" not in headers(message)


def statistics_of(streams: int) -> StatisticsRecord:
    collector = Collector()
    names = [f"cam-{n}" for n in range(streams)]
    many = np.ones((streams, len(FEATURES)), np.float32)
    collector.add(list(range(streams)), names, many, many[:, 0], 1.0, (np.zeros(streams, np.intp), many[:, 0]))
    cut = collector.cut(0, streams)
    return StatisticsRecord(
        source=OffsetRange(topic="frames", partition=5, start=0, end=streams),
        generation=3,
        model=MODEL,
        preprocess="sha256:bb",
        window_start="2026-01-01T00:00:00.000Z",
        window_end="2026-01-01T00:00:01.000Z",
        streams=[StreamStatistics(stream=stream, summary=summary) for stream, summary in cut.streams.items()],
    )


def test_statistics_are_one_record_that_follows_its_schema() -> None:
    (message,) = composer().statistics(statistics_of(2))
    value = json.loads(message.value or b"")
    jsonschema.validate(value, json_schema("statistics"))
    assert (value["part"], value["parts"]) == (0, 1)
    assert message.partition == 5 % 2
    assert headers(message)["ce_id"] == b"frames/5/0-2/3/0"


def test_streams_that_do_not_fit_in_one_record_are_spread_over_parts_of_the_same_range() -> None:
    messages = composer().statistics(statistics_of(40))
    values = [json.loads(message.value or b"") for message in messages]
    assert len(values) > 1
    assert all(message.size <= 10_000 for message in messages)
    assert [value["part"] for value in values] == list(range(len(values)))
    assert {value["parts"] for value in values} == {len(values)}
    assert {(value["source"]["start"], value["source"]["end"]) for value in values} == {(0, 40)}
    assert sorted(s["stream"] for value in values for s in value["streams"]) == sorted(f"cam-{n}" for n in range(40))
    assert len({headers(message)["ce_id"] for message in messages}) == len(messages)


def test_batches_leave_in_the_order_of_their_numbers() -> None:
    order: Reorder[str] = Reorder()
    assert order.push(1, "b") == []
    assert order.push(2, "c") == []
    assert order.push(0, "a") == ["a", "b", "c"]
    with pytest.raises(ValueError, match="twice"):
        order.push(1, "b")
