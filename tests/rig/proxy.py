"""A TCP proxy that stands for the network between a client and a server, to be cut, silenced and healed.

Bytes go through unchanged in both directions, but for what a test asks to `spoil`. It runs in a thread of its own, so
that a test stays synchronous; made the advertised listener of a broker (`KafkaServer.start(proxied=True)`) it carries
all of a client's traffic.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any

_CHUNK_BYTES = 262_144  # a frame or two at a time: the proxy must not be what is measured
_ANSWER_S = 10.0  # bound of a call into the proxy's thread

See = Callable[[bytes], None]


def _look_away(data: bytes) -> None:
    return


class TcpProxy:
    """Listens on a free port of 127.0.0.1 and forwards to `target_port` there, which may change for new connections."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self._refusing = False
        self._mark = b""
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp-proxy", daemon=True)
        self._thread.start()
        self._server = self._call(self._listen())
        self.port = int(self._server.sockets[0].getsockname()[1])

    def __enter__(self) -> TcpProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Break all connections, and each new one at once, until healed."""

        def act() -> None:
            self._refusing = True
            self._abort_all()

        self._do(act)

    def pause(self) -> None:
        """Connections stay and are still accepted, but no byte goes through until healed."""
        self._do(lambda: self._open.clear())

    def spoil(self, mark: bytes) -> None:
        """The first byte of the next `mark` that goes by whole is changed, so that a checksum over it fails."""
        self._do(lambda: setattr(self, "_mark", mark))

    def heal(self) -> None:
        def act() -> None:
            self._refusing = False
            self._open.set()

        self._do(act)

    def close(self) -> None:
        """Break all connections and stop listening. May be called again."""
        if self._loop.is_closed():
            return

        def act() -> None:
            self._server.close()
            self._abort_all()

        self._do(act)
        self._call(self._end_connections())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_ANSWER_S)
        self._loop.close()

    async def _listen(self) -> asyncio.Server:
        self._open = asyncio.Event()
        self._open.set()
        return await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_CHUNK_BYTES)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target_port, limit=_CHUNK_BYTES)
        except OSError:  # the server is down: the client sees a connection that ends at once
            writer.transport.abort()
            return
        pair = {writer, back}
        self._writers |= pair
        try:
            see_asked, see_answered = self._watchers()
            await asyncio.gather(self._pump(reader, back, see_asked), self._pump(there, writer, see_answered))
        finally:
            self._writers -= pair
            for end in pair:
                end.transport.abort()

    def _watchers(self) -> tuple[See, See]:
        """For a new connection: called with each chunk from the client, and with each from the server, before it goes on."""
        return _look_away, _look_away

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, see: See) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                see(data)
                await self._open.wait()
                if self._mark and self._mark in data:
                    place = data.index(self._mark)
                    data, self._mark = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :], b""
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError, RuntimeError):
            writer.close()

    async def _end_connections(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _abort_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    def _do(self, act: Callable[[], None]) -> None:
        async def once() -> None:
            act()

        self._call(once())

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_ANSWER_S)
