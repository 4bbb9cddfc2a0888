"""What the worker promises when it is ended, when its broker or its model goes away, and when records are not as they should be.

All against a real Kafka and a real Triton; outcomes are counted from outside. The same scenarios at full size:
`python -m tests.acceptance`.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from confluent_kafka import Message, Producer
from crc32c import crc32c
from kafka import KafkaAdminClient, TopicPartition

from tests.acceptance.corpus import picture, small
from tests.acceptance.feed import Feed
from tests.acceptance.killing import killed_and_restarted
from tests.acceptance.takeover import TAKEOVER_BOUND_S, takeover_s
from tests.integration.conftest import MakeSettings
from tests.rig.audit import TopicReader, audit, committed_lag, header, produce_frames, wait_until_done
from tests.rig.kafka import MakeTopics, StartKafka
from tests.rig.outcomes import SentFrame
from tests.rig.topics import Topics
from tests.rig.worker import WorkerProcess
from worker.embedded.triton import TritonServer

SLACK = 5  # a bound on time is for liveness: it holds on a machine several times slower


def send_small(made: Topics, count: int, keys: int = 7) -> list[SentFrame]:
    return produce_frames(made.bootstrap_servers, made.frames, small(count, keys))


def records_in(made: Topics, topic: str) -> int:
    with TopicReader(made.bootstrap_servers, [topic]) as reader:
        return len(reader.read_on())


def eventually(holds: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.02)


def until(worker: WorkerProcess, name: str, least: float) -> None:
    worker.wait_ready(60)

    def reached() -> bool:
        worker.check_alive()
        return worker.metric(name) >= least

    eventually(reached, f"{name} is at least {least}")


def lags(worker: WorkerProcess) -> list[float]:
    """The worker's own word on each partition; none before the first fetch."""
    return [value for name, value in worker.metrics().items() if name.startswith("headrace_consumer_lag{")]


def test_sigterm_at_random_moments_loses_and_repeats_nothing(topics: MakeTopics, settings: MakeSettings) -> None:
    made = topics(partitions=4)
    killed = killed_and_restarted(
        made, settings(made), ends=2, at_least=1000, per_s=150, longest_life_s=4, by_signal=True, seed=1
    )
    assert killed.audit.problems == [], killed
    assert killed.audit.duplicates_raw == 0
    assert [end.exit_code for end in killed.ends] == [0, 0]
    assert killed.lag == 0


def test_kill_9_at_random_moments_loses_nothing_and_repeats_no_more_than_was_under_way(
    topics: MakeTopics, settings: MakeSettings
) -> None:
    made = topics(partitions=4)
    killed = killed_and_restarted(
        made, settings(made), ends=2, at_least=1000, per_s=100, longest_life_s=8, by_signal=False, seed=2
    )
    assert killed.audit.lost == 0
    assert killed.audit.unknown_ids == ()
    assert killed.audit.out_of_order == 0
    assert killed.lag == 0
    for repeated, allowed in zip(killed.repeated, killed.allowed, strict=True):
        assert repeated <= allowed, killed


def test_sigterm_with_full_queues_ends_within_the_grace_and_what_waited_goes_to_the_next(
    topics: MakeTopics, settings: MakeSettings
) -> None:
    made = topics(partitions=4)
    sent = send_small(made, 3000)
    with WorkerProcess(settings(made)) as worker:
        until(worker, "frames_in_flight", 200)
        started = time.monotonic()
        assert worker.stop() == 0
        assert time.monotonic() - started < 20  # drain_grace_ms
    left = audit(made, sent)
    assert left.lost > 0  # else the queues were not full
    assert left.duplicates_raw == 0
    with WorkerProcess(settings(made)) as worker:
        done = wait_until_done(made, sent, 120, worker.check_alive)
        assert worker.stop() == 0
    assert done.problems == [], done
    assert committed_lag(made) == 0


