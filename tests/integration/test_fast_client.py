"""The promises that matter most, over librdkafka (`kafka.client = "confluent"`); `make test-clients` runs the other files too.

The tests are those of the default client, taken from their own files: what a worker promises does not depend on its client.
"""

from __future__ import annotations

import pytest

from tests.acceptance.feed import Feed
from tests.integration.conftest import MakeSettings
from tests.integration.test_exactly_once import (  # noqa: F401
    test_a_second_worker_that_joins_and_leaves_under_load_repeats_nothing,
    test_kill_9_at_random_moments_shows_no_frame_twice,
)
from tests.integration.test_guarantees import (  # noqa: F401
    test_kill_9_at_random_moments_loses_nothing_and_repeats_no_more_than_was_under_way,
    test_sigterm_at_random_moments_loses_and_repeats_nothing,
)
from tests.integration.test_offsets import (  # noqa: F401
    test_aborted_transactions_give_no_outcome_and_their_markers_hold_no_commit_back,
    test_offsets_that_are_gone_are_counted_as_skipped_and_named,
)
from tests.integration.test_rebalance import owned
from tests.integration.test_way import (  # noqa: F401
    test_each_bad_frame_amid_good_ones_becomes_a_dead_letter_byte_for_byte,
    test_every_frame_has_one_prediction_in_order_and_its_range_has_statistics,
)
from tests.integration.watching import until
from tests.rig.audit import committed_lag, wait_until_done
from tests.rig.kafka import MakeTopics
from tests.rig.worker import WorkerProcess

CLIENT = "HEADRACE_KAFKA__CLIENT"


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every worker that a test starts inherits it."""
    monkeypatch.setenv(CLIENT, "confluent")


def test_a_group_goes_over_to_the_other_client_one_worker_after_the_other(
    topics: MakeTopics, settings: MakeSettings
) -> None:
    made = topics(partitions=4)
    with Feed(made, per_s=80) as feed, WorkerProcess(settings(made), env={CLIENT: "kafka-python"}) as old:
        owned(old, 4)
        with WorkerProcess(settings(made)) as new:
            for worker in (old, new):
                owned(worker, 2)
            until(new, "frames_predicted_total", 50)
            assert old.stop() == 0
            owned(new, 4)
            done = wait_until_done(made, feed.end(at_least=300), 60, new.check_alive)
            assert new.stop() == 0
    assert done.problems == [], done
    assert done.duplicates_raw == 0
    assert committed_lag(made) == 0
