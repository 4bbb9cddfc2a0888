"""The benchmarks run end to end on the real servers, with few frames: what is checked is that they report, not what."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.corpus import SIZES
from tests.rig.kafka import unavailable
from worker.errors import DependencyError

pytestmark = [pytest.mark.kafka, pytest.mark.triton]

CASES = {
    "throughput": ("efficiency", "cpu_efficiency", "vs_loop", "vs_loop_2x16", "frames_per_second"),
    "overhead": (
        "overhead_ratio",
        "overhead_ratio_fast",
        "overhead_ratio_plain_client",
        "statistics_ratio",
        "frames_per_second",
    ),
}


@pytest.mark.timeout(600)  # eight short runs of the ideal and six sides: 50 s on two idle cores
@pytest.mark.parametrize("name", CASES)
def test_a_benchmark_reports_its_ratios_with_their_spread(name: str) -> None:
    # Enough that a bare client loop takes more than the one millisecond that the broker's clock tells apart.
    flags = {"throughput": ["64", "--model", "efficientnet_lite0"], "overhead": ["1024"]}[name]
    result = benchmark(name, "--rounds", "1", "--frames", *flags)
    for key in CASES[name]:
        assert all(math.isfinite(result[part]) and result[part] > 0 for part in (key, f"{key}_low", f"{key}_high"))
    assert {"worker", "triton", "broker"} <= result["cpu_s_per_1000"].keys()
    assert result["machine"]["cores"] >= 1
    # All sides did the same work: they see the same classes, up to a grey level between two resizing engines.
    assert all(share >= 0.9 for share in result.get("same_top1_as_ideal", {}).values())


def test_the_benchmark_of_decoders_reports_every_size_and_decoder() -> None:
    result = benchmark("decode", "--frames", "2", "--rounds", "1")
    for size in SIZES:
        assert result[f"worker_vs_simplejpeg_{size}"] > 0
        assert {f"{size} worker", f"{size} opencv, malloc as it comes"} <= result["sides"].keys()


def benchmark(*arguments: str) -> dict[str, Any]:
    """The JSON object on the last line of stdout."""
    command = [sys.executable, "-m", "benchmarks", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == DependencyError.exit_code:
        unavailable(DependencyError(done.stderr[-2000:]))
    assert done.returncode == 0, done.stderr[-4000:]
    last: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return last
