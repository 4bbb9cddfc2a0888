"""Exactly once: whatever happens to a worker, a reader of committed records sees one outcome a frame, in order.

All against a real Kafka and a real Triton, counted from outside by another client that reads committed records only.
"""

from __future__ import annotations

import os
import random
import time

import pytest

from tests.acceptance.feed import Feed
from tests.integration.conftest import MakeSettings, Tree
from tests.integration.test_rebalance import owned
from tests.integration.watching import eventually, send_small, until
from tests.rig.audit import Auditor, audit, audit_statistics, wait_until_committed
from tests.rig.kafka import MakeTopics, StartKafka
from tests.rig.kafka_proxy import Api
from tests.rig.outcomes import SentFrame
from tests.rig.topics import Topics
from tests.rig.worker import WorkerProcess

DONE_S = 90.0


def exactly_once(settings: MakeSettings, made: Topics, name: str = "one", **delivery: int) -> Tree:
    """A worker with an identity of its own, so that a restart gets its partitions and its transactional id back."""
    tree = settings(made, delivery={"mode": "exactly_once", **delivery})
    tree["kafka"]["group_instance_id"] = name
    return tree


def finished(made: Topics, sent: list[SentFrame], worker: WorkerProcess) -> None:
    """Every frame has one outcome, is counted once and committed."""
    with Auditor(made, sent, committed_only=True) as auditor:
        done = auditor.wait_until_done(DONE_S, worker.check_alive)
    assert worker.stop() == 0
    assert done.problems == [], done
    assert audit(made, sent, committed_only=True).problems == []
    statistics = audit_statistics(made, sent, committed_only=True)
    assert statistics.uncovered_ids == ()
    assert statistics.counted == len(sent)
    assert wait_until_committed(made, 5) == 0


def test_kill_9_at_random_moments_shows_no_frame_twice(topics: MakeTopics, settings: MakeSettings) -> None:
    made = topics(partitions=4)
    rng = random.Random(4)
    with Feed(made, per_s=150) as feed:
        for _ in range(2):
            with WorkerProcess(exactly_once(settings, made)) as worker:
                until(worker, "frames_predicted_total", 50)
                time.sleep(rng.uniform(0.0, 0.5))
                worker.kill9()
        with WorkerProcess(exactly_once(settings, made)) as worker:
            finished(made, feed.end(at_least=500), worker)


def test_sigterm_under_load_commits_what_is_open_and_writes_nothing_twice(
    topics: MakeTopics, settings: MakeSettings
) -> None:
    made = topics(partitions=4)
    sent = send_small(made, 3000)
    with WorkerProcess(exactly_once(settings, made)) as worker:
        until(worker, "frames_in_flight", 100)
        until(worker, "frames_predicted_total", 100)
        assert worker.stop() == 0
        assert "uncommitted" not in worker.log
    assert audit(made, sent, committed_only=True).lost > 0  # else there was no load
    with WorkerProcess(exactly_once(settings, made)) as worker:
        finished(made, sent, worker)
    assert audit(made, sent).duplicates_raw == 0  # readers of uncommitted records, too


def test_a_second_worker_that_joins_and_leaves_under_load_repeats_nothing(
    topics: MakeTopics, settings: MakeSettings
) -> None:
    made = topics(partitions=4)

    def member(name: str) -> WorkerProcess:
        tree = settings(made, delivery={"mode": "exactly_once", "transactional_id": f"{made.group}.{name}"})
        return WorkerProcess(tree)

    with member("one") as one, Feed(made, per_s=100) as feed:
        until(one, "frames_predicted_total", 50)
        with member("two") as two:
            for worker in (one, two):
                until(worker, "partitions_assigned", 2)
                owned(worker, 2)
            until(two, "frames_predicted_total", 50)
            assert two.stop() == 0
        owned(one, 4)
        finished(made, feed.end(at_least=300), one)


def test_a_transaction_that_a_stopped_broker_fails_is_aborted_and_its_frames_are_processed_again(
    start_kafka: StartKafka, topics: MakeTopics, settings: MakeSettings
) -> None:
    broker = start_kafka()
    made = topics(partitions=2, broker=broker)
    tree = exactly_once(settings, made) | {"publish": {"delivery_timeout_ms": 2000}}
    with WorkerProcess(tree) as worker, Feed(made, per_s=80) as feed:
        until(worker, "frames_predicted_total", 50)
        for _ in range(4):  # one that falls into a commit's own calls is waited for, and may succeed
            broker.pause()
            time.sleep(3.5)
            broker.resume()
            before = worker.metric("frames_predicted_total")
            until(worker, "frames_predicted_total", before + 50)
            if worker.metric("publish_failures_total"):
                break
        assert worker.metric("publish_failures_total") >= 1
        finished(made, feed.end(), worker)


