"""What the kernels are asked for: the contract's plan and windows, memory in shares, parts and halves."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels import Plan
from worker.errors import ConfigurationError, GpuMemoryFull
from worker.preprocess.contract import Contract
from worker.preprocess.gpu_plan import (
    ALIGNMENT,
    by_halves,
    cut_placement,
    in_parts,
    placement,
    plan_of,
    staging_share,
)

LETTERBOX = Contract.parse(
    'width = 40\nheight = 32\nresize = "letterbox"\npad_value = 114\nfilter = "area"\ncolour = "bgr"\n'
    'mean = [1.0, 2.0, 3.0]\nstd = [4.0, 5.0, 6.0]\nlayout = "nchw"\nwire_dtype = "float16"\nscaled_decode = false\n'
)
CROP = Contract.parse(
    'width = 40\nheight = 32\nresize = "shorter_side_crop"\ncrop_fraction = 0.875\nfilter = "bilinear_antialias"\n'
    'colour = "rgb"\nmean = [0.0, 0.0, 0.0]\nstd = [1.0, 1.0, 1.0]\nlayout = "nhwc"\nwire_dtype = "uint8"\n'
    "scaled_decode = true\n"
)
SIDES = st.integers(1, 4000)


def test_a_contract_is_a_plan() -> None:
    wanted = Plan(40, 32, "area", "bgr", "nchw", "float16", (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), 114)
    assert plan_of(LETTERBOX) == wanted
    assert plan_of(LETTERBOX).row_shape == LETTERBOX.tensor_shape
    assert plan_of(CROP).pad_value == 0


@given(SIDES, SIDES, st.sampled_from([LETTERBOX, CROP]), st.integers(1, 8))
def test_a_placement_is_the_contracts_window_whole_or_cut(
    width: int, height: int, contract: Contract, orientation: int
) -> None:
    window = contract.window(width, height)
    whole = placement(contract, width, height, orientation)
    assert tuple(whole.source) == (window.source.x, window.source.y, window.source.width, window.source.height)
    assert whole.orientation == orientation
    cut, alone = cut_placement(contract, width, height)
    assert cut == window.source
    assert tuple(alone.source) == (0, 0, cut.width, cut.height)
    assert alone.destination == whole.destination
    assert alone.orientation == 1


@given(st.lists(st.integers(0, 100), max_size=40), st.integers(1, 120))
def test_parts_are_all_of_it_in_order_and_none_could_take_the_next_one_too(sizes: list[int], capacity: int) -> None:
    parts = in_parts(sizes, capacity)
    assert [index for part in parts for index in part] == list(range(len(sizes)))
    for part in parts:
        total = sum(sizes[part.start : part.stop])
        assert total <= capacity or len(part) == 1
        if part.stop < len(sizes):
            assert total + sizes[part.stop] > capacity


@given(st.integers(0, 40), st.integers(1, 50))
def test_work_is_halved_until_memory_suffices_and_keeps_its_order(count: int, most: int) -> None:
    calls: list[int] = []

    def work(items: Sequence[int]) -> list[int]:
        if len(items) > most:
            raise GpuMemoryFull("full")
        calls.append(len(items))
        return [item * 2 for item in items]

    assert by_halves(work, list(range(count))) == [item * 2 for item in range(count)]
    assert max(calls) <= most
    if count > most:
        assert min(calls) > most // 4, "halves are no smaller than they have to be"


def test_memory_that_does_not_suffice_for_one_is_an_error() -> None:
    def never(items: Sequence[int]) -> list[int]:
        raise GpuMemoryFull("full")

    with pytest.raises(GpuMemoryFull):
        by_halves(never, [1, 2, 3])


@given(st.integers(1, 64), st.integers(1, 1 << 26))
def test_the_number_that_a_refusal_names_is_enough_and_one_byte_less_is_not(threads: int, max_pixels: int) -> None:
    with pytest.raises(ConfigurationError) as raised:
        staging_share(0, threads, max_pixels)
    needed = int(str(raised.value).split("set it to ")[1].split(",")[0])
    share = staging_share(needed, threads, max_pixels)
    assert share >= max_pixels * 3
    assert share % ALIGNMENT == 0
    assert share * threads <= needed
    with pytest.raises(ConfigurationError):
        staging_share(needed - 1, threads, max_pixels)
