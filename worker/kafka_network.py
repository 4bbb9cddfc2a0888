"""What kafka-python gets wrong between the socket and its clients, mended for all of them. `docs/delivery.md` has the list.

It reads its sockets 4 KiB at a time, 24 calls for a frame, and copies a fetch twice to parse it: here it reads 256 KiB and
copies once. Over TLS it forgets what came just before the broker hung up (why a login was refused), and waits for a
handshake without end. Private methods are replaced, so only in the versions this was tried with.
"""

from __future__ import annotations

import logging
import ssl
import time
from typing import Any

import kafka
import kafka.cluster
import kafka.errors
from kafka.net import manager, transport
from kafka.protocol import frame

log = logging.getLogger(__name__)

TRIED_VERSIONS = ("3.0.12",)
# Measured on 64 KiB frames: 4 KiB 570, 256 KiB 622 frames/s; larger gains nothing (the socket buffer is the limit).
PIECE_BYTES = 256 * 1024
HANDSHAKE_S = 10.0  # as long as the client gives a TCP connection
REFRESH_AGAIN_S = 1.0

_connect = manager.KafkaConnectionManager._build_transport
_refresh = kafka.cluster.ClusterMetadata._refresh_loop


def mend_network() -> None:
    """Idempotent. Before the first client is made."""
    if kafka.__version__ not in TRIED_VERSIONS:
        log.debug("kafka-python %s was not tried with what is mended here, and stays as it is", kafka.__version__)
        return
    transport.KafkaTCPTransport._sock_recv = _sock_recv
    transport.KafkaSSLTransport._sock_recv = _tls_recv
    transport.KafkaSSLTransport.handshake = _handshake
    manager.KafkaConnectionManager._build_transport = _build_transport
    kafka.cluster.ClusterMetadata._refresh_loop = _refresh_loop
    frame.KafkaBytes.read = _read


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


async def _handshake(self: Any) -> None:
    # Whatever is asked of a node whose handshake is under way waits behind it, without a deadline of its own.
    until = time.monotonic() + HANDSHAKE_S
    try:
        while True:
            try:
                self._sock.do_handshake()
                return
            except ssl.SSLWantReadError:
                await self._net.wait_read(self._sock, until)
            except ssl.SSLWantWriteError:
                await self._net.wait_write(self._sock, until)
    except Exception:
        self._sock.close()  # nobody else does before the garbage collector
        raise


async def _build_transport(self: Any, node: Any, timeout_at: float | None = None) -> Any:
    # A reset while TLS is set up, or a certificate that is just being replaced, comes out as it is, and ends the client's
    # tasks that retry a KafkaError only.
    try:
        return await _connect(self, node, timeout_at)
    except kafka.errors.KafkaError:
        raise
    except Exception as cause:
        raise kafka.errors.KafkaConnectionError(cause) from cause


async def _refresh_loop(self: Any) -> None:
    # Once ended by an error nobody starts it again: the client would never hear of another leader.
    while True:
        try:
            await _refresh(self)
            return
        except Exception as error:
            if self.closed or not self._manager.bootstrapped:
                raise  # whoever makes the client hears of it
            log.warning("refreshing the metadata failed, trying again: %s: %s", type(error).__name__, error)
            await self._manager._net.sleep(REFRESH_AGAIN_S)


def _read(self: Any, size: int | None = None) -> bytes:
    # A bytearray's slice is a bytearray: the client's own way makes a second copy of a whole fetch for a moment.
    start = self._idx
    self._idx = len(self) if size is None else min(start + size, len(self))
    return bytes(memoryview(self)[start : self._idx])
