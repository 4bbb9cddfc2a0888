"""What tuning tries and chooses: by frames a second, and among equals the arrangement that costs less."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.config import load
from worker.tuning.arrangements import QUESTIONS, Arrangement, Ground, question
from worker.tuning.choosing import NOISE, Measured, choose, measured, worth_another_run

BASE = Arrangement(processes=1, engines=1, threads=2, in_flight=6, batch=16)
TWO = dataclasses.replace(BASE, processes=2)

grounds = st.builds(Ground, st.integers(1, 64), st.integers(0, 4), st.integers(1, 64))
runs = st.lists(
    st.builds(Measured, st.floats(1, 1000, allow_nan=False), st.floats(0.1, 100, allow_nan=False)),
    min_size=1,
    max_size=4,
)
arrangements = st.builds(
    Arrangement, st.integers(1, 2), st.integers(0, 4), st.integers(1, 8), st.integers(1, 12), st.integers(1, 32)
)
results = st.dictionaries(arrangements, runs, min_size=1, max_size=6)


def rates(*frames_per_second: float, cpu_ms: float = 10.0) -> list[Measured]:
    return [Measured(rate, cpu_ms) for rate in frames_per_second]


def test_the_fastest_is_chosen_where_it_is_clearly_faster() -> None:
    choice = choose({BASE: rates(100, 101, 99), TWO: rates(120, 118, 121)})
    assert choice.arrangement == TWO
    assert "120.0 frames/s" in choice.reason
    assert "16.7% slower" in choice.reason


def test_a_lead_within_the_noise_does_not_buy_a_second_process() -> None:
    choice = choose({BASE: rates(100, 101, 99), TWO: rates(102, 101, 103)})
    assert choice.arrangement == BASE
    assert "within the noise" in choice.reason


def test_among_equals_less_cpu_wins_and_then_the_smaller_numbers() -> None:
    hungry, small = dataclasses.replace(BASE, threads=1), dataclasses.replace(BASE, batch=8)
    assert choose({BASE: rates(100), hungry: rates(100, cpu_ms=12)}).arrangement == BASE
    assert choose({BASE: rates(100), small: rates(99)}).arrangement == small


def test_one_disturbed_run_of_three_decides_nothing() -> None:
    assert choose({BASE: rates(100, 100, 40), TWO: rates(90, 91, 92)}).arrangement == BASE


@given(results)
def test_the_chosen_is_never_slower_than_the_noise_and_never_has_more_processes_than_an_equal(
    found: dict[Arrangement, list[Measured]],
) -> None:
    choice = choose(found)
    best = max(choose({each: of_it}).measured.frames_per_second for each, of_it in found.items())
    assert choice.measured.frames_per_second >= (1 - NOISE) * best
    for each, of_it in found.items():
        if choose({each: of_it}).measured.frames_per_second >= (1 - NOISE) * best:
            assert choice.arrangement.processes <= each.processes


@given(results)
def test_whoever_may_be_chosen_is_run_again(found: dict[Arrangement, list[Measured]]) -> None:
    assert choose(found).arrangement in worth_another_run(found)


def test_what_is_beaten_beyond_hope_is_not_run_again() -> None:
    assert worth_another_run({BASE: rates(100), TWO: rates(84)}) == [BASE]


@given(grounds)
def test_every_question_tries_the_incumbent_first_and_nothing_twice_or_beyond_the_model(ground: Ground) -> None:
    for name in QUESTIONS:
        asked = question(name, ground.start, ground)
        assert asked.candidates[0] == ground.start
        assert len(set(asked.candidates)) == len(asked.candidates) <= 6
        for each in asked.candidates:
            assert each.batch <= max(ground.max_batch, 1)
            assert (each.engines > 0) == (ground.engines > 0)


def test_the_worker_takes_what_is_tried() -> None:
    for name in QUESTIONS:
        ground = Ground(64, engines=32, max_batch=64)
        for each in question(name, ground.start, ground).candidates:
            load(flags=each.settings(is_local=True))


def test_what_is_not_a_question_is_refused() -> None:
    with pytest.raises(ValueError, match="'colour' is none of"):
        question("colour", BASE, Ground(2, engines=2, max_batch=16))


def test_a_run_is_measured_after_its_warm_up_by_completions_and_cpu_between() -> None:
    outcomes = [(100 + number / 10, 1) for number in range(100)]
    found = measured(outcomes, [(90.0, 0.0), (110.0, 40.0)])
    assert found.frames_per_second == pytest.approx(10)
    assert found.cpu_ms == pytest.approx(200)


def test_frames_from_before_all_processes_were_in_the_group_do_not_count() -> None:
    alone = [(100 + number, 1) for number in range(50)]
    together = [(150 + number / 20, 2) for number in range(100)]
    assert measured(alone + together, [(100.0, 0.0), (160.0, 60.0)]).frames_per_second == pytest.approx(20)


def test_dead_letters_count_as_outcomes_though_they_name_no_generation() -> None:
    outcomes = [(100 + number / 10, -1 if number % 2 else 3) for number in range(100)]
    assert measured(outcomes, [(100.0, 0.0), (110.0, 1.0)]).frames_per_second == pytest.approx(10)


def test_a_run_of_one_moment_has_no_rate() -> None:
    with pytest.raises(ValueError, match="too few"):
        measured([(5.0, 1)] * 16, [(0.0, 0.0), (9.0, 1.0)])
