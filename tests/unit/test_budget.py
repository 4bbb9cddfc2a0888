"""The byte budget and the gate for decoded pixels."""

from __future__ import annotations

import threading

from worker.ingest.budget import MIB, Budget, PixelGate, Shares


def test_the_shares_are_the_whole_and_no_more() -> None:
    shares = Shares.of(64 * MIB)
    assert 4 * shares.fetch_bytes + shares.pixel_bytes + shares.hole_bytes + shares.frame_bytes == 64 * MIB


def test_reading_stops_at_the_limit_and_goes_on_only_when_there_is_room_again() -> None:
    budget = Budget(100)
    budget.add(100)
    seen = [(budget.exhausted, budget.relieved)]
    for _ in range(2):
        budget.release(15)
        seen.append((budget.exhausted, budget.relieved))
    assert seen == [(True, False), (False, False), (False, True)]
    assert budget.used == 70


def test_an_image_larger_than_the_gate_goes_alone_and_the_next_waits_for_it() -> None:
    gate = PixelGate(100)
    assert [gate.exceeded_by(size) for size in (100, 101)] == [False, True]
    gate.enter(500)
    entered = threading.Event()

    def enter() -> None:
        gate.enter(1)
        entered.set()

    thread = threading.Thread(target=enter)
    thread.start()
    assert not entered.wait(0.05)
    gate.leave(500)
    assert entered.wait(5)
    thread.join()
