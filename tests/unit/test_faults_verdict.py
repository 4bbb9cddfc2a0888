from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import table, verdict
from tests.faults.catalogue import FAULTS
from tests.faults.verdict import Result, Strike, Written
from tests.rig.outcomes import Outcome, SentFrame, compare


def written(
    offset: int, at_s: float, generation: int = 1, place: int | None = None, source: str = "topic-id"
) -> Written:
    return Written(f"frames/0/{offset}", source, "predictions", 0, place or 0, at_s, generation, "primary")


def test_a_reader_that_fences_drops_what_an_older_generation_writes_after_a_newer_one() -> None:
    records = [written(4, 0, 1, 0), written(5, 1, 2, 1), written(4, 2, 1, 2), written(6, 3, 2, 3)]
    assert [record.offset for record in verdict.fenced(reversed(records))] == [0, 1, 3]


def test_a_fence_of_one_source_partition_lets_the_others_pass() -> None:
    other = written(9, 2, 1, 2)._replace(id="frames/1/9")
    assert other in verdict.fenced([written(5, 1, 2, 1), other])


def test_repeats_with_equal_ids_are_none_by_id_and_those_of_another_source_are() -> None:
    same = [written(1, 0), written(1, 1), written(2, 2)]
    assert verdict.repeated_by_id(same) == 0
    assert verdict.repeated_by_id([*same, written(2, 3, source="other-id")]) == 1


def test_allowed_is_what_was_in_flight_and_the_fullest_second_around_each_fault() -> None:
    records = [written(number, number / 10) for number in range(100)]  # ten a second, from 0 to 10
    kill = Strike(5.0, 5.0, in_flight=7)
    assert verdict.repeats_allowed(records, [kill]) in (7 + 10, 7 + 11)
    assert verdict.repeats_allowed(records, []) == 0
    assert verdict.repeats_allowed(records, [Strike(50.0, 50.0, 3)]) == 3


def test_recovery_is_the_wait_of_the_last_partition_for_its_first_new_outcome() -> None:
    records = [
        written(1, 0.5),
        written(1, 2.0),  # a repeat is no new outcome
        written(2, 3.0),
        written(7, 4.5)._replace(id="frames/1/7"),
    ]
    assert verdict.recovery_s(records, [Strike(1.0, 1.5, 0)]) == pytest.approx(3.0)
    assert verdict.recovery_s(records, [Strike(5.0, 5.0, 0)]) is None
    assert verdict.recovery_s(records, []) is None


def outcomes(*offsets: int) -> list[Outcome]:
    return [Outcome(f"frames/0/{offset}", 0, place, b"k") for place, offset in enumerate(offsets)]


def test_what_is_asked_of_a_mode_is_told_where_it_does_not_hold() -> None:
    sent = [SentFrame(0, offset, b"k") for offset in range(3)]
    repeated = compare("frames", sent, outcomes(0, 1, 1, 2), [])
    assert verdict.problems("at_least_once", repeated, True, (1, 1, 0), 0, 0) == []
    assert verdict.problems("at_least_once", repeated, True, (1, 0, 0), 0, 0) == ["1 repeats, 0 allowed"]
    assert verdict.problems("exactly_once", repeated, True, (1, 9, 0), 0, 0) == ["1 with two outcomes (frames/0/1)"]
    disordered = compare("frames", sent, outcomes(1, 0), [])
    assert verdict.problems("at_least_once", disordered, False, (0, 0, 0), 0, 0) == ["1 lost (frames/0/2)"]
    assert verdict.problems("at_least_once", disordered, True, (0, 0, 0), 2, 5) == [
        "1 lost (frames/0/2)",
        "1 out of order (frames/0/0)",
        "2 out of order for a reader that fences",
        "5 frames not committed at the end",
    ]


def result(number: int, **changes: object) -> dict[str, object]:
    name = FAULTS[number - 1].name
    made = Result(
        number, name, "at_least_once", 1, sent=5, predicted=5, repeated_raw=2, repeated_allowed=9, recovery_s=1.5
    )
    return made.to_dict() | changes


def test_the_table_has_a_row_for_each_fault_and_names_runs_that_fell_short(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    lines = [result(1), result(1, seed=2, problems=["1 lost (frames/0/2)"], lost=1)]
    table.write(lines, "make faults", page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    rows = [row for row in text.splitlines() if row.startswith("| ")][1:]
    assert [row.split(" | ")[0] for row in rows] == [f"| {fault.number}" for fault in FAULTS]
    assert "| 10 | 10 | 0 | 0 | 1 | 4 (18) | 0 |" in rows[0]
    assert "- 1 kill-mid-batch, at_least_once, seed 2: 1 lost (frames/0/2)" in text
    assert all(row.count(" |") == rows[0].count(" |") for row in rows)
