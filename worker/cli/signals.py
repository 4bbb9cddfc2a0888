"""SIGTERM and SIGINT become an event; a second one ends the process at once.

Python runs its signal handlers between two steps of the main thread, where setting an event could wait for a lock that
this very thread holds, or not come to run while it is inside a library. So the signal's number goes through the
interpreter's wakeup pipe to a thread of its own.
"""

from __future__ import annotations

import logging
import os
import signal
import threading

log = logging.getLogger(__name__)


def stop_on_signals(stop: threading.Event) -> None:
    """Set `stop` on the first SIGTERM or SIGINT, end the process on the second. Call once, from the main thread."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    threading.Thread(target=_wait, args=(read_end, stop), name="signals", daemon=True).start()
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        # A handler has to be there, or the default action would end the process before anybody reads the pipe.
        signal.signal(number, lambda *_: None)


def _wait(read_end: int, stop: threading.Event) -> None:
    while number := os.read(read_end, 1):
        name = signal.Signals(number[0]).name
        if number[0] not in (signal.SIGTERM, signal.SIGINT):
            continue
        if stop.is_set():
            log.warning("%s came a second time: leaving at once; what is in flight comes again to the next owner", name)
            os._exit(128 + number[0])
        log.info("%s came: finishing what is in flight", name)
        stop.set()
