"""An evenly paced camera: sends frames to the broker at a fixed rate, whatever the worker does.

Open loop: each frame has its due time from the start, so a slow worker meets the same load as a fast one. When each
was really sent is written down, because a producer that shares the worker's cores may be late itself.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
from kafka import KafkaProducer

from benchmarks.broker import MAX_RECORD_BYTES, PARTITIONS
from benchmarks.corpus import read_frames
from benchmarks.sides.child import specification, write_result


class ProducerSpec(msgspec.Struct, frozen=True):
    """What the side is told; `rate` in frames a second."""

    bootstrap_servers: str
    frames_topic: str
    frames_file: str
    frames: int
    rate: float
    result: str


class ProducerResult(msgspec.Struct, frozen=True):
    """For each frame, by number: when it was due and when it was sent, seconds since the epoch."""

    due: list[float]
    sent: list[float]


def main() -> None:
    """Send all frames, each with its number as `frame-id`, and write down when."""
    spec = specification(ProducerSpec)
    frames = read_frames(Path(spec.frames_file))
    producer = KafkaProducer(
        bootstrap_servers=spec.bootstrap_servers.split(","), max_request_size=MAX_RECORD_BYTES, metrics_enabled=False
    )
    producer.partitions_for(spec.frames_topic)  # connects before the clock starts
    start = time.time()
    due = [start + number / spec.rate for number in range(spec.frames)]
    sent = []
    for number, instant in enumerate(due):
        if (wait := instant - time.time()) > 0:
            time.sleep(wait)
        sent.append(time.time())
        partition = number % PARTITIONS
        headers = [("frame-id", str(number).encode())]
        frame = frames[number % len(frames)]
        producer.send(spec.frames_topic, frame, key=b"cam-%d" % partition, partition=partition, headers=headers)
    producer.flush()
    write_result(spec.result, ProducerResult(due, sent))


if __name__ == "__main__":
    main()