def test_partitions_of_a_worker_killed_with_9_are_taken_over_after_the_session_timeout(
    topics: MakeTopics, settings: MakeSettings
) -> None:
    made = topics(partitions=4)
    assert takeover_s(made, settings(made)) < 6 + TAKEOVER_BOUND_S * SLACK  # session_timeout_ms is 6,000


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
        if kind == "checksum":
            batch[-5] ^= 0xFF
        else:  # bits 0 to 2 of the attributes name the codec; 7 is none; with its checksum put right
            batch[22] |= 0x07
            batch[17:21] = crc32c(bytes(batch[21:])).to_bytes(4, "big")
        file.seek(place)
        file.write(batch)
    return offset


@pytest.mark.parametrize("kind", ["checksum", "codec"])
def test_a_record_that_cannot_be_read_stops_its_partition_alone_and_is_named(
    start_kafka: StartKafka, topics: MakeTopics, settings: MakeSettings, kind: str
) -> None:
    broker = start_kafka()
    folder = Path(broker.nodes[1].log_dirs)
    if not folder.is_dir():
        pytest.skip("the broker's files are in its container")
    made = topics(partitions=3, broker=broker)
    sent: list[SentFrame] = []
    for _ in range(6):  # a batch for each partition every time
        sent += produce_frames(made.bootstrap_servers, made.frames, small(12, 5), partition_of=lambda n: n % 3)
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


def test_a_broker_killed_with_9_under_load_is_found_again_and_nothing_is_lost(
    start_kafka: StartKafka, topics: MakeTopics, settings: MakeSettings
) -> None:
    broker = start_kafka()
    made = topics(partitions=4, broker=broker)
    with WorkerProcess(settings(made)) as worker:
        with Feed(made, per_s=80) as feed:
            until(worker, "frames_predicted_total", 80)
            broker.kill()
            time.sleep(2)
            broker.restart()
            sent = feed.end(at_least=800)
        done = wait_until_done(made, sent, 120, worker.check_alive)
        assert worker.stop() == 0
    assert done.lost == 0
    assert done.unknown_ids == ()
    assert done.out_of_order == 0
    assert committed_lag(made) == 0


def test_a_predictions_topic_deleted_under_load_and_made_again_loses_only_what_lay_in_it(
    topics: MakeTopics, settings: MakeSettings
) -> None:
    made = topics(partitions=2)
    tree = settings(made, publish={"delivery_timeout_ms": 3000})
    with WorkerProcess(tree) as worker, closing(KafkaAdminClient(bootstrap_servers=made.bootstrap_servers)) as admin:
        with Feed(made, per_s=80) as feed:
            until(worker, "frames_predicted_total", 80)
            admin.delete_topics([made.predictions])
            until(worker, "publish_failures_total", 1)
            admin.create_topics({made.predictions: {"num_partitions": 2}}, wait_for_metadata=True)
            predicted = worker.metric("frames_predicted_total")
            until(worker, "frames_predicted_total", predicted + 80)
            sent = feed.end()
        last = [max(frame for frame in sent if frame.partition == number) for number in range(2)]
        assert wait_until_done(made, last, 60, worker.check_alive).lost == 0
        assert worker.stop() == 0
    done = audit(made, sent)
    assert done.problems[1:] == [], done
    assert done.predicted > 0
    for number in range(2):  # what is missing was predicted before and went with the topic: all that came first
        lost = sorted(int(id_.rsplit("/", 1)[1]) for id_ in done.lost_ids if id_.split("/")[1] == str(number))
        assert lost == list(range(len(lost)))
        assert len(lost) <= predicted
    assert committed_lag(made) == 0


