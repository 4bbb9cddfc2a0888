"""The breaker: what opens it, and that nothing but a probe closes it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.infer.breaker import (
    FAILURES,
    FIRST_PAUSE_S,
    LAST_PAUSE_S,
    ON_PROBATION,
    TRANSITIONS,
    WINDOW,
    Breaker,
    Event,
    State,
)


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    breaker.failed(now, decisive=True)
    return breaker


def test_a_failure_that_says_all_opens_it_at_once() -> None:
    assert opened().state is State.OPEN


def test_single_failures_among_answers_leave_it_closed_and_too_many_of_a_window_open_it() -> None:
    breaker = Breaker()
    for _ in range(20):
        for _ in range(WINDOW - FAILURES + 1):
            breaker.succeeded()
        for _ in range(FAILURES - 1):
            breaker.failed(0.0)
    assert breaker.state.name == "CLOSED"
    breaker.failed(0.0)
    assert breaker.state.name == "OPEN"


def test_an_endpoint_that_fails_every_second_batch_is_given_up_within_a_window() -> None:
    breaker = Breaker()
    tries = 0
    while breaker.state is State.CLOSED:
        tries += 1
        breaker.succeeded() if tries % 2 else breaker.failed(0.0)
    assert tries <= WINDOW


def test_only_a_probe_after_the_pause_that_is_answered_closes_it() -> None:
    breaker = opened(now=10.0)
    breaker.succeeded()
    breaker.failed(10.0, decisive=True)
    assert breaker.state.name == "OPEN"
    with pytest.raises(ValueError, match="pause"):
        breaker.begin_probe(10.0 + FIRST_PAUSE_S / 2)
    breaker.begin_probe(10.0 + FIRST_PAUSE_S)
    breaker.succeeded()
    assert breaker.state.name == "HALF_OPEN"
    breaker.probed(11.0, well=True)
    assert breaker.state.name == "CLOSED"


def test_pauses_double_up_to_their_bound_and_are_short_again_after_a_window_without_trouble() -> None:
    breaker = opened()
    pauses = []
    for _ in range(8):
        now = breaker.probe_at
        breaker.begin_probe(now)
        breaker.probed(now, well=False)
        pauses.append(round(breaker.probe_at - now, 6))
    assert pauses[0] == 2 * FIRST_PAUSE_S
    assert pauses == sorted(pauses)
    assert pauses[-1] == LAST_PAUSE_S
    breaker.begin_probe(breaker.probe_at)
    breaker.probed(0.0, well=True)
    breaker.failed(0.0, decisive=True)
    assert breaker.probe_at == LAST_PAUSE_S, "it takes probes and fails batches"
    breaker.begin_probe(breaker.probe_at)
    breaker.probed(0.0, well=True)
    for _ in range(WINDOW):
        breaker.succeeded()
    breaker.failed(0.0, decisive=True)
    assert breaker.probe_at == FIRST_PAUSE_S


def test_one_that_is_back_is_given_up_sooner_until_it_has_stood_a_window() -> None:
    breaker = opened()

    def failures_until_open() -> int:
        breaker.begin_probe(breaker.probe_at)
        breaker.probed(breaker.probe_at, well=True)
        failures = 0
        while breaker.state is State.CLOSED:
            breaker.succeeded()
            breaker.failed(breaker.probe_at)
            failures += 1
        return failures

    assert failures_until_open() == ON_PROBATION
    assert failures_until_open() == ON_PROBATION
    breaker.begin_probe(breaker.probe_at)
    breaker.probed(breaker.probe_at, well=True)
    for _ in range(WINDOW):
        breaker.succeeded()
    for _ in range(FAILURES - 1):
        breaker.failed(0.0)
    assert breaker.state.name == "CLOSED"


def test_an_event_that_does_not_fit_the_state_raises_and_changes_nothing() -> None:
    breaker = Breaker()
    with pytest.raises(ValueError, match="CLOSED"):
        breaker.begin_probe(1.0)
    with pytest.raises(ValueError, match="CLOSED"):
        breaker.probed(1.0, well=True)
    assert breaker.state.name == "CLOSED"


@given(st.lists(st.sampled_from(["succeeded", "failed", "broke", "probe", "well", "ill"]), max_size=80))
def test_every_way_through_it_follows_the_table(events: list[str]) -> None:
    breaker, now = Breaker(), 0.0
    for event in events:
        now += 0.05
        before = breaker.state
        try:
            match event:
                case "succeeded":
                    breaker.succeeded()
                case "failed" | "broke":
                    breaker.failed(now, decisive=event == "broke")
                case "probe":
                    breaker.begin_probe(now)
                case _:
                    breaker.probed(now, well=event == "well")
        except ValueError:
            assert breaker.state is before
        if breaker.state is not before:
            assert breaker.state in {to for (at, _), to in TRANSITIONS.items() if at is before}
        if before is not State.HALF_OPEN:
            assert breaker.state is not State.CLOSED or before is State.CLOSED
        assert breaker.probe_at <= now + LAST_PAUSE_S


def test_from_every_state_a_well_endpoint_gets_batches_again() -> None:
    for state in State:
        seen = {state}
        for _ in State:
            seen |= {to for (at, event), to in TRANSITIONS.items() if at in seen and event is not Event.ILL}
        assert State.CLOSED in seen