def test_a_worker_stopped_beyond_its_session_and_its_transactions_timeout_comes_back_and_repeats_nothing(
    start_kafka: StartKafka, topics: MakeTopics, settings: MakeSettings
) -> None:
    broker = start_kafka(overrides={"transaction.abort.timed.out.transaction.cleanup.interval.ms": "500"})
    made = topics(partitions=4, broker=broker)

    def member(name: str) -> WorkerProcess:
        delivery = {"mode": "exactly_once", "transactional_id": name, "transaction_timeout_ms": 4000}
        return WorkerProcess(settings(made, delivery=delivery))

    with member("hung") as hung, member("other") as other, Feed(made, per_s=80) as feed:
        for worker in (hung, other):
            until(worker, "partitions_assigned", 2)
            owned(worker, 2)
            until(worker, "frames_predicted_total", 20)
        losses = hung.metric("rebalances_total", kind="lost")
        hung.pause()
        owned(other, 4)
        hung.resume()
        eventually(lambda: hung.metric("rebalances_total", kind="lost") > losses, "it has heard of its loss")
        owned(hung, 2)
        sent = feed.end()
        finished(made, sent, other)
        assert hung.stop() == 0


def test_a_second_worker_with_the_same_transactional_id_shuts_out_the_first_which_says_so(
    topics: MakeTopics, settings: MakeSettings
) -> None:
    made = topics(partitions=2)
    tree = settings(made, delivery={"mode": "exactly_once", "transactional_id": f"{made.group}.same"})
    with WorkerProcess(tree) as first, Feed(made, per_s=60) as feed:
        until(first, "frames_predicted_total", 20)
        with WorkerProcess(tree) as second:
            assert first.wait() == 3
            assert f"another producer uses the transactional id {made.group}.same" in first.log
            assert "Traceback" not in first.log
            finished(made, feed.end(), second)


def test_a_commit_whose_answer_was_lost_is_taken_as_the_broker_has_it(
    start_kafka: StartKafka, topics: MakeTopics, settings: MakeSettings
) -> None:
    broker = start_kafka(proxied=True)
    made = topics(partitions=2, broker=broker)
    proxy = broker.proxies[1]
    tree = exactly_once(settings, made) | {"publish": {"delivery_timeout_ms": 2000}}  # requests get a second of it
    tree["kafka"]["bootstrap_servers"] = broker.proxied_bootstrap_servers
    with WorkerProcess(tree) as worker, Feed(made, per_s=80) as feed:
        until(worker, "frames_predicted_total", 50)
        for answered in (True, False):
            failures = worker.metric("publish_failures_total")
            proxy.moment(Api.END_TXN, answered=answered).result(timeout=30)
            time.sleep(2)  # the client gives the request up, and can't tell whether it was heard
            proxy.cut()  # what was held is gone
            proxy.heal()
            until(worker, "publish_failures_total", failures + 1)
            until(worker, "frames_predicted_total", worker.metric("frames_predicted_total") + 50)
        finished(made, feed.end(), worker)


@pytest.mark.skipif(
    os.environ.get("HEADRACE_KAFKA__CLIENT") == "confluent",
    reason="librdkafka gives its calls up, and the worker goes on",
)
def test_a_worker_that_gets_no_answer_to_its_commit_leaves_at_the_deadline_and_says_so(
    start_kafka: StartKafka, topics: MakeTopics, settings: MakeSettings
) -> None:
    broker = start_kafka(proxied=True)
    made = topics(partitions=2, broker=broker)
    proxy = broker.proxies[1]
    tree = exactly_once(settings, made, transaction_timeout_ms=3000)
    tree["kafka"]["bootstrap_servers"] = broker.proxied_bootstrap_servers
    with Feed(made, per_s=80) as feed:
        with WorkerProcess(tree) as worker:
            until(worker, "frames_predicted_total", 50)
            proxy.moment(Api.END_TXN).result(timeout=30)
            proxy.cut()
            assert worker.wait() == 3
            assert "has not answered the end of a transaction for 3 s" in worker.log
            assert "Traceback" not in worker.log
        proxy.heal()
        with WorkerProcess(tree) as worker:
            finished(made, feed.end(), worker)
