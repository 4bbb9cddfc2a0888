"""From a served model to an engine's folder and its check, over the process boundary, with a stand-in for TensorRT."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from tests.rig.images import encode, photo
from tests.rig.tensorrt import StandIn
from triton_models.build import SOURCE, build_repository
from triton_models.build.engine import EngineOptions, build_engine, check_engine
from triton_models.build.engine.building import CALIBRATION_FRAMES, FLAGS, calibration
from triton_models.build.engine.fit import Server
from triton_models.build.engine.manifest import GRAPH, PLAN, Hardware
from triton_models.build.engine.process import EngineError, facts
from triton_models.build.folders import BuildError
from triton_models.build.precision import Batch
from triton_models.build.triton_config import Precision
from worker.cli import main

SERVER = Server("11.4.0", "12")


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    monkeypatch.setenv("CUDA_VERSION", "12.9.1")
    return StandIn.make(tmp_path / "tensorrt")


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """The null model: it needs no weights."""
    shutil.copytree(SOURCE / "null", tmp_path / "source" / "null")
    return build_repository(tmp_path / "data", tmp_path / "source") / "null"


@pytest.fixture
def batches() -> list[Batch]:
    return [np.zeros((4, 260, 260, 3), np.uint8)]


@pytest.fixture
def make(environment: StandIn, served: Path, batches: list[Batch], tmp_path: Path) -> Callable[..., Path]:
    """`make(**options)`: the folder of an engine of the null model."""

    def build(**options: object) -> Path:
        chosen = EngineOptions(SERVER, **{"precision": Precision.FP16, "max_batch_size": 8, **options})  # type: ignore[arg-type]
        said: list[str] = []
        build_engine(
            served, tmp_path / "out", chosen, environment.python, batches, tmp_path / "t" / "cache", said.append
        )
        assert len(said) == 3 or chosen.precision is Precision.FP32
        return tmp_path / "out" / "null"

    return build


def test_what_is_built_is_what_triton_loads_and_says_what_it_is(make: Callable[..., Path], tmp_path: Path) -> None:
    folder = make()
    config = model_config_pb2.ModelConfig()
    text_format.Parse((folder / "config.pbtxt").read_text(), config)
    manifest = json.loads((folder / "engine.json").read_text())
    assert config.platform == "tensorrt_plan"
    assert config.max_batch_size == 8
    assert config.parameters["engine_digest"].string_value == manifest["engine_digest"]
    assert config.parameters["precision"].string_value == "fp16"
    assert manifest["agreement"]["same"] == manifest["agreement"]["frames"] == 4
    assert (manifest["tensorrt"], manifest["cuda"]) == ("11.4.0.53", "12")
    assert (manifest["device"], manifest["compute_capability"]) == ("NVIDIA A10", "8.6")
    assert manifest["row_bytes"] == 260 * 260 * 3 + 1000 * 4
    assert manifest["digest"] != manifest["source_digest"]
    assert {path.name for path in folder.iterdir()} == {
        "1",
        "config.pbtxt",
        "engine.json",
        "labels.txt",
        "model.onnx",
        "preprocess.toml",
    }
    assert [path.name for path in (folder / "1").iterdir()] == ["model.plan"]
    assert {path.name for path in folder.parent.iterdir()} == {"null", FLAGS}
    assert (folder.parent / FLAGS).read_text().startswith("--pinned-memory-pool-byte-size=")


def test_the_builder_gets_the_profile_and_no_mode_that_was_not_asked_for(make: Callable[..., Path]) -> None:
    asked = json.loads((make(max_batch_size=16) / PLAN).read_text())
    row = [260, 260, 3]
    assert asked == {"shapes": {"image": [[1, *row], [16, *row], [16, *row]]}, "flags": [], "level": None}


def test_compatible_modes_are_passed_on(make: Callable[..., Path]) -> None:
    folder = make(hardware=Hardware.AMPERE_PLUS, version_compatible=True)
    asked = json.loads((folder / PLAN).read_text())
    assert (asked["flags"], asked["level"]) == (["VERSION_COMPATIBLE"], "AMPERE_PLUS")
    assert "version-compatible=true" in (folder.parent / FLAGS).read_text()


def test_the_timing_cache_of_one_build_is_read_by_the_next(make: Callable[..., Path], tmp_path: Path) -> None:
    for times in (1, 2):
        make()
        assert (tmp_path / "t" / "cache").read_bytes() == b"+" * times


def test_a_failed_build_leaves_the_engine_that_was_there(make: Callable[..., Path], environment: StandIn) -> None:
    folder = make()
    before = (folder / "engine.json").read_text()
    environment.refuses()
    with pytest.raises(EngineError, match="no kernel for it"):
        make()
    assert (folder / "engine.json").read_text() == before
    assert [path.name for path in folder.parent.parent.iterdir() if path.name.startswith(".null")] == []


def test_another_version_is_refused_before_anything_is_built(
    make: Callable[..., Path], environment: StandIn, tmp_path: Path
) -> None:
    environment.becomes("11.3.2.1")
    with pytest.raises(EngineError, match=r"this is TensorRT 11\.3\.2\.1, the server has 11\.4\.0"):
        make()
    assert not (tmp_path / "out").exists()


def test_an_engine_as_it_was_built_passes_the_check(make: Callable[..., Path], environment: StandIn) -> None:
    assert check_engine(make(), environment.python)[2] == []


@pytest.mark.parametrize("name", [PLAN, GRAPH])
def test_a_replaced_file_is_named(make: Callable[..., Path], environment: StandIn, name: str) -> None:
    folder = make()
    (folder / name).write_bytes(b"other")
    assert f"{name} is not the one" in "; ".join(check_engine(folder, environment.python)[2])


def test_a_config_of_another_engine_is_named(make: Callable[..., Path], environment: StandIn) -> None:
    folder = make()
    (folder / "config.pbtxt").write_text("")
    assert check_engine(folder, environment.python)[2] == ["config.pbtxt tells of another engine than its manifest"]


@pytest.mark.parametrize(("marker", "said"), [("crashes", "was ended by SIGABRT"), ("refuses", "magic tag")])
def test_a_plan_that_crashes_or_is_refused_at_loading_is_a_reason_and_no_crash_of_ours(
    make: Callable[..., Path], environment: StandIn, marker: str, said: str
) -> None:
    folder = make()
    getattr(environment, marker)()
    (reason,) = check_engine(folder, environment.python)[2]
    assert "does not load" in reason
    assert said in reason


def test_an_engine_of_another_version_is_not_even_loaded(make: Callable[..., Path], environment: StandIn) -> None:
    folder = make()
    environment.becomes("11.4.1.2")
    environment.crashes()
    assert check_engine(folder, environment.python)[2] == [
        "the plan was built with TensorRT 11.4.0.53, this is 11.4.1.2"
    ]


def test_without_a_driver_there_is_no_gpu_and_that_is_said(environment: StandIn) -> None:
    (environment.site / "sitecustomize.py").unlink()
    machine = facts(environment.python)
    assert (machine.tensorrt, machine.cuda, machine.compute_capability) == ("11.4.0.53", "12", None)


def test_an_environment_without_tensorrt_and_a_python_that_is_none_are_told_apart(
    environment: StandIn, tmp_path: Path
) -> None:
    (environment.site / "tensorrt.py").unlink()
    with pytest.raises(EngineError, match="no module tensorrt"):
        facts(environment.python)
    with pytest.raises(BuildError, match="can't be started"):
        facts(tmp_path / "nowhere")


def test_the_cuda_of_the_packages_goes_before_the_environments(environment: StandIn) -> None:
    info = environment.site / "tensorrt_cu13-11.4.0.53.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tensorrt-cu13\nVersion: 11.4.0.53\n")
    (info / "RECORD").write_text("tensorrt.py,,\n")
    assert facts(environment.python).cuda == "13"


def test_a_config_that_says_twice_what_follows_from_elsewhere_is_refused(
    environment: StandIn, served: Path, tmp_path: Path
) -> None:
    (served / "config.pbtxt").write_text('name: "null"\nbackend: "onnxruntime"\nmax_batch_size: 4\n')
    with pytest.raises(BuildError, match="sets backend, max_batch_size"):
        build_engine(
            served, tmp_path, EngineOptions(SERVER, Precision.FP32), environment.python, [], tmp_path / "c", print
        )


def test_frames_to_calibrate_on_are_spread_over_all_of_them() -> None:
    numbers = np.arange(1000, dtype=np.uint8)[:, None]
    chosen = calibration([numbers[:600], numbers[600:]])
    assert len(chosen) == CALIBRATION_FRAMES
    assert all(frame.shape == (1, 1) for frame in chosen)
    assert np.array_equal(np.concatenate(chosen)[:, 0], numbers[:: 1000 // CALIBRATION_FRAMES, 0][:CALIBRATION_FRAMES])


def test_the_command_ends_with_2_and_the_reasons(
    make: Callable[..., Path], environment: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make()
    assert main(["engine", "check", str(folder), "--python", str(environment.python)]) == 0
    assert "null in fp16 loads with TensorRT 11.4.0.53 on NVIDIA A10" in capsys.readouterr().out
    environment.crashes()
    assert main(["engine", "check", str(folder), "--python", str(environment.python), "--json"]) == 2
    out, err = capsys.readouterr()
    told = json.loads(out.splitlines()[-1])
    assert not told["ok"]
    assert "SIGABRT" in told["reasons"][0]
    assert "can't be served" in err


def test_the_command_builds_from_pictures(
    environment: StandIn,
    served: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEADRACE_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "photos").mkdir()
    for number in range(3):
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(encode(photo(64, 48, number), "JPEG"))
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no picture")
    command = ["engine", "build", str(served), "--out", str(tmp_path / "out"), "--frames", str(tmp_path / "photos")]
    command += [
        "--python",
        str(environment.python),
        "--tensorrt",
        "11.4.0",
        "--cuda",
        "12",
        "--max-batch-size",
        "8",
        "--json",
    ]
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["agreement"].endswith("of 3 frames")
    assert Path(told["folder"], "1", "model.plan").is_file()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--tensorrt", "11.4", "--cuda", "12"], "expected the server's own"),
        (["--tensorrt", "11.9.0", "--cuda", "12"], "the server has 11.9.0"),
        (["--tensorrt", "11.4.0", "--cuda", "13"], "CUDA 13"),
    ],
)
def test_the_command_refuses_what_does_not_fit_the_server(
    arguments: list[str],
    sentence: str,
    environment: StandIn,
    served: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["engine", "build", str(served), "--out", str(tmp_path / "out"), "--python", str(environment.python)]
    assert main([*command, *arguments]) == 2
    assert sentence in capsys.readouterr().err
