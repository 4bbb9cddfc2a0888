from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.rig.proxy import TcpProxy
from worker.embedded.process import free_port

LIVENESS_S = 10.0
SILENCE_S = 0.3


@pytest.fixture
def echo() -> Iterator[int]:
    """Port of a server that sends back what it gets, one thread a connection."""

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65536):
                connection.sendall(data)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def connect(proxy: TcpProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=LIVENESS_S)


def ask(connection: socket.socket, text: bytes) -> bytes:
    connection.sendall(text)
    return receive(connection, len(text))


def receive(connection: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count and (more := connection.recv(count - len(got))):
        got += more
    return got


def test_bytes_go_through_unchanged_in_both_directions(echo: int) -> None:
    text = os.urandom(2**20)
    with TcpProxy(echo) as proxy, connect(proxy) as connection:
        writer = threading.Thread(target=connection.sendall, args=(text,))
        writer.start()
        assert receive(connection, len(text)) == text
        writer.join()


def test_a_cut_breaks_connections_and_each_new_one_until_healed(echo: int) -> None:
    def is_broken(connection: socket.socket) -> bool:
        try:
            return ask(connection, b"?") == b""
        except ConnectionError:
            return True

    with TcpProxy(echo) as proxy:
        with connect(proxy) as connection:
            assert ask(connection, b"one") == b"one"
            proxy.cut()
            assert is_broken(connection)
        with connect(proxy) as connection:
            assert is_broken(connection)
        proxy.heal()
        with connect(proxy) as connection:
            assert ask(connection, b"two") == b"two"


def test_a_pause_holds_bytes_and_healing_lets_them_go_on(echo: int) -> None:
    with TcpProxy(echo) as proxy, connect(proxy) as connection:
        assert ask(connection, b"one") == b"one"
        proxy.pause()
        connection.sendall(b"two")
        connection.settimeout(SILENCE_S)
        with pytest.raises(TimeoutError):
            connection.recv(3)
        connection.settimeout(LIVENESS_S)
        proxy.heal()
        assert receive(connection, 3) == b"two"


def test_a_server_that_is_down_looks_like_a_connection_that_ends() -> None:
    with TcpProxy(free_port()) as proxy, connect(proxy) as connection, contextlib.suppress(ConnectionError):
        assert connection.recv(1) == b""
