"""A proxy before a broker that knows Kafka's requests apart, so that a test can strike at the moment of a certain one.

Both streams are cut into messages by their length prefixes alone: of a request only the API key and the correlation id
are read, of an answer only the correlation id. Bytes still go through unchanged.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

from tests.rig.proxy import TcpProxy

_LENGTH = struct.Struct(">i")
_REQUEST = struct.Struct(">ihhi")  # length, API key, API version, correlation id
_ANSWER = struct.Struct(">ii")  # length, correlation id


class Api(enum.IntEnum):
    """Requests a test may wait for, by their keys in the protocol."""

    PRODUCE = 0
    OFFSET_COMMIT = 8
    END_TXN = 26
    TXN_OFFSET_COMMIT = 28


class Moment(NamedTuple):
    """What is waited for: the request itself, or its answer, and whether all bytes are held from there on."""

    apis: frozenset[Api]
    answered: bool
    freeze: bool
    seen: Future[Api]


class Conversation:
    """One connection's requests and answers. Chunks may end anywhere, also within a head."""

    def __init__(self) -> None:
        self._asked = _Heads(_REQUEST)
        self._answered = _Heads(_ANSWER)
        self._waiting: dict[int, int] = {}  # correlation id -> API key

    def requests(self, data: bytes) -> list[int]:
        """API keys of the requests whose heads end in this chunk from the client."""
        heads = self._asked.feed(data)
        self._waiting.update({correlation: key for _, key, _, correlation in heads})
        return [key for _, key, _, _ in heads]

    def answers(self, data: bytes) -> list[int]:
        """API keys of the requests whose answers begin in this chunk from the broker."""
        keys = [self._waiting.pop(correlation, None) for _, correlation in self._answered.feed(data)]
        return [key for key in keys if key is not None]


class _Heads:
    """Cuts a stream into messages and hands out their heads."""

    def __init__(self, head: struct.Struct) -> None:
        self._head = head
        self._begun = b""
        self._skip = 0  # bytes of the message at hand that are still to come

    def feed(self, data: bytes) -> list[tuple[int, ...]]:
        found = []
        place = 0
        while place < len(data):
            if self._skip:
                step = min(self._skip, len(data) - place)
                self._skip -= step
                place += step
                continue
            step = self._head.size - len(self._begun)
            self._begun += data[place : place + step]
            place += step
            if len(self._begun) == self._head.size:
                head = self._head.unpack(self._begun)
                found.append(head)
                self._skip = head[0] + _LENGTH.size - self._head.size
                self._begun = b""
        return found


class KafkaProxy(TcpProxy):
    """A `TcpProxy` before a broker, with `moment`."""

    def __init__(self, target_port: int) -> None:
        self._moment: Moment | None = None
        super().__init__(target_port)

    def moment(self, *apis: Api, answered: bool = False, freeze: bool = True) -> Future[Api]:
        """The first such request from now on, or with `answered` the broker's answer to one; replaces what was waited for.

        With `freeze` neither it nor anything after it goes through, in both directions and on all connections, until
        `heal`; after `cut` it is lost for good.
        """
        seen: Future[Api] = Future()
        self._do(lambda: setattr(self, "_moment", Moment(frozenset(apis), answered, freeze, seen)))
        return seen

    def _watchers(self) -> tuple[Callable[[bytes], None], Callable[[bytes], None]]:
        conversation = Conversation()

        def ask(data: bytes) -> None:
            self._compare(conversation.requests(data), answered=False)

        def answer(data: bytes) -> None:
            self._compare(conversation.answers(data), answered=True)

        return ask, answer

    def _compare(self, keys: list[int], answered: bool) -> None:
        moment = self._moment
        if moment is None or moment.answered != answered:
            return
        hit = next((key for key in keys if key in moment.apis), None)
        if hit is not None:
            self._moment = None
            if moment.freeze:
                self._open.clear()
            moment.seen.set_result(Api(hit))
