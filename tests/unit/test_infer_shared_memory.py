from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from worker.buffers import CudaRegion, SharedRegion, SlotPool
from worker.errors import InferenceUnavailable
from worker.frames import AnyArray
from worker.infer.shared_memory import NotSharedError, Regions, alike, golden, is_same_host


class RegistersAll:
    """A server's register and unregister that always work; what it reads is the test's to say."""

    def register_system_shared_memory(self, *arguments: Any, **named: Any) -> None: ...


def sums(batch: AnyArray) -> dict[str, AnyArray]:
    return {"sums": batch.sum(axis=(1, 2), dtype=np.float32)}


def regions_where(server_reads: Any) -> tuple[Regions, SlotPool]:
    """Regions of a server that answers tensors rightly, and a region with the sums of `server_reads(array)`."""

    def infer(array: AnyArray, region: SharedRegion | CudaRegion | None) -> Mapping[str, AnyArray]:
        return sums(array if region is None else server_reads(array))

    return Regions(RegistersAll(), infer), SlotPool(2, 4, (6, 5), np.dtype(np.uint8), shared=True)


def never() -> bool:
    return False


def test_regions_that_the_server_reads_are_proven_and_their_slots_free_again() -> None:
    regions, pool = regions_where(lambda array: array)
    regions.prove(pool, time.monotonic() + 60, never)
    assert all(regions.proven(slot) for slot in pool.slots)
    assert (regions.count, pool.in_use) == (2, 0)
    regions.forget()
    assert not any(regions.proven(slot) for slot in pool.slots)
    pool.close()


def test_a_region_of_other_content_is_found_out() -> None:
    regions, pool = regions_where(np.zeros_like)
    with pytest.raises(NotSharedError):
        regions.prove(pool, time.monotonic() + 60, never)
    assert (regions.count, pool.in_use) == (0, 0)
    pool.close()


def test_a_mapping_that_stays_at_its_first_content_is_found_out() -> None:
    first: list[AnyArray] = []

    def stale(array: AnyArray) -> AnyArray:
        if not first:
            first.append(array.copy())
        return first[0]

    regions, pool = regions_where(stale)
    with pytest.raises(NotSharedError, match="batch 2"):
        regions.prove(pool, time.monotonic() + 60, never)
    pool.close()


def test_private_slots_are_never_proven() -> None:
    regions, _ = regions_where(lambda array: array)
    with pytest.raises(NotSharedError, match="private"):
        regions.prove(SlotPool(1, 1, (2, 2), np.dtype(np.uint8), shared=False), time.monotonic() + 60, never)


def test_a_slot_in_use_is_left_alone_and_the_wait_for_it_ends() -> None:
    regions, pool = regions_where(lambda array: array)
    busy = pool.acquire(0)
    assert busy is not None
    busy.array[:] = 7
    with pytest.raises(InferenceUnavailable):
        regions.prove(pool, time.monotonic(), never)
    assert not regions.proven(busy)
    assert (busy.array == 7).all()
    pool.close()


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.float16, np.float32])
def test_golden_batches_differ_between_rows_and_seeds_and_are_the_same_each_time(dtype: type) -> None:
    batches: list[AnyArray] = [np.empty((3, 8, 8, 3), dtype) for _ in range(3)]
    one, again, other = batches
    golden(one, 1)
    golden(again, 1)
    golden(other, 2)
    assert (one == again).all()
    assert len({row.tobytes() for row in (*one, *other)}) == 6
    assert not alike(sums(one), sums(other))
    if np.issubdtype(dtype, np.floating):
        assert np.abs(one.astype(np.float64)).max() <= 1


def test_answers_are_alike_within_rounding_and_not_beyond_or_of_another_shape() -> None:
    logits = np.array([[8.0, -3.0, 0.01]], np.float32)
    assert alike({"a": logits}, {"a": logits + np.float32(1e-4)})
    assert not alike({"a": logits}, {"a": logits + np.float32(0.1)})
    assert not alike({"a": logits}, {"a": logits[:, :2]})
    assert not alike({"a": logits}, {"b": logits})
    assert alike({"a": np.zeros((2, 0), np.float32)}, {"a": np.zeros((2, 0), np.float32)})


def test_only_an_address_of_this_machine_is_the_same_host() -> None:
    assert is_same_host("127.0.0.1:8001")
    assert is_same_host("localhost:8001")
    assert not is_same_host("192.0.2.1:8001")  # TEST-NET-1: nobody's
