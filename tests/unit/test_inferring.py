"""What becomes of a batch whose try failed: tried again, answered by the fallback, divided, or kept until an endpoint is well."""

from __future__ import annotations

import gc
import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tests.rig.images import encode, photo
from tests.unit.test_infer_fleet import LONG_S, Scripted, answers, eventually, is_down, refuses_what_is_not_grey
from worker.buffers import Slot, SlotPool
from worker.errors import InferenceRejected, InferenceUnavailable
from worker.frames import Answer, Frame, ImageFacts, Prepared, Reason, Row, SourcePartition
from worker.infer.engine import Done
from worker.infer.fleet import Fleet
from worker.infer.member import Observer
from worker.ingest.budget import PixelGate
from worker.observe.health import Health
from worker.observe.metrics import Metrics
from worker.pipeline.fallback import Fallback
from worker.pipeline.filling import Placing
from worker.pipeline.inferring import Inferring
from worker.preprocess.contract import Contract

ROWS = 4
# Of the fallback; the primary's is 2 x 2.
CONTRACT = """
width = 4
height = 4
resize = "stretch"
filter = "bilinear"
colour = "rgb"
mean = [0.0, 0.0, 0.0]
std = [1.0, 1.0, 1.0]
layout = "nhwc"
wire_dtype = "uint8"
scaled_decode = false
"""


class Line:
    """A primary and a fallback of scripted engines, and what the publisher would hear."""

    def __init__(self, primary: Scripted, fallback: Scripted | None, folder: Path) -> None:
        self.delivered: queue.SimpleQueue[tuple[Prepared, Answer | None]] = queue.SimpleQueue()
        self.failures: list[BaseException] = []
        self.metrics, self.health = Metrics(), Health(())
        self.pool = SlotPool(4, ROWS, (2, 2, 3), np.dtype(np.uint8), shared=False)
        self.fleets = [Fleet({"a": lambda: primary}, LONG_S, 4, Observer())]
        self.fleets[0].attach(self.pool)
        self.fallback = None
        if fallback is not None:
            (folder / "preprocess.toml").write_text(CONTRACT)
            self.fleets.append(Fleet({"b": lambda: fallback}, LONG_S, 4, Observer()))
            place = Placing(Contract.load(folder / "preprocess.toml"), PixelGate(2**20))
            self.fallback = Fallback(self.fleets[1], LONG_S, place, ROWS, None, 0)
        self.inferring = Inferring(
            self.fleets[0],
            self.fallback,
            LONG_S,
            3 * LONG_S,
            self.metrics,
            self.health,
            lambda *heard: self.delivered.put(heard),
            self.failures.append,
        )

    def submit(self, greys: list[int] | None = None) -> Prepared:
        """A batch of frames of these grey levels."""
        levels = greys or [10, 20, 30, 40]
        values = [encode(np.full((8, 8, 3), level, np.uint8), "png") for level in levels]
        frames = tuple(Frame(SourcePartition("f", 0), number, value) for number, value in enumerate(values))
        rows = tuple(Row(number, ImageFacts("png", 8, 8, 3), "opencv", 1.0) for number in range(len(levels)))
        prepared = Prepared(
            0, frames, rows, {}, np.ones((len(rows), 3), np.float32), time.monotonic(), time.monotonic()
        )
        slot = self.pool.acquire(LONG_S)
        assert slot is not None
        slot.array[: len(rows)] = np.asarray(levels, np.uint8)[:, None, None, None]
        self.inferring.submit(prepared, slot)
        return prepared

    def next(self) -> tuple[Prepared, Answer]:
        prepared, answer = self.delivered.get(timeout=LONG_S)
        assert answer is not None
        return prepared, answer


@contextmanager
def line(primary: Scripted, fallback: Scripted | None, folder: Path) -> Iterator[Line]:
    made = Line(primary, fallback, folder)
    try:
        yield made
        assert made.pool.in_use == 0, "each slot is let go once its batch is answered"
        assert made.delivered.empty(), "each batch is heard of once"
        assert made.failures == []
    finally:
        made.inferring.close()
        for fleet in made.fleets:
            fleet.close()


def test_an_answer_of_the_primary_is_delivered_as_it_is(tmp_path: Path) -> None:
    with line(Scripted(), Scripted(version="2", side=4), tmp_path) as made:
        prepared = made.submit()
        delivered, answer = made.next()
        assert delivered is prepared
        assert answer.model.version == "1"


