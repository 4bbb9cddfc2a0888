"""Crash journal: which frame a decode thread held when native code took the process down, and how often that happened.

Each decode thread notes the frame it enters in a small mapped file; faulthandler adds, at a fatal signal, which thread
it was. The next worker that starts reads what dead ones left. A frame that crashed CRASHES workers is not decoded again
but dead-lettered. A killed worker (SIGKILL, power) leaves no trace of a fatal signal and accuses no frame.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import hashlib
import json
import logging
import mmap
import os
import re
import secrets
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

CRASHES = 3
# A topic's name has at most 249 characters; partition and offset add at most 30.
ENTRY_BYTES = 320
_HEAD = struct.Struct("<QH")  # thread ident, length of the frame's id
# Long enough for every restart of a crash loop, short enough that a repaired decoder soon starts with a clean slate.
FORGET_S = 24 * 3600.0
_CRASHED_THREAD = re.compile(r"^Current thread 0x([0-9a-f]+)", re.MULTILINE)


class CrashJournal:
    """One a process. `folder` outlives the process; workers of one `group` on one host share it.

    Raises OSError if the folder can't be written.
    """

    def __init__(self, folder: Path, group: str, threads: int) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        prefix = hashlib.sha256(group.encode()).hexdigest()[:16]
        self.suspects = _settle(folder, prefix)
        name = f"{prefix}-{secrets.token_hex(8)}"
        self._paths = (folder / f"{name}.journal", folder / f"{name}.fatal")
        self._file = self._paths[0].open("w+b")
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._file.truncate(ENTRY_BYTES * threads)
        self._map = mmap.mmap(self._file.fileno(), ENTRY_BYTES * threads)
        self._fatal = self._paths[1].open("w")
        faulthandler.enable(self._fatal)

    def enter(self, thread: int, frame_id: str) -> None:
        """Decode thread `thread` (0, 1, ...) is about to decode this frame."""
        content = frame_id.encode()[: ENTRY_BYTES - _HEAD.size]
        at = thread * ENTRY_BYTES
        _HEAD.pack_into(self._map, at, threading.get_ident(), len(content))
        self._map[at + _HEAD.size : at + _HEAD.size + len(content)] = content

    def leave(self, thread: int) -> None:
        """It is through with it."""
        _HEAD.pack_into(self._map, thread * ENTRY_BYTES, 0, 0)

    def close(self) -> None:
        """A worker that ends in order leaves nothing."""
        faulthandler.enable()  # back to stderr
        self._fatal.close()
        self._map.close()
        for path in self._paths:
            path.unlink(missing_ok=True)
        self._file.close()


def _settle(folder: Path, prefix: str) -> frozenset[str]:
    """Add what dead workers left to the counts; the ids of frames that crashed too many."""
    counts_path = folder / f"{prefix}.crashes.json"
    with (folder / f"{prefix}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        now = time.time()
        counts = {
            frame_id: (count, at) for frame_id, (count, at) in _read_counts(counts_path).items() if now - at < FORGET_S
        }
        for frame_id in _guilty(folder, prefix):
            counts[frame_id] = (counts.get(frame_id, (0, now))[0] + 1, now)
            log.error("decoding frame %s crashed a worker, %d of %d times", frame_id, counts[frame_id][0], CRASHES)
        counts_path.write_text(json.dumps(counts), encoding="utf-8")
    return frozenset(frame_id for frame_id, (count, _) in counts.items() if count >= CRASHES)


def _read_counts(path: Path) -> dict[str, tuple[int, float]]:
    try:
        return {frame_id: (int(count), float(at)) for frame_id, (count, at) in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}  # the first start, or a torn write: counting begins anew


def _guilty(folder: Path, prefix: str) -> Iterator[str]:
    """Frames that crashed workers which are dead now; their files are removed."""
    for path in sorted(folder.glob(f"{prefix}-*.journal")):
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held while its worker lives
            fatal = path.with_suffix(".fatal")
            yield from _frame_of_crash(file.read(), fatal.read_text(errors="replace") if fatal.exists() else "")
            fatal.unlink(missing_ok=True)
            path.unlink(missing_ok=True)


def _frame_of_crash(entries: bytes, report: str) -> Iterator[str]:
    """The frame that the crashed thread was decoding, if it was a decode thread."""
    thread = _CRASHED_THREAD.search(report)
    if thread is None:
        return
    ident = int(thread.group(1), 16)
    for at in range(0, len(entries), ENTRY_BYTES):
        owner, length = _HEAD.unpack_from(entries, at)
        if owner == ident and length:
            yield entries[at + _HEAD.size : at + _HEAD.size + length].decode(errors="replace")
            log.error("the last words of the worker that crashed:\n%s", report.strip())


def open_journal(folder: str, group: str, threads: int) -> CrashJournal | None:
    """The journal in `folder` ("": one of ours under the system's temporary folder); None, with a warning, if it can't be."""
    # Survives a restart of the process, not of the machine or container: there, name a mounted folder.
    path = Path(folder) if folder else Path(tempfile.gettempdir()) / f"headrace-{os.getuid()}"
    try:
        return CrashJournal(path, group, threads)
    except OSError as error:
        log.warning("no crash journal in %s (%s): a frame that crashes the decoder will crash it again", path, error)
        return None
