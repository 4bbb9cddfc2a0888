"""Slots in a GPU's memory at Triton: registered by handle, proven like any region, given back; on a stand-in of NumPy."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from tests.rig.gpu import StandInCuda
from worker.buffers import (
    REGION_NAME,
    SHARED_MEMORY_FOLDER,
    CudaRegion,
    SharedRegion,
    SlotPool,
    is_region_of_a_dead_worker,
)
from worker.frames import AnyArray
from worker.infer.shared_memory import NotSharedError, Regions, unregister_dead_workers

SHAPE = (6, 5)


def cuda_pool(count: int = 2, shared: bool = True) -> SlotPool:
    return SlotPool(count, 4, SHAPE, np.dtype(np.uint8), shared=shared, cuda=StandInCuda())


class Server:
    """Triton's calls for CUDA memory: a handle of the stand-in is an address, and a pool's array lies there."""

    def __init__(self, pool: SlotPool) -> None:
        self._arrays = {slot.array.ctypes.data: slot.array for slot in pool.slots}
        self.regions: dict[str, AnyArray] = {}

    def register_cuda_shared_memory(
        self, name: str, handle: bytes, device: int, byte_size: int, client_timeout: float
    ) -> None:
        address = int.from_bytes(base64.b64decode(handle), "little")
        assert device == 0
        assert byte_size == self._arrays[address].nbytes
        self.regions[name] = self._arrays[address]

    def unregister_cuda_shared_memory(self, name: str, client_timeout: float) -> None:
        del self.regions[name]

    def get_cuda_shared_memory_status(self, client_timeout: float) -> Any:
        return SimpleNamespace(regions=dict.fromkeys(self.regions))

    def get_system_shared_memory_status(self, client_timeout: float) -> Any:
        return SimpleNamespace(regions={})

    def infer(self, batch: AnyArray, region: SharedRegion | CudaRegion | None) -> Mapping[str, AnyArray]:
        array = batch if region is None else self.regions[region.name][: len(batch)]
        return {"sums": array.sum(axis=(1, 2), dtype=np.float32)}


def test_slots_on_a_gpu_are_registered_by_their_handle_proven_and_given_back() -> None:
    pool = cuda_pool()
    server = Server(pool)
    regions = Regions(server, server.infer)
    regions.prove(pool, time.monotonic() + 60, lambda: False)
    assert all(regions.proven(slot) for slot in pool.slots)
    assert set(server.regions) == {slot.region.name for slot in pool.slots if slot.region}
    regions.unregister(pool)
    assert server.regions == {}
    pool.close()


def test_a_gpus_region_of_other_content_is_found_out() -> None:
    pool = cuda_pool()
    server = Server(pool)

    def elsewhere(batch: AnyArray, region: SharedRegion | CudaRegion | None) -> Mapping[str, AnyArray]:
        return server.infer(np.zeros_like(batch) if region else batch, None)

    with pytest.raises(NotSharedError, match="golden"):
        Regions(server, elsewhere).prove(pool, time.monotonic() + 60, lambda: False)
    pool.close()


def test_a_small_file_with_the_regions_name_says_that_its_worker_lives() -> None:
    pool = cuda_pool(3)
    names = [slot.region.name for slot in pool.slots if slot.region]
    assert len(set(names)) == 3
    for name in names:
        assert REGION_NAME.fullmatch(name)
        assert (SHARED_MEMORY_FOLDER / name).stat().st_size == 1
        assert not is_region_of_a_dead_worker(name)
    pool.close()
    assert all(is_region_of_a_dead_worker(name) for name in names)


def test_what_a_dead_worker_left_registered_is_taken_from_the_server_and_a_living_ones_is_not() -> None:
    dead, alive = cuda_pool(1), cuda_pool(1)
    server = Server(alive)
    for slot in (*dead.slots, *alive.slots):
        assert slot.region is not None
        server.regions[slot.region.name] = slot.array
    dead.close()
    unregister_dead_workers(server)
    assert [server.regions[name] is alive.slots[0].array for name in server.regions] == [True]
    alive.close()


def test_a_server_without_cuda_is_no_obstacle_for_the_other_kind() -> None:
    class NoCuda(Server):
        def get_cuda_shared_memory_status(self, client_timeout: float) -> Any:
            raise InferenceServerException("not supported", "UNIMPLEMENTED")

    unregister_dead_workers(NoCuda(cuda_pool(1, shared=False)))


def test_slots_are_read_and_written_alike_wherever_they_lie() -> None:
    batch = np.arange(3 * 30, dtype=np.uint8).reshape(3, *SHAPE)
    for cuda in (None, StandInCuda()):
        pool = SlotPool(1, 4, SHAPE, np.dtype(np.uint8), shared=False, cuda=cuda)
        slot = pool.slots[0]
        slot.write(batch)
        np.testing.assert_array_equal(slot.read(3), batch)
        np.testing.assert_array_equal(slot.array[:3], batch)
        assert slot.region is None
        assert np.shares_memory(slot.read(2), slot.array) == (cuda is None)
