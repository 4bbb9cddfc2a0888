"""The line of `headrace tail` for what a detector found."""

from __future__ import annotations

import pytest

from worker.cli.broker import Record
from worker.cli.tail import prediction_line
from worker.records import Detection, ImageRecord, ModelRecord, Prediction, Source, Timings, encode


@pytest.mark.parametrize(
    ("labels", "told"), [(["person", "car", "person"], "2 person, 1 car"), ([], "nothing")], ids=["some", "none"]
)
def test_objects_are_counted_by_class_and_an_empty_frame_says_so(labels: list[str], told: str) -> None:
    prediction = Prediction(
        id="frames/0/7",
        frame_id=None,
        stream="gate",
        source=Source(topic="frames", partition=0, offset=7),
        generation=1,
        captured_at="2026-11-23T06:00:00.000Z",
        captured_at_source="header",
        predicted_at="2026-11-23T06:00:00.040Z",
        image=ImageRecord(format="jpeg", width=9, height=9, decoder="simplejpeg"),
        model=ModelRecord(name="m", version="1", digest="d", runtime="r", precision="p", served_by="primary"),
        preprocess="p",
        task="detect",
        timings_ms=Timings(queued=0, decode=0, batch=0, infer=0),
        detections=[Detection(index=0, label=label, score=0.5, box=(0.0, 0.0, 1.0, 1.0)) for label in labels],
    )
    line = prediction_line(Record("predictions", 0, 0, 0, b"gate", encode(prediction), {}, ())).plain
    assert told in line
    assert line.endswith("40 ms")
