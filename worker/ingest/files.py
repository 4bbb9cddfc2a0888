"""The files source: folders, globs, images and videos become an iterator of frames, in a fixed order.

An image travels as the bytes of its file. A frame of a video is decoded by OpenCV and travels as a losslessly encoded
BMP, so that there is one way through the house: everything after this module sees encoded images only.
"""

from __future__ import annotations

import glob
import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2

from worker.errors import ConfigurationError
from worker.frames import Frame, SourcePartition, UInt8Array

log = logging.getLogger(__name__)

# What is picked up inside folders. A file that is named itself is taken whatever its name; validation judges its bytes.
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
VIDEO_SUFFIXES = frozenset(
    {".avi", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".wmv", ".flv", ".3gp", ".mjpeg"}
)
READ_ERROR = "read-error"  # header of a frame whose file could not be read; its value is null
# Of a video that can't be opened: enough for validation to see that it is no image, little beside a film.
_HEAD_BYTES = 64 * 1024
_GLOB_CHARACTERS = frozenset("*?[")

Encode = Callable[[UInt8Array], bytes]


@dataclass(frozen=True, slots=True)
class Item:
    """One image or video. `name` is its path as reached from the argument: the topic in the ids of its frames.

    `frames` is 1 for an image; for a video what its container claims, None where it claims nothing.
    """

    path: Path
    name: str
    is_video: bool
    frames: int | None


def find(sources: Sequence[str]) -> tuple[Item, ...]:
    """Images and videos of folders (recursive), globs (`**` too) and paths: each once, in the order of the arguments,
    sorted by path inside each.

    Raises ConfigurationError for a path that is missing and for a folder or glob without an image or video.
    """
    found: dict[str, Item] = {}
    for source in sources:
        paths = list(_expand(source))
        if not paths:
            raise ConfigurationError(f"{source} holds no image and no video ({', '.join(sorted(IMAGE_SUFFIXES))}, ...)")
        for path in paths:
            if str(path) not in found:
                found[str(path)] = _item(path)
    return tuple(found.values())


def total(items: Sequence[Item]) -> int | None:
    """Frames of all items, as far as the videos' containers tell; None where one does not."""
    counts = [item.frames for item in items]
    return None if None in counts else sum(count for count in counts if count is not None)


def as_bmp(pixels: UInt8Array) -> bytes:
    """(H, W, 3) uint8 BGR as BMP: lossless, and free to encode."""
    return _encoded(".bmp", pixels, [])


def as_jpeg(pixels: UInt8Array, quality: int = 90) -> bytes:
    """(H, W, 3) uint8 BGR as JPEG; `quality` 1..100."""
    return _encoded(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])


def frames(items: Sequence[Item], done: Collection[str] = frozenset(), encode: Encode = as_bmp) -> Iterator[Frame]:
    """Every frame whose id is not in `done`; offset is the number of the frame in its file, from 0.

    A damaged file is a frame like any other: validation rejects it by its bytes. One that can't be read at all has a
    null value and says why in the header READ_ERROR. `timestamp_ms` is the file's modification time, for videos plus
    the position in the film.
    """
    for item in items:
        yield from _of_video(item, done, encode) if item.is_video else _of_image(item, done)


def _of_image(item: Item, done: Collection[str]) -> Iterator[Frame]:
    frame = _frame(item, 0, None, _modified_ms(item.path))
    if frame.id in done:
        return
    try:
        yield _frame(item, 0, item.path.read_bytes(), frame.timestamp_ms)
    except OSError as error:
        yield _unreadable(item, error)


def _of_video(item: Item, done: Collection[str], encode: Encode) -> Iterator[Frame]:
    base_ms = _modified_ms(item.path)
    with _opened(item.path) as video:
        number = 0
        while video.grab():
            frame = _frame(item, number, None, base_ms + int(video.get(cv2.CAP_PROP_POS_MSEC)))
            number += 1
            if frame.id in done:  # grabbed, not decoded to pixels; seeking would be inexact in most containers
                continue
            ok, pixels = video.retrieve()
            value = encode(pixels) if ok else None
            yield _frame(item, frame.offset, value, frame.timestamp_ms)
    if number == 0:
        yield from _head_of(item, done)
    elif item.frames is not None and number < item.frames:
        log.warning("%s ended after %d of the %d frames its container claims", item.name, number, item.frames)


def _head_of(item: Item, done: Collection[str]) -> Iterator[Frame]:
    """The begin of a video that OpenCV can't open, so that validation gives it its dead letter."""
    if _frame(item, 0, None, 0).id in done:
        return
    try:
        with item.path.open("rb") as file:
            yield _frame(item, 0, file.read(_HEAD_BYTES), _modified_ms(item.path))
    except OSError as error:
        yield _unreadable(item, error)


def _unreadable(item: Item, error: OSError) -> Frame:
    log.warning("%s can't be read: %s", item.name, error.strerror)
    reason = (READ_ERROR, (error.strerror or str(error)).encode())
    return Frame(SourcePartition(item.name, 0), 0, None, headers=(reason,), received_at=time.monotonic())


def _frame(item: Item, number: int, value: bytes | None, timestamp_ms: int) -> Frame:
    source = SourcePartition(item.name, 0)
    return Frame(source, number, value, timestamp_ms=timestamp_ms, received_at=time.monotonic())


def _modified_ms(path: Path) -> int:
    try:
        return int(path.stat().st_mtime * 1000)
    except OSError:  # gone since it was found; reading it says so
        return 0


def _expand(source: str) -> Iterator[Path]:
    path = Path(source)
    if path.is_dir():
        yield from _in_folder(path)
    elif path.exists():
        yield path
    elif _GLOB_CHARACTERS.intersection(source):
        for match in sorted(glob.glob(source, recursive=True)):
            inner = Path(match)
            if inner.is_dir():
                yield from _in_folder(inner)
            else:
                yield inner
    else:
        raise ConfigurationError(f"{source} does not exist; name an image, a video, a folder or a glob")


def _in_folder(folder: Path) -> Iterator[Path]:
    """Images and videos below a folder, sorted by path; hidden files and folders are left out."""
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        known = IMAGE_SUFFIXES | VIDEO_SUFFIXES
        found += [Path(root, name) for name in names if not name.startswith(".") and Path(name).suffix.lower() in known]
    yield from sorted(found)


def _name(path: Path) -> str:
    # Linux allows bytes in names that are no UTF-8; ids are JSON.
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _item(path: Path) -> Item:
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        return Item(path, _name(path), is_video=False, frames=1)
    with _opened(path) as video:
        # Containers without a count make OpenCV answer 0 or a large negative number; one that can't be opened gives
        # one frame, its dead letter.
        count = int(video.get(cv2.CAP_PROP_FRAME_COUNT)) if video.isOpened() else 1
    return Item(path, _name(path), is_video=True, frames=count if count > 0 else None)


@contextmanager
def _opened(path: Path) -> Iterator[cv2.VideoCapture]:
    video = cv2.VideoCapture(str(path))
    try:
        yield video
    finally:
        video.release()


def _encoded(suffix: str, pixels: UInt8Array, parameters: Sequence[int]) -> bytes:
    ok, encoded = cv2.imencode(suffix, pixels, parameters)
    if not ok:
        raise ValueError(f"OpenCV can't encode pixels of shape {pixels.shape} and type {pixels.dtype} as {suffix}")
    return encoded.tobytes()
