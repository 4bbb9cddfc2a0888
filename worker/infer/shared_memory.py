"""Slots as shared regions of a Triton on the same host: registered, proven, and given back.

A region counts only after a handshake: golden batches are written into the slot, and the answers that Triton gives by
reading the region must equal those to the same bytes sent as tensors. A region that only seems shared (another IPC
namespace, a stale mapping) gives wrong numbers without an error; so nothing is sent through an unproven one.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from tritonclient.utils import InferenceServerException

from worker.buffers import CudaRegion, SharedRegion, Slot, SlotPool, is_region_of_a_dead_worker
from worker.errors import HeadraceError, InferenceUnavailable
from worker.frames import AnyArray
from worker.infer.cuda_memory import CudaRegistry

log = logging.getLogger(__name__)

ASK_TIMEOUT_S = 5.0  # registering takes under a millisecond
LEAVE_TIMEOUT_S = 1.0  # a worker that leaves has a grace to keep to
_GOLDEN_SEEDS = (1, 2)  # two: a mapping that is stale answers the second as the first
_SAMPLE_ROWS = 1  # of the slots after the first: a wrong mapping is wrong in its first row, and attaching stays quick
_TOLERANCE = 1e-3  # of the largest output: the same bytes differ by far less, however requests are batched together
_UNREGISTER_TRIES = 20  # of 50 ms: Triton counts a region as in use until a moment after its answer is out
_TURN_S = 0.2  # how often a wait for a slot looks whether the engine closed

Region = SharedRegion | CudaRegion
Infer = Callable[[AnyArray, Region | None], Mapping[str, AnyArray]]


def is_same_host(url: str) -> bool:
    """Whether the host of `host:port` is this one: only an address of ours can be bound. False if it has none."""
    host = url.rpartition(":")[0].strip("[]")
    with contextlib.suppress(OSError):
        for family, kind, protocol, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM):
            with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as probe:
                probe.bind(address)
                return True
    return False


def golden(out: AnyArray, seed: int) -> None:
    """Fill a batch with a fixed pattern that no two rows or seeds share: a level of each row's own, and noise.

    Integers use their whole range up to 255, floats -1 to 1.
    """
    random = np.random.default_rng(seed)
    integers = np.issubdtype(out.dtype, np.integer)
    for row in out:
        values = 0.6 * random.random(dtype=np.float32) + 0.4 * random.random(row.shape, dtype=np.float32)
        row[...] = (values * (127 if out.dtype == np.int8 else 255) if integers else 2 * values - 1).astype(out.dtype)


def alike(left: Mapping[str, AnyArray], right: Mapping[str, AnyArray]) -> bool:
    """Whether two answers are the same but for rounding, in every output."""
    return left.keys() == right.keys() and all(_close(left[name], right[name]) for name in left)


def _close(left: AnyArray, right: AnyArray) -> bool:
    if left.shape != right.shape:
        return False
    a, b = left.astype(np.float64), right.astype(np.float64)
    scale = float(np.nanmax(np.abs(a), initial=0.0))
    return bool(np.allclose(a, b, rtol=0, atol=_TOLERANCE * scale, equal_nan=True))


class NotSharedError(Exception):
    """A slot is not memory that the server reads too."""


class Regions:
    """Which slots Triton at `url` may read in place. `infer` runs one batch and waits, by tensor or by region."""

    def __init__(self, client: Any, infer: Infer) -> None:
        self._client = client
        self._infer = infer
        self._proven: frozenset[Slot] = frozenset()

    def proven(self, slot: Slot) -> bool:
        """Whether a batch in `slot` may be sent by name."""
        return slot in self._proven

    @property
    def count(self) -> int:
        """How many slots are proven."""
        return len(self._proven)

    def forget(self) -> None:
        """The server does not know our regions any more."""
        self._proven = frozenset()

    def prove(self, pool: SlotPool, give_up_at: float, closed: Callable[[], bool]) -> None:
        """Register and prove every slot of `pool` that is not, each as it gets free, until monotonic `give_up_at`.

        Raises NotSharedError if an answer is wrong, InferenceServerException if the server refuses a region or is gone,
        InferenceUnavailable if time is up. Stops silently once `closed()`.
        """
        expected: dict[tuple[int, int], Mapping[str, AnyArray]] = {}
        while not closed():
            missing = frozenset(pool.slots) - self._proven
            if not missing:
                return
            slot = pool.acquire(_TURN_S, among=missing)
            if slot is not None:
                try:
                    self._prove_one(slot, expected)
                    self._proven |= {slot}
                finally:
                    slot.let_go()
            elif time.monotonic() >= give_up_at:
                raise InferenceUnavailable(f"{len(missing)} slots were never free to be proven.")

    def _prove_one(self, slot: Slot, expected: dict[tuple[int, int], Mapping[str, AnyArray]]) -> None:
        region = slot.region
        if region is None:
            raise NotSharedError("the slots are private memory")
        register(self._client, region)
        count = _SAMPLE_ROWS if self._proven else len(slot.array)
        rows = np.empty((count, *slot.array.shape[1:]), slot.array.dtype)
        for seed in _GOLDEN_SEEDS:
            golden(rows, seed)
            slot.write(rows)
            key = (seed, len(rows))
            if key not in expected:
                expected[key] = self._infer(rows, None)
            if not alike(expected[key], self._infer(rows, region)):
                raise NotSharedError(
                    f"the answers to golden batch {seed} through region {region.name} are not its tensors'"
                )
        first, second = (expected[seed, len(rows)] for seed in _GOLDEN_SEEDS)
        if alike(first, second):
            log.debug("The model answers two different batches alike, so that comparing its answers proves little.")

    def unregister(self, pool: SlotPool) -> None:
        """Take our regions from the server. One it still reads stays; the next worker's start takes that one."""
        self.forget()
        try:
            for slot in pool.slots:
                if slot.region is not None and not unregister(_registry(self._client, slot.region), slot.region.name):
                    log.warning(
                        "Triton still reads region %s; it keeps it until a later worker starts.", slot.region.name
                    )
        except InferenceServerException as error:  # each of the others would wait as long in vain
            log.warning("Triton keeps our regions until a later worker starts: %s.", error.message())


