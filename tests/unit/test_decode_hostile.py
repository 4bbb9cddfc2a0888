"""Every hostile value gets its verdict, in time and inside the memory that the worker counts for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.rig.decoding import DecodingProcess
from tests.rig.hostile import GROUPS, PREDICTED, hostile_values
from worker.frames import Reason

# One second on a machine of one's own; a liveness bound, fivefold for a busy one.
MOST_CPU_S = 5.0


@pytest.fixture(scope="module")
def process() -> Iterator[DecodingProcess]:
    with DecodingProcess(alarm_s=30) as process:
        process.decode(None)  # imports and first allocations
        yield process


@pytest.mark.parametrize("group", GROUPS)
def test_hostile_values_get_their_verdicts_in_time_and_memory(process: DecodingProcess, group: str) -> None:
    faults = {}
    for name, value, expected in hostile_values([group]):
        decoded = process.decode(value)
        chance = {PREDICTED, *Reason} if expected is None else {expected}
        if decoded.verdict not in chance or decoded.cpu_s > MOST_CPU_S or decoded.peak_bytes > decoded.limit_bytes:
            faults[name] = (expected, decoded)
    assert faults == {}


def test_the_names_of_hostile_values_are_unique_and_every_group_has_some() -> None:
    names = [name for name, _, _ in hostile_values(["no image", "damaged", "bmp", "webp"])]
    assert len(names) == len(set(names)) > 200
