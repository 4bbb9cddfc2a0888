"""Balance, limit and retry budget: bounds that hold whatever happens."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker.infer.balance import Load, choose
from worker.infer.limit import Limit
from worker.infer.retries import (
    ALMS_EVERY_S,
    EARNED,
    LAST_BACKOFF_S,
    MOST,
    RetryBudget,
    Step,
    after_failure,
    backoff_s,
)

LOADS = st.lists(st.builds(Load, st.integers(0, 8), st.integers(0, 8), st.integers(0, 100)), max_size=5)


@given(LOADS)
def test_the_chosen_endpoint_has_room_and_none_with_room_has_fewer_on_their_way(loads: list[Load]) -> None:
    chosen = choose(loads)
    free = [load for load in loads if load.in_flight < load.limit]
    if chosen is None:
        assert not free
    else:
        assert loads[chosen] in free
        assert loads[chosen].in_flight == min(load.in_flight for load in free)


def test_endpoints_of_equal_load_take_turns() -> None:
    turns = [0, 0, 0]
    order = []
    for number in range(1, 7):
        chosen = choose([Load(0, 4, turn) for turn in turns])
        assert chosen is not None
        turns[chosen] = number
        order.append(chosen)
    assert order == [0, 1, 2, 0, 1, 2]


def test_an_endpoint_that_keeps_up_has_the_whole_limit() -> None:
    limit = Limit(6, slow_s=5.0)
    for number in range(100):
        limit.answered(number + 0.5, sent_at=float(number), in_flight=6)
    assert limit.value == 6


def test_a_slow_endpoint_gets_less_at_a_time_and_all_of_it_again_when_it_keeps_up() -> None:
    limit = Limit(6, slow_s=5.0)
    for number in range(10):
        limit.answered(10.0 * number + 9, sent_at=10.0 * number, in_flight=limit.value)
    assert limit.value == 1
    for number in range(60):
        limit.answered(200.0 + number, sent_at=199.9 + number, in_flight=limit.value)
    assert limit.value == 6


def test_an_endpoint_that_is_back_gets_one_batch_first_and_soon_the_whole_limit() -> None:
    limit = Limit(6, slow_s=5.0)
    limit.restart()
    assert limit.value == 1
    for number in range(20):
        limit.answered(number + 0.5, sent_at=float(number), in_flight=limit.value)
    assert limit.value == 6


def test_failures_of_one_moment_are_one_congestion() -> None:
    limit = Limit(10, slow_s=5.0)
    for _ in range(10):
        limit.congested(now=10.0, sent_at=0.0)
    assert limit.value == 7


@given(
    st.integers(1, 32),
    st.lists(st.tuples(st.floats(0, 20), st.integers(0, 40), st.booleans()), max_size=60),
)
def test_a_limit_stays_between_one_and_the_most(most: int, events: list[tuple[float, int, bool]]) -> None:
    limit, now = Limit(most, slow_s=5.0), 0.0
    for took_s, in_flight, answered in events:
        now += 0.1
        if answered:
            limit.answered(now, now - took_s, in_flight)
        else:
            limit.congested(now, now - took_s)
        assert 1 <= limit.value <= most


@given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=300))
def test_retries_add_at_most_a_fifth_and_one_in_two_seconds(steps: list[tuple[float, bool]]) -> None:
    budget, now, first, retries = RetryBudget(), 0.0, 0, 0
    for after_s, is_first in steps:
        now += after_s
        if is_first:
            budget.earn()
            first += 1
        else:
            retries += budget.spend(now)
        assert retries <= first * EARNED + now / ALMS_EVERY_S + 1 + 1e-6


def test_a_stock_of_retries_has_an_end_and_an_empty_one_gives_alms() -> None:
    budget = RetryBudget()
    for _ in range(1000):
        budget.earn()
    assert sum(budget.spend(0.0) for _ in range(100)) == MOST
    assert not budget.spend(ALMS_EVERY_S - 0.1)
    assert budget.spend(ALMS_EVERY_S)
    assert not budget.spend(ALMS_EVERY_S + 0.1)


def test_a_retry_needs_an_endpoint_time_and_a_budget_and_else_the_fallback_or_patience_follows() -> None:
    for up, in_time, paid, fallback in [(u, t, p, f) for u in (0, 1) for t in (0, 1) for p in (0, 1) for f in (0, 1)]:
        budget = RetryBudget()
        budget.spend(0.0)
        for _ in range(5 * paid):
            budget.earn()
        step = after_failure(budget, 0.1, primary_is_up=bool(up), in_time=bool(in_time), has_fallback=bool(fallback))
        expected = Step.RETRY if up and in_time and paid else Step.FALL_BACK if fallback else Step.WAIT
        assert step is expected
        assert budget.spend(0.1) == (paid == 1 and step is not Step.RETRY), "only a retry is paid for"


def test_backoffs_double_up_to_their_bound() -> None:
    assert [backoff_s(tries) for tries in (1, 2, 3)] == [0.1, 0.2, 0.4]
    assert backoff_s(50) == LAST_BACKOFF_S
