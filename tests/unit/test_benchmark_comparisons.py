"""What the comparing benchmarks make of their runs: who wins, which ratios, what is worse than before, what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import __main__ as command
from benchmarks import decode, document, scale, transport
from benchmarks.clock import Run, Window
from benchmarks.contest import Entrant, entrants, fastest, figures, is_choice, winners
from benchmarks.corpus import Corpus, mosaic
from benchmarks.peers import BILINEAR, CONTRACT, SETTINGS, Table, results
from benchmarks.plots import PLOTTED, plot
from benchmarks.regression import regressions
from benchmarks.variants import with_keys
from tests.rig.images import encode, photo

RATES = st.floats(1, 1e4)
ENTRANTS = st.builds(Entrant, st.sampled_from(["loop", "quix", "arroyo"]), st.integers(1, 4), st.booleans())
PAGE = "before\n<!-- figures: scale -->\nold\n<!-- end of scale -->\nafter\n"
MACHINE = {
    "cpu": "some processor",
    "cores": 2,
    "memory_gib": 4,
    "system": "Linux",
    "python": "3.11",
    "versions": {},
    "load": 0.1,
}


def run(frames_per_second: float, **cpu_s: float) -> Run:
    return Run(Window(100.0, 100.0 + 100 / frames_per_second, 100), cpu_s)


def written(benchmark: str, **figures: Any) -> dict[str, Any]:
    return {"benchmark": benchmark, "machine": MACHINE, "date": "2026-11-23", "quick": True, **figures}


@given(st.dictionaries(ENTRANTS, RATES, min_size=1), st.integers(1, 3))
def test_each_side_wins_once_in_its_best_number_of_processes(trials: dict[Entrant, float], places: int) -> None:
    found = winners(trials, places)
    assert len(found) == len({entrant.side for entrant in found}) <= places
    for entrant in found:
        assert trials[entrant] == max(rate for other, rate in trials.items() if other.side == entrant.side)
    left = {entrant.side for entrant in trials} - {entrant.side for entrant in found}
    slowest = min(trials[entrant] for entrant in found)
    assert all(rate <= slowest for entrant, rate in trials.items() if entrant.side in left)


def test_trials_are_for_a_choice_only() -> None:
    assert is_choice(entrants(["loop", "quix"], [1]), 1)
    assert is_choice(entrants(["loop"], [1, 2]), 1)
    assert not is_choice(entrants(["loop"], [2]), 1)


def test_the_ratio_is_to_the_peer_that_is_fastest_with_that_malloc_and_pairs_within_a_round() -> None:
    ours = {Entrant("worker", 1): [100.0, 220.0], Entrant("worker", 2): [50.0, 60.0]}
    peers = {
        Entrant("loop", 2): [50.0, 100.0],
        Entrant("quix", 2): [10.0, 20.0],
        Entrant("quix", 2, tuned=True): [80.0, 176.0],
        Entrant("loop", 2, tuned=True): [1.0, 2.0],
    }
    found = figures("null", ours, peers)
    assert (found["vs_best_null"], found["vs_best_null_low"], found["vs_best_null_high"]) == (2.1, 2.0, 2.2)
    assert found["vs_best_tuned_null"] == 1.25
    assert fastest(ours) == Entrant("worker", 1)


def one_table(full_decode: bool) -> Table:
    table = Table()
    table.trials[Entrant("arroyo", 1)] = run(10, arroyo=1.0)
    table.rounds[Entrant("worker", 1)] = [run(100, worker=1.0)]
    if full_decode:
        table.rounds[Entrant("worker_full_decode", 1)] = [run(80, worker=1.0)]
    table.rounds[Entrant("loop", 2)] = [run(40, loop=1.0)]
    table.rounds[Entrant("loop", 2, tuned=True)] = [run(50, loop=1.0)]
    table.agrees[Entrant("loop", 2)] = 0.99
    return table


@pytest.mark.parametrize("full_decode", [False, True])
def test_peers_reports_the_contracts_keys_and_a_row_for_everyone(full_decode: bool) -> None:
    tables = {kind: {name: one_table(full_decode) for name in SETTINGS} for kind in (CONTRACT, BILINEAR)}
    result = results(tables)
    for name in SETTINGS:
        assert (result[f"vs_best_{name}"], result[f"vs_best_tuned_{name}"]) == (2.5, 2.0)
        assert result["full_decode"][f"vs_best_{name}"] == (2.0 if full_decode else 2.5)
    rows = [row for row in result["sides"].values() if row["setting"] == "real" and row["filter"] == CONTRACT]
    assert {(row["side"], row["trial"]) for row in rows} >= {("arroyo", True), ("worker", False), ("loop", False)}
    text = document.peers_table(result["sides"].values(), CONTRACT)
    assert "10 (1)*" in text
    assert "40 (2) " in text


def test_growth_is_cpu_a_frame_at_the_last_point_over_the_first() -> None:
    points = {"1": [run(100, worker=0.1)], "4": [run(300, worker=0.11)]}
    result = scale.figures(dict.fromkeys(("workers", "sizes"), points), {"1": [1.0], "4": [3.0]})
    assert result["growth_workers"] == 1.1
    assert result["growth_sizes_decoder"] == 3.0
    assert result["sides"]["sizes 4"]["cpu_s_per_1000"]["decoder alone"] == 3.0


def test_short_runs_are_measured_as_one() -> None:
    together = scale.pooled([run(100, worker=0.2, broker=0.1), run(50, worker=0.4, broker=0.1)])
    assert together.cpu_s_per_1000 == {"worker": pytest.approx(3.0), "broker": pytest.approx(1.0)}
    assert together.window.frames_per_second == pytest.approx(200 / 3)


def test_a_way_of_transport_is_measured_by_the_cpu_of_both_ends() -> None:
    runs = {"uint8_shared_memory": [run(100, client=0.2, triton=0.2)], "encoded": [run(50, client=0.1, triton=0.7)]}
    result = transport.figures(runs)
    assert (result["cpu_encoded"], result["rate_encoded"]) == (2.0, 0.5)
    assert "cpu_uint8_shared_memory" not in result


def test_decoders_are_rows_and_strictness_a_ratio() -> None:
    tuned = {"8x8": {"worker": [1.1, 1.1], "simplejpeg_reused_buffer": [1.0, 1.0], "opencv": [2.2, 2.2]}}
    result = decode.figures(tuned, {"8x8": {"opencv": [4.0]}})
    assert (result["worker_vs_simplejpeg_8x8"], result["opencv_vs_worker_8x8"]) == (1.1, 2.0)
    assert result["sides"]["8x8 opencv, malloc as it comes"]["cpu_s_per_1000"] == {"decode": 4.0}


def test_a_mosaic_has_its_size_and_frames_that_differ() -> None:
    corpus = Corpus("two", tuple(encode(photo(768, 576, seed), "jpeg") for seed in (1, 2)))
    wall = mosaic(corpus, 800, 600, 2)
    assert [simplejpeg.decode_jpeg_header(frame)[:2] for frame in wall.frames] == [(600, 800)] * 2
    assert simplejpeg.decode_jpeg_header(mosaic(corpus, 32, 16, 1).frames[0])[:2] == (16, 32)


def test_a_variant_sets_keys_that_the_contract_has_and_no_others() -> None:
    text = 'width = 224\nfilter = "bilinear_antialias"\nscaled_decode = true\n'
    assert with_keys(text, {"filter": "bilinear", "scaled_decode": False}) == (
        'width = 224\nfilter = "bilinear"\nscaled_decode = false\n'
    )
    with pytest.raises(ValueError, match="filtre"):
        with_keys(text, {"filtre": "bilinear"})


@pytest.mark.parametrize(
    ("key", "low", "high", "is_worse"),
    [
        ("efficiency", 0.5, 0.7, True),  # recorded 0.9: at best 0.7
        ("efficiency", 0.1, 0.8, False),  # one round was as good
        ("overhead_ratio", 1.1, 2.0, True),
        ("overhead_ratio", 1.0, 9.0, False),
        ("growth_sizes", 9.0, 9.0, False),  # pixels cost what they cost
        ("frames_per_second", 0.1, 0.1, False),  # no ratio: another machine's
    ],
)
def test_a_ratio_is_worse_only_if_its_best_round_is(key: str, low: float, high: float, is_worse: bool) -> None:
    recorded = {key: 0.9, f"{key}_low": 0.8, f"{key}_high": 1.0}
    assert bool(regressions({key: low, f"{key}_low": low, f"{key}_high": high}, recorded)) is is_worse


def test_the_page_gets_the_tables_where_it_says_and_nowhere_else(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(PAGE)
    result = written("overhead", overhead_ratio=1.2, overhead_ratio_low=1.1, overhead_ratio_high=1.3)
    result |= {"sides": {"worker": {"frames_per_second": 90.0, "cpu_s_per_1000": {"worker": 3.0}}}}
    with pytest.raises(ValueError, match="overhead"):
        document.write(result, page, tmp_path / "figures")
    page.write_text(PAGE.replace("scale", "overhead"))
    document.write(result, page, tmp_path / "figures")
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| `overhead_ratio` | 1.2 | 1.1 | 1.3 |" in text
    assert "| worker | 90 | 3 |" in text
    assert json.loads((tmp_path / "figures" / "overhead.json").read_text()) == result


def test_the_page_has_a_place_for_every_benchmark_that_is_plotted() -> None:
    assert all(document.has_place(name) for name in PLOTTED)
    assert document.has_place("overhead")
    assert not document.has_place("speed")


def test_a_check_without_a_record_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(document.record_of, "__defaults__", (tmp_path,))
    assert command.main(["decode", "--check"]) == 2
    assert "--write" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["overhead"], ["throughput", "--write"], ["throughput", "--check"]])
def test_a_model_of_ones_choice_goes_on_no_record(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([*flags, "--model", "efficientnet_lite0"]) == 2
    assert "--model is for trials" in capsys.readouterr().err


def test_every_plot_is_drawn_the_same_twice(tmp_path: Path) -> None:
    tables = {kind: {name: one_table(full_decode=False) for name in SETTINGS} for kind in (CONTRACT, BILINEAR)}
    points = {"1": [run(100, worker=0.1)], "4": [run(300, worker=0.11)]}
    tuned = {"8x8": {"worker": [1.1], "simplejpeg_reused_buffer": [1.0], "opencv": [2.2]}}
    drawn = {
        "peers": results(tables),
        "scale": scale.figures(dict.fromkeys(("workers", "sizes"), points), {"1": [1.0], "4": [3.0]}),
        "transport": transport.figures({"uint8_shared_memory": [run(100, client=0.2, triton=0.2)]}),
        "decode": {**decode.figures(tuned, {}), "frame_kib": {"8x8": 1.0}},
    }
    assert set(drawn) == set(PLOTTED)
    for name, figures_ in drawn.items():
        for again in ("first", "second"):
            plot(written(name, **figures_), tmp_path / f"{name}-{again}.svg")
        first = (tmp_path / f"{name}-first.svg").read_bytes()
        assert first.startswith(b"<?xml")
        assert first == (tmp_path / f"{name}-second.svg").read_bytes()
