"""Division of refused batches over a scripted model: the guilty are found, the others answered, all by one version."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.buffers import Slot, SlotPool
from worker.errors import HeadraceError, InferenceRejected, InferenceUnavailable, NoEndpoint
from worker.frames import Answer, ModelIdentity, Reason, TensorSpec
from worker.infer.engine import Done
from worker.pipeline.dividing import ATTEMPTS, TRIES, Divider

GUILTY = 255
Before = Callable[[int], HeadraceError | None]


class Model:
    """Answers each row with its first byte and refuses batches with a guilty row; `before` may fail the n-th request."""

    identity = ModelIdentity("m", "1", "sha256:0", "none", "fp32")
    outputs = (TensorSpec("value", np.dtype(np.uint8), (1,)),)
    preprocess_digest: str | None = None
    input = TensorSpec("image", np.dtype(np.uint8), (2,))
    max_batch_size = 64

    def __init__(self, before: Before = lambda number: None, switch_at: int | None = None) -> None:
        self.before = before
        self.switch_at = switch_at
        self.asked: list[int] = []

    def attach(self, pool: SlotPool) -> None: ...

    def close(self) -> None: ...

    def submit(self, slot: Slot, rows: int, deadline: float, done: Done) -> None:
        self.asked.append(rows)
        values = slot.array[:rows, :1].copy()
        version = "2" if self.switch_at is not None and len(self.asked) > self.switch_at else "1"
        if failure := self.before(len(self.asked)):
            done(failure)
        elif (values == GUILTY).any():
            done(InferenceRejected("no"))
        else:
            done(Answer({"value": values}, ModelIdentity("m", version, "sha256:0", "none", "fp32"), "primary", 1.0))


def divided(model: Model, rows: list[int]) -> Answer | HeadraceError:
    slot = SlotPool(1, len(rows), (2,), np.dtype(np.uint8), shared=False).acquire(0)
    assert slot is not None
    slot.array[:] = np.asarray(rows, np.uint8)[:, None]
    return Divider(1.0, threading.Event()).divide(model, slot, len(rows), "primary", time.monotonic())


@given(st.lists(st.sampled_from([1, 2, 3, GUILTY]), min_size=1, max_size=32))
def test_exactly_the_guilty_rows_are_convicted_and_each_other_has_its_own_answer(rows: list[int]) -> None:
    answer = divided(Model(), rows)
    assert isinstance(answer, Answer)
    assert set(answer.rejections) == {row for row, value in enumerate(rows) if value == GUILTY}
    assert all(answer.outputs["value"][row] == value for row, value in enumerate(rows) if value != GUILTY)
    assert {(v.reason, v.attempts) for v in answer.rejections.values()} <= {(Reason.INFERENCE_REJECTED, ATTEMPTS)}


def test_an_endpoint_that_fails_now_and_then_does_not_end_the_search() -> None:
    model = Model(before=lambda number: InferenceUnavailable("busy") if number % 2 else None)
    answer = divided(model, [1, 2, GUILTY, 3])
    assert isinstance(answer, Answer)
    assert set(answer.rejections) == {2}


@pytest.mark.parametrize(("failure", "requests"), [(InferenceUnavailable("down"), TRIES), (NoEndpoint("none"), 1)])
def test_an_endpoint_that_stays_away_convicts_nobody_and_is_not_pestered(failure: HeadraceError, requests: int) -> None:
    model = Model(before=lambda number: failure)
    assert divided(model, [1, GUILTY]) is failure
    assert len(model.asked) == requests


def test_rows_answered_by_two_versions_are_asked_again_together_so_that_one_version_answers_all() -> None:
    model = Model(switch_at=2)
    answer = divided(model, [1, 2, 3, GUILTY, 4, 5, 6, 7])
    assert isinstance(answer, Answer)
    assert answer.model.version == "2"
    assert model.asked[-1] == 7
    assert set(answer.rejections) == {3}
    assert answer.outputs["value"][:, 0].tolist() == [1, 2, 3, 0, 4, 5, 6, 7]
