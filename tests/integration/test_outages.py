"""The broker, a topic or the model server goes away under load and comes back: nothing is lost, and leaving keeps its grace."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaAdminClient

from tests.acceptance.corpus import picture, small
from tests.acceptance.feed import Feed
from tests.integration.conftest import MakeSettings
from tests.integration.test_offsets import damage
from tests.integration.watching import SLACK, eventually, lags, records_in, send_small, until
from tests.rig.audit import TopicReader, audit, committed_lag, header, produce_frames, wait_until_done
from tests.rig.kafka import MakeTopics, StartKafka
from tests.rig.outcomes import SentFrame
from tests.rig.worker import WorkerProcess
from worker.embedded.triton import TritonServer


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


def test_sigterm_while_the_broker_hangs_ends_within_the_grace_and_nothing_is_lost(
    start_kafka: StartKafka, topics: MakeTopics, settings: MakeSettings
) -> None:
    broker = start_kafka()
    made = topics(partitions=2, broker=broker)
    grace_s = 8
    with WorkerProcess(settings(made, delivery={"drain_grace_ms": grace_s * 1000})) as worker, Feed(made, 80) as feed:
        until(worker, "frames_predicted_total", 80)
        broker.pause()
        try:
            time.sleep(1)
            started = time.monotonic()
            assert worker.stop() == 0
            took_s = time.monotonic() - started
        finally:
            broker.resume()
        sent = feed.end()
    assert took_s < 2 * grace_s  # a loaded machine; what leaves a broker without an answer took 18 s more once
    with WorkerProcess(settings(made)) as worker:
        done = wait_until_done(made, sent, 60, worker.check_alive)
        assert worker.stop() == 0
    assert done.lost == 0
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


def test_a_record_that_cannot_be_read_is_told_even_if_it_is_met_as_reading_pauses(
    start_kafka: StartKafka, topics: MakeTopics, settings: MakeSettings, own_triton: TritonServer
) -> None:
    broker = start_kafka()
    folder = Path(broker.nodes[1].log_dirs)
    if not folder.is_dir():
        pytest.skip("the broker's files are in its container")
    made = topics(partitions=1, broker=broker)
    budget = 8 * 2**20
    # Half of the budget is for frames, with a KiB for the objects of each: so many of them fill it.
    full = -(-budget // 2 // (len(picture("vga")) + 1024))
    frames = [(b"cam", picture("vga"))] * (full + 20)
    sent = produce_frames(made.bootstrap_servers, made.frames, frames, settings={"batch.num.messages": 1})
    damage(folder / f"{made.frames}-0" / "00000000000000000000.log", full, "checksum")
    tree = settings(made, ingest={"max_in_flight_bytes": budget}, infer={"url": own_triton.grpc_url})
    with WorkerProcess(tree) as worker:
        worker.wait_ready(60)
        own_triton.process.send_signal(signal.SIGSTOP)
        try:
            until(worker, "frames_in_flight", 1)
            eventually(lambda: worker.metric("frames_in_flight") >= full - 16, "the budget is nearly full")
            time.sleep(1)
        finally:
            own_triton.process.send_signal(signal.SIGCONT)
        done = wait_until_done(made, sent[:full], 60, worker.check_alive)
        eventually(lambda: worker.metric("partitions_unreadable") == 1, "the stopped partition is told")
        assert worker.stop() == 0
    assert done.problems == [], done
    assert committed_lag(made) == 20
