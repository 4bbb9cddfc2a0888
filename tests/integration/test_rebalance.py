"""Partitions go from worker to worker under load: nothing is lost or repeated, and the order of each camera holds."""

from __future__ import annotations

import time

from tests.acceptance.corpus import small
from tests.acceptance.feed import Feed
from tests.acceptance.sharing import joined_and_left
from tests.integration.conftest import MakeSettings
from tests.integration.watching import eventually
from tests.rig.audit import audit_statistics, committed_lag, produce_frames, wait_until_done
from tests.rig.kafka import MakeTopics
from tests.rig.topics import add_partitions
from tests.rig.worker import WorkerProcess


def owned(worker: WorkerProcess, partitions: int) -> None:
    deadline = time.monotonic() + 60
    while (now := worker.metric("partitions_assigned")) != partitions:
        worker.check_alive()
        assert time.monotonic() < deadline, f"{now} partitions, expected {partitions}"
        time.sleep(0.05)


def test_workers_that_join_and_leave_at_random_lose_and_repeat_nothing_and_keep_the_order(
    topics: MakeTopics, settings: MakeSettings
) -> None:
    made = topics(partitions=8)
    shared = joined_and_left(made, settings(made), seconds=15, per_s=150, seed=3)
    assert shared.audit.problems == [], shared
    assert shared.audit.duplicates_raw == 0
    assert set(shared.exit_codes) == {0}
    assert shared.leaves >= 1
    assert shared.lag == 0


def test_a_second_worker_takes_half_of_the_partitions_and_gives_them_back_when_it_leaves(
    topics: MakeTopics, settings: MakeSettings
) -> None:
    made = topics(partitions=8)
    with WorkerProcess(settings(made)) as first, WorkerProcess(settings(made)) as second, Feed(made, per_s=50) as feed:
        for worker in (first, second):
            worker.wait_ready(60)
            owned(worker, 4)
        deadline = time.monotonic() + 60
        while second.metric("frames_predicted_total") == 0:
            assert time.monotonic() < deadline, "the second worker has work"
            time.sleep(0.05)
        assert second.stop() == 0
        owned(first, 8)
        sent = feed.end(at_least=300)
        done = wait_until_done(made, sent, 60, first.check_alive)
        assert first.metric("rebalances_total", kind="lost") == 0
        assert first.stop() == 0
    assert done.problems == [], done
    assert committed_lag(made) == 0


def test_partitions_added_while_it_runs_are_taken_from_their_first_frame_on(
    topics: MakeTopics, settings: MakeSettings
) -> None:
    made = topics(partitions=2)
    with (
        WorkerProcess(settings(made, kafka={"metadata_max_age_ms": 1000})) as worker,
        Feed(made, per_s=50) as feed,
    ):
        worker.wait_ready(60)
        owned(worker, 2)
        add_partitions(made, 6)
        frames = (
            (None, value) for _, value in small(200, 7)
        )  # of no camera: their predictions go where they came from
        added = produce_frames(made.bootstrap_servers, made.frames, frames, lambda number: 2 + number % 4)
        owned(worker, 6)
        sent = feed.end(at_least=200)
        done = wait_until_done(made, sent + added, 60, worker.check_alive)
        assert worker.stop() == 0
        assert "ERROR" not in worker.log, "each record found its partition"
    assert audit_statistics(made, sent + added).counted == len(sent) + len(added)
    assert done.problems == [], done
    assert done.duplicates_raw == 0


def test_a_member_with_a_fixed_identity_comes_back_without_moving_partitions(
    topics: MakeTopics, settings: MakeSettings
) -> None:
    made = topics(partitions=4)

    def member(name: str) -> WorkerProcess:
        tree = settings(made)
        return WorkerProcess(tree | {"kafka": tree["kafka"] | {"group_instance_id": name}})

    with member("one") as one:
        one.wait_ready(60)
        two = member("two")
        with two:
            two.wait_ready(60)
            deadline = time.monotonic() + 60
            while one.metric("partitions_assigned") != 2 or two.metric("partitions_assigned") != 2:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            moved = one.metric("rebalances_total", kind="assigned") + one.metric("rebalances_total", kind="revoked")
            two.kill9()
        with member("two") as again:
            sent = produce_frames(made.bootstrap_servers, made.frames, small(40, 4), partition_of=lambda n: n % 4)
            done = wait_until_done(made, sent, 60, again.check_alive)
            assert again.metric("partitions_assigned") == 2
            after = one.metric("rebalances_total", kind="assigned") + one.metric("rebalances_total", kind="revoked")
            assert after == moved
    assert done.problems == [], done


def test_a_worker_that_hung_beyond_its_session_comes_back_and_nothing_is_lost_or_counted_twice(
    topics: MakeTopics, settings: MakeSettings
) -> None:
    made = topics(partitions=4)
    with WorkerProcess(settings(made)) as hung, WorkerProcess(settings(made)) as other, Feed(made, per_s=50) as feed:
        for worker in (hung, other):
            worker.wait_ready(60)
            owned(worker, 2)
        losses = hung.metric("rebalances_total", kind="lost")
        hung.pause()
        owned(other, 4)
        hung.resume()
        eventually(lambda: hung.metric("rebalances_total", kind="lost") > losses, "it has heard of its loss")
        owned(hung, 2)
        sent = feed.end()
        done = wait_until_done(made, sent, 60, other.check_alive)
        assert hung.stop() == 0
        assert other.stop() == 0
    # Before it learns that it was thrown out it may repeat frames, with equal ids.
    assert done.lost == 0
    assert done.unknown_ids == ()
    assert done.out_of_order == 0
    statistics = audit_statistics(made, sent)
    assert statistics.uncovered_ids == ()
    assert statistics.counted == len(sent)
