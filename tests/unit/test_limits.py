"""The limits on refusals: against a plain count over all that was seen, and at their edges."""

from __future__ import annotations

from itertools import takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import TooManyRefusals
from worker.frames import Reason, Rejection, Stage
from worker.pipeline.limits import COUNTED, InferenceLimits
from worker.settings import LimitSettings


def verdict(reason: Reason) -> Rejection:
    return Rejection(reason, "the server said no", Stage.INFER)


ANSWERED = None
REFUSED = verdict(Reason.INFERENCE_REJECTED)
NOT_FINITE = verdict(Reason.INFERENCE_FAILED)
SENDERS = [verdict(reason) for reason in Reason if reason not in COUNTED]
limits = st.builds(
    LimitSettings,
    inference_ratio=st.floats(0.05, 1),
    inference_window_frames=st.integers(1, 12),
    inference_consecutive=st.integers(0, 8),
)
batches = st.lists(st.lists(st.sampled_from([ANSWERED, REFUSED, NOT_FINITE, *SENDERS]), max_size=8), max_size=12)


def passes(settings: LimitSettings, seen: list[bool]) -> bool:
    """Whether the limits hold at the end of `seen` (True: refused), by the definition."""
    run = len(list(takewhile(bool, reversed(seen))))
    too_many_in_a_row = 0 < settings.inference_consecutive <= run
    window = seen[-settings.inference_window_frames :]
    return not too_many_in_a_row and sum(window) <= settings.inference_ratio * settings.inference_window_frames


@given(limits, batches)
def test_it_stops_in_the_first_batch_in_which_a_limit_is_passed_and_in_no_other(
    settings: LimitSettings, given_batches: list[list[Rejection | None]]
) -> None:
    under_test, seen = InferenceLimits(settings), []
    for batch in given_batches:
        held = True
        for each in batch:
            if each is None or each.reason in COUNTED:
                seen.append(each is not None)
                held = held and passes(settings, seen)
        if not held:
            with pytest.raises(TooManyRefusals):
                under_test.add(batch, "m")
            return
        under_test.add(batch, "m")


@given(limits, st.lists(st.lists(st.sampled_from(SENDERS), max_size=50), max_size=10))
def test_a_senders_faults_never_stop_it(settings: LimitSettings, given_batches: list[list[Rejection | None]]) -> None:
    under_test = InferenceLimits(settings)
    for batch in given_batches:
        under_test.add(batch, "m")


def test_a_senders_faults_between_refusals_neither_break_a_row_nor_dilute_the_window() -> None:
    under_test = InferenceLimits(LimitSettings(inference_consecutive=3))
    with pytest.raises(TooManyRefusals):
        under_test.add([REFUSED, *SENDERS, REFUSED, *SENDERS, NOT_FINITE], "m")


def test_by_default_a_model_that_refuses_everything_is_stopped_at_the_hundredth_frame() -> None:
    under_test = InferenceLimits(LimitSettings())
    under_test.add([REFUSED] * 99, "m")
    under_test.add([ANSWERED], "m")
    under_test.add([REFUSED] * 99, "m")
    with pytest.raises(TooManyRefusals):
        under_test.add([REFUSED], "m")


def test_by_default_one_camera_of_three_that_the_model_cant_stand_stops_nothing() -> None:
    under_test = InferenceLimits(LimitSettings())
    for _ in range(1000):
        under_test.add([ANSWERED, REFUSED, ANSWERED], "m")


def test_limits_can_be_taken_away() -> None:
    under_test = InferenceLimits(LimitSettings(inference_ratio=1, inference_consecutive=0))
    under_test.add([REFUSED] * 5000, "m")


def test_the_sentence_says_what_was_seen_and_what_to_do() -> None:
    under_test = InferenceLimits(LimitSettings(inference_consecutive=3))
    under_test.add([ANSWERED] * 7, "lite2")
    with pytest.raises(TooManyRefusals) as stopped:
        under_test.add([REFUSED] * 3, "lite2")
    sentence = str(stopped.value)
    for part in ("model lite2", "3 of the last 10", "3 in a row", "the server said no", "dlq replay", "[limits]"):
        assert part in sentence
    assert stopped.value.exit_code == 4