def test_a_frames_topic_made_anew_under_a_worker_begins_again_with_another_source(
    topics: MakeTopics, settings: MakeSettings
) -> None:
    made = topics(partitions=2)
    with (
        WorkerProcess(settings(made)) as worker,
        closing(KafkaAdminClient(bootstrap_servers=made.bootstrap_servers)) as admin,
    ):
        first = send_small(made, 40)
        wait_until_done(made, first, 60, worker.check_alive)
        admin.delete_topics([made.frames])
        eventually(lambda: worker.metric("partitions_assigned") == 0, "its partitions are gone")
        admin.create_topics({made.frames: {"num_partitions": 2}}, wait_for_metadata=True)
        second = send_small(made, 30)  # fewer: what was committed before lies beyond their end
        eventually(lambda: records_in(made, made.predictions) >= 70, "the new frames are predicted")
        assert worker.metric("frames_skipped_total") == 0
        assert worker.stop() == 0
    with TopicReader(made.bootstrap_servers, [made.predictions]) as reader:
        names = [(header(m, "ce_source"), header(m, "ce_id")) for m in reader.read_on()]
    assert len(names) == len(set(names)) == len(first) + len(second)
    assert len({source for source, _ in names}) == 2
    assert committed_lag(made) == 0


@pytest.fixture
def own_triton(served_repository: Path, triton: TritonServer) -> Iterator[TritonServer]:
    """A server of the null model that a test may stop; the session's own tells whether one can be had at all."""
    with TritonServer.start(served_repository, models=["null"]) as server:
        yield server


def test_while_inference_is_away_reading_pauses_lag_stays_fresh_and_sigterm_ends_within_the_grace(
    topics: MakeTopics, settings: MakeSettings, own_triton: TritonServer
) -> None:
    made = topics(partitions=2)
    tree = settings(
        made,
        infer={"url": own_triton.grpc_url, "deadline_ms": 1000},
        ingest={"max_in_flight_bytes": 8 * 2**20},
        delivery={"drain_grace_ms": 3000},
    )
    frames = [(key, picture("vga")) for key, _ in small(300, 8)]
    grace_s = 3

    def send() -> list[SentFrame]:
        return produce_frames(made.bootstrap_servers, made.frames, frames, partition_of=lambda n: n % 2)

    with WorkerProcess(tree) as worker:
        sent = send()
        wait_until_done(made, sent, 60, worker.check_alive)
        own_triton.process.send_signal(signal.SIGSTOP)
        try:
            sent += send()
            until(worker, "partitions_paused", 2)
            held = worker.metric("frames_in_flight")
            eventually(lambda: sum(lags(worker)) >= 300 - held - 64, "lag tells what waits")
            sent += send()
            eventually(lambda: sum(lags(worker)) >= 600 - held - 64, "lag grows while reading is paused")
            assert worker.metric("partitions_paused") == 2
            started = time.monotonic()
            assert worker.stop() == 0
            assert (
                time.monotonic() - started < grace_s + 4 * SLACK
            )  # what leaves the server and the group has bounds of its own
        finally:
            own_triton.process.send_signal(signal.SIGCONT)
    with WorkerProcess(tree) as worker:
        done = wait_until_done(made, sent, 120, worker.check_alive)
        eventually(lambda: sum(lags(worker)) == 0, "lag is 0 again")
        assert worker.stop() == 0
    assert done.problems == [], done
    assert committed_lag(made) == 0


def test_batches_that_waited_for_a_stopped_model_server_are_answered_when_it_goes_on(
    topics: MakeTopics, settings: MakeSettings, own_triton: TritonServer
) -> None:
    made = topics(partitions=2)
    tree = settings(made, infer={"url": own_triton.grpc_url, "deadline_ms": 1000})
    with WorkerProcess(tree) as worker:
        sent = send_small(made, 50)
        wait_until_done(made, sent, 60, worker.check_alive)
        own_triton.process.send_signal(signal.SIGSTOP)
        try:
            sent += send_small(made, 400)
            time.sleep(3)
        finally:
            own_triton.process.send_signal(signal.SIGCONT)
        done = wait_until_done(made, sent, 120, worker.check_alive)
        assert worker.metric("frames_dead_lettered_total") == 0
        assert worker.stop() == 0
    assert done.problems == [], done
