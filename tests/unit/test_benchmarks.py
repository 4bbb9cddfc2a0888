"""The arithmetic behind the benchmarks' figures: windows, spreads, CPU accounting, percentiles, and what is printed."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from benchmarks import __main__ as command
from benchmarks import latency, overhead, throughput
from benchmarks.broker import Appended
from benchmarks.clock import Run, Window, window
from benchmarks.corpus import Corpus, read_frames, write_frames
from benchmarks.cpu import CpuSampler, CpuSeries, Stat, parse_stat, tree_seconds
from benchmarks.ideal import ways_of_using
from benchmarks.report import print_tables
from benchmarks.sides.bare import BareResult
from benchmarks.sides.peer import prepared, top
from benchmarks.spread import interleaved, paired_ratio, spread
from worker.preprocess.contract import Contract
from worker.preprocess.cpu import CpuTransform

times = st.lists(st.floats(0, 1e6), min_size=1, max_size=200)


def run(frames_per_second: float, **cpu_s: float) -> Run:
    return Run(Window(100.0, 100.0 + 100 / frames_per_second, 100), cpu_s)


def test_the_window_leaves_out_the_first_tenth_and_ends_at_the_last_frame() -> None:
    measured = window([float(second) for second in range(100)])
    assert (measured.start, measured.end, measured.frames) == (9.0, 99.0, 90)
    assert measured.frames_per_second == 1.0


def test_frames_completed_with_the_last_warm_up_frame_do_not_count() -> None:
    # Two batches of 16: the warm-up (4 frames) ends inside the first, so only the second has a duration.
    measured = window([1.0] * 16 + [3.0] * 16)
    assert (measured.frames, measured.seconds) == (16, 2.0)


@pytest.mark.parametrize("completions", [[], [5.0, 5.0, 5.0]])
def test_a_window_without_duration_is_refused(completions: list[float]) -> None:
    with pytest.raises(ValueError, match="frame"):
        window(completions)


@given(times)
def test_a_window_counts_exactly_the_frames_after_its_start_in_any_order(completions: list[float]) -> None:
    try:
        measured = window(completions)
    except ValueError:
        assert len({*completions}) == 1 or sorted(completions)[max(0, -(-len(completions) // 10) - 1)] == max(
            completions
        )
        return
    assert measured == window(completions[::-1])
    assert measured.frames == sum(measured.start < at <= measured.end for at in completions)
    assert measured.end == max(completions)


def test_ratios_pair_within_a_round_so_a_slow_minute_slows_both_sides() -> None:
    ratio = paired_ratio([100.0, 50.0, 110.0], [200.0, 100.0, 200.0])
    assert ratio.keys("efficiency") == {"efficiency": 0.5, "efficiency_low": 0.5, "efficiency_high": 0.55}


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20))
def test_a_spread_encloses_its_value(values: list[float]) -> None:
    figure = spread(values)
    assert figure.low <= figure.value <= figure.high
    assert {figure.low, figure.high} <= set(values)


@pytest.mark.parametrize(("ours", "theirs"), [([1.0], [1.0, 2.0]), ([1.0], [0.0]), ([], [])])
def test_rounds_that_do_not_pair_give_no_ratio(ours: list[float], theirs: list[float]) -> None:
    with pytest.raises(ValueError, match=r"round|ratio"):
        paired_ratio(ours, theirs)


def test_sides_run_in_turn_and_each_begins_a_round() -> None:
    order = [(number, side) for number, side, _ in interleaved({"a": int, "b": int, "c": int}, 3)]
    assert [side for _, side in order] == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert [number for number, _ in order] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_stat_line_is_read_past_a_name_with_spaces_and_parentheses() -> None:
    line = "4242 (tokio) worker (2)) S 17 4242 4242 0 -1 4194560 1 2 3 4 250 50 30 20 20 0 8 0 99 1000 200"
    assert parse_stat(line, tick_s=0.01) == Stat(4242, 17, 3.5)


def test_a_tree_counts_descendants_and_nothing_else() -> None:
    stats = [Stat(1, 0, 100.0), Stat(10, 1, 1.0), Stat(11, 10, 2.0), Stat(12, 11, 4.0), Stat(20, 1, 8.0)]
    assert tree_seconds(stats, {"worker": 10, "broker": 20, "gone": 99}) == {"worker": 7.0, "broker": 8.0, "gone": 0.0}


def test_cpu_between_two_instants_is_interpolated_and_never_guessed() -> None:
    series = CpuSeries()
    series.add(0.0, {"worker": 10.0})
    series.add(1.0, {"worker": 11.0})
    series.add(2.0, {"worker": 15.0})
    assert series.between(0.5, 1.5) == {"worker": pytest.approx(2.5)}
    with pytest.raises(ValueError, match="cover"):
        series.between(0.5, 2.5)


def test_the_sampler_sees_the_work_of_a_child_and_of_its_child() -> None:
    burn = "import time; t = time.process_time\nwhile t() < 0.3: pass"
    script = (
        f"import subprocess, sys\n{burn}\nsubprocess.run([sys.executable, '-c', {burn!r}])\nprint(flush=True)\ninput()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        start = time.time()
        with CpuSampler({"child": child.pid}) as sampler:
            started = time.time()
            child.stdout.readline()
            ended = time.time()
        child.communicate(b"\n")
    assert start <= started
    assert sampler.series.between(started, ended)["child"] >= 0.5  # of 0.6, in ticks of 10 ms


def test_throughput_reports_the_contracts_keys() -> None:
    runs = {
        "worker": [run(90, worker=0.2, triton=1.0, broker=0.1), run(100, worker=0.4, triton=1.0, broker=0.1)],
        "ideal": [run(100, ideal=1.0), run(100, ideal=1.0)],
        "loop": [run(30, loop=1.0, triton=1.0, broker=0.1)] * 2,
        "loop_2x16": [run(50, loop_2x16=1.0, triton=1.0, broker=0.1)] * 2,
    }
    result = throughput.figures(runs)
    assert result["efficiency"] == pytest.approx(0.95)
    assert (result["efficiency_low"], result["efficiency_high"]) == (0.9, 1.0)
    assert result["cpu_efficiency_high"] == pytest.approx(1.0 / 1.3, rel=1e-3)  # of worker, Triton and broker together
    assert result["vs_loop"] == pytest.approx(95 / 30, rel=1e-3)
    assert result["vs_loop_2x16"] == pytest.approx(1.9)
    assert result["frames_per_second"] == 95
    assert result["cpu_s_per_1000"] == {"worker": 3.0, "triton": 10.0, "broker": 1.0}


def test_overhead_divides_by_client_and_bare_preparation_together() -> None:
    runs = {
        "worker": [run(500, worker=0.6, triton=0.1, broker=0.1)],
        "client": [run(900, client=0.1, triton=0.0, broker=0.1)],
        "worker_fast": [run(600, worker_fast=0.5, triton=0.1, broker=0.1)],
        "client_fast": [run(2000, client_fast=0.025, triton=0.0, broker=0.1)],
        "plain_client": [run(700, plain_client=0.2, triton=0.0, broker=0.1)],
    }
    result = overhead.figures(runs, [BareResult(frames=1000, prepare_cpu_s=4.0, features_cpu_s=0.5)])
    assert result["overhead_ratio"] == pytest.approx(6.0 / (1.0 + 4.0))
    assert result["overhead_ratio_fast"] == pytest.approx(5.0 / (0.25 + 4.0), rel=1e-3)
    assert result["client_ratio_fast"] == pytest.approx(0.25)
    assert result["overhead_ratio_plain_client"] == pytest.approx(6.0 / (2.0 + 4.0))
    assert result["statistics_ratio"] == pytest.approx(0.5 / 5.0)


def test_latency_runs_from_the_send_to_the_end_of_the_appends_millisecond() -> None:
    sent = [10.0 + number for number in range(20)]
    records = [Appended(at + 0.05, None, b'{"frame_id":"%d"}' % number) for number, at in enumerate(sent)]
    records.append(Appended(1.0, None, b'{"frame_id":null}'))  # sent before the clock started
    measured = latency.latencies_ms(records, sent)
    assert len(measured) == 18  # the first tenth is warm-up
    assert measured == pytest.approx([51.0] * 18)
    with pytest.raises(KeyError):
        latency.latencies_ms(records[:-2], sent)


def test_p99_ratio_is_taken_of_the_deadline_and_the_service_time_of_its_own_round() -> None:
    rounds = [
        latency.Round([10.0] * 98 + [300.0, 400.0], service_ms=130.0, producer_late_ms=1.0, run=run(50, worker=0.1)),
        latency.Round([20.0] * 98 + [600.0, 700.0], service_ms=280.0, producer_late_ms=2.0, run=run(50, worker=0.1)),
    ]
    result = latency.figures(rounds, deadline_ms=20)
    assert result["p50_ms"] == 15.0
    assert (result["p99_ms_low"], result["p99_ms_high"]) == (300.0, 600.0)
    assert result["p99_ratio"] == 2.0
    assert result["producer_late_p99_ms"] == 2.0


@pytest.mark.parametrize(("percent", "expected"), [(50, 50.0), (99, 99.0), (100, 100.0), (0.1, 1.0)])
def test_a_percentile_is_a_measured_value(percent: float, expected: float) -> None:
    assert latency.percentile([float(value) for value in range(1, 101)], percent) == expected


def test_the_ideal_tries_processes_threads_and_one_session_over_all_cores() -> None:
    assert {(way.processes, way.threads, way.intra_op) for way in ways_of_using(2)} == {(2, 1, 1), (1, 2, 1), (1, 1, 2)}
    assert len(ways_of_using(1)) == 1


def test_the_corpus_comes_back_from_its_file_and_cycles(tmp_path: Path) -> None:
    corpus = Corpus("two frames", (b"first", b"second"))
    write_frames(tmp_path / "frames", corpus)
    assert read_frames(tmp_path / "frames") == corpus.frames
    assert list(corpus.cycle(3)) == [b"first", b"second", b"first"]


def test_the_loop_prepares_a_frame_as_the_worker_does() -> None:
    shipped = Path(__file__).parents[2] / "triton_models/repository/efficientnet_lite2/preprocess.toml"
    contract = Contract.load(shipped)
    ramp = np.add.outer(np.arange(576) % 256, np.arange(768) // 3).astype(np.uint8)
    picture = cv2.GaussianBlur(np.dstack([ramp, ramp.T[:576, :576].repeat(2, 1)[:, :768], 255 - ramp]), (0, 0), 3)
    png = cv2.imencode(".png", picture)[1].tobytes()  # lossless: decoders agree, so what differs is the preparation
    ours = np.empty(contract.tensor_shape, np.uint8)
    CpuTransform(contract)(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), ours)
    theirs = prepared(png, tomllib.loads(shipped.read_text()))
    difference = np.abs(ours.astype(int) - theirs)
    # Two engines of one filter, each rounding its own way; without antialiasing, or cropped elsewhere, it is tens.
    assert difference.max() <= 4
    assert difference.mean() < 0.5


def test_the_loop_refuses_a_contract_it_was_not_written_for() -> None:
    contract = {"resize": "letterbox", "filter": "area", "colour": "rgb", "layout": "nhwc", "wire_dtype": "uint8"}
    with pytest.raises(ValueError, match="letterbox"):
        prepared(b"", contract)


def test_the_loop_names_the_best_classes_with_probabilities() -> None:
    logits = np.zeros(1000, np.float32)
    logits[[7, 3]] = [20.0, 10.0]
    best = top(logits, [f"class {index}" for index in range(1000)])
    assert [row["index"] for row in best[:2]] == [7, 3]
    assert best[0]["label"] == "class 7"
    assert best[0]["score"] > 0.99


def test_list_names_every_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert set(listed) == set(command.BENCHMARKS)
    assert {"throughput", "overhead", "delivery", "latency", "peers", "scale"} <= set(listed)


def test_an_unknown_benchmark_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["speed"])
    assert ended.value.code == 2
    assert "throughput" in capsys.readouterr().err


def test_the_table_shows_each_figure_once_with_its_spread() -> None:
    screen = io.StringIO()
    result = {
        "benchmark": "throughput",
        "efficiency": 0.9,
        "efficiency_low": 0.85,
        "efficiency_high": 0.95,
        "sides": {"worker": {"frames_per_second": 90, "cpu_s_per_1000": {"worker": 3.0}}},
        "quick": True,
    }
    print_tables(result, Console(file=screen, width=100))
    text = screen.getvalue()
    assert all(figure in text for figure in ("0.9 ", "0.85", "0.95", "worker 3", "quick: True"))
    assert "efficiency_low" not in text
