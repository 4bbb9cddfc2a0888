"""The shipped detector: its real weights against plain NumPy, and the whole way on real servers and a street."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import run
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from tests.integration.conftest import MakeSettings
from tests.rig import reference_tfjs as reference
from tests.rig.audit import TopicReader, audit_statistics, produce_frames, wait_until_committed, wait_until_done
from tests.rig.kafka import MakeTopics
from tests.rig.topics import Topics
from tests.rig.triton import built_repository, started_triton
from tests.rig.worker import WorkerProcess, to_toml
from triton_models.build import DETECTORS
from triton_models.build.centernet import HEAT, IMAGES, SIDES, centernet
from triton_models.build.contract import Wire
from triton_models.build.npm import npm_files
from triton_models.build.tfjs import read_tfjs
from worker.embedded.assets import demo_video, vtest_video
from worker.embedded.environment import data_dir
from worker.embedded.triton import TritonServer
from worker.ingest.files import as_jpeg

FRAMES = 12
LIMIT_S = 120.0


@pytest.fixture(scope="module")
def detectors() -> Path:
    """Path of the detectors' repository."""
    return built_repository(DETECTORS)


@pytest.fixture
def server(detectors: Path) -> Iterator[TritonServer]:
    """A Triton of its own, which the test may end."""
    with started_triton(detectors, ["centernet"]) as triton:
        yield triton


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of FRAMES pictures with people in them: a fixed camera's where that film can be had, else cyclists."""
    folder = tmp_path_factory.mktemp("street")
    film = cv2.VideoCapture(str(vtest_video(data_dir()) or demo_video(data_dir())))
    for number in range(FRAMES):
        film.set(cv2.CAP_PROP_POS_FRAMES, 20 * number)
        ok, pixels = film.read()
        assert ok
        (folder / f"{number:02d}.jpg").write_bytes(as_jpeg(pixels))
    return folder


def test_the_real_network_computes_what_plain_numpy_computes(detectors: Path, street: Path) -> None:
    files = npm_files(data_dir(), "@vladmandic/human", ["models/centernet.json", "models/centernet.bin"])
    graph = read_tfjs(files / "centernet.json")
    # All its layers are convolutions: a small picture shows the same as a large one, and plain NumPy is slow.
    wire = Wire(width=96, height=64, layout="nhwc", dtype="uint8", mean=(0.0,) * 3, std=(1.0,) * 3)
    model = centernet(graph, wire)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in (HEAT, SIDES))
    image = np.asarray(Image.open(street / "00.jpg").resize((96, 64)))[None]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    heat, sides = session.run([HEAT, SIDES], {"image": image})
    wanted_heat, wanted_sides = reference.carried_out(graph, {IMAGES: image.astype(np.float64)}, [HEAT, SIDES])
    assert wanted_heat.shape == (1, 16, 24, 80)
    assert np.ptp(wanted_heat[0, :, :, 0]) > 1  # the picture reaches the map of persons
    np.testing.assert_allclose(heat.transpose(0, 2, 3, 1), wanted_heat, atol=2e-3)
    np.testing.assert_allclose(sides.transpose(0, 2, 3, 1), wanted_sides, atol=2e-2)


def in_batch(tree: dict[str, Any], street: Path, folder: Path) -> list[dict[str, Any]]:
    (folder / "batch.toml").write_text(to_toml({name: tree[name] for name in ("model", "infer", "batching")}))
    command = [sys.executable, "-m", "worker.cli", "batch", str(street), "--out", str(folder / "out.jsonl")]
    command += ["-c", str(folder / "batch.toml"), "--draw", str(folder / "drawn"), "--json"]
    ended = run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]


def in_stream(made: Topics) -> list[dict[str, Any]]:
    with TopicReader(made.bootstrap_servers, [made.predictions]) as reader:
        return [json.loads(message.value() or b"") for message in reader.read_on()]


def test_stream_and_batch_find_the_same_and_the_smaller_model_answers_when_triton_has_gone(
    topics: MakeTopics, settings: MakeSettings, server: TritonServer, detectors: Path, street: Path, tmp_path: Path
) -> None:
    made = topics(partitions=1)
    tree = settings(
        made,
        infer={"url": server.grpc_url},
        fallback={"directory": str(detectors / "centernet_small")},
        batching={"max_batch_size": 4},  # an engine is warmed up with a full batch
    )
    tree["model"] = {"name": "centernet", "directory": str(detectors / "centernet"), "task": "detect"}
    batch = in_batch(tree, street, tmp_path)
    assert [path.name for path in sorted((tmp_path / "drawn").iterdir())] == [f"{n:02d}.jpg" for n in range(FRAMES)]

    values = [path.read_bytes() for path in sorted(street.iterdir())]
    sent = produce_frames(made.bootstrap_servers, made.frames, [(b"gate", value) for value in values])
    with WorkerProcess(tree) as worker:
        assert wait_until_done(made, sent, LIMIT_S, worker.check_alive).problems == []
        stream = in_stream(made)
        server.stop()
        more = produce_frames(made.bootstrap_servers, made.frames, [(b"gate", value) for value in values[:3]])
        assert wait_until_done(made, [*sent, *more], LIMIT_S, worker.check_alive).problems == []
        assert worker.stop() == 0
    assert wait_until_committed(made, LIMIT_S) == 0
    statistics = audit_statistics(made, [*sent, *more])
    assert (statistics.counted, statistics.uncovered_ids) == (FRAMES + 3, ())

    for one, other, drawn in zip(batch, stream, sorted((tmp_path / "drawn").iterdir()), strict=True):
        assert one["task"] == other["task"] == "detect"
        assert one["detections"] == other["detections"]
        width, height = one["image"]["width"], one["image"]["height"]
        for left, top, right, bottom in (found["box"] for found in one["detections"]):
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height
        assert Image.open(drawn).size == (width, height)
    people = [sum(found["label"] == "person" for found in frame["detections"]) for frame in stream]
    assert min(people) >= 1
    assert sum(people) >= 2 * FRAMES

    by_fallback = in_stream(made)[FRAMES:]
    assert [frame["model"]["served_by"] for frame in by_fallback] == ["fallback"] * 3
    for small, large in zip(by_fallback, stream, strict=False):
        assert small["model"]["name"] == "centernet_small"
        assert small["preprocess"] != large["preprocess"]
        best = small["detections"][0]
        overlaps = [reference.overlap(best["box"], found["box"]) for found in large["detections"]]
        assert max(overlaps) > 0.5  # both speak of the same pixels
