"""`headrace batch` on real pictures with the local engine: outcomes of every file, resume after kill -9 and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

COUNT = 96
LIMIT_S = 120.0


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Photos, a video and two damaged files: COUNT + 12 frames."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(3)
    for number in range(COUNT - 2):
        cv2.imwrite(str(folder / f"{number:03d}.jpg"), rng.integers(0, 255, (96, 128, 3), dtype=np.uint8))
    (folder / "cut.jpg").write_bytes((folder / "000.jpg").read_bytes()[:1500])
    (folder / "page.png").write_bytes(b"<html></html>")
    writer = cv2.VideoWriter(str(folder / "film.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (128, 96))
    for number in range(12):
        writer.write(np.full((96, 128, 3), 20 * number, np.uint8))
    writer.release()
    return folder


@pytest.fixture
def command(served_repository: Path, pictures: Path) -> Callable[[Path], list[str]]:
    def make(out: Path, model: str = "null") -> list[str]:
        settings = ["--set", "infer.backend=local", "--set", f"model.directory={served_repository / model}"]
        settings += ["--set", f"model.name={model}"]
        return [sys.executable, "-m", "worker.cli", "batch", str(pictures), "--out", str(out), *settings, "--json"]

    return make


def _run(command: list[str]) -> dict[str, Any]:
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert ended.returncode == 0, ended.stderr
    told: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return told


def _ids(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text(encoding="utf-8").splitlines()]


def _letters(out: Path) -> Path:
    return out.with_name(out.name + ".dlq.jsonl")


def test_every_file_and_video_frame_gets_one_outcome_in_the_order_of_the_source(
    command: Callable[[Path], list[str]], pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    told = _run(command(out))
    assert (told["predictions"], told["dead_letters"], told["finished"]) == (COUNT + 10, 2, True)
    assert told["dead_letters_by_reason"] == {"truncated": 1, "not_an_image": 1}
    photos = [f"{pictures}/{number:03d}.jpg/0/0" for number in range(COUNT - 2)]
    film = [f"{pictures}/film.avi/0/{number}" for number in range(12)]
    assert _ids(out) == photos + film
    assert _ids(_letters(out)) == [f"{pictures}/cut.jpg/0/0", f"{pictures}/page.png/0/0"]
    again = _run(command(out))
    assert (again["predictions"], again["dead_letters"], again["skipped"]) == (0, 0, COUNT + 12)


def test_the_same_frames_come_out_as_parquet(command: Callable[[Path], list[str]], tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    assert _run(command(out))["predictions"] == COUNT + 10
    table = pq.read_table(out)
    assert table.num_rows == COUNT + 10
    assert set(table["task"].to_pylist()) == {"classify"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_batch_that_was_stopped_goes_on_where_it_was(
    number: signal.Signals, command: Callable[..., list[str]], tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    arguments = command(out, model="efficientnet_lite2")  # slow enough to be met half-way
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + LIMIT_S
    while not (out.exists() and out.stat().st_size) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, number)
    stdout, _ = process.communicate(timeout=LIMIT_S)
    if number is signal.SIGINT:
        told = json.loads(stdout.splitlines()[-1])
        assert process.returncode == (0 if told["finished"] else 130)
        assert len(_ids(out)) == told["predictions"]
    before = out.read_bytes().count(b"\n") + _letters(out).read_bytes().count(b"\n")
    told = _run(arguments)
    assert told["skipped"] == before
    ids = _ids(out) + _ids(_letters(out))
    assert len(ids) == len(set(ids)) == COUNT + 12


def test_another_models_predictions_do_not_go_into_the_same_output(
    command: Callable[..., list[str]], pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    _run(command(out))
    (pictures / "new.jpg").write_bytes((pictures / "000.jpg").read_bytes())
    before = out.read_bytes()
    ended = subprocess.run(
        command(out, model="efficientnet_lite0"), capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert ended.returncode == 2
    assert "name another output" in ended.stderr
    assert out.read_bytes() == before
