"""Which TensorRT and GPU may build a plan, and which may load it: every misfit is a sentence with both sides in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from triton_models.build.engine import EngineManifest, Machine, read_manifest
from triton_models.build.engine.fit import Server, unfit_builder, unfit_machine
from triton_models.build.engine.manifest import MANIFEST, Hardware
from triton_models.build.folders import BuildError
from triton_models.build.precision_agreement import agreement
from triton_models.build.triton_config import Precision

HERE = Machine("11.4.0.53", "12", "8.6", "NVIDIA A10")
SERVER = Server("11.4.0", "12")
ENGINE = EngineManifest(
    name="m",
    precision=Precision.FP16,
    source_digest="sha256:a",
    digest="sha256:b",
    engine_digest="sha256:c",
    preprocess="sha256:d",
    tensorrt="11.4.0.53",
    cuda="12",
    compute_capability="8.6",
    device="NVIDIA A10",
    hardware=Hardware.THIS,
    version_compatible=False,
    max_batch_size=64,
    instances=2,
    row_bytes=1000,
    agreement=agreement(519, 520),
)


def test_the_servers_own_version_cuda_and_a_gpu_may_build() -> None:
    assert unfit_builder(HERE, SERVER, version_compatible=False) == []
    assert unfit_builder(HERE, Server("11.4.0.53", "12"), version_compatible=False) == []


@pytest.mark.parametrize(
    ("machine", "named"),
    [
        (replace(HERE, tensorrt="11.4.1.6"), ["11.4.1.6", "11.4.0"]),
        (replace(HERE, tensorrt="10.13.2"), ["10.13.2", "11 or later"]),
        (replace(HERE, cuda="13"), ["CUDA 13", "CUDA 12", "cu12"]),
        (replace(HERE, cuda=None), ["CUDA_VERSION"]),
        (replace(HERE, compute_capability=None, device=None), ["no GPU"]),
    ],
)
def test_another_builder_is_refused_with_what_it_is_and_what_was_wanted(machine: Machine, named: list[str]) -> None:
    said = "; ".join(unfit_builder(machine, SERVER, version_compatible=False))
    assert said
    assert all(word in said for word in named)


def test_a_version_compatible_plan_may_come_from_an_earlier_version_of_the_major_only() -> None:
    def fits(built: str, server: str) -> bool:
        return not unfit_builder(replace(HERE, tensorrt=built), Server(server, "12"), version_compatible=True)

    assert fits("11.2.0", "11.4.0")
    assert fits("11.4.0.53", "11.4.0")
    assert not fits("11.5.0", "11.4.0")
    assert not fits("11.4.0", "12.0.0")


@pytest.mark.parametrize(("version", "cuda"), [("11", "12"), ("11.4", "12"), ("latest", "12"), ("11.4.0", "12.9")])
def test_a_server_told_less_than_exactly_is_refused(version: str, cuda: str) -> None:
    with pytest.raises(ValueError, match=r"for example 11\.4\.0 and 12"):
        Server(version, cuda)


def test_an_engine_runs_where_it_was_built() -> None:
    assert unfit_machine(ENGINE, HERE) == []


@pytest.mark.parametrize(
    ("engine", "machine", "named"),
    [
        (ENGINE, replace(HERE, tensorrt="11.4.0.54"), "built with TensorRT 11.4.0.53, this is 11.4.0.54"),
        (ENGINE, replace(HERE, cuda="13"), "built for CUDA 12"),
        (ENGINE, replace(HERE, device="NVIDIA A40"), "this is NVIDIA A40"),
        (ENGINE, replace(HERE, compute_capability=None), "no GPU"),
        (
            replace(ENGINE, hardware=Hardware.SAME_COMPUTE_CAPABILITY),
            replace(HERE, compute_capability="8.9"),
            "GPUs of that compute capability",
        ),
        (
            replace(ENGINE, hardware=Hardware.AMPERE_PLUS),
            replace(HERE, compute_capability="7.5"),
            "compute capability 8.0 and later",
        ),
        (replace(ENGINE, version_compatible=True), replace(HERE, tensorrt="11.3.0"), "for later versions"),
    ],
)
def test_an_engine_on_another_machine_is_refused_with_both_sides(
    engine: EngineManifest, machine: Machine, named: str
) -> None:
    (reason,) = unfit_machine(engine, machine)
    assert named in reason


@pytest.mark.parametrize(
    ("engine", "machine"),
    [
        (replace(ENGINE, hardware=Hardware.SAME_COMPUTE_CAPABILITY), replace(HERE, device="NVIDIA A40")),
        (replace(ENGINE, hardware=Hardware.AMPERE_PLUS), replace(HERE, device="H200", compute_capability="9.0")),
        (replace(ENGINE, hardware=Hardware.AMPERE_PLUS), replace(HERE, device="RTX", compute_capability="12.0")),
        (replace(ENGINE, version_compatible=True), replace(HERE, tensorrt="11.9.1")),
    ],
)
def test_a_compatible_engine_runs_on_more(engine: EngineManifest, machine: Machine) -> None:
    assert unfit_machine(engine, machine) == []


@pytest.mark.parametrize("engine", [ENGINE, replace(ENGINE, precision=Precision.FP32, agreement=None)])
def test_a_manifest_reads_back_as_it_was_written(tmp_path: Path, engine: EngineManifest) -> None:
    engine.write(tmp_path)
    assert read_manifest(tmp_path) == engine


def test_the_parameters_tell_what_a_prediction_names_and_the_agreement_with_its_interval() -> None:
    told = ENGINE.parameters()
    assert {"digest", "preprocess", "runtime", "precision", "engine_digest", "tensorrt", "compute_capability"} <= set(
        told
    )
    assert told["runtime"] == "tensorrt"
    assert told["agreement"] == "0.9981 (0.9892 to 0.9997) of 520 frames"
    assert all(isinstance(value, str) and '"' not in value for value in told.values())


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"name": "m"}', None])
def test_what_is_no_manifest_is_refused_with_its_path(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(BuildError, match=r"engine\.json"):
        read_manifest(tmp_path)
