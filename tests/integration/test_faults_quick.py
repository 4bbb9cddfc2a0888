"""A handful of the faults, one seed each, so that the harness and what it shows stay true: `python -m tests.faults` has all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.catalogue import FAULTS
from tests.faults.runner import run_once
from tests.faults.stage import Stage
from tests.rig.kafka import unavailable
from worker.errors import DependencyError

# What the tests of single guarantees don't do: a death between acknowledgement and commit, a zombie's successor, a cut in
# the middle of a commit, a late answer, a version that changes. In the mode that has more to lose there.
QUICK = (
    ("kill-before-commit", "at_least_once"),
    ("kill-before-commit", "exactly_once"),
    ("zombie", "exactly_once"),
    ("cut-off-in-commit", "exactly_once"),
    ("triton-hangs", "at_least_once"),
    ("can-not-write", "at_least_once"),
    ("model-switched", "at_least_once"),
)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage() as made:
        try:
            assert made.kafka
            assert made.triton
        except DependencyError as error:
            unavailable(error)
        yield made


@pytest.mark.kafka
@pytest.mark.triton
@pytest.mark.parametrize(("name", "mode"), QUICK)
def test_what_is_asked_of_every_run_holds(stage: Stage, name: str, mode: str, tmp_path: Path) -> None:
    fault = next(fault for fault in FAULTS if fault.name == name)
    result = run_once(stage, fault, mode, 1, tmp_path)
    assert result.problems == (), result.notes.get("traceback", result)
    assert result.sent > 0
    assert result.lost == 0
