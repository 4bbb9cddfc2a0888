"""When scaled decoding may be allowed: enough confident frames, nearly all with the same class, few grey levels between."""

from __future__ import annotations

import pytest

from worker.tuning.agreement import CONFIDENT, LEAST_CONFIDENT, MOST_GREY_LEVELS, Pair, agreement


def pairs(same: int, other: int = 0, unsure: int = 0, grey_levels: float = 0.5) -> list[Pair]:
    return [
        *(Pair(grey_levels, 7, 7, 0.9) for _ in range(same)),
        *(Pair(grey_levels, 7, 8, 0.9) for _ in range(other)),
        *(Pair(grey_levels, 7, 8, CONFIDENT) for _ in range(unsure)),
    ]


@pytest.mark.parametrize(
    ("found", "passes"),
    [
        (pairs(200), True),
        (pairs(198, other=2), True),
        (pairs(197, other=3), False),
        (pairs(200, unsure=500), True),  # frames that the model is unsure of may change
        (pairs(LEAST_CONFIDENT - 1), False),
        (pairs(200, grey_levels=MOST_GREY_LEVELS), False),
        ([], False),
    ],
)
def test_the_gate(found: list[Pair], passes: bool) -> None:
    assert agreement(found).passes is passes


def test_it_says_what_was_seen() -> None:
    seen = agreement([*pairs(198, other=2, unsure=5), Pair(3.0, 1, 1, 0.9)])
    assert (seen.frames, seen.confident, seen.same_top1) == (206, 201, 199)
    assert "206 frames differ by 0.51 grey levels in the mean (3.00 at most)" in str(seen)
    assert "99.0 % of 201 confident ones keep their class" in str(seen)
    assert "none of 0 confident" in str(agreement([]))
