"""The files sink: what was written is found again, torn lines are cut, parts appear whole, models are not mixed."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest

from worker.errors import ConfigurationError
from worker.frames import Frame, Reason, Rejection, SourcePartition, Stage
from worker.publish import files
from worker.publish.files import open_sink
from worker.records import ClassScore, Detection, ImageRecord, ModelRecord, Prediction, Source, Timings, encode


def _prediction(number: int, digest: str = "sha256:1") -> bytes:
    return encode(
        Prediction(
            id=f"a.jpg/0/{number}",
            frame_id=None,
            stream=None,
            source=Source(topic="a.jpg", partition=0, offset=number),
            generation=None,
            captured_at="2026-11-23T06:00:00.250Z",
            captured_at_source="broker",
            predicted_at="2026-11-23T06:00:01Z",
            image=ImageRecord(format="jpeg", width=32, height=24, decoder="simplejpeg"),
            model=ModelRecord(
                name="lite2", version="1", digest=digest, runtime="onnxruntime", precision="fp32", served_by="primary"
            ),
            preprocess="sha256:p",
            task="classify",
            timings_ms=Timings(queued=1, decode=2, batch=3, infer=4),
            classes=[ClassScore(index=285, label="Egyptian cat", score=0.5)],
        )
    )


def _dead_letter(number: int) -> tuple[Frame, Rejection]:
    rejection = Rejection(Reason.TRUNCATED, "the file ends early", Stage.DECODE)
    return Frame(SourcePartition("b.jpg", 0), number, b"x"), rejection


def test_jsonl_goes_on_where_it_stopped_and_knows_all_outcomes(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out.jsonl"
    sink = open_sink(out)
    sink.write([_prediction(0), _prediction(1)], [_dead_letter(0)])
    sink.close()
    sink = open_sink(out)
    assert sink.done == {"a.jpg/0/0", "a.jpg/0/1", "b.jpg/0/0"}
    sink.write([_prediction(2)], [])
    sink.close()
    assert [json.loads(line)["source"]["offset"] for line in out.read_text().splitlines()] == [0, 1, 2]
    (letter,) = (json.loads(line) for line in (tmp_path / "new" / "out.jsonl.dlq.jsonl").read_text().splitlines())
    assert letter == {
        "id": "b.jpg/0/0",
        "reason": "truncated",
        "detail": "the file ends early",
        "stage": "decode",
        "path": "b.jpg",
        "frame": 0,
    }


def test_outcomes_are_in_the_file_as_soon_as_a_batch_is_written(tmp_path: Path) -> None:
    sink = open_sink(tmp_path / "out.jsonl")
    sink.write([_prediction(0)], [_dead_letter(0)])
    assert (tmp_path / "out.jsonl").read_bytes() == _prediction(0) + b"\n"
    assert (tmp_path / "out.jsonl.dlq.jsonl").read_bytes().count(b"\n") == 1
    sink.close()


@pytest.mark.parametrize("kept", [0, 1])
def test_a_torn_last_line_is_cut_off_and_its_frame_done_again(kept: int, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    whole = b"".join(_prediction(number) + b"\n" for number in range(kept))
    out.write_bytes(whole + _prediction(7)[:40])
    sink = open_sink(out)
    assert sink.done == {f"a.jpg/0/{number}" for number in range(kept)}
    assert out.read_bytes() == whole
    sink.close()


def test_a_torn_line_longer_than_one_read_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_READ_BYTES", 16)
    out = tmp_path / "out.jsonl"
    out.write_bytes(_prediction(0) + b"\n" + _prediction(1))
    open_sink(out).close()
    assert out.read_bytes() == _prediction(0) + b"\n"


@pytest.mark.parametrize("content", ['{"name": "somebody"}\n', '{"name": "somebody"}', '{"name": "a"}\n{"name": "b"}'])
def test_a_file_that_is_not_ours_is_left_as_it_is(content: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text(content)
    with pytest.raises(ConfigurationError, match="not an output of headrace"):
        open_sink(out)
    assert out.read_text() == content


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_predictions_of_another_model_do_not_go_into_the_same_output(name: str, tmp_path: Path) -> None:
    sink = open_sink(tmp_path / name)
    sink.write([_prediction(0)], [])
    sink.close()
    sink = open_sink(tmp_path / name)
    with pytest.raises(ConfigurationError, match=r"sha256:1.*sha256:2"):
        sink.write([_prediction(1, digest="sha256:2")], [])
    sink.close()
    assert open_sink(tmp_path / name).done == {"a.jpg/0/0"}


def test_parquet_parts_read_as_one_table_with_the_records_fields(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    for numbers in ((0, 1), (2,)):
        sink = open_sink(out)
        assert sink.done == {f"a.jpg/0/{number}" for number in range(numbers[0])}
        sink.write([_prediction(number) for number in numbers], [])
        sink.close()
    table = pq.read_table(out)
    assert sorted(path.name for path in out.iterdir()) == ["part-00000.parquet", "part-00001.parquet"]
    rows = table.to_pylist()
    assert [row["source"]["offset"] for row in rows] == [0, 1, 2]
    assert rows[0]["captured_at"].isoformat() == "2026-11-23T06:00:00.250000+00:00"
    assert rows[0]["classes"] == [{"index": 285, "label": "Egyptian cat", "score": 0.5}]
    assert rows[0]["embedding"] is None


def test_detections_keep_their_boxes_in_parquet(tmp_path: Path) -> None:
    found = [Detection(index=0, label="person", score=0.5, box=(1.0, 2.0, 3.25, 4.0))]
    plain = msgspec.json.decode(_prediction(0), type=Prediction)
    predictions = [
        msgspec.structs.replace(plain, task="detect", classes=msgspec.UNSET, detections=detections)
        for detections in (found, [])
    ]
    sink = open_sink(tmp_path / "out.parquet")
    sink.write([encode(prediction) for prediction in predictions], [])
    sink.close()
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["detections"].to_pylist() == [
        [{"index": 0, "label": "person", "score": 0.5, "box": [1.0, 2.0, 3.25, 4.0]}],
        [],
    ]
    assert table["classes"].to_pylist() == [None, None]


def test_a_parquet_part_is_written_when_it_is_full_and_a_half_written_one_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PART_ROWS", 2)
    out = tmp_path / "out.parquet"
    sink = open_sink(out)
    sink.write([_prediction(0)], [_dead_letter(0)])
    assert list(out.iterdir()) == []
    sink.write([_prediction(1)], [])
    assert [path.name for path in out.iterdir()] == ["part-00000.parquet"]
    (out / "part-00001.parquet.tmp").write_bytes(b"cut off")
    assert open_sink(out).done == {"a.jpg/0/0", "a.jpg/0/1", "b.jpg/0/0"}
    assert [path.name for path in out.iterdir()] == ["part-00000.parquet"]


@pytest.mark.parametrize("name", ["out.csv", "out"])
def test_an_output_of_unknown_kind_is_refused_with_the_kinds_there_are(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"\.jsonl, \.ndjson or \.parquet"):
        open_sink(tmp_path / name)


def test_a_plain_file_in_the_way_of_parquet_parts_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    out.write_bytes(b"PAR1")
    with pytest.raises(ConfigurationError, match="is a file"):
        open_sink(out)
