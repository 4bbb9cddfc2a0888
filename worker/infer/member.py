"""One endpoint of a fleet: its engine once it is connected, its breaker and limit, and the proof that it is well.

What became of a try goes in; whether and how many batches it gets comes out. `connect`, `join` and `illness` wait for the
server; all else is state under the fleet's lock.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import numpy as np

from worker.buffers import SlotPool
from worker.errors import (
    EndpointDown,
    HeadraceError,
    InferenceRejected,
    InferenceTimedOut,
    InferenceUnavailable,
    ModelError,
)
from worker.frames import Answer
from worker.infer.balance import Load
from worker.infer.breaker import Breaker, State
from worker.infer.engine import Done, Engine, Served
from worker.infer.limit import Limit

log = logging.getLogger(__name__)

# Grey images in a row. An endpoint that fails every second request would pass one of them too easily.
PROOFS = 3
# For each of them: queued behind a full load of batches one takes a second or two.
PROOF_S = 5.0
# A dead model on a silent stream is found out within this, by one grey image each time.
IDLE_S = 5.0

Connect = Callable[[], Engine]


class Observer:
    """Hears what happens at the endpoints, on threads that serve all batches: it must be quick. This one ignores it."""

    def tried(self, endpoint: str, result: Answer | HeadraceError) -> None:
        """A try of a batch ended there."""

    def breaker(self, endpoint: str, state: State) -> None:
        """Its breaker moved."""


class Member:
    """An endpoint, named as in metrics. Its tries have `deadline_s`, and at most `most_in_flight` are on their way."""

    def __init__(
        self, endpoint: str, connect: Connect, deadline_s: float, most_in_flight: int, observer: Observer
    ) -> None:
        self.endpoint = endpoint
        self.engine: Engine | None = None
        self.breaker = Breaker()
        # Half the deadline: there is still time to send less before batches miss it.
        self.limit = Limit(most_in_flight, deadline_s / 2)
        self.in_flight = 0
        self.last_turn = 0
        self.heard_at = 0.0  # last answer, monotonic
        self.why = ""  # it gets no batches
        self.refusals: list[tuple[Done, InferenceRejected]] = []  # that wait for the proof
        self.nudged = threading.Event()  # something for its thread to look at
        self._connect = connect
        self._observer = observer
        self._proof_s = min(deadline_s, PROOF_S)

    @property
    def connected(self) -> Engine:
        """The engine, which every member has that ever took a batch."""
        assert self.engine is not None
        return self.engine

    @property
    def load(self) -> Load:
        """What the choice between endpoints goes by."""
        limit = self.limit.value if self.breaker.state is State.CLOSED else 0
        return Load(self.in_flight, limit, self.last_turn)

    # Under the lock.

    def heard(self, now: float, sent_at: float, result: Answer | HeadraceError) -> None:
        """A try sent at `sent_at` ended."""
        match result:
            case Answer():
                self.heard_at = now
                self.limit.answered(now, sent_at, self.in_flight)
                self.breaker.succeeded()
            case InferenceRejected():
                self.heard_at = now  # whether it was about the batch, the proof tells
            case InferenceTimedOut():
                self.limit.congested(now, sent_at)
                self.give_up(now, str(result))
            case InferenceUnavailable() if not isinstance(result, EndpointDown):
                self.limit.congested(now, sent_at)
                self.give_up(now, str(result), decisive=False)
            case _:
                self.give_up(now, str(result))

    def give_up(self, now: float, why: str, *, decisive: bool = True) -> None:
        """A failure; see `Breaker.failed`."""
        before = self.breaker.state
        self.breaker.failed(now, decisive=decisive)
        if self.breaker.state is not before:
            self.why = why
            log.warning("%s gets no batches until it answers a probe: %s", self.endpoint, why)
            self.nudged.set()
            self._observer.breaker(self.endpoint, self.breaker.state)

    def wake_at(self, now: float) -> float:
        """When to look whether a proof is due, if nothing else happens."""
        if self.breaker.state is State.OPEN:
            return self.breaker.probe_at
        # What is on its way tells soon enough how the endpoint is.
        return now if self.refusals else IDLE_S + (now if self.in_flight else self.heard_at)

    def begin_proof(self, now: float) -> int:
        """How many grey images have to be answered now: 0 if nothing depends on it."""
        if self.breaker.state is State.OPEN:
            if now < self.breaker.probe_at:
                return 0
            self.breaker.begin_probe(now)
            self._observer.breaker(self.endpoint, self.breaker.state)
            return PROOFS
        if self.refusals:
            return PROOFS
        return 1 if not self.in_flight and now >= self.heard_at + IDLE_S else 0

    def end_proof(self, now: float, illness: str) -> None:
        """What became of it: `illness` is empty where all were answered."""
        if not illness:
            self.heard_at = now
        if self.breaker.state is not State.HALF_OPEN:
            if illness:
                self.give_up(now, illness)
            return
        self.why = illness
        self.breaker.probed(now, well=not illness)
        self._observer.breaker(self.endpoint, self.breaker.state)
        if not illness:
            self.limit.restart()
            log.info("%s answers, and gets batches again", self.endpoint)

    # What follows waits for the server.

    def connect(self) -> None:
        """Raises what the engine raises when it is made."""
        self.engine = self._connect()

    def disconnect(self) -> None:
        """Back to where it was before `connect`."""
        engine, self.engine = self.engine, None
        if engine is not None:
            engine.close()

    def join(self, like: Served, pool: SlotPool) -> None:
        """Connect one that was away at start. Raises as connecting does, and ModelError if it is not `like` the others."""
        self.connect()
        try:
            check_agreement(like, self.connected, self.endpoint)
            self.connected.attach(pool)
        except BaseException:
            self.disconnect()
            raise

    def illness(self, proofs: int) -> str:
        """Why a grey image gets no answer; empty if `proofs` of them in a row got theirs."""
        engine = self.connected
        for _ in range(proofs):
            result = self._ask(engine)
            if not isinstance(result, Answer):
                return f"a plain grey image got no answer either: {result}"
        return ""

    def _ask(self, engine: Engine) -> Answer | HeadraceError | None:
        spec = engine.input
        side = [size if size > 0 else 1 for size in spec.shape]
        slot = SlotPool(1, 1, tuple(side), spec.dtype, shared=False).acquire(0)
        assert slot is not None
        slot.array[:] = 128 if spec.dtype == np.uint8 else 0
        answered = threading.Event()
        results: list[Answer | HeadraceError] = []

        def done(result: Answer | HeadraceError) -> None:
            results.append(result)
            answered.set()

        try:
            engine.submit(slot, 1, time.monotonic() + self._proof_s, done)
        except RuntimeError:  # the engine closed meanwhile
            return None
        answered.wait()  # an engine keeps to the deadline
        return results[0]


def check_agreement(first: Served, other: Served, endpoint: str) -> None:
    """Raises ModelError unless both serve the same model; version and weights may differ, predictions name them."""
    theirs, ours = (
        (engine.identity.name, engine.input, engine.outputs, engine.preprocess_digest) for engine in (other, first)
    )
    if theirs != ours:
        raise ModelError(
            f"{endpoint} serves {theirs}, where another endpoint or config.pbtxt in model.directory says {ours}: all must "
            "serve the same model with the same preprocessing contract."
        )
