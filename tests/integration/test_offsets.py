"""Offsets that are not one after the other, are gone, or hold a record that can't be read: what is read, committed and told."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import pytest
from confluent_kafka import Message, Producer
from crc32c import crc32c
from kafka import KafkaAdminClient, TopicPartition

from tests.acceptance.corpus import small
from tests.integration.conftest import MakeSettings
from tests.integration.watching import eventually, lags, records_in, send_small
from tests.rig.audit import committed_lag, produce_frames, wait_until_done
from tests.rig.kafka import MakeTopics, StartKafka
from tests.rig.outcomes import SentFrame
from tests.rig.topics import Topics
from tests.rig.worker import WorkerProcess


def test_aborted_transactions_give_no_outcome_and_their_markers_hold_no_commit_back(
    topics: MakeTopics, settings: MakeSettings
) -> None:
    made = topics(partitions=2)
    producer = Producer({"bootstrap.servers": made.bootstrap_servers, "transactional.id": made.group})
    producer.init_transactions(60)
    sent: list[SentFrame] = []

    def keep(_: object, message: Message) -> None:
        sent.append(SentFrame(int(message.partition() or 0), int(message.offset() or 0), message.key()))

    for committed in (True, False, True, False):  # the log ends with an aborted one and its marker
        producer.begin_transaction()
        for number, (key, value) in enumerate(small(10, 3)):
            listener = {"on_delivery": keep} if committed else {}
            producer.produce(made.frames, value, key, partition=number % 2, **listener)
        producer.flush(60)
        if committed:
            producer.commit_transaction(60)
        else:
            producer.abort_transaction(60)
    assert len(sent) == 20
    with WorkerProcess(settings(made)) as worker:
        done = wait_until_done(made, sent, 60, worker.check_alive)
        eventually(lambda: committed_lag(made) == 0, "all is committed")
        eventually(lambda: lags(worker) == [0, 0], "lag is 0")
        assert worker.metric("frames_received_total") == 20
        assert worker.stop() == 0
    assert done.problems == [], done
    assert committed_lag(made) == 0


def test_compacted_records_leave_gaps_that_are_committed_over(
    start_kafka: StartKafka, topics: MakeTopics, settings: MakeSettings
) -> None:
    broker = start_kafka(overrides={"log.cleaner.backoff.ms": "100"})
    configs = {
        "cleanup.policy": "compact",
        "segment.bytes": str(2**20),
        "segment.ms": "300",
        "min.cleanable.dirty.ratio": "0.01",
    }
    made = topics(partitions=1, configs=configs, broker=broker)
    for _ in range(3):
        latest = send_small(made, 30, keys=3)[-3:]
        time.sleep(0.5)  # the next record opens a new segment; only closed ones are compacted
    latest[-3] = send_small(made, 1, keys=1)[0]  # cam-0 again
    eventually(lambda: records_in(made, made.frames) <= 30, "the broker has compacted")
    with WorkerProcess(settings(made)) as worker:
        done = wait_until_done(made, latest, 60, worker.check_alive)
        assert worker.stop() == 0
    assert done.lost == 0
    assert done.out_of_order == 0
    assert committed_lag(made) == 0


def delete_before(made: Topics, offset: int) -> None:
    with closing(KafkaAdminClient(bootstrap_servers=made.bootstrap_servers)) as admin:
        admin.delete_records({TopicPartition(made.frames, 0): offset})


@pytest.mark.parametrize("running", [False, True], ids=["while_no_worker_runs", "while_a_worker_hangs"])
def test_offsets_that_are_gone_are_counted_as_skipped_and_named(
    topics: MakeTopics, settings: MakeSettings, running: bool
) -> None:
    made = topics(partitions=1)
    sent = send_small(made, 20)
    worker = WorkerProcess(settings(made))
    try:
        # No offset is committed yet: the first worker begins with the earliest record.
        assert wait_until_done(made, sent, 60, worker.check_alive).problems == []
        if running:
            worker.pause()
        else:
            assert worker.stop() == 0
        lost, kept = send_small(made, 15), send_small(made, 10)
        delete_before(made, kept[0].offset)
        if running:
            worker.resume()
        else:
            worker = WorkerProcess(settings(made))
        done = wait_until_done(made, [*sent, *kept], 60, worker.check_alive)
        assert worker.metric("frames_skipped_total") == len(lost)
        assert f"offsets {lost[0].offset} to {kept[0].offset} were gone" in worker.log
        assert worker.stop() == 0
    finally:
        worker.__exit__(None, None, None)
    assert done.problems == [], done
    assert committed_lag(made) == 0


def batches(segment: Path) -> list[tuple[int, int, int]]:
    """(place in the file, length in bytes, base offset) of each record batch of a log segment."""
    data = segment.read_bytes()
    found = []
    place = 0
    while place + 12 <= len(data):
        length = 12 + int.from_bytes(data[place + 8 : place + 12], "big")
        if length == 12:  # the file is longer than its log
            break
        found.append((place, length, int.from_bytes(data[place : place + 8], "big")))
        place += length
    return found


def damage(segment: Path, number: int, kind: str) -> int:
    """Change batch `number` of a segment where it lies, as a bad disk would; the offset of its first record."""
    place, length, offset = batches(segment)[number]
    with segment.open("r+b") as file:
        file.seek(place)
        batch = bytearray(file.read(length))
        match kind:
            case "checksum":
                batch[-5] ^= 0xFF
            case "codec":  # bits 0 to 2 of the attributes name it; 7 is none
                batch[22] |= 0x07
            case "header":  # a key that is no UTF-8, as Kafka itself does not forbid
                batch[:] = batch.replace(b"frame-id", b"\xfframe-id")
        if kind != "checksum":
            batch[17:21] = crc32c(bytes(batch[21:])).to_bytes(4, "big")
        file.seek(place)
        file.write(batch)
    return offset


@pytest.mark.parametrize("kind", ["checksum", "codec", "header"])
def test_a_record_that_cannot_be_read_stops_its_partition_alone_and_is_named(
    start_kafka: StartKafka, topics: MakeTopics, settings: MakeSettings, kind: str
) -> None:
    broker = start_kafka()
    folder = Path(broker.nodes[1].log_dirs)
    if not folder.is_dir():
        pytest.skip("the broker's files are in its container")
    made = topics(partitions=3, broker=broker)
    frames = [(key, value, [("frame-id", b"1")]) for key, value in small(12, 5)]
    sent: list[SentFrame] = []
    for _ in range(6):  # a batch for each partition every time
        sent += produce_frames(made.bootstrap_servers, made.frames, frames, partition_of=lambda n: n % 3)
    stopped_at = damage(folder / f"{made.frames}-1" / "00000000000000000000.log", 3, kind)
    readable = [frame for frame in sent if frame.partition != 1 or frame.offset < stopped_at]
    assert 0 < stopped_at < 24
    with WorkerProcess(settings(made)) as worker:
        done = wait_until_done(made, readable, 60, worker.check_alive)
        later = produce_frames(made.bootstrap_servers, made.frames, small(12, 5), partition_of=lambda n: n % 3)
        readable += [frame for frame in later if frame.partition != 1]
        done = wait_until_done(made, readable, 60, worker.check_alive)
        eventually(lambda: worker.metric("partitions_unreadable") == 1, "the stopped partition is told")
        assert f"{made.frames}/1 stopped: the record at offset {stopped_at} can't be read" in worker.log
        assert worker.stop() == 0
    assert done.problems == [], done
    # Committed is all that lies before the bad record, and nothing behind it.
    assert committed_lag(made) == 28 - stopped_at
