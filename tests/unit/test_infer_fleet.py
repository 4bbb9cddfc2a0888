"""The fleet over scripted engines: where batches go, what a refusal needs, and that every batch is heard of once."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from worker.buffers import Slot, SlotPool
from worker.errors import (
    DependencyError,
    EndpointDown,
    HeadraceError,
    InferenceRejected,
    InferenceUnavailable,
    ModelError,
    NoEndpoint,
)
from worker.frames import Answer, ModelIdentity, TensorSpec
from worker.infer.breaker import State
from worker.infer.engine import Done
from worker.infer.fleet import Fleet
from worker.infer.member import Observer

SHAPE = (2, 2, 3)
LONG_S = 20.0
Outcome = Answer | HeadraceError
Behaviour = Callable[["Scripted", Slot, Done], None]


def answers(engine: Scripted, slot: Slot, done: Done) -> None:
    done(Answer({"sums": np.zeros((1, 1))}, engine.identity, "primary", 1.0))


def is_down(engine: Scripted, slot: Slot, done: Done) -> None:
    done(EndpointDown("nothing listens"))


def refuses_all(engine: Scripted, slot: Slot, done: Done) -> None:
    done(InferenceRejected("no"))


def refuses_what_is_not_grey(engine: Scripted, slot: Slot, done: Done) -> None:
    if (slot.array == 128).all():
        answers(engine, slot, done)
    else:
        refuses_all(engine, slot, done)


class Scripted:
    """An engine that answers as `behaviour` says, each batch on a thread of its own; keeps count."""

    max_batch_size = 4
    preprocess_digest: str | None = None
    outputs = (TensorSpec("sums", np.dtype(np.float64), (1,)),)

    def __init__(self, behaviour: Behaviour = answers, version: str = "1", side: int = 2) -> None:
        self.identity = ModelIdentity("m", version, "sha256:0", "none", "fp32")
        self.input = TensorSpec("image", np.dtype(np.uint8), (side, side, 3))
        self.behaviour = behaviour
        self.asked = 0
        self.attached = self.closed = False

    def attach(self, pool: SlotPool) -> None:
        self.attached = True

    def submit(self, slot: Slot, rows: int, deadline: float, done: Done) -> None:
        self.asked += 1
        threading.Thread(target=self.behaviour, args=(self, slot, done)).start()

    def close(self) -> None:
        self.closed = True


class States(Observer):
    def __init__(self) -> None:
        self.seen: dict[str, list[State]] = {}

    def breaker(self, endpoint: str, state: State) -> None:
        self.seen.setdefault(endpoint, []).append(state)


class Running:
    def __init__(self, fleet: Fleet, states: States) -> None:
        self.fleet = fleet
        self.states = states
        self.pool = SlotPool(8, 4, SHAPE, np.dtype(np.uint8), shared=False)
        self.outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        fleet.attach(self.pool)

    def submit(self, within_s: float = LONG_S) -> None:
        slot = self.pool.acquire(LONG_S)
        assert slot is not None

        def done(outcome: Outcome) -> None:
            slot.let_go()
            self.outcomes.put(outcome)

        self.fleet.submit(slot, 1, time.monotonic() + within_s, done)

    def ask(self, within_s: float = LONG_S) -> Outcome:
        self.submit(within_s)
        return self.outcomes.get(timeout=LONG_S)

    def version(self) -> str:
        outcome = self.ask()
        assert isinstance(outcome, Answer), outcome
        return outcome.model.version


@contextmanager
def running(*engines: Scripted, most: int = 4) -> Iterator[Running]:
    states = States()
    connects = {str(number): (lambda engine=engine: engine) for number, engine in enumerate(engines)}
    fleet = Fleet(connects, deadline_s=10.0, most_in_flight=most, observer=states)
    try:
        yield Running(fleet, states)
    finally:
        fleet.close()


def eventually(fact: Callable[[], object], what: str) -> None:
    until = time.monotonic() + LONG_S
    while not fact():
        assert time.monotonic() < until, what
        time.sleep(0.01)


def test_batches_are_spread_over_the_endpoints_and_answers_name_the_version_that_made_them() -> None:
    with running(Scripted(version="1"), Scripted(version="2")) as fleet:
        versions = [fleet.version() for _ in range(10)]
    assert versions.count("1") == versions.count("2") == 5


def test_an_endpoint_that_is_down_gets_no_batches_and_comes_back_by_a_probe() -> None:
    sick, well = Scripted(is_down, "1"), Scripted(version="2")
    with running(sick, well) as fleet:
        outcomes = [fleet.ask() for _ in range(20)]
        assert sum(isinstance(outcome, EndpointDown) for outcome in outcomes) == 1
        sick.behaviour = answers
        eventually(lambda: fleet.states.seen["0"][-1] is State.CLOSED, "it is probed")
        assert {fleet.version() for _ in range(4)} == {"1", "2"}
    seen = fleet.states.seen["0"]
    assert seen[:2] == [State.OPEN, State.HALF_OPEN]
    assert seen[-2:] == [State.HALF_OPEN, State.CLOSED]


def test_when_all_are_down_a_batch_is_told_at_once_that_it_was_not_sent() -> None:
    with running(Scripted(is_down), Scripted(is_down)) as fleet:
        for _ in range(2):
            assert isinstance(fleet.ask(), EndpointDown)
        eventually(lambda: not fleet.fleet.available, "both are open")
        assert isinstance(fleet.ask(), NoEndpoint)


def test_a_refusal_counts_where_the_endpoint_takes_a_grey_image() -> None:
    engine = Scripted(refuses_what_is_not_grey)
    with running(engine) as fleet:
        for _ in range(20):
            assert isinstance(fleet.ask(), InferenceRejected)
        assert fleet.fleet.available, "poison opens no breaker"


def test_a_refusal_by_an_endpoint_that_refuses_everything_says_nothing_of_the_batch() -> None:
    with running(Scripted(refuses_all)) as fleet:
        outcome = fleet.ask()
        assert isinstance(outcome, InferenceUnavailable)
        assert "grey" in str(outcome)
        assert not fleet.fleet.available


def test_an_idle_endpoint_whose_model_died_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.infer.member.IDLE_S", 0.05)
    engine = Scripted()
    with running(engine) as fleet:
        eventually(lambda: engine.asked > 2, "it is asked though nothing comes")
        engine.behaviour = refuses_all
        eventually(lambda: not fleet.fleet.available, "it is found out")


def test_no_endpoint_has_more_on_its_way_than_the_limit_and_the_others_wait_their_turn() -> None:
    held: queue.SimpleQueue[tuple[Scripted, Slot, Done]] = queue.SimpleQueue()
    engine = Scripted(lambda *call: held.put(call))
    with running(engine, most=2) as fleet:
        for _ in range(5):
            fleet.submit()
        time.sleep(0.1)
        assert held.qsize() == 2
        for _ in range(5):
            answers(*held.get(timeout=LONG_S))
            assert isinstance(fleet.outcomes.get(timeout=LONG_S), Answer)


def test_a_batch_that_finds_no_room_in_half_of_its_time_is_told_so_and_not_sent() -> None:
    held: queue.SimpleQueue[tuple[Scripted, Slot, Done]] = queue.SimpleQueue()
    with running(Scripted(lambda *call: held.put(call)), most=1) as fleet:
        fleet.submit()
        outcome = fleet.ask(within_s=0.1)
        assert isinstance(outcome, NoEndpoint)
        assert "busy" in str(outcome)
        answers(*held.get(timeout=LONG_S))
        assert isinstance(fleet.outcomes.get(timeout=LONG_S), Answer)
        assert fleet.outcomes.empty()


def test_closing_tells_those_that_wait() -> None:
    held: queue.SimpleQueue[tuple[Scripted, Slot, Done]] = queue.SimpleQueue()
    with running(Scripted(lambda *call: held.put(call)), most=1) as fleet:
        fleet.submit()
        fleet.submit()
    assert isinstance(fleet.outcomes.get(timeout=LONG_S), InferenceUnavailable)
    with pytest.raises(RuntimeError, match="closed"):
        fleet.submit()


def test_an_endpoint_that_is_away_at_start_is_taken_in_later() -> None:
    late = Scripted(version="2")
    there = threading.Event()

    def connect() -> Scripted:
        if not there.is_set():
            raise DependencyError("nobody there")
        return late

    fleet = Fleet({"a": Scripted, "b": connect}, 10.0, 4, States())
    try:
        run = Running(fleet, States())
        assert {run.version() for _ in range(4)} == {"1"}
        there.set()
        eventually(lambda: late.attached and "2" in {run.version() for _ in range(4)}, "it is taken in")
    finally:
        fleet.close()
    assert late.closed


def test_no_endpoint_at_start_is_the_error_of_the_first() -> None:
    def nobody() -> Scripted:
        raise DependencyError("nobody at a")

    with pytest.raises(DependencyError, match="nobody at a"):
        Fleet({"a": nobody}, 10.0, 4, Observer())


def test_with_a_word_of_what_they_serve_it_starts_without_any_and_holds_them_to_it() -> None:
    is_there = threading.Event()

    def later() -> Scripted:
        if not is_there.is_set():
            raise DependencyError("nobody at a")
        return Scripted()

    def another() -> Scripted:
        if not is_there.is_set():
            raise DependencyError("nobody at b")
        return Scripted(version="2", side=4)

    fleet = Fleet({"a": later, "b": another}, 10.0, 4, States(), assumed=Scripted())
    try:
        assert "nobody at a" in str(fleet.absence)
        running = Running(fleet, States())
        assert not fleet.available
        assert isinstance(running.ask(), NoEndpoint)
        is_there.set()
        eventually(lambda: fleet.available, "a is taken in")
        assert running.version() == "1"
        time.sleep(0.5)  # probes of b
        assert all(running.version() == "1" for _ in range(8)), "b serves something else"
    finally:
        fleet.close()


def test_endpoints_of_different_models_are_refused() -> None:
    engines = Scripted(), Scripted(side=4)
    with pytest.raises(ModelError, match="the same model"), running(*engines):
        pass
    assert all(engine.closed for engine in engines)
