"""Runs a spread of cases on the emulated kernels with AddressSanitizer: `python -m tests.kernels.sanitized LIBRARY`.

In a process of its own, since the sanitizer's runtime must be loaded before Python. Prints how many cases passed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np

from kernels.plan import Filter
from tests.kernels import cases, reference
from tests.kernels.cupy_on_cpu import CupyOnCpu
from tests.kernels.devices import Device

SEEDS = range(100, 106)


def run(library: Path) -> subprocess.CompletedProcess[str]:
    """This module in a process with the runtime; what the sanitizer says is on stderr."""
    runtime = subprocess.run(
        ["g++", "-print-file-name=libasan.so"], check=True, capture_output=True, text=True
    ).stdout.strip()
    # Fibers leave their stacks without a return, and Python keeps memory to its end: both are no faults of a kernel.
    options = "detect_leaks=0:detect_stack_use_after_return=0"
    return subprocess.run(
        [sys.executable, "-m", "tests.kernels.sanitized", str(library)],
        env={"LD_PRELOAD": runtime, "ASAN_OPTIONS": options, "PATH": "/usr/bin:/bin", "OPENBLAS_NUM_THREADS": "1"},
        cwd=Path(__file__).resolve().parents[2],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


def main(library: Path) -> None:
    device = Device(CupyOnCpu(library), library.parent)
    passed = 0
    for filter_name in get_args(Filter):
        for seed in SEEDS:
            case = cases.mixed(seed, filter_name)
            slot, sums = device(case.plan, case.images, case.placements, order=seed)
            expected, expected_sums = reference.rows(case.plan, case.images, case.placements)
            np.testing.assert_array_equal(slot.view(np.uint8), expected.view(np.uint8))
            np.testing.assert_array_equal(sums, expected_sums)
            passed += 1
    print(f"{passed} cases")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
