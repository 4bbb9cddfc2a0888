"""Frames with what was found in them drawn on: boxes with class and score, or the best class in a corner.

encoded frame -> upright pixels, as the pipeline decodes them -> a JPEG file in a folder of drawings. For looking, not for
speed: a drawing takes longer than a prediction.
"""

from __future__ import annotations

import colorsys
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from worker.decode import decode
from worker.errors import ConfigurationError
from worker.frames import Frame, ImageFacts, Rejected, UInt8Array
from worker.ingest.files import Item

log = logging.getLogger(__name__)

QUALITY = 90
_SUFFIXES = frozenset({".jpg", ".jpeg"})  # a drawing of any other kind of file gets .jpg behind its whole name
_LINES = 360  # a line is one pixel thick for so many of the picture's shorter side, and at least two
_LETTERS = 44  # so many letters' heights fill the picture's shorter side
_LEAST_LETTER = 12  # pixels
_HUE_STEP = 0.618034  # the golden section: classes next to each other in the list get colours far apart

Colour = tuple[int, int, int]


def drawing(pixels: UInt8Array, fields: Mapping[str, Any]) -> Pillow.Image:
    """A copy of (H, W, 3) RGB with the `detections` or the best of `classes` of a prediction's fields on it."""
    picture = Pillow.fromarray(pixels)
    side = min(picture.size)
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(max(_LEAST_LETTER, side // _LETTERS))
    detections = fields.get("detections", ())
    for found in detections[::-1]:  # best last, on top
        pen.rectangle(found.box, outline=_colour(found.index), width=max(2, side // _LINES))
    for found in detections[::-1]:
        _caption(pen, font, picture.width, found, found.box[0], found.box[1])
    for best in fields.get("classes", ())[:1]:
        _caption(pen, font, picture.width, best, 0, 0)
    return picture


def decoded(value: bytes, facts: ImageFacts, fields: Mapping[str, Any]) -> Pillow.Image:
    """As `drawing`, of an encoded frame. Raises Rejected where decoding does."""
    return drawing(decode(value, facts).pixels, fields)


def _caption(pen: ImageDraw.ImageDraw, font: Any, most: int, found: Any, x: float, y: float) -> None:
    """Class and score above the point (x, y), inside a picture `most` wide."""
    text = f"{found.label} {found.score:.2f}"
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font, anchor="lt")
    width, height = right - left + 4, bottom - top + 5
    x = max(0, min(x, most - width))
    y = max(0, y - height)
    colour = _colour(found.index)
    pen.rectangle((x, y, x + width, y + height), fill=colour)
    luma = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    pen.text((x + 2, y + 2), text, fill="black" if luma > 128 else "white", font=font, anchor="lt")


def _colour(index: int) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(index * _HUE_STEP % 1, 0.9, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


class Drawings:
    """A folder that gets a drawing of each frame: of an image under its name, of a video in a folder of its name.

    Called from one thread. Raises ConfigurationError where drawings would be written over their sources, or nowhere.
    """

    def __init__(self, folder: Path, items: Sequence[Item]) -> None:
        self._folder = folder
        self._items = {item.name: item for item in items}
        paths = [os.path.abspath(item.path) for item in items]
        self._base = os.path.dirname(paths[0]) if len(paths) == 1 else os.path.commonpath(paths)
        if os.path.realpath(folder) == os.path.realpath(self._base):
            raise ConfigurationError(f"--draw {folder} is where the pictures are; name another folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"--draw {folder} can't be made: {error.strerror}") from error

    def __call__(self, frame: Frame, facts: ImageFacts, fields: Mapping[str, Any]) -> None:
        """Draw one frame, over what an earlier run drew of it."""
        try:
            picture = decoded(frame.value or b"", facts, fields)
        except Rejected as verdict:  # damage that a contract with scaled decoding did not get to see
            log.warning("%s is not drawn: %s", frame.id, verdict)
            return
        path = self._path(frame)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, "JPEG", quality=QUALITY)

    def _path(self, frame: Frame) -> Path:
        item = self._items[frame.source.topic]
        below = self._folder / os.path.relpath(os.path.abspath(item.path), self._base)
        if item.is_video:
            return below / f"{frame.offset:06d}.jpg"
        return below if below.suffix.lower() in _SUFFIXES else below.with_name(f"{below.name}.jpg")
