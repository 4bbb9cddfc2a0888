"""The Triton engine: batches over gRPC, by name through shared memory where the server proved that it reads it.

A submission becomes one asynchronous RPC; its callback turns the response into an `Answer` or an error of ours. The
deadline is ours too: an RPC on shared memory is left to finish after it, because the server goes on reading the slot.
What may block (reading the model's facts again, proving regions after a server's restart) runs on upkeep threads.

tritonclient does the requests. Measured against prebuilt requests on the bare stub it costs the same: 0.5 ms of CPU for
16 frames of 260x260x3 uint8 through shared memory; as tensors 4 to 7 ms.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from tritonclient.utils import InferenceServerException

from worker.buffers import Slot, SlotPool
from worker.errors import DependencyError, HeadraceError, InferenceUnavailable, ModelError
from worker.frames import Answer, AnyArray, ModelIdentity, TensorSpec
from worker.infer.calls import Call, Timer
from worker.infer.connection import WARM_UP_S, Connection
from worker.infer.engine import Done, check_fit
from worker.infer.errors import inference_error, is_lost_connection, is_missing_region, start_error
from worker.infer.shared_memory import NotSharedError, Region, Regions, reason, unregister_dead_workers

log = logging.getLogger(__name__)

# An RPC on shared memory must outlive our deadline, so that its end tells when the server stopped reading. After this
# long a server is taken for dead: a slot must come back some day.
SHARED_RPC_BOUND_S = 600.0
CLOSE_GRACE_S = 2.0  # for answers on their way when the engine closes; the pipeline has drained before
RESTORE_EVERY_S = 5.0  # between attempts to prove regions anew
REFRESH_EVERY_S = 1.0  # facts are read again at most this often while connections come and go
_POLL_S = 0.01


class TritonEngine:
    """One model of a Triton at `url` (host:port of its gRPC). See `Engine`.

    `input_spec` is what the model's preprocessing contract makes; `version` "" leaves the choice to the server. With
    shared_memory "on" a server that can't read our memory is an error, with "auto" a logged sentence; `access` is as in
    `Connection`. Raises DependencyError if server or model are not ready, ModelError if the model is not what `input_spec`
    and `output_names` say.
    """

    def __init__(
        self,
        url: str,
        model_name: str,
        version: str = "",
        *,
        input_spec: TensorSpec,
        output_names: Sequence[str],
        served_by: str = "primary",
        shared_memory: Literal["auto", "on", "off"] = "auto",
        access: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._served_by = served_by
        self._wish = shared_memory
        self._connection = Connection(url, model_name, version, input_spec, output_names, access)
        try:
            self._connection.check_ready()
            self._facts = self._connection.facts()
        except BaseException:
            self._connection.close()
            raise
        self._regions = Regions(self._connection.client, self._infer_now)
        self._pool: SlotPool | None = None
        self._active: set[Call] = set()
        self._connections_lost = 0
        self._facts_of = 0  # how many connections had been lost when the facts were read
        self._facts_read_at = time.monotonic()
        self._restoring = False
        self._closed = False
        self._timer = Timer("infer-timer")
        # Two: proving regions waits for slots, which answers in the other thread set free.
        self._upkeep = ThreadPoolExecutor(2, thread_name_prefix="infer-upkeep")

    @property
    def identity(self) -> ModelIdentity:
        """The model that served last, or will serve first."""
        return self._facts.identity

    @property
    def preprocess_digest(self) -> str | None:
        """Hash of the contract, from `preprocess` of the model's parameters."""
        return self._facts.preprocess_digest

    @property
    def input(self) -> TensorSpec:
        """The one input."""
        return self._facts.input

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs asked for."""
        return self._facts.outputs

    @property
    def max_batch_size(self) -> int:
        """Most rows of one submission."""
        return self._facts.max_batch_size

    @property
    def shares_memory(self) -> bool:
        """Whether every slot goes by name through shared memory."""
        return self._pool is not None and self._regions.count == len(self._pool.slots)

    def live(self) -> bool:
        """Whether the server answers."""
        return self._connection.live()

    def ready(self) -> bool:
        """Whether the server says that the model is ready (it says so of a model whose process was killed, too)."""
        return self._connection.ready()

    def attach(self, pool: SlotPool) -> None:
        """See `Engine`. Warms the model up, checks its outputs, and proves shared memory if that is wished."""
        connection = self._connection
        check_fit(pool, self.input, self.max_batch_size, connection.endpoint)
        self._pool = pool
        try:
            self._infer_now(np.zeros((pool.rows, *pool.shape), pool.dtype), None)
        except InferenceServerException as error:
            raise start_error(error, connection.url, connection.model) from error
        if self._wish == "off" or (self._wish == "auto" and not (connection.same_host and pool.shared)):
            log.info("Batches go to %s as tensors.", connection.endpoint)
            return
        try:
            unregister_dead_workers(connection.client)
            if pool.in_use and self._wish == "auto":  # others serve already: nobody waits until each slot was free once
                log.info("Batches go to %s as tensors for now.", connection.endpoint)
                self._start_restoring()
                return
            self._regions.prove(pool, time.monotonic() + WARM_UP_S, lambda: self._closed)
            log.info("Batches go to %s through shared memory.", connection.endpoint)
        except (InferenceServerException, HeadraceError, NotSharedError) as error:
            self._regions.unregister(pool)
            if self._wish == "on":
                raise DependencyError(
                    f"Triton at {connection.url} can't read our shared memory ({reason(error)}): it must run on this "
                    "host and see the same /dev/shm; or set infer.shared_memory to auto."
                ) from error
            log.warning("Batches go to %s as tensors, not through shared memory: %s.", connection.url, reason(error))

    def submit(self, slot: Slot, rows: int, deadline: float, done: Done) -> None:
        """See `Engine`. Raises RuntimeError after `close`."""
        if self._closed:
            raise RuntimeError("the engine is closed")
        call = Call(slot, rows, deadline, done, self._connection.endpoint)
        self._active.add(call)
        self._timer.at(deadline, call.expire)
        self._send(call, shared=self._regions.proven(slot))

    def close(self) -> None:
        """See `Engine`. Waits a moment for answers on their way."""
        self._closed = True
        self._wait_until_idle()
        self._upkeep.shutdown(wait=True)
        if self._pool is not None and self._regions.count:
            self._regions.unregister(self._pool)
        self._connection.close()  # ends the RPCs that are left; their callbacks let the slots go
        self._wait_until_idle()
        self._timer.close()

    def _wait_until_idle(self) -> None:
        until = time.monotonic() + CLOSE_GRACE_S
        while self._active and time.monotonic() < until:
            time.sleep(_POLL_S)

    def _send(self, call: Call, shared: bool) -> None:
        region = call.slot.region if shared else None
        timeout_s = max(call.deadline - time.monotonic(), 0.001) if region is None else SHARED_RPC_BOUND_S
        try:
            batch = call.slot.array[: call.rows] if shared else call.slot.read(call.rows)
            self._connection.send(batch, region, timeout_s, partial(self._received, call, shared))
        except (InferenceServerException, ValueError) as error:  # ValueError: the channel is closed
            outcome = InferenceUnavailable(f"{self._connection.endpoint} could not be asked: {error}")
            self._timer.at(0.0, partial(self._end, call, outcome))

    def _received(self, call: Call, shared: bool, result: Any, error: Any) -> None:
        """gRPC's thread: nothing here may block."""
        try:
            if error is not None:
                self._failed(call, shared, error)
            elif (
                self._facts_of != self._connections_lost or result.get_response().model_version != self.identity.version
            ):
                self._upkeep.submit(self._answer_with_new_facts, call, result)
            else:
                self._end(call, self._answer(call, result))
        except Exception as failure:  # a lost callback would keep its slot for ever
            log.exception("An answer of %s could not be handled.", self._connection.endpoint)
            self._end(call, InferenceUnavailable(f"An answer could not be handled: {failure!r}"))

    def _failed(self, call: Call, shared: bool, error: Any) -> None:
        if is_lost_connection(error):
            self._connections_lost += 1
        if shared and is_missing_region(error):
            self._connections_lost += 1
            self._regions.forget()
            log.warning("%s was started anew: batches go as tensors for now.", self._connection.endpoint)
            self._start_restoring()
            if not call.told:
                self._send(call, shared=False)
                return
        self._end(call, inference_error(error, self._connection.endpoint))

    def _end(self, call: Call, outcome: Answer | HeadraceError) -> None:
        self._active.discard(call)
        call.end(outcome)

    def _answer(self, call: Call, result: Any) -> Answer | HeadraceError:
        facts = self._facts
        try:
            outputs = self._connection.read(result, facts.outputs, call.rows)
        except ModelError as error:
            return error
        elapsed_ms = (time.monotonic() - call.submitted_at) * 1e3
        return Answer(outputs, facts.identity, self._served_by, elapsed_ms)

    # Upkeep: what follows may block.

    def _answer_with_new_facts(self, call: Call, result: Any) -> None:
        version = result.get_response().model_version
        try:
            if version != self.identity.version or time.monotonic() >= self._facts_read_at + REFRESH_EVERY_S:
                self._refresh(version)
            outcome = self._answer(call, result)
        except HeadraceError as error:
            outcome = error
        self._end(call, outcome)

    def _refresh(self, version: str) -> None:
        lost = self._connections_lost
        facts = self._connection.facts(version)
        if facts.preprocess_digest != self.preprocess_digest:
            raise ModelError(
                f"{self._connection.endpoint}, version {version}, was made with the preprocessing contract "
                f"{facts.preprocess_digest}, but the worker runs {self.preprocess_digest}: restart it with the new one."
            )
        if facts.identity != self.identity:
            log.info("%s now answers as %s.", self._connection.endpoint, facts.identity)
        self._facts, self._facts_of, self._facts_read_at = facts, lost, time.monotonic()

    def _start_restoring(self) -> None:
        if not self._restoring and not self._closed:
            self._restoring = True
            self._upkeep.submit(self._restore)

    def _restore(self) -> None:
        assert self._pool is not None
        try:
            self._regions.prove(self._pool, time.monotonic() + RESTORE_EVERY_S, lambda: self._closed)
        except NotSharedError as error:
            self._regions.unregister(self._pool)
            log.warning("Batches go to %s as tensors from now on: %s.", self._connection.url, reason(error))
        except Exception as error:  # whatever it was, trying again is the only remedy, and nobody reads this future
            log.info("Regions are not proven yet: %s.", reason(error))
            self._timer.at(time.monotonic() + RESTORE_EVERY_S, self._restore_again)
        else:
            self._restoring = False
            if self.shares_memory:
                log.info("Batches go to %s through shared memory again.", self._connection.endpoint)
            else:  # the server went once more between the last proof and here
                self._start_restoring()

    def _restore_again(self) -> None:
        with contextlib.suppress(RuntimeError):  # closed meanwhile
            self._upkeep.submit(self._restore)

    def _infer_now(self, batch: AnyArray, region: Region | None) -> Mapping[str, AnyArray]:
        return self._connection.infer(batch, region, self.outputs)
