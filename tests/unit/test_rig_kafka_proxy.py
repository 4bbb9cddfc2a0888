from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from tests.rig.kafka_proxy import Api, Conversation

Message = tuple[int, int, bytes]  # API key, correlation id, body

messages = st.lists(
    st.tuples(st.sampled_from([int(api) for api in Api]), st.integers(0, 2**31 - 1), st.binary(max_size=40)),
    unique_by=lambda message: message[1],
)


def requests(asked: list[Message]) -> bytes:
    return b"".join(struct.pack(">ihhi", 8 + len(body), key, 9, number) + body for key, number, body in asked)


def answers(asked: list[Message]) -> bytes:
    return b"".join(struct.pack(">ii", 4 + len(body), number) + body for _, number, body in asked)


def chunks(data: bytes, size: int) -> list[bytes]:
    return [data[place : place + size] for place in range(0, len(data), size)]


@given(messages, st.integers(1, 50))
def test_requests_and_their_answers_are_known_however_the_stream_is_cut(asked: list[Message], size: int) -> None:
    conversation = Conversation()
    keys = [key for key, _, _ in asked]
    assert [key for chunk in chunks(requests(asked), size) for key in conversation.requests(chunk)] == keys
    assert [key for chunk in chunks(answers(asked), size) for key in conversation.answers(chunk)] == keys


def test_an_answer_to_nothing_that_was_asked_is_passed_over() -> None:
    assert Conversation().answers(answers([(0, 7, b"x")])) == []