def test_the_fallback_answers_from_the_encoded_bytes_with_a_slot_of_its_own_shape(tmp_path: Path) -> None:
    seen: list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]] = []

    def looks(engine: Scripted, slot: Slot, done: Done) -> None:
        seen.append(slot.array[:, 0, 0, 0].copy())
        answers(engine, slot, done)

    with line(Scripted(is_down), Scripted(looks, version="2", side=4), tmp_path) as made:
        prepared = made.submit([10, 20, 30, 40])
        delivered, answer = made.next()
        assert answer.model.version == "2"
        assert seen[0].tolist() == [10, 20, 30, 40]
        assert (delivered.number, delivered.frames) == (prepared.number, prepared.frames)
        np.testing.assert_array_equal(delivered.features, prepared.features)
        assert made.health.ready().ok
        assert made.metrics.value("retries_total") == 0


def test_a_frame_that_the_fallback_cannot_decode_is_rejected_and_the_others_are_answered(tmp_path: Path) -> None:
    with line(Scripted(is_down), Scripted(side=4), tmp_path) as made:
        made.submit()
        made.next()  # the breaker is open now
        prepared = made.submit()
        made.next()
        broken = Frame(SourcePartition("f", 0), 1, encode(photo(8, 8), "png")[:40])
        frames = (prepared.frames[0], broken, *prepared.frames[2:])
        assert made.fallback is not None
        filled = made.fallback.fill(Prepared(1, frames, prepared.rows, {}, prepared.features, 0.0, 0.0))
        assert filled is not None
        delivered, slot = filled
        slot.let_go()
        assert [row.index for row in delivered.rows] == [0, 2, 3]
        assert set(delivered.rejections) == {1}
        assert len(delivered.features) == 3


def test_what_the_fallback_refuses_is_divided_there(tmp_path: Path) -> None:
    def refuses_white(engine: Scripted, slot: Slot, done: Done) -> None:
        done(InferenceRejected("white")) if (slot.array == 255).any() else by_rows(engine, slot, done)

    def by_rows(engine: Scripted, slot: Slot, done: Done) -> None:
        done(Answer({"sums": slot.array[:, 0, 0, :1].astype(np.float64)}, engine.identity, "fallback", 1.0))

    with line(Scripted(is_down), Scripted(refuses_white, side=4), tmp_path) as made:
        made.submit([10, 255, 30, 40])
        _, answer = made.next()
        assert {row: verdict.reason for row, verdict in answer.rejections.items()} == {1: Reason.INFERENCE_REJECTED}
        assert answer.outputs["sums"][[0, 2, 3], 0].tolist() == [10, 30, 40]
        assert answer.served_by == "fallback"


def test_without_anybody_to_answer_batches_wait_and_readiness_says_so_until_the_primary_is_back(tmp_path: Path) -> None:
    primary, fallback = Scripted(is_down), Scripted(is_down, version="2", side=4)
    with line(primary, fallback, tmp_path) as made:
        for _ in range(3):
            made.submit()
        eventually(lambda: not made.health.ready().ok, "readiness says so")
        time.sleep(0.5)
        assert made.delivered.empty()
        primary.behaviour = answers
        assert {made.next()[1].model.version for _ in range(3)} == {"1"}
        eventually(lambda: made.health.ready().ok, "ready again")


def test_a_failed_try_is_repeated_where_the_budget_pays(tmp_path: Path) -> None:
    failures = iter([True])

    def fails_once(engine: Scripted, slot: Slot, done: Done) -> None:
        done(InferenceUnavailable("busy")) if next(failures, False) else answers(engine, slot, done)

    with line(Scripted(fails_once), None, tmp_path) as made:
        made.submit()
        made.next()
        assert made.metrics.value("retries_total") == 1


def test_a_refusal_is_divided_while_other_batches_go_on(tmp_path: Path) -> None:
    with line(Scripted(refuses_what_is_not_grey), None, tmp_path) as made:
        made.submit([128, 128])
        assert made.next()[1].rejections == {}
        made.submit([7])
        assert set(made.next()[1].rejections) == {0}


def test_no_batch_waits_for_the_garbage_collector(tmp_path: Path) -> None:
    """However it was answered: a circle of references would keep its frames' bytes for half a minute."""

    def left() -> int:
        return sum(isinstance(each, Prepared) for each in gc.get_objects())

    gc.collect()
    before = left()
    gc.disable()
    try:
        with line(Scripted(), None, tmp_path) as made:
            for _ in range(3):
                made.submit()
                made.next()
            eventually(lambda: left() == before, "answered at once")
        with line(Scripted(refuses_what_is_not_grey), None, tmp_path) as made:
            made.submit([128, 128, 128, 10])
            made.next()
            eventually(lambda: left() == before, "divided")
        with line(Scripted(is_down), Scripted(version="2", side=4), tmp_path) as made:
            made.submit()
            made.next()
            eventually(lambda: left() == before, "answered by the fallback")
    finally:
        gc.enable()
