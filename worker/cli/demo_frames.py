"""The frames of the demo: real photos and a street video as streams of cameras, with a few damaged frames among them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.embedded.assets import demo_images, demo_video
from worker.ingest.files import as_jpeg, find, frames

# Keys of the streams, in turn; one is without a key, as frames of a topic nobody keyed are.
STREAMS: tuple[bytes | None, ...] = (b"photos", b"street-1", b"street-2", None)
BAD_EVERY = 40  # enough for every kind to show in the 200 frames of the default, few enough to stay the exception
_BAD_AT = 7


@dataclass(frozen=True, slots=True)
class DemoFrame:
    """A frame to be sent. `is_bad`: it must come back as a dead letter."""

    id: str
    key: bytes | None
    value: bytes
    is_bad: bool


def demo_frames(count: int, data: Path) -> Iterator[DemoFrame]:
    """`count` frames, the same ones each time. Raises DependencyError if the pictures can't be installed."""
    photos = [image.path.read_bytes() for image in demo_images(data)]
    # A quarter of the frames each; the video's come from its begin and from its middle.
    street = _video_frames(demo_video(data), count)
    sources = {b"photos": photos, b"street-1": street, b"street-2": _from_middle(street), None: photos[::-1]}
    bad = _bad_frames(photos[0])
    for number in range(count):
        key = STREAMS[number % len(STREAMS)]
        pictures = sources[key]
        is_bad = number % BAD_EVERY == _BAD_AT
        damaged, sound = bad[number // BAD_EVERY % len(bad)], pictures[number // len(STREAMS) % len(pictures)]
        yield DemoFrame(f"demo-{number}", key, damaged if is_bad else sound, is_bad)


def _video_frames(path: Path, at_most: int) -> list[bytes]:
    found: list[bytes] = []
    for frame in frames(find([str(path)]), encode=as_jpeg):
        if len(found) >= at_most:
            break
        found.append(frame.value or b"")
    return found


def _from_middle(values: Sequence[bytes]) -> list[bytes]:
    middle = len(values) // 2
    return [*values[middle:], *values[:middle]]


def _bad_frames(photo: bytes) -> tuple[bytes, ...]:
    """A file that ends early, a page instead of a picture, nothing at all: what cameras and proxies do send."""
    return photo[: len(photo) // 2], b"<html><body>502 Bad Gateway</body></html>", b""
