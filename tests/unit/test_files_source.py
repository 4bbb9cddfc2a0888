"""The files source: what it finds, in which order, and that videos and damaged files go the same way as images."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from worker.errors import ConfigurationError
from worker.ingest import files
from worker.ingest.files import READ_ERROR, find, frames, total


def _picture(path: Path, value: int = 128) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((24, 32, 3), value, np.uint8))


def _video(path: Path, count: int = 5) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 24))
    assert writer.isOpened()
    for number in range(count):
        writer.write(np.full((24, 32, 3), 40 * number, np.uint8))
    writer.release()


def test_a_folder_is_read_recursively_and_sorted_without_hidden_or_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photos/b/2.jpg", "photos/a/1.PNG", "photos/c.jpg", "photos/.hidden/3.jpg", "photos/._c.jpg"):
        _picture(Path(name))
    Path("photos/readme.txt").write_text("no picture")
    assert [frame.id for frame in frames(find(["./photos"]))] == [
        "photos/a/1.PNG/0/0",
        "photos/b/2.jpg/0/0",
        "photos/c.jpg/0/0",
    ]


def test_globs_and_paths_that_meet_the_same_file_yield_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _picture(Path("x/1.jpg"))
    _picture(Path("x/y/2.jpg"))
    assert [item.name for item in find(["x/y/2.jpg", "**/*.jpg"])] == ["x/y/2.jpg", "x/1.jpg"]


@pytest.mark.parametrize("source", ["missing", "missing/*.jpg", "empty"])
def test_a_source_without_frames_is_a_configuration_error_that_names_it(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    with pytest.raises(ConfigurationError, match=source.replace("*", r"\*")):
        find([source])


def test_an_image_travels_as_the_bytes_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "1.jpg"
    _picture(path)
    (frame,) = frames(find([str(path)]))
    assert frame.value == path.read_bytes()
    assert frame.source == (str(path), 0)
    assert frame.timestamp_ms == int(path.stat().st_mtime * 1000)


def test_a_named_file_is_taken_whatever_its_name_and_content(tmp_path: Path) -> None:
    path = tmp_path / "upload.bin"
    path.write_bytes(b"no image")
    (frame,) = frames(find([str(path)]))
    assert frame.value == b"no image"


def test_video_frames_are_numbered_and_travel_losslessly(tmp_path: Path) -> None:
    path = tmp_path / "v.avi"
    _video(path)
    items = find([str(path)])
    found = list(frames(items))
    assert total(items) == 5
    assert [frame.offset for frame in found] == [0, 1, 2, 3, 4]
    capture = cv2.VideoCapture(str(path))
    for frame in found:
        assert frame.value is not None
        assert frame.value[:2] == b"BM"
        decoded = cv2.imdecode(np.frombuffer(frame.value, np.uint8), cv2.IMREAD_COLOR)
        _, expected = capture.read()
        assert decoded is not None
        assert expected is not None
        assert np.array_equal(decoded, expected)
    capture.release()


def test_video_frames_can_travel_as_jpeg(tmp_path: Path) -> None:
    path = tmp_path / "v.avi"
    _video(path, 1)
    (frame,) = frames(find([str(path)]), encode=files.as_jpeg)
    assert frame.value is not None
    assert frame.value[:3] == b"\xff\xd8\xff"


def test_frames_that_have_an_outcome_are_not_read_again(tmp_path: Path) -> None:
    _picture(tmp_path / "a.jpg")
    _video(tmp_path / "v.avi")
    everything = [frame.id for frame in frames(find([str(tmp_path)]))]
    done = set(everything[::2])
    assert [frame.id for frame in frames(find([str(tmp_path)]), done)] == everything[1::2]


def test_a_video_that_cannot_be_opened_is_one_frame_of_its_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(b"no film" * 50_000)
    items = find([str(path)])
    (frame,) = frames(items)
    assert frame.value == path.read_bytes()[: 64 * 1024]
    assert total(items) == 1
    assert list(frames(items, done={frame.id})) == []


def test_a_file_that_vanished_is_a_frame_that_says_why_it_has_no_value(tmp_path: Path) -> None:
    path = tmp_path / "1.jpg"
    _picture(path)
    items = find([str(path)])
    path.unlink()
    (frame,) = frames(items)
    assert frame.value is None
    assert frame.headers == ((READ_ERROR, b"No such file or directory"),)
