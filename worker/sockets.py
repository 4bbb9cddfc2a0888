"""kafka-python reads its sockets 4 KiB at a time, 24 calls for a frame, and copies a fetch twice to parse it.

Here it reads 256 KiB at a time and copies once. Over TLS it also forgets what came just before the broker hung up: why a
login was refused. It replaces private methods, so it does so only for the versions it was tried with.
"""

from __future__ import annotations

import logging
import ssl
from typing import Any

import kafka
import kafka.errors
from kafka.net import transport
from kafka.protocol import frame

log = logging.getLogger(__name__)

TRIED_VERSIONS = ("3.0.12",)
# Measured on 64 KiB frames: 4 KiB 570, 256 KiB 622 frames/s; larger gains nothing (the socket buffer is the limit).
PIECE_BYTES = 256 * 1024


def read_sockets_in_large_pieces() -> None:
    """Idempotent. Before the first client is made."""
    if kafka.__version__ in TRIED_VERSIONS:
        transport.KafkaTCPTransport._sock_recv = _sock_recv
        transport.KafkaSSLTransport._sock_recv = _tls_recv
        frame.KafkaBytes.read = _read
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


def _tls_recv(self: Any) -> tuple[bytes, Exception | None]:
    # What OpenSSL holds decrypted shows on no socket: all of it is read, one record of at most 16 KiB a call.
    pieces: list[bytes] = []
    size = 0
    error: Exception | None = None
    while size < PIECE_BYTES or self._sock.pending():
        try:
            data = self._sock.recv(PIECE_BYTES)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            break
        except OSError as cause:
            error = kafka.errors.KafkaConnectionError(cause)
            break
        if not data:
            error = kafka.errors.KafkaConnectionError("socket disconnected")
            break
        pieces.append(data)
        size += len(data)
    # The client drops data that comes with an error; the next read meets the error again.
    return b"".join(pieces), None if pieces else error


def _read(self: Any, size: int | None = None) -> bytes:
    # A bytearray's slice is a bytearray: the client's own way makes a second copy of a whole fetch for a moment.
    start = self._idx
    self._idx = len(self) if size is None else min(start + size, len(self))
    return bytes(memoryview(self)[start : self._idx])
