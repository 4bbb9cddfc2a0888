from __future__ import annotations

import threading
import time

import numpy as np

from worker.buffers import Slot, SlotPool
from worker.errors import HeadraceError, InferenceRejected, InferenceUnavailable
from worker.frames import Answer
from worker.infer.calls import Call, Timer


def one_slot() -> tuple[SlotPool, Slot]:
    pool = SlotPool(1, 1, (1,), np.dtype(np.uint8), shared=False)
    slot = pool.acquire(0)
    assert slot is not None
    return pool, slot


def call_on(slot: Slot, heard: list[Answer | HeadraceError], deadline: float = 0.0) -> Call:
    return Call(slot, 1, deadline, heard.append, "probe at here")


def test_an_answer_is_told_once_and_lets_the_slot_go() -> None:
    pool, slot = one_slot()
    heard: list[Answer | HeadraceError] = []
    call = call_on(slot, heard)
    slot.let_go()
    assert pool.in_use == 1
    refusal = InferenceRejected("no")
    call.end(refusal)
    call.expire()
    assert heard == [refusal]
    assert (pool.in_use, pool.quarantined) == (0, 0)


def test_a_deadline_is_told_once_and_keeps_the_slot_until_the_late_answer() -> None:
    pool, slot = one_slot()
    heard: list[Answer | HeadraceError] = []
    call = call_on(slot, heard)
    call.expire()
    slot.let_go()
    assert (pool.in_use, pool.quarantined) == (1, 1)
    call.end(InferenceRejected("late"))
    assert len(heard) == 1
    assert isinstance(heard[0], InferenceUnavailable)
    assert (pool.in_use, pool.quarantined) == (0, 0)


def test_when_answer_and_deadline_race_the_caller_hears_one_of_them() -> None:
    for _ in range(200):
        pool, slot = one_slot()
        heard: list[Answer | HeadraceError] = []
        call = call_on(slot, heard)
        start = threading.Barrier(2)

        def expire(call: Call = call, start: threading.Barrier = start) -> None:
            start.wait()
            call.expire()

        thread = threading.Thread(target=expire)
        thread.start()
        start.wait()
        call.end(InferenceRejected("an answer"))
        thread.join()
        assert len(heard) == 1
        slot.let_go()
        assert pool.in_use == 0


def test_a_receiver_that_raises_does_not_break_the_thread_that_tells() -> None:
    pool, slot = one_slot()

    def fail(outcome: Answer | HeadraceError) -> None:
        raise ValueError("mine")

    Call(slot, 1, 0.0, fail, "probe").end(InferenceRejected("no"))
    slot.let_go()
    assert pool.in_use == 0


def test_the_timer_runs_actions_in_order_of_their_times_and_none_after_close() -> None:
    timer = Timer("test")
    ran: list[str] = []
    finished = threading.Event()
    now = time.monotonic()
    timer.at(now + 0.3, finished.set)
    timer.at(now + 0.2, lambda: ran.append("second"))
    timer.at(now + 0.1, lambda: ran.append("first"))
    timer.at(now - 1.0, lambda: ran.append("past"))
    timer.at(now + 60.0, lambda: ran.append("never"))
    assert finished.wait(30)
    timer.close()
    timer.at(now, lambda: ran.append("after close"))
    assert ran == ["past", "first", "second"]
