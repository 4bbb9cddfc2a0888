"""Image features of the model-input grid against numpy from the definitions."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt
import pytest

from worker.frames import UInt8Array
from worker.statistics import FEATURES, features


def expected(grid: UInt8Array) -> npt.NDArray[np.float64]:
    """From an RGB grid: BT.601 luma in grey levels, its mean, deviation, and the variance of its 4-neighbour Laplacian."""
    luma = np.floor(grid @ np.array([0.299, 0.587, 0.114]) + 0.5)
    around = np.pad(luma, 1, mode="reflect") if min(luma.shape) > 1 else np.pad(luma, 1, mode="edge")
    laplacian = around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:] - 4 * luma
    return np.array([luma.mean(), luma.std(), laplacian.var()])


def measured(grid: UInt8Array, colour: str = "rgb") -> npt.NDArray[np.float32]:
    out = np.empty(3, np.float32)
    features(grid, out, "bgr" if colour == "bgr" else "rgb")
    return out


@pytest.mark.parametrize("shape", [(260, 260), (61, 97), (2, 2), (1, 1)])
def test_features_are_mean_deviation_and_laplacian_variance_of_luma(shape: tuple[int, int]) -> None:
    grid = np.random.default_rng(3).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert FEATURES == ("brightness", "contrast", "sharpness")
    # Fixed-point luma may round one grey level the other way at a tie.
    assert measured(grid) == pytest.approx(expected(grid), rel=0.002, abs=0.02)


def test_a_bgr_grid_has_the_features_of_the_same_picture_in_rgb() -> None:
    grid = np.zeros((32, 32, 3), np.uint8)
    grid[:, 16:, 0] = 255
    assert measured(grid)[0] == pytest.approx(38, abs=0.5)
    assert np.array_equal(measured(np.ascontiguousarray(grid[:, :, ::-1]), "bgr"), measured(grid))


def test_the_hardest_checkerboard_reaches_the_largest_sharpness_without_overflow() -> None:
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    brightness, contrast, sharpness = measured(np.repeat(board[:, :, None], 3, axis=2))
    assert (brightness, contrast) == (127.5, 127.5)
    assert sharpness == 1020**2


def test_a_blank_grid_has_no_contrast_and_no_sharpness() -> None:
    assert measured(np.full((50, 50, 3), 200, np.uint8)).tolist() == [200, 0, 0]


def test_blurring_lowers_sharpness_and_dimming_lowers_brightness() -> None:
    grid = np.random.default_rng(5).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    blurred = ((grid[:-1].astype(int) + grid[1:]) // 2).astype(np.uint8)
    assert measured(blurred)[2] < measured(grid)[2] / 1.5
    assert measured(grid // 2)[0] == pytest.approx(measured(grid)[0] / 2, abs=1)


def test_threads_with_grids_of_different_sizes_do_not_share_scratch() -> None:
    grids = [np.random.default_rng(size).integers(0, 256, (size, size + 9, 3), dtype=np.uint8) for size in (40, 70, 90)]
    alone = [measured(grid) for grid in grids]
    wrong: list[int] = []

    def work(index: int) -> None:
        wrong.extend(index for _ in range(300) if not np.array_equal(measured(grids[index]), alone[index]))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(grids))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
