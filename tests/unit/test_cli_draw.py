"""Drawings: boxes where the detections are, captions inside the picture, one file a frame and never over its source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.rig.images import encode, with_orientation
from worker.cli.draw import Drawings, drawing
from worker.errors import ConfigurationError
from worker.frames import Frame, ImageFacts, SourcePartition, UInt8Array
from worker.ingest.files import Item
from worker.records import ClassScore, Detection

GREY = np.full((120, 200, 3), 128, np.uint8)


def changed(picture: Image.Image) -> UInt8Array:
    """(H, W) truth: where the drawing is not the grey it was drawn on."""
    return np.asarray((np.asarray(picture) != 128).any(axis=2))


def person(*box: float) -> Detection:
    return Detection(index=0, label="person", score=0.75, box=box)  # type: ignore[arg-type]


def test_a_box_is_drawn_on_its_sides_with_its_caption_above() -> None:
    where = changed(drawing(GREY, {"detections": [person(60, 50, 150, 110)]}))
    for row, column in ((50, 100), (110, 100), (80, 60), (80, 150)):
        assert where[row, column]
    assert not where[70:100, 70:140].any()  # the inside stays to be seen
    assert where[30:49, 60:90].any()
    assert not where[:25].any()


@pytest.mark.parametrize("box", [(0, 0, 199, 119), (150, 2, 199, 60), (-5, -5, 30, 30)])
def test_a_caption_at_the_edge_stays_whole_inside_the_picture(box: tuple[float, ...]) -> None:
    inner = drawing(GREY, {"detections": [person(60, 50, 150, 110)]})
    whole = int(changed(inner)[:50, :].sum())
    where = changed(drawing(GREY, {"detections": [person(*box)]}))
    assert where[:24].sum() >= 0.9 * whole


def test_classes_have_colours_of_their_own_and_the_pixels_given_stay() -> None:
    found = [person(10, 40, 60, 100), Detection(index=1, label="bicycle", score=0.5, box=(100, 40, 150, 100))]
    before = GREY.copy()
    pixels = np.asarray(drawing(GREY, {"detections": found}))
    assert (pixels[100, 30] != pixels[100, 120]).any()
    assert (before == GREY).all()


def test_the_best_class_stands_in_the_corner() -> None:
    best = [ClassScore(index=285, label="Egyptian cat", score=0.9), ClassScore(index=1, label="x", score=0.1)]
    where = changed(drawing(GREY, {"classes": best}))
    assert where[:15, :60].any()
    assert not where[30:].any()


def frame_of(name: str, value: bytes, offset: int = 0) -> Frame:
    return Frame(SourcePartition(name, 0), offset, value)


def test_each_frame_gets_a_file_that_tells_its_source(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    items = [
        Item(pictures / "gate" / "1.jpg", str(pictures / "gate" / "1.jpg"), False, 1),
        Item(pictures / "yard" / "1.png", str(pictures / "yard" / "1.png"), False, 1),
        Item(pictures / "film.avi", str(pictures / "film.avi"), True, 9),
    ]
    drawings = Drawings(tmp_path / "drawn", items)
    facts = ImageFacts("jpeg", 200, 120, 3)
    jpeg = encode(GREY, "jpeg")
    for item, offset in zip(items, (0, 0, 7), strict=True):
        drawings(frame_of(item.name, jpeg, offset), facts, {"detections": []})
    written = {str(path.relative_to(tmp_path / "drawn")) for path in (tmp_path / "drawn").rglob("*.*")}
    assert written == {"gate/1.jpg", "yard/1.png.jpg", "film.avi/000007.jpg", "film.avi"}


def test_a_drawing_is_upright_whatever_way_the_frame_is_stored(tmp_path: Path) -> None:
    stored = with_orientation(GREY, 6)
    name = str(tmp_path / "a.jpg")
    drawings = Drawings(tmp_path / "drawn", [Item(tmp_path / "a.jpg", name, False, 1)])
    drawings(frame_of(name, stored), ImageFacts("jpeg", 120, 200, 3, orientation=6), {"detections": []})
    assert Image.open(tmp_path / "drawn" / "a.jpg").size == (200, 120)


def test_drawings_are_never_written_over_the_pictures(tmp_path: Path) -> None:
    item = Item(tmp_path / "a.jpg", str(tmp_path / "a.jpg"), False, 1)
    with pytest.raises(ConfigurationError, match="is where the pictures are"):
        Drawings(tmp_path / "." / "x" / "..", [item])
