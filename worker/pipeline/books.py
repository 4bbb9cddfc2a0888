"""What the poll thread, the publisher and the client's I/O thread share: the ledger under one lock, and the byte budget."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from worker.frames import Frame
from worker.ingest.budget import Budget
from worker.ingest.ledger import Ledger

# What a frame costs beside its bytes: the objects that carry it. Keeps a backlog of tiny records inside the budget.
FRAME_OVERHEAD_BYTES = 1024


class Books:
    """One ledger, one lock, one budget. The lock is taken once a chunk or batch, never once a frame.

    `generation` is the group's as the poll thread last saw it; `membership` asks the consumer now, from any thread, and is
    there once the consumer is.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.generation = -1
        self.membership: Callable[[], Any]
        self._ledger = Ledger()
        self._lock = threading.Lock()

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """The ledger, alone."""
        with self._lock:
            yield self._ledger


def weight(frame: Frame) -> int:
    """Bytes a frame takes in the budget from its poll to its acknowledged outcome."""
    return len(frame.value or b"") + FRAME_OVERHEAD_BYTES
