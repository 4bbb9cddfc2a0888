"""The demo's count and figures: lost, duplicated and disordered frames are found, and only those."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.cli.audit import Audit, Outcome
from worker.cli.demo_report import Report
from worker.records import ClassScore, Detection, ImageRecord, ModelRecord, Prediction, Source, Timings

DLQ = "frames.dlq"


def _outcome(number: int, key: bytes | None = b"cam", topic: str = "predictions", partition: int = 0) -> Outcome:
    return Outcome(f"f{number}", f"frames/{partition}/{number}", key, topic)


def _audit(good: int, bad: int = 0) -> Audit:
    ids = [f"f{number}" for number in range(good + bad)]
    return Audit(good=ids[:good], bad=ids[good:], dead_letters=DLQ)


def test_a_run_in_which_every_frame_came_out_once_has_no_complaints() -> None:
    audit = _audit(good=3, bad=1)
    for number in range(3):
        audit.add(_outcome(number))
    audit.add(_outcome(3, topic=DLQ))
    assert (audit.finished, audit.lost, audit.duplicates, audit.out_of_order) == (4, 0, 0, 0)
    assert audit.complaints() == []


def test_frames_without_an_outcome_are_lost() -> None:
    audit = _audit(good=3)
    audit.add(_outcome(1))
    assert audit.lost == 2
    assert audit.complaints() == ["2 lost"]


def test_a_repeated_outcome_is_a_duplicate_and_no_disorder() -> None:
    audit = _audit(good=3)
    for number in (0, 1, 2, 0, 1):
        audit.add(_outcome(number))
    assert (audit.lost, audit.duplicates, audit.out_of_order) == (0, 2, 0)


def test_order_counts_within_a_source_partition_and_key_only() -> None:
    audit = _audit(good=6)
    audit.add(_outcome(1, key=b"a"))
    audit.add(_outcome(0, key=b"b"))  # another key
    audit.add(_outcome(3, key=None, partition=1))
    audit.add(_outcome(2, key=None, partition=2))  # another partition
    assert audit.out_of_order == 0
    audit.add(_outcome(5, key=b"a"))
    audit.add(_outcome(4, key=b"a"))
    assert audit.out_of_order == 1


def test_a_good_frame_in_the_dead_letters_and_a_bad_one_predicted_on_are_complaints() -> None:
    audit = _audit(good=1, bad=1)
    audit.add(_outcome(0, topic=DLQ))
    audit.add(_outcome(1))
    assert audit.complaints() == ["1 good frames in the dead letters", "1 bad frames predicted on"]


def test_an_outcome_of_a_frame_nobody_sent_is_a_complaint() -> None:
    audit = _audit(good=0)
    audit.add(Outcome("", "", None, "predictions"))
    assert audit.complaints() == ["1 outcomes of frames nobody sent"]


@given(st.lists(st.integers(0, 9), max_size=30))
def test_every_outcome_is_a_first_one_or_a_duplicate(numbers: list[int]) -> None:
    audit = _audit(good=10)
    for number in numbers:
        audit.add(_outcome(number))
    assert audit.finished + audit.duplicates == len(numbers)
    assert audit.finished + audit.lost == 10


@dataclass
class Sample:
    captured_ms: int
    predicted_ms: int
    label: str = "cat"

    def record(self) -> Prediction:
        def moment(ms: int) -> str:
            return f"2026-11-23T06:00:{ms // 1000:02d}.{ms % 1000:03d}Z"

        return Prediction(
            id="frames/0/0",
            frame_id="f",
            stream=None,
            source=Source(topic="frames", partition=0, offset=0),
            generation=1,
            captured_at=moment(self.captured_ms),
            captured_at_source="header",
            predicted_at=moment(self.predicted_ms),
            image=ImageRecord(format="jpeg", width=1, height=1, decoder="simplejpeg"),
            model=ModelRecord(name="m", version="3", digest="d", runtime="r", precision="p", served_by="primary"),
            preprocess="p",
            task="classify",
            timings_ms=Timings(queued=0, decode=0, batch=0, infer=0),
            classes=[ClassScore(index=0, label=self.label, score=1.0)],
        )


def test_throughput_counts_the_frames_after_the_first_batch() -> None:
    report = Report("triton", "tansu", sent=48)
    for predicted_ms in (1000, 1500, 2000):
        for _ in range(16):
            report.prediction(Sample(0, predicted_ms).record(), paced=False)
    assert report.frames_per_second == pytest.approx(32.0)


def test_the_objects_of_a_detector_are_counted_each() -> None:
    report = Report("triton", "tansu", sent=2)
    box = (0.0, 0.0, 1.0, 1.0)
    found = [
        Detection(index=i, label=label, score=0.5, box=box) for i, label in ((0, "person"), (1, "car"), (0, "person"))
    ]
    for detections in (found, []):
        prediction = msgspec.structs.replace(
            Sample(0, 20).record(), task="detect", classes=msgspec.UNSET, detections=detections
        )
        report.prediction(prediction, paced=False)
    assert report.fields(_audit(good=0))["labels"] == {"person": 2, "car": 1}


def test_one_batch_has_no_rate() -> None:
    report = Report("triton", "tansu", sent=16)
    assert report.frames_per_second == 0.0
    report.prediction(Sample(0, 10).record(), paced=False)
    assert report.frames_per_second == 0.0


def test_latency_is_that_of_the_paced_frames() -> None:
    report = Report("triton", "tansu", sent=101)
    report.prediction(Sample(0, 30_000).record(), paced=False)
    for latency in range(1, 101):
        report.prediction(Sample(1000, 1000 + latency).record(), paced=True)
    assert report.latency_ms(0.50) == pytest.approx(50)
    assert report.latency_ms(0.99) == pytest.approx(99)


def test_the_json_of_a_run_has_the_keys_of_the_contract() -> None:
    report = Report("triton", "tansu", sent=2)
    report.prediction(Sample(0, 20).record(), paced=False)
    report.dead_letter("truncated")
    fields = report.fields(_audit(good=0))
    assert fields["frames_in"] == 2
    assert fields["predictions"] == 1
    assert fields["dead_letters"] == 1
    assert fields["latency_ms"] == {"p50": 20.0, "p99": 20.0}
    assert (fields["backend"], fields["broker"], fields["model"], fields["model_version"]) == (
        "triton",
        "tansu",
        "m",
        "3",
    )
    assert {"lost", "duplicates", "out_of_order", "frames_per_second"} <= set(fields)
