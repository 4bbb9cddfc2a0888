"""One run of one fault: fresh topics on the shared servers, workers, a sender, the moments at which the fault struck.

A fault is a function that takes a `Run`, starts workers, sends frames, does its harm, says when (`strike`, `over`) and
ends with `finish`; the audit and what is asked of every run are here, the same for all.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from confluent_kafka import Message

from tests.acceptance.corpus import Frame, small
from tests.acceptance.feed import Feed
from tests.faults import verdict
from tests.faults.stage import MODEL, Stage
from tests.faults.verdict import Strike, Written
from tests.rig.audit import Auditor, audit_statistics, header, produce_frames, wait_until_committed
from tests.rig.kafka_server import KafkaServer
from tests.rig.outcomes import Audit, Outcome, SentFrame, compare
from tests.rig.topics import Topics, create_topics, delete_topics
from tests.rig.worker import WorkerProcess

EXACTLY_ONCE = "exactly_once"
PARTITIONS = 4
SESSION_S = 6.0  # the least a broker allows unless told otherwise: killed workers are missed sooner
FRAMES_A_SECOND = 100
DONE_S = 90.0  # for what is left to be worked off when the fault is over
READY_S = 60.0
COMMITTED_S = 10.0
LEFT = 3  # exit code of a worker that can't go on without a server
_MORE = 100
_POLL_S = 0.01
_QUIET = {"log_level": 2}  # of syslog's: a sender to a broker that is broken on purpose has nothing to add

Tree = dict[str, Any]


class Unmet(AssertionError):
    """Something a fault waited for did not come: the run has failed, whatever the audit says."""


def _in_flight(worker: WorkerProcess) -> int:
    """Frames; none of a worker that is still starting, and raises DependencyError if it has ended by itself."""
    try:
        return int(worker.metric("frames_in_flight"))
    except OSError:
        worker.check_alive()
        return 0


class Run:
    """Leaving the context ends its workers and deletes its topics."""

    def __init__(self, stage: Stage, mode: str, seed: int, label: str, kafka: KafkaServer | None = None) -> None:
        self.stage = stage
        self.mode = mode
        self.seed = seed
        self.kafka = kafka or stage.kafka
        self.rng = random.Random(f"{label} {seed}")  # the same moments in both modes
        self.topics: Topics = create_topics(self.kafka.bootstrap_servers, PARTITIONS)
        self.workers: list[WorkerProcess] = []  # all that were ever started
        self._starts: dict[str, tuple[WorkerProcess, Callable[[], WorkerProcess]]] = {}  # the last of each name
        self.strikes: list[Strike] = []
        self.problems: list[str] = []
        self.notes: dict[str, Any] = {}
        self.ordered = True  # whether order is asked for without fencing too
        self.counted = True  # whether the statistics shall count each frame once
        self.judged: Mapping[str, Any] = {}

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.__exit__(None, None, None)
        delete_topics(self.topics)

    # --- before the fault ---

    def settings(self, name: str = "one", **sections: Tree) -> Tree:
        """The tree for the worker of that name in this run; `sections` are merged over it."""
        tree: Tree = {section: dict(keys) for section, keys in self.topics.settings.items()}
        tree["kafka"]["bootstrap_servers"] = self.kafka.proxied_bootstrap_servers or self.kafka.bootstrap_servers
        tree["kafka"]["session_timeout_ms"] = int(SESSION_S * 1000)
        tree["model"] = {"name": MODEL, "directory": str(self.stage.triton.model)}
        tree["infer"] = {"url": self.stage.triton.url}
        tree["delivery"] = {"mode": self.mode, "transactional_id": f"{self.topics.group}.{name}"}
        for section, keys in sections.items():
            tree[section] = tree.get(section, {}) | keys
        return tree

    def worker(self, name: str = "one", fixed: bool = False, **sections: Tree) -> WorkerProcess:
        """A worker that is starting. With `fixed` its successor of the same name takes over its partitions at once,
        without it after the session timeout."""
        if fixed:
            sections["kafka"] = {"group_instance_id": name} | sections.get("kafka", {})

        def start() -> WorkerProcess:
            self.workers.append(WorkerProcess(self.settings(name, **sections)))
            self._starts[name] = self.workers[-1], start
            return self.workers[-1]

        return start()

    def feed(self, per_s: float = FRAMES_A_SECOND) -> Feed:
        return Feed(self.topics, per_s, settings=_QUIET)

    def send(self, frames: Iterator[Frame] | int) -> list[SentFrame]:
        """Frames, or that many small ones."""
        chosen = small(frames, 31) if isinstance(frames, int) else frames
        return produce_frames(self.topics.bootstrap_servers, self.topics.frames, chosen, settings=_QUIET)

    def sleep(self, least_s: float, most_s: float) -> None:
        """A moment of the seed's choice."""
        time.sleep(self.rng.uniform(least_s, most_s))

    # --- the fault ---

    def strike(self, *workers: WorkerProcess, over: bool = True) -> None:
        """The fault strikes these workers now; unless told otherwise it is over at once and recovering may begin."""
        in_flight = sum(map(_in_flight, workers))
        now = time.time()
        self.strikes.append(Strike(now, now if over else float("inf"), in_flight))

    def over(self) -> None:
        """What is broken was mended: recovering may begin."""
        self.strikes[-1] = self.strikes[-1]._replace(over_s=time.time())

    def kill9(self, worker: WorkerProcess) -> None:
        self.strike(worker)
        worker.kill9()

    # --- looking and judging ---

    def until(self, holds: Callable[[], bool], what: str, timeout_s: float = READY_S) -> None:
        """Wait for it; raises Unmet."""
        deadline = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(OSError):  # a worker that is gone tells nothing, and is looked after below
                if holds():
                    return
            self.tend()
            if time.monotonic() > deadline:
                raise Unmet(f"not within {timeout_s:g} s: {what}")
            time.sleep(_POLL_S)

    def until_predicting(self, worker: WorkerProcess, least: int = 1) -> None:
        """Ready, and so many predictions of its own are acknowledged."""
        worker.wait_ready(READY_S)
        self.until(lambda: worker.metric("frames_predicted_total") >= least, f"{least} predictions")

    def goes_on(self, name: str = "one") -> WorkerProcess:
        """After so many more predictions: the worker of that name, or the one that was started in its place."""
        begun: dict[int, float] = {}

        def more() -> bool:
            worker = self._starts[name][0]
            predicted = worker.metric("frames_predicted_total")
            return predicted >= begun.setdefault(worker.pid, predicted) + _MORE

        self.until(more, f"{_MORE} more predictions")
        return self._starts[name][0]

    def until_busy(self, worker: WorkerProcess, least: int = 1) -> None:
        self.until(lambda: worker.metric("frames_in_flight") >= least, f"{least} frames in flight")

    def expect(self, holds: bool, what: str) -> None:
        if not holds:
            self.problems.append(what)

    def tend(self) -> None:
        """Do what a supervisor does. Raises DependencyError if a worker ended that nobody has ended.

        Exactly once a worker may leave with exit code 3, when the broker does not answer the end of a transaction: it is
        started again. So is a Triton that died of itself.
        """
        if died := self.stage.tend():
            self.notes["triton_died"] = self.notes.get("triton_died", 0) + died
        for worker, start in list(self._starts.values()):
            if worker.exit_code == LEFT and self.mode == EXACTLY_ONCE:
                self.notes["started_again"] = self.notes.get("started_again", 0) + 1
                start()
            elif worker.exit_code not in (None, 0, -9):
                worker.check_alive()

    @contextmanager
    def watching(self, sent: Sequence[SentFrame] = ()) -> Iterator[Auditor]:
        """An auditor in the run's mode: under exactly_once it sees what is committed only."""
        with Auditor(self.topics, sent, committed_only=self.mode == EXACTLY_ONCE) as auditor:
            yield auditor

    def finish(
        self,
        sent: Sequence[SentFrame],
        dead: Collection[SentFrame] = (),
        either: Collection[SentFrame] = (),
        repeats_more: int = 0,
        before: Collection[str] = (),
    ) -> Audit:
        """Wait for all outcomes, end the workers as an operator would, look again, and judge.

        `dead` are the frames that belong on the dead-letter topic, all of them and no others but some of `either`;
        `repeats_more` are repeats that the fault asked for by itself. Predictions of the sources `before` are of a topic
        that is gone, and left out.
        """
        with self.watching(sent) as auditor:
            auditor.wait_until_done(DONE_S, self.tend)
            lag = wait_until_committed(self.topics, COMMITTED_S)
            for worker in self.workers:
                if worker.exit_code is None:
                    code = worker.stop()
                    self.expect(code == 0, f"exit code {code} at the end")
            auditor.look()
        found = [(message, _written(message, self.topics)) for message in auditor.records]
        found = [(message, record) for message, record in found if record.source not in before]
        records = [record for _, record in found]
        predictions = {_place(record): _outcome(message, record) for message, record in found if record.source}
        letters = [_outcome(message, record) for message, record in found if not record.source]
        audit = compare(self.topics.frames, sent, list(predictions.values()), letters)
        fence = verdict.fenced(record for record in records if record.source)
        fenced = compare(self.topics.frames, sent, [predictions[_place(record)] for record in fence], letters)
        self.expect(fenced.lost == audit.lost, f"{fenced.lost} lost for a reader that fences")
        self._expect_dead({letter.id for letter in letters}, dead, either)
        if self.counted:
            self._expect_counted_once(sent)
        allowed = verdict.repeats_allowed(records, self.strikes) + repeats_more
        by_id = verdict.repeated_by_id(records)
        repeats = (audit.duplicates_raw, allowed, by_id)
        self.problems += verdict.problems(self.mode, audit, self.ordered, repeats, fenced.out_of_order, lag)
        if self.problems:
            self.notes["repeats"] = verdict.repeats_told(records)
        recovery = verdict.recovery_s(records, self.strikes)
        self.judged = {
            "sent": audit.sent,
            "predicted": audit.predicted,
            "fallback": len({record.id for record in records if record.served_by == "fallback"}),
            "dead_lettered": audit.dead_lettered,
            "lost": audit.lost,
            "repeated_raw": audit.duplicates_raw,
            "repeated_allowed": allowed if self.mode != EXACTLY_ONCE else 0,
            "repeated_by_id": by_id,
            "out_of_order": audit.out_of_order,
            "out_of_order_fenced": fenced.out_of_order,
            "recovery_s": None if recovery is None else round(recovery, 2),
        }
        return audit

    def _expect_dead(self, letters: set[str], dead: Collection[SentFrame], either: Collection[SentFrame]) -> None:
        wanted, allowed = (
            {f"{self.topics.frames}/{frame.partition}/{frame.offset}" for frame in frames} for frames in (dead, either)
        )
        good = letters - wanted - allowed
        for ids, what in ((good, "good frames are dead letters"), (wanted - letters, "bad frames are none")):
            self.expect(not ids, f"{len(ids)} {what} ({', '.join(sorted(ids)[:5])})")

    def _expect_counted_once(self, sent: Sequence[SentFrame]) -> None:
        seen = audit_statistics(self.topics, sent, committed_only=self.mode == EXACTLY_ONCE)
        holds = seen.counted == seen.sent and not seen.uncovered_ids
        self.expect(
            holds, f"statistics count {seen.counted} of {seen.sent} frames, {len(seen.uncovered_ids)} are in none"
        )


def _outcome(message: Message, record: Written) -> Outcome:
    return Outcome(record.id, record.partition, record.offset, message.key())


def _place(record: Written) -> tuple[str, int, int]:
    return record.topic, record.partition, record.offset


def _written(message: Message, topics: Topics) -> Written:
    prediction = message.topic() == topics.predictions
    value = json.loads(message.value() or b"{}") if prediction else {}
    generation = value.get("generation")
    return Written(
        id=header(message, "ce_id" if prediction else "dlq-source").decode(),
        source=header(message, "ce_source").decode() if prediction else "",
        topic=str(message.topic()),
        partition=int(message.partition() or 0),
        offset=int(message.offset() or 0),
        at_s=message.timestamp()[1] / 1000,
        generation=-1 if generation is None else generation,
        served_by=value["model"]["served_by"] if prediction else "",
    )
