"""The demo's traffic: sends the frames, reads what comes out, and knows when it is over.

Frames go to the broker through a `Sender`, outcomes come back through a `Reader` on both output topics and are handed to
the audit and the report.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from worker.cli.audit import Audit, Outcome
from worker.cli.broker import Reader, Record, Sender
from worker.cli.demo_frames import DemoFrame
from worker.cli.demo_report import Report
from worker.embedded.process import ServerProcess
from worker.publish.messages import Message, rfc3339
from worker.records import Prediction
from worker.settings import Settings

PACED_ONE_IN = 4  # frames of so many are kept for the paced phase
PACED_LOAD = 0.5  # of the throughput just measured: waiting in queues is then small, as it should be in service
UNMEASURED_RATE = 10.0  # frames a second where so few were sent at once that they made no rate; any machine keeps up
STALL_S = 60.0  # without any outcome, the worker's start included: what is missing then is lost
PICTURED = 24  # frames with detections are kept for drawing: all streams are among them
_POLL_S = 0.1
_QUIET_S = 1.0  # after the worker has left, its last records are long written; one empty second ends the reading


class DemoRun:
    """One run of the demo's traffic against a worker. `outcome` is told of each frame's first outcome."""

    def __init__(
        self,
        settings: Settings,
        frames: Sequence[DemoFrame],
        worker: ServerProcess,
        report: Report,
        outcome: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._frames = frames
        self._by_id = {frame.id: frame for frame in frames}
        self.pictured: list[tuple[DemoFrame, dict[str, Any]]] = []  # with the fields of their predictions
        self._worker = worker
        self._report = report
        self._outcome = outcome
        burst = len(frames) - len(frames) // PACED_ONE_IN
        self._burst, self._paced = frames[:burst], frames[burst:]
        self._paced_ids = frozenset(frame.id for frame in self._paced)
        names = settings.topics
        self.audit = Audit(
            good=[frame.id for frame in frames if not frame.is_bad],
            bad=[frame.id for frame in frames if frame.is_bad],
            dead_letters=names.dead_letters,
        )

    def traffic(self, reader: Reader, sender: Sender) -> None:
        """Send the frames and return when each has an outcome, or none has come for too long."""
        for frame in self._burst:
            sender.send(self._message(frame))
        sender.drain()
        self._read_until(reader, len(self._burst))
        if self.audit.finished < len(self._burst):
            return  # the worker ended or hangs: what is missing is lost, and more frames would only be lost too
        rate = self._report.frames_per_second * PACED_LOAD or UNMEASURED_RATE
        started = time.monotonic()
        for number, frame in enumerate(self._paced):
            due = started + number / rate
            while (wait := due - time.monotonic()) > 0:
                self._take(reader, min(wait, _POLL_S))
            sender.send(self._message(frame))
        sender.drain()
        self._read_until(reader, len(self._frames))

    def rest(self, reader: Reader) -> None:
        """Read what else came, once the worker has left: duplicates are found here."""
        quiet_since = time.monotonic()
        while time.monotonic() - quiet_since < _QUIET_S:
            if self._take(reader, _POLL_S):
                quiet_since = time.monotonic()

    def _read_until(self, reader: Reader, count: int) -> None:
        last = time.monotonic()
        while self.audit.finished < count and time.monotonic() - last < STALL_S and self._worker.exit_code is None:
            if self._take(reader, _POLL_S):
                last = time.monotonic()

    def _take(self, reader: Reader, timeout_s: float) -> int:
        taken = 0
        for record in reader.poll(timeout_s):
            taken += 1
            before = self.audit.finished
            frame_id, source = self._account(record)
            self.audit.add(Outcome(frame_id, source, record.key, record.topic))
            if self.audit.finished > before:
                self._outcome()
        return taken

    def _account(self, record: Record) -> tuple[str, str]:
        """Frame id and source id of an outcome; tells the report."""
        if record.topic == self._settings.topics.dead_letters:
            headers = {name: value.decode("utf-8", "replace") for name, value in record.headers.items()}
            self._report.dead_letter(headers.get("dlq-reason", "unknown"))
            return headers.get("frame-id", ""), headers.get("dlq-source", "")
        prediction = msgspec.json.decode(record.value or b"", type=Prediction)
        self._report.prediction(prediction, paced=prediction.frame_id in self._paced_ids)
        if prediction.detections and len(self.pictured) < PICTURED and prediction.frame_id in self._by_id:
            self.pictured.append((self._by_id[prediction.frame_id], {"detections": prediction.detections}))
        return prediction.frame_id or "", prediction.id

    def _message(self, frame: DemoFrame) -> Message:
        captured_at = rfc3339(time.time_ns() // 1_000_000).encode()
        headers = [("frame-id", frame.id.encode()), ("captured-at", captured_at), ("content-type", b"image/jpeg")]
        return Message(self._settings.topics.frames, frame.key, frame.value, headers)
