"""The emulation finds what it is there to find: bugs planted in a copy of the sources, each caught by its check."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from kernels import modules
from kernels.plan import Filter
from tests.kernels import cases, reference, sanitized
from tests.kernels.cupy_on_cpu import FORWARD, REVERSE, CupyOnCpu, build
from tests.kernels.devices import Device


def planted(folder: Path, file: str, line: str, instead: str, occurrence: int = 0) -> Path:
    """A copy of the sources in `folder` with one occurrence of `line` replaced."""
    sources = folder / "sources"
    sources.mkdir()
    for source in [*modules.SOURCES.glob("*.cu"), *modules.SOURCES.glob("*.h")]:
        shutil.copy(source, sources)
    parts = (sources / file).read_text().split(line)
    assert len(parts) > occurrence + 1, f"{file} no longer holds {line!r}"
    before, after = line.join(parts[: occurrence + 1]), line.join(parts[occurrence + 1 :])
    (sources / file).write_text(before + instead + after)
    return sources


def results(library: Path, filter_name: Filter, order: int) -> tuple[bytes, bytes]:
    case = cases.mixed(3, filter_name)
    slot, sums = Device(CupyOnCpu(library), library.parent)(case.plan, case.images, case.placements, order=order)
    return slot.tobytes(), sums.tobytes()


def expected(filter_name: Filter) -> tuple[bytes, bytes]:
    case = cases.mixed(3, filter_name)
    slot, sums = reference.rows(case.plan, case.images, case.placements)
    return slot.tobytes(), sums.tobytes()


def test_the_kernels_run_clean_under_address_sanitizer(builds: Path) -> None:
    ran = sanitized.run(build(builds, sanitized=True))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "18 cases"


def test_a_read_beyond_an_image_is_named_by_address_sanitizer_with_its_line(tmp_path: Path) -> None:
    sources = planted(tmp_path, "sampling.h", "source.at(left + i, top + j)", "source.at(left + i, top + j + 1)")
    ran = sanitized.run(build(tmp_path, sources, sanitized=True))
    assert ran.returncode != 0
    assert "heap-buffer-overflow" in ran.stderr
    assert "sampling.h:" in ran.stderr


def test_a_write_beyond_shared_memory_is_named_with_its_line(tmp_path: Path) -> None:
    sources = planted(tmp_path, "sums.h", "shared.histogram[threadIdx.x] = 0", "shared.histogram[threadIdx.x + 1] = 0")
    ran = sanitized.run(build(tmp_path, sources, sanitized=True))
    assert ran.returncode != 0
    assert "out of bounds" in ran.stderr
    assert "sums.h:" in ran.stderr


@pytest.mark.parametrize("barrier", range(3))
def test_a_missing_barrier_shows_in_results_that_change_with_the_order_of_threads(tmp_path: Path, barrier: int) -> None:
    library = build(tmp_path, planted(tmp_path, "preprocess.cu", "__syncthreads();", "", barrier))
    forward, reverse = (results(library, "bilinear", order) for order in (FORWARD, REVERSE))
    assert forward != reverse


@pytest.mark.parametrize(
    ("filter_name", "line", "instead"),
    [
        ("bilinear", "(sum[c] + 2) >> 2", "sum[c] >> 2"),
        ("area", "__float2int_rn(", "static_cast<int>("),
        ("bilinear_antialias", "int sum[3] = {kHalf, kHalf, kHalf}", "int sum[3] = {0, 0, 0}"),
    ],
)
def test_a_wrong_rounding_differs_from_the_reference(
    tmp_path: Path, filter_name: Filter, line: str, instead: str
) -> None:
    library = build(tmp_path, planted(tmp_path, "sampling.h", line, instead))
    assert results(library, filter_name, FORWARD) != expected(filter_name)


def test_threads_that_wait_for_ever_are_an_error_and_no_hang(tmp_path: Path) -> None:
    sources = planted(
        tmp_path, "preprocess.cu", "gather(shared, moments);", "if (threadIdx.x % 32) gather(shared, moments);"
    )
    with pytest.raises(RuntimeError, match="for ever"):
        results(build(tmp_path, sources), "bilinear", FORWARD)


def test_the_reference_is_what_unplanted_sources_give(builds: Path) -> None:
    library = build(builds)
    for order in (FORWARD, REVERSE, 5):
        assert results(library, "bilinear", order) == expected("bilinear")
    assert np.frombuffer(expected("bilinear")[0], np.uint8).any()