class SystemRegistry:
    """Triton's registry of regions in system shared memory. By `client`, tritonclient's for gRPC; raises what it raises."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def register(self, region: SharedRegion, timeout_s: float) -> None:
        """Give the server `region`."""
        self._client.register_system_shared_memory(region.name, region.key, region.byte_size, client_timeout=timeout_s)

    def unregister(self, name: str, timeout_s: float) -> None:
        """Take it back."""
        self._client.unregister_system_shared_memory(name, client_timeout=timeout_s)

    def names(self, timeout_s: float) -> Iterable[str]:
        """All that are registered, whoever's."""
        regions: Iterable[str] = self._client.get_system_shared_memory_status(client_timeout=timeout_s).regions
        return regions


Registry = SystemRegistry | CudaRegistry


def _registry(client: Any, region: Region) -> Registry:
    return CudaRegistry(client) if isinstance(region, CudaRegion) else SystemRegistry(client)


def register(client: Any, region: Region) -> None:
    """Register `region`; one that is already there is fine, because names are never used twice."""
    try:
        if isinstance(region, CudaRegion):
            CudaRegistry(client).register(region, ASK_TIMEOUT_S)
        else:
            SystemRegistry(client).register(region, ASK_TIMEOUT_S)
    except InferenceServerException as error:
        if "ALREADY_EXISTS" not in str(error.status()):
            raise


def unregister(registry: Registry, name: str) -> bool:
    """Whether the server has let go of the region, or is gone itself. False while a request still reads it.

    Raises InferenceServerException where it does not answer in time.
    """
    for _ in range(_UNREGISTER_TRIES):
        try:
            registry.unregister(name, LEAVE_TIMEOUT_S)
        except InferenceServerException as error:
            if "DEADLINE_EXCEEDED" in str(error.status()):
                raise
            if "in use" not in str(error.message()):
                return True
            time.sleep(0.05)
        else:
            return True
    return False


def unregister_dead_workers(client: Any) -> None:
    """Free what killed workers left registered at a server on this host: their memory is held for nobody."""
    registries: tuple[Registry, ...] = (SystemRegistry(client), CudaRegistry(client))
    for registry in registries:
        with contextlib.suppress(InferenceServerException):  # a Triton without CUDA does not know the second
            for name in registry.names(ASK_TIMEOUT_S):
                if is_region_of_a_dead_worker(name) and unregister(registry, name):
                    log.info("Took the region %s of a dead worker from Triton.", name)


def reason(error: Exception) -> str:
    """One clause that says why regions are not used."""
    if isinstance(error, InferenceServerException):
        return f"Triton says: {error.message()}"
    return str(error) if isinstance(error, (NotSharedError, HeadraceError)) else repr(error)
