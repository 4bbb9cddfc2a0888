"""Dead letters read again: what they say, what a replay sends and what it refuses, and how they are shown."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.cli import main
from worker.cli.dlq import line, since_ms
from worker.errors import ConfigurationError
from worker.frames import Frame, Reason, Rejection, SourcePartition, Stage
from worker.publish.messages import Composer, Message, Target
from worker.publish.replay import MAX_REPLAYS, DeadLetter, Plan, Selection, sent_back
from worker.topics import TopicFacts

FRAMES = TopicFacts("frames", "id", 4, 1_000_000)


def died(frame: Frame, at: int = 0, limit: int = 1_000_000, reason: Reason = Reason.CORRUPT) -> DeadLetter:
    """The dead letter that a worker writes of this frame, as it lies at offset `at` of partition 0."""
    target = Target("frames.dlq", 4, limit)
    message = Composer(target, target, target, "kafka://c/frames/t", "classify").dead_letter(
        frame, Rejection(reason, "broken in two", Stage.DECODE)
    )
    return DeadLetter("frames.dlq", 0, at, 1000 + at, message.key, message.value, tuple(message.headers))


def frame(offset: int = 7, partition: int = 3, **changes: Any) -> Frame:
    given_: dict[str, Any] = {"value": b"not quite a jpeg", "key": b"cam-1"}
    return Frame(SourcePartition("frames", partition), offset, **(given_ | changes))


def back(letter: DeadLetter) -> Message:
    message = sent_back(letter, FRAMES)
    assert isinstance(message, Message), message
    return message


def failed_again(letter: DeadLetter, offset: int, at: int) -> DeadLetter:
    """The letter of the frame that was sent back, came in at `offset`, and failed once more."""
    sent = back(letter)
    return died(frame(offset, value=sent.value, key=sent.key, headers=tuple(sent.headers)), at)


names = st.sampled_from(["frame-id", "captured-at", "x", "y"])
headers = st.lists(st.tuples(names, st.binary(min_size=1, max_size=4)), max_size=6)


@given(st.binary(min_size=1, max_size=20), st.none() | st.binary(max_size=6), headers)
def test_a_frame_goes_back_as_it_came_with_its_first_id_and_a_count(
    value: bytes, key: bytes | None, originals: list[tuple[str, bytes]]
) -> None:
    sent = back(died(frame(value=value, key=key, headers=tuple(originals))))
    assert (sent.topic, sent.partition, sent.key, sent.value) == ("frames", 3, key, value)
    assert sent.headers == [*originals, ("replay-of", b"frames/3/7"), ("replay-count", b"1")]


@given(st.lists(st.tuples(names, st.none() | st.binary(min_size=1, max_size=3)), max_size=6))
def test_headers_mean_the_same_after_a_replay_though_a_null_one_cant_be_written(
    originals: list[tuple[str, bytes | None]],
) -> None:
    def meaning(pairs: Any) -> dict[str, bytes]:  # of a repeated one the last wins; if that is null it is missing
        return {name: value for name, value in dict(pairs).items() if value is not None}

    sent = back(died(frame(headers=tuple(originals))))
    assert all(value is not None for _, value in sent.headers)
    assert meaning(sent.headers) == meaning(originals) | {"replay-of": b"frames/3/7", "replay-count": b"1"}


def test_a_frame_that_fails_again_keeps_its_first_id_and_its_count_until_the_fourth_replay_is_refused() -> None:
    letter = died(frame())
    for number in range(1, MAX_REPLAYS + 1):
        letter = failed_again(letter, offset=100 + number, at=number)
        assert (letter.replay_of, letter.replays) == ("frames/3/7", number)
        assert letter.source == f"frames/3/{100 + number}"
    refusal = sent_back(letter, FRAMES)
    assert isinstance(refusal, str)
    assert "sent back 3 times" in refusal


@pytest.mark.parametrize(
    ("letter", "says"),
    [
        (died(frame(value=None)), "no value"),
        (died(frame(value=None, key=None)), "no value"),
        (died(frame(value=b"")), "no value"),
        (died(frame(value=b"v" * 5000), limit=2000), "sha256"),
        (died(frame(key=b"k" * 5000), limit=2000), "key and headers"),
        (died(Frame(SourcePartition("other", 0), 1, b"x")), "--set topics.frames=other"),
        (DeadLetter("frames.dlq", 0, 0, 0, b"k", b"v", ()), "dlq-source"),
        (DeadLetter("frames.dlq", 0, 0, 0, b"k", b"v", (("dlq-source", b"../../etc/1/2"),)), "dlq-source"),
        (died(frame(value=b"v" * 1_000_000), limit=2_000_000), "max.message.bytes"),
    ],
)
def test_what_cant_be_sent_back_is_refused_with_the_reason(letter: DeadLetter, says: str) -> None:
    refusal = sent_back(letter, FRAMES)
    assert isinstance(refusal, str)
    assert says in refusal


def test_a_frame_of_a_partition_that_is_no_more_goes_where_its_key_says() -> None:
    assert back(died(frame(partition=9))).partition is None


def test_a_count_that_no_replay_has_written_counts_as_none() -> None:
    for content in (b"-3", b"many", b"\xff", b"", "³".encode()):
        assert died(frame(headers=(("replay-count", content),))).replays == 0


def decide(letters: list[DeadLetter], limit: int = 0, **options: Any) -> Any:
    plan = Plan(FRAMES, **options)
    for letter in letters:
        plan.add(letter)
    return plan.decide(limit)


def test_of_all_letters_of_a_frame_only_the_newest_is_sent() -> None:
    first = died(frame(), at=0)
    second = failed_again(first, offset=8, at=2)
    third = failed_again(second, offset=9, at=5)
    other = died(frame(offset=20), at=3)
    found = decide([first, second, other, third])
    assert found.chosen == {(0, 5), (0, 3)}
    # A worker that was killed wrote two of them again.
    assert decide([first, second, other, third, died(frame(), at=6), failed_again(second, 9, 7)]) == found


def test_frames_of_a_topic_made_anew_share_their_ids_with_older_ones_and_are_told_apart() -> None:
    assert decide([died(frame(), at=0), died(frame(value=b"another"), at=1)]).chosen == {(0, 0), (0, 1)}


def test_a_second_replay_takes_only_what_came_after_the_first() -> None:
    letters = [died(frame(offset=n), at=n) for n in range(6)]
    found = decide(letters, position={0: 4})
    assert found.chosen == {(0, 4), (0, 5)}
    assert found.passed == 4
    # Also when a killed worker wrote an old one again, behind the position.
    assert decide([*letters, died(frame(offset=1), at=6)], position={0: 4}).chosen == found.chosen


def test_a_limit_takes_the_first_that_can_be_sent_and_counts_what_is_left() -> None:
    letters = [died(frame(offset=n, value=b"" if n == 1 else b"v"), at=n) for n in range(5)]
    found = decide(letters, limit=2)
    assert found.chosen == {(0, 0), (0, 2)}
    assert found.left == 2
    assert [source for source, _ in found.refused] == ["frames/3/1"]


def test_reason_stream_and_time_choose_together() -> None:
    letters = [
        died(frame(offset=0), at=0),
        died(frame(offset=1), at=1, reason=Reason.TRUNCATED),
        died(frame(offset=2, key=b"cam-2"), at=2),
        died(frame(offset=3), at=3),
    ]
    selection = Selection(frozenset({"corrupt"}), frozenset({"cam-1"}), 1001)
    found = decide(letters, selection=selection)
    assert found.chosen == {(0, 3)}
    assert found.reasons == {"corrupt": 1}


def test_a_frame_is_asked_for_by_its_first_id_or_a_later_one_and_an_id_that_is_not_there_is_named() -> None:
    first = died(frame(), at=0)
    letters = [first, died(frame(offset=20), at=1), failed_again(first, offset=8, at=2)]
    for id_ in ("frames/3/7", "frames/3/8"):
        assert decide(letters, sources=[id_]).chosen == {(0, 2)}
    assert decide(letters, sources=["frames/3/20", "frames/3/21"]).unknown == ["frames/3/21"]


def test_a_line_has_what_an_operator_needs_and_no_control_characters() -> None:
    letter = failed_again(died(frame(key=b"cam\x1b[2J\x07")), 8, 1)
    shown = line(letter).plain
    for part in (
        "cam?[2J?",
        "frames/3/8",
        "corrupt",
        "decode",
        "16",
        "sent back once, first frames/3/7",
        "broken in two",
    ):
        assert part in shown
    assert shown.isprintable()


def test_since_is_a_span_or_a_time() -> None:
    now = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
    noon = int(now.timestamp() * 1000)
    assert since_ms("", now) is None
    assert since_ms("90s", now) == noon - 90_000
    assert since_ms("2h", now) == noon - 7_200_000
    assert since_ms("7d", now) == noon - 7 * 86_400_000
    assert since_ms("2026-11-23T12:00:00Z", now) == noon
    assert since_ms("2026-11-23T13:00:00+01:00", now) == noon
    for wrong in ("yesterday", "5", "5w", "99999999999d"):
        with pytest.raises(ConfigurationError, match="--since"):
            since_ms(wrong, now)


def test_a_wrong_option_ends_with_2_before_a_broker_is_asked(tmp_path: Path) -> None:
    assert main(["dlq", "list", "--reason", "ugly"]) == 2
    assert main(["dlq", "replay", "--since", "yesterday"]) == 2
    (tmp_path / "file").touch()
    assert main(["dlq", "list", "--save", str(tmp_path / "file")]) == 2
