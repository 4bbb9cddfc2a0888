"""The figures of the benchmark `delivery` out of its rounds."""

from __future__ import annotations

import pytest

from benchmarks.broker import Appended
from benchmarks.clock import Run, Window
from benchmarks.delivery import Done, figures
from benchmarks.latency import identity


def done(frames_per_second: float, longest_ms: float = 0.0, transactions: int = 0) -> Done:
    run = Run(Window(0.0, 100 / frames_per_second, 100), {"worker": 1.0, "broker": 0.1, "triton": 0.2})
    return Done(run, longest_ms, transactions)


def test_delivery_gives_the_ratio_of_each_model_with_its_spread_and_the_longest_transaction_of_all() -> None:
    rounds = {
        "at_least_once_real": [done(50), done(100), done(50)],
        "exactly_once_real": [done(45, 130, 10), done(100, 150, 10), done(40, 140, 10)],
        "at_least_once_null": [done(400)],
        "exactly_once_null": [done(300, 190, 20)],
    }
    made = figures(rounds, {"at_least_once": [1.0, 2.0], "exactly_once": [3.0, 4.0, 5.0]})
    assert made["exactly_once_ratio"] == pytest.approx(0.9)
    assert made["exactly_once_ratio_low"] == pytest.approx(0.8)
    assert made["exactly_once_ratio_high"] == pytest.approx(1.0)
    assert made["exactly_once_ratio_null"] == pytest.approx(0.75)
    assert made["longest_transaction_ms"] == 190
    assert made["transactions"] == 50
    assert made["p99_ms_exactly_once"] == 5.0
    assert made["p99_ms_at_least_once"] == 2.0
    assert made["sides"].keys() == rounds.keys()


def test_a_prediction_is_known_by_the_number_its_producer_gave_the_frame() -> None:
    assert identity(Appended(0.0, None, b'{"frame_id": "17", "id": "frames/0/3"}')) == 17
    assert identity(Appended(0.0, None, b'{"frame_id": null}')) is None
