"""Whose decoder hangs: only a thread that was seen at one and the same picture for long enough."""

from __future__ import annotations

from worker.pipeline.hung import MOST_BETWEEN_S, Patience

ONE, TWO = 101, 102


def test_a_thread_at_one_picture_for_too_long_is_named() -> None:
    patience = Patience(3.0)
    seen = [patience.look({ONE: 0.2, TWO: float(now)}, float(now)) for now in range(6)]
    assert seen == [None, None, None, None, ONE, ONE]


def test_pictures_one_after_the_other_are_no_long_one() -> None:
    patience = Patience(3.0)
    assert all(patience.look({ONE: now - 0.5}, float(now)) is None for now in range(20))


def test_the_time_in_which_the_process_was_stopped_is_not_held_against_anyone() -> None:
    patience = Patience(MOST_BETWEEN_S + 1.5)
    assert patience.look({ONE: 0.0}, 1.0) is None
    assert patience.look({ONE: 0.0}, 900.0) is None  # SIGSTOP, SIGCONT
    assert patience.look({ONE: 0.0}, 901.0) is None
    assert patience.look({ONE: 0.0}, 902.0) == ONE
