"""The frames every side gets: 768x576 JPEGs of a real scene, the same bytes for all.

OpenCV's `vtest.avi` (a fixed camera over pedestrians) is decoded and encoded again as a camera would, quality 90; where
it can't be had, photos brought to the same size stand in, and the report says so. The harness writes the frames to one
file, from which each side's process reads them back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec
import numpy as np
import simplejpeg

from worker.embedded.assets import demo_images, vtest_video
from worker.frames import AnyArray

QUALITY = 90
WIDTH, HEIGHT = 768, 576
# Name -> width, height, quality, different frames: 10 KB to 5 MB, the largest at the quality of a photo kept for good.
SIZES = {
    "224x168": (224, 168, QUALITY, 100),
    "768x576": (WIDTH, HEIGHT, QUALITY, 100),
    "1920x1080": (1920, 1080, QUALITY, 50),
    "3840x2160": (3840, 2160, QUALITY, 12),
    "4000x3000": (4000, 3000, 97, 8),
}


@dataclass(frozen=True, slots=True)
class Corpus:
    """Encoded frames; `source` says in words what they are, for the report."""

    source: str
    frames: tuple[bytes, ...]

    def cycle(self, count: int) -> Iterator[bytes]:
        """`count` frames, from the first again after the last."""
        for number in range(count):
            yield self.frames[number % len(self.frames)]

    @property
    def mean_kib(self) -> float:
        return sum(map(len, self.frames)) / len(self.frames) / 1024


def load_corpus(data_dir: Path) -> Corpus:
    """The video's frames, or the photos. Raises DependencyError if neither can be had, ValueError if unreadable."""
    video = vtest_video(data_dir)
    if video is not None:
        return video_corpus(video)
    photos = [image.path for image in demo_images(data_dir)]
    frames = tuple(_jpeg(cv2.resize(_read(path), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)) for path in photos)
    return Corpus(f"{len(frames)} photos brought to {WIDTH}x{HEIGHT}, JPEG q{QUALITY}", frames)


def video_corpus(path: Path) -> Corpus:
    """All frames of a 768x576 video. Raises ValueError if it can't be read or has another size."""
    video = cv2.VideoCapture(str(path))
    frames = []
    while True:
        more, pixels = video.read()
        if not more:
            break
        if pixels.shape[:2] != (HEIGHT, WIDTH):
            raise ValueError(f"{path} is {pixels.shape[1]}x{pixels.shape[0]}, expected {WIDTH}x{HEIGHT}")
        frames.append(_jpeg(pixels))
    video.release()
    if not frames:
        raise ValueError(f"{path} holds no frame that OpenCV can read")
    source = f"{path.name}, {len(frames)} frames of {WIDTH}x{HEIGHT}, encoded again as JPEG q{QUALITY}"
    return Corpus(source, tuple(frames))


def mosaic(corpus: Corpus, width: int, height: int, count: int, quality: int = QUALITY) -> Corpus:
    """`count` frames of width x height, laid together from frames of the corpus as a wall of cameras is, and cut.

    Nothing is scaled, so a pixel holds as much detail as in the corpus, and costs a decoder as much.
    """
    columns, rows = -(-width // WIDTH), -(-height // HEIGHT)
    tiles = columns * rows
    frames = []
    for number in range(count):
        picked = [corpus.frames[(number * tiles + tile) % len(corpus.frames)] for tile in range(tiles)]
        pixels = [simplejpeg.decode_jpeg(frame, colorspace="BGR") for frame in picked]
        wall = np.vstack([np.hstack(pixels[row * columns : (row + 1) * columns]) for row in range(rows)])
        frames.append(_jpeg(wall[:height, :width], quality))
    return Corpus(f"{count} frames of {width}x{height}, laid together from {corpus.source}", tuple(frames))


def sized(corpus: Corpus, size: str) -> Corpus:
    """Frames of one of SIZES."""
    width, height, quality, count = SIZES[size]
    return mosaic(corpus, width, height, count, quality)


def _read(path: Path) -> AnyArray:
    pixels: AnyArray | None = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError(f"OpenCV can't read {path}")
    return pixels


def _jpeg(pixels: AnyArray, quality: int = QUALITY) -> bytes:
    encoded, jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert encoded
    return np.asarray(jpeg).tobytes()


def write_frames(path: Path, corpus: Corpus) -> None:
    path.write_bytes(msgspec.msgpack.encode(corpus.frames))


def read_frames(path: Path) -> tuple[bytes, ...]:
    """What `write_frames` wrote."""
    return msgspec.msgpack.decode(path.read_bytes(), type=tuple[bytes, ...])
