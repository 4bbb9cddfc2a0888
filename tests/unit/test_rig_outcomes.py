from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.rig.outcomes import Outcome, SentFrame, StatisticsRange, compare, compare_statistics

SENT = [SentFrame(partition, offset, b"cam-%d" % (offset % 2)) for partition in (0, 1) for offset in range(6)]
IDS = [f"frames/{frame.partition}/{frame.offset}" for frame in SENT]


def records(sent: list[SentFrame], output_partition: int = 0) -> list[Outcome]:
    """An outcome for each, in the order given."""
    return [
        Outcome(f"frames/{frame.partition}/{frame.offset}", output_partition, offset, frame.key)
        for offset, frame in enumerate(sent)
    ]


def test_each_frame_once_and_in_order_is_clean() -> None:
    audit = compare("frames", SENT, records(SENT[:-1]), records(SENT[-1:]))
    assert audit.problems == []
    assert (audit.sent, audit.predicted, audit.dead_lettered) == (12, 11, 1)
    assert str(audit) == "12 sent, 11 predicted, 1 dead-lettered: each once and in order"


@given(st.sets(st.sampled_from(range(len(SENT)))))
def test_every_planted_loss_is_named(missing: set[int]) -> None:
    kept = [frame for number, frame in enumerate(SENT) if number not in missing]
    audit = compare("frames", SENT, records(kept), [])
    assert set(audit.lost_ids) == {IDS[number] for number in missing}
    assert audit.lost == len(missing)
    assert audit.duplicates_raw == audit.out_of_order == 0


@given(st.lists(st.sampled_from(range(len(SENT)))))
def test_every_planted_duplicate_is_counted_raw_and_by_id_and_is_no_disorder(again: list[int]) -> None:
    audit = compare("frames", SENT, records(SENT + [SENT[number] for number in again]), [])
    assert audit.duplicates_raw == len(again)
    assert set(audit.duplicate_ids) == {IDS[number] for number in again}
    assert audit.lost == audit.out_of_order == 0


@given(st.permutations(SENT))
def test_the_order_is_clean_exactly_if_each_partition_and_key_is_sorted(order: list[SentFrame]) -> None:
    audit = compare("frames", SENT, records(order), [])
    groups = {(frame.partition, frame.key) for frame in SENT}
    runs = [[frame.offset for frame in order if (frame.partition, frame.key) == group] for group in groups]
    assert (audit.out_of_order == 0) == all(run == sorted(run) for run in runs)


def test_a_swap_names_the_frame_that_came_late() -> None:
    swapped = [SENT[2], SENT[0], *SENT[4:]]  # the same partition and key
    assert compare("frames", SENT, records(swapped), []).out_of_order_ids == ("frames/0/0",)


def test_frames_of_other_keys_and_partitions_may_overtake() -> None:
    assert compare("frames", SENT, records([SENT[1], SENT[0], SENT[6], SENT[2]]), []).out_of_order == 0


def test_where_records_lie_decides_the_order_not_how_they_were_read() -> None:
    assert compare("frames", SENT, records(SENT)[::-1], []).out_of_order == 0


def test_a_key_scattered_over_output_partitions_has_no_order() -> None:
    scattered = records(SENT[:1], 0) + records(SENT[2:3], 1)
    assert compare("frames", SENT, scattered, []).out_of_order_ids == ("frames/0/2",)


def test_a_frame_both_predicted_and_dead_lettered_is_both_and_a_duplicate() -> None:
    audit = compare("frames", SENT, records(SENT), records(SENT[:1]))
    assert audit.both_ids == audit.duplicate_ids == ("frames/0/0",)


def test_an_outcome_of_a_frame_nobody_sent_is_named() -> None:
    audit = compare("frames", SENT, [*records(SENT), Outcome("frames/0/99", 0, 99, b"cam-1")], [])
    assert audit.unknown_ids == ("frames/0/99",)


def test_an_outcome_with_another_key_is_named() -> None:
    wrong = [Outcome("frames/0/0", 0, 0, b"cam-9"), *records(SENT[1:], 1)]
    assert compare("frames", SENT, wrong, []).changed_key_ids == ("frames/0/0",)


def test_problems_name_the_kind_the_number_and_the_first_ids() -> None:
    (problem,) = compare("frames", SENT, [], []).problems
    assert problem == "12 lost (frames/0/0, frames/0/1, frames/0/2, frames/0/3, frames/0/4)"


def span(start: int, end: int, generation: int, offset: int, frames: int | None = None) -> StatisticsRange:
    return StatisticsRange(0, start, end, end - start if frames is None else frames, generation, offset)


def test_statistics_ranges_that_follow_each_other_count_each_frame_once() -> None:
    audit = compare_statistics("frames", SENT[:6], [span(0, 2, 1, 0), span(2, 6, 1, 1)])
    assert (audit.counted, audit.uncovered_ids) == (6, ())


def test_a_replayed_range_replaces_the_earlier_one() -> None:
    audit = compare_statistics("frames", SENT[:6], [span(0, 4, 1, 0), span(0, 3, 2, 1), span(3, 6, 2, 2)])
    assert (audit.counted, audit.uncovered_ids) == (6, ())


def test_a_record_of_an_older_generation_replaces_nothing_although_it_came_later() -> None:
    audit = compare_statistics("frames", SENT[:6], [span(0, 6, 2, 0), span(0, 6, 1, 1, frames=1)])
    assert (audit.counted, audit.uncovered_ids) == (6, ())


def test_a_hole_left_by_a_replaced_range_is_named() -> None:
    audit = compare_statistics("frames", SENT[:6], [span(0, 4, 1, 0), span(2, 6, 2, 1)])
    assert audit.uncovered_ids == ("frames/0/0", "frames/0/1")
    assert audit.counted == 4


def test_ranges_of_other_partitions_do_not_replace_each_other() -> None:
    other = StatisticsRange(1, 0, 6, 6, 1, 0)
    audit = compare_statistics("frames", SENT, [span(0, 6, 1, 0), other])
    assert (audit.counted, audit.uncovered_ids) == (12, ())
