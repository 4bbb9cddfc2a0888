"""What the worker promises when it is ended: by a signal, by kill -9, with full queues, beside another worker.

All against a real Kafka and a real Triton; outcomes are counted from outside. The same at full size: `python -m tests.acceptance`.
"""

from __future__ import annotations

import time

from tests.acceptance.killing import killed_and_restarted
from tests.acceptance.takeover import TAKEOVER_BOUND_S, takeover_s
from tests.integration.conftest import MakeSettings
from tests.integration.watching import SLACK, send_small, until
from tests.rig.audit import audit, committed_lag, wait_until_done
from tests.rig.kafka import MakeTopics
from tests.rig.worker import WorkerProcess


def test_sigterm_at_random_moments_loses_and_repeats_nothing(topics: MakeTopics, settings: MakeSettings) -> None:
    # Many idle partitions and commits all the time: whatever the drain drops would be committed over.
    made = topics(partitions=16)
    tree = settings(made, delivery={"commit_interval_ms": 10})
    killed = killed_and_restarted(
        made, tree, ends=2, at_least=1000, per_s=150, longest_life_s=4, by_signal=True, seed=1
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
        # The exact bound is the acceptance run's, on a quiet machine: a commit that a busy one delays repeats more.
        assert repeated <= SLACK * allowed, killed


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
