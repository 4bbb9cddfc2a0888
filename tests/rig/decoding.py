"""Validate and decode in a process of their own, as the worker calls them: the verdict, CPU seconds and peak memory.

Values go in over a pipe, figures come back as lines of JSON; a value that kills the process or keeps it busy is told from
those before it. Large blocks are mapped one by one there, so that the peak is what was held and not what malloc kept.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from tests.rig.hostile import PREDICTED
from worker.decode import decode, decode_bytes
from worker.decode.memory import OVERHEAD_BYTES
from worker.frames import Rejected
from worker.ingest.validate import ImageLimits, inspect

_ROOT = Path(__file__).parents[2]
_MAPPED_FROM = str(64 << 10)


class Decoded(NamedTuple):
    """What one value came to. `limit_bytes` is what the worker's own estimate allows the peak to be."""

    verdict: str
    detail: str
    cpu_s: float
    peak_bytes: int
    limit_bytes: int


class DecodingProcess:
    """The process, as a context manager."""

    def __init__(self, alarm_s: float = 5.0) -> None:
        self._alarm_s = alarm_s
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> DecodingProcess:
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": _MAPPED_FROM, "MALLOC_TRIM_THRESHOLD_": _MAPPED_FROM}
        self._child = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", "tests.rig.decoding"],
            cwd=_ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._child is not None
        self._child.kill()
        self._child.communicate()

    def decode(self, value: bytes | None) -> Decoded:
        """Raises RuntimeError if the process died of it, or was still busy after the alarm's seconds of wall time."""
        child = self._child
        assert child is not None
        assert child.stdin is not None
        assert child.stdout is not None
        alarm = threading.Timer(self._alarm_s, child.kill)
        try:
            child.stdin.write((-1 if value is None else len(value)).to_bytes(8, "big", signed=True) + (value or b""))
            child.stdin.flush()
            alarm.start()
            line = child.stdout.readline()
        finally:
            alarm.cancel()
        if not line:
            raise RuntimeError(f"decoding ended with {child.wait()} (negative: a signal; -9 after {self._alarm_s} s)")
        return Decoded(*json.loads(line))


def _memory(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


def _measured(value: bytes | None) -> Decoded:
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is resident now
    before, started = _memory("VmRSS"), os.times()
    limit = OVERHEAD_BYTES + len(value or b"")
    verdict, detail = PREDICTED, ""
    try:
        facts = inspect(value, ImageLimits())
        limit += decode_bytes(facts)
        image = decode(value or b"", facts)
        assert (image.pixels.shape[1], image.pixels.shape[0]) == facts.upright_size
    except Rejected as refusal:
        verdict, detail = refusal.rejection.reason, refusal.rejection.detail
    ended = os.times()
    cpu_s = ended.user + ended.system - started.user - started.system
    return Decoded(verdict, detail, cpu_s, max(0, _memory("VmHWM") - before), limit)


def _serve() -> None:
    stdin, answers = sys.stdin.buffer, sys.stdout
    while header := stdin.read(8):
        size = int.from_bytes(header, "big", signed=True)
        value = None if size < 0 else stdin.read(size)
        print(json.dumps(_measured(value)), file=answers, flush=True)


if __name__ == "__main__":
    _serve()
