"""Several endpoints that serve one model, as one `Engine`: each batch goes to one of them, and sick ones get none.

submit -> the endpoint with the fewest batches on their way -> its engine -> done. One submission is one try; what follows
a failure is the caller's to decide. Each endpoint has a thread that looks after it: it sends grey images to one that
failed or is idle, and lets no refusal through before the endpoint has shown that it takes such an image.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from worker.buffers import Slot, SlotPool
from worker.errors import (
    DependencyError,
    HeadraceError,
    InferenceRejected,
    InferenceUnavailable,
    ModelError,
    NoEndpoint,
)
from worker.frames import Answer, ModelIdentity, TensorSpec
from worker.infer.balance import choose
from worker.infer.breaker import State
from worker.infer.calls import Timer
from worker.infer.engine import Done, Served
from worker.infer.member import Connect, Member, Observer, check_agreement

log = logging.getLogger(__name__)

LEAVE_S = 1.0  # for a thread that waits for a server; it is a daemon


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """A submission that no endpoint has room for; its caller holds the slot."""

    slot: Slot
    rows: int
    deadline: float
    done: Done


class Fleet:
    """`connects` makes an engine for each endpoint's name; a try is given `deadline_s`. See `Engine`.

    Starts with the endpoints that answer, and takes the others in when they do. Raises what connecting raised when none
    answers, unless it is `assumed` what they will say; ModelError when one serves something else than the others, or than that.
    """

    def __init__(
        self,
        connects: Mapping[str, Connect],
        deadline_s: float,
        most_in_flight: int,
        observer: Observer,
        assumed: Served | None = None,
    ) -> None:
        self._observer = observer
        self._members = [
            Member(name, connect, deadline_s, most_in_flight, observer) for name, connect in connects.items()
        ]
        self._lock = threading.Lock()
        self._turns = itertools.count(1)
        self._waiting: deque[_Waiting] = deque()
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []
        self._pool: SlotPool | None = None
        self._assumed = assumed
        self._absence: DependencyError | None = None
        try:
            self._of_all(lambda member: member.connect())
            up = self._up()
            first = up[0].connected if up else assumed
            assert first is not None
            self._first: Served = first  # its tensors are everyone's
            for member in self._up():
                check_agreement(self._first, member.connected, member.endpoint)
        except BaseException:
            self._close_engines()
            raise
        self._timer = Timer("fleet-timer")

    def _up(self) -> list[Member]:
        return [member for member in self._members if member.engine is not None]

    def _of_all(self, act: Callable[[Member], None]) -> None:
        """Do it with each; an endpoint out of reach is left for later, unless that leaves none."""
        failures: list[DependencyError] = []
        for member in self._members:
            try:
                act(member)
            except DependencyError as error:
                member.disconnect()
                member.why = str(error)
                failures.append(error)
        if failures and not self._up():
            self._absence = failures[0]
            if self._assumed is None:
                raise failures[0]
        for failure in failures:
            log.warning("started without an endpoint, which is asked again and again: %s", failure)

    @property
    def identity(self) -> ModelIdentity:
        """The model of an endpoint that takes batches, where there is one."""
        serving = [member.connected for member in self._up() if member.breaker.state is State.CLOSED]
        return (serving[0] if serving else self._first).identity

    @property
    def preprocess_digest(self) -> str | None:
        """See `Engine`."""
        return self._first.preprocess_digest

    @property
    def input(self) -> TensorSpec:
        """See `Engine`."""
        return self._first.input

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """See `Engine`."""
        return self._first.outputs

    @property
    def max_batch_size(self) -> int:
        """The least of the endpoints'."""
        return min((member.connected.max_batch_size for member in self._up()), default=self._first.max_batch_size)

    @property
    def absence(self) -> DependencyError | None:
        """Why nobody answers since the start, if that is so."""
        return None if self._up() else self._absence

    @property
    def available(self) -> bool:
        """Whether an endpoint takes batches."""
        return any(member.breaker.state is State.CLOSED for member in self._members)

    def attach(self, pool: SlotPool) -> None:
        """See `Engine`. From here on the endpoints are looked after."""
        self._pool = pool
        self._of_all(lambda member: member.engine.attach(pool) if member.engine is not None else None)
        now = time.monotonic()
        for number, member in enumerate(self._members):
            member.heard_at = now
            if member.engine is None:
                member.give_up(now, member.why)
            thread = threading.Thread(target=self._watch, args=(member,), name=f"infer-watch-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def submit(self, slot: Slot, rows: int, deadline: float, done: Done) -> None:
        """See `Engine`. NoEndpoint comes at once when none takes batches, and when all are busy for half of the time given:
        what is left would cut the try short, and make a busy endpoint look sick.

        A refusal comes after its proof, which may take `member.PROOF_S` beyond the deadline.
        """
        if self._closing.is_set():
            raise RuntimeError("the engine is closed")
        waiting = _Waiting(slot, rows, deadline, done)
        with self._lock:
            self._waiting.append(waiting)
            actions = self._dispatch()
            late = waiting in self._waiting
        if late:
            self._timer.at((time.monotonic() + deadline) / 2, partial(self._expire, waiting))
        for action in actions:
            action()

    def close(self) -> None:
        """See `Engine`. May be called again."""
        if self._closing.is_set():
            return
        self._closing.set()
        for member in self._members:
            member.nudged.set()
        until = time.monotonic() + LEAVE_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        self._close_engines()
        with self._lock:
            left = [waiting.done for waiting in self._waiting]
            left += [done for member in self._members for done, _ in member.refusals]
            self._waiting.clear()
        for done in left:
            done(InferenceUnavailable("the engine was closed before the batch had its answer"))
        self._timer.close()

    def _close_engines(self) -> None:
        engines = [member.connected for member in self._up()]
        if engines:
            with ThreadPoolExecutor(len(engines)) as pool:  # each may wait for a server that hangs
                list(pool.map(lambda engine: engine.close(), engines))

    # Under the lock: decide. What is returned is done without it.

    def _dispatch(self) -> list[Callable[[], None]]:
        actions: list[Callable[[], None]] = []
        while self._waiting:
            index = choose([member.load for member in self._members])
            if index is None:
                break
            member = self._members[index]
            member.in_flight += 1
            member.last_turn = next(self._turns)
            actions.append(partial(self._send, member, self._waiting.popleft()))
        if self._waiting and not self.available:
            nobody = NoEndpoint("; ".join(f"{member.endpoint}: {member.why}" for member in self._members))
            # Not on the caller's thread, which is in the middle of submitting.
            actions += [partial(self._timer.at, 0.0, partial(left.done, nobody)) for left in self._waiting]
            self._waiting.clear()
        return actions

    # Any thread, without the lock.

    def _send(self, member: Member, batch: _Waiting) -> None:
        received = partial(self._received, member, time.monotonic(), batch.done)
        try:
            member.connected.submit(batch.slot, batch.rows, batch.deadline, received)
        except RuntimeError as closed:
            received(InferenceUnavailable(str(closed)))

    def _received(self, member: Member, sent_at: float, done: Done, result: Answer | HeadraceError) -> None:
        self._observer.tried(member.endpoint, result)
        with self._lock:
            member.heard(time.monotonic(), sent_at, result)
            member.in_flight -= 1
            if isinstance(result, InferenceRejected):
                if member.breaker.state is State.CLOSED and not self._closing.is_set():
                    member.refusals.append((done, result))
                    member.nudged.set()
                    done = _not_yet
                else:
                    result = _unproven(member, result)
            actions = self._dispatch()
        for action in actions:
            action()
        done(result)

    def _expire(self, waiting: _Waiting) -> None:
        with self._lock:
            if waiting not in self._waiting:
                return
            self._waiting.remove(waiting)
        waiting.done(NoEndpoint("every endpoint is busy with other batches"))

    # The thread that looks after one endpoint.

    def _watch(self, member: Member) -> None:
        while not self._closing.is_set():
            with self._lock:
                now = time.monotonic()
                wake_at = member.wake_at(now)
            member.nudged.wait(max(0.0, wake_at - now))
            member.nudged.clear()
            try:
                if not self._closing.is_set():
                    self._look_after(member)
            except Exception:  # nobody else would look after this endpoint
                log.exception("Looking after %s failed.", member.endpoint)

    def _look_after(self, member: Member) -> None:
        with self._lock:
            proofs = member.begin_proof(time.monotonic())
            refusals, member.refusals = member.refusals, []
        illness = self._illness(member, proofs)
        with self._lock:
            if proofs:
                member.end_proof(time.monotonic(), illness)
            is_proven = proofs and not illness and member.breaker.state is State.CLOSED
            actions = self._dispatch()
        for action in actions:
            action()
        for done, refusal in refusals:
            done(refusal if is_proven else _unproven(member, refusal))

    def _illness(self, member: Member, proofs: int) -> str:
        if not proofs:
            return ""
        try:
            if member.engine is None:
                assert self._pool is not None
                member.join(self._first, self._pool)
                if self._closing.is_set():
                    member.disconnect()
                    return "the worker is leaving"
            return member.illness(proofs)
        except HeadraceError as error:
            if isinstance(error, ModelError) and str(error) != member.why:
                log.warning("%s is not taken in: %s", member.endpoint, error)
            return str(error)


def _not_yet(result: Answer | HeadraceError) -> None:
    """A refusal waits for its proof."""


def _unproven(member: Member, refusal: InferenceRejected) -> InferenceUnavailable:
    """A refusal by an endpoint that refuses everything says nothing of the batch."""
    return InferenceUnavailable(f"{refusal} ({member.endpoint} is not well: {member.why})")
