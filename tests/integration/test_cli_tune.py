"""Tuning runs the real worker, measures it, and writes settings that the worker takes."""

from __future__ import annotations

import tomllib
from contextlib import ExitStack
from pathlib import Path

from rich.progress import Progress

from tests.rig import images
from worker import config
from worker.cli.tune import ask
from worker.cli.tune_report import Tuned, settings_text
from worker.cli.tune_runs import Runs
from worker.tuning.arrangements import Arrangement, Ground, Question
from worker.tuning.scoring import opened

FRAMES = 160


def test_arrangements_are_measured_by_the_real_worker_and_the_chosen_one_is_written_as_its_settings(
    tmp_path: Path, served_repository: Path
) -> None:
    model = served_repository / "null"
    keys = {"infer.backend": "local", "model.name": "null", "model.directory": str(model), "batching.linger_ms": 7}
    settings = config.load(flags=keys).settings
    pictures = [images.encode(images.photo(320, 240), "jpeg"), b"no picture: its dead letter is an outcome too"]
    one = Arrangement(processes=1, engines=1, threads=1, in_flight=3, batch=8)
    two = Arrangement(processes=2, engines=1, threads=1, in_flight=3, batch=8)
    with ExitStack() as stack:
        runs = Runs(settings, tmp_path, stack)
        with opened(runs.served_by(1)) as scorer:
            tuned = Tuned(settings, Ground(2, engines=1, max_batch=scorer.max_batch), None, scaled_decode=False)
        tuned.frames = runs.fill(pictures, FRAMES)
        chosen = ask(runs.run, tuned, Question("processes", (one, two)), Progress(disable=True), rounds=1)
    tried = tuned.fields()["questions"][0]["tried"]
    assert [way["processes"] for way in tried] == [1, 2]
    assert all(way["frames_per_second"] > 0 and way["cpu_ms_per_frame"] > 0 for way in tried)
    text = settings_text(tuned)
    assert f"run {chosen.processes} worker process" in text
    (tmp_path / "tuned.toml").write_text(text)
    written = config.load(tmp_path / "tuned.toml").settings
    assert (written.decode.threads, written.batching.max_batch_size, written.infer.local_threads) == (1, 8, 1)
    assert (written.batching.linger_ms, written.model.directory) == (7, str(model))
    assert "kafka" not in tomllib.loads(text)
