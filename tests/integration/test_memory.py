"""Memory is a setting: frames of all sizes, many partitions and a broker that hangs stay under one bound."""

from __future__ import annotations

import pytest

from tests.acceptance.memory import BOUND_MIB, BUDGET_MIB, worked_off
from tests.integration.conftest import MakeSettings
from tests.rig.kafka import MakeTopics, StartKafka

FRAMES = 500  # of them some 10 of 12 megapixels, 5 of these with 8 MiB


@pytest.mark.parametrize("partitions", [1, 64])
def test_a_backlog_of_frames_up_to_8_mib_and_12_megapixels_stays_under_the_bound(
    topics: MakeTopics, settings: MakeSettings, partitions: int
) -> None:
    made = topics(partitions=partitions)
    tree = settings(made, ingest={"max_in_flight_bytes": BUDGET_MIB * 2**20})
    backlog = worked_off(made, tree, FRAMES, seed=partitions)
    assert backlog.audit.problems == [], backlog
    assert backlog.exit_code == 0
    assert backlog.lag == 0
    assert backlog.peak_mib <= BOUND_MIB


def test_a_broker_that_hangs_under_load_costs_no_memory_and_loses_nothing(
    start_kafka: StartKafka, topics: MakeTopics, settings: MakeSettings
) -> None:
    broker = start_kafka()
    made = topics(partitions=4, broker=broker)
    tree = settings(made, ingest={"max_in_flight_bytes": BUDGET_MIB * 2**20})
    backlog = worked_off(made, tree, FRAMES, broker, stopped_s=8)  # longer than the session timeout of 6 s
    assert backlog.audit.lost == 0
    assert backlog.audit.unknown_ids == ()
    assert backlog.audit.out_of_order == 0
    assert backlog.exit_code == 0
    assert backlog.lag == 0
    assert backlog.peak_mib <= BOUND_MIB
