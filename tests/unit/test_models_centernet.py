"""The detector's graph: read from TensorFlow.js, translated, and decoded, against plain NumPy on a network in small."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

from tests.rig import reference_tfjs as reference
from triton_models.build.centernet import CANDIDATES, HEAT, IMAGES, SIDES, centernet
from triton_models.build.contract import Wire
from triton_models.build.folders import BuildError
from triton_models.build.tfjs import read_tfjs

WIRE = Wire(width=96, height=64, layout="nhwc", dtype="uint8", mean=(0.0,) * 3, std=(1.0,) * 3)
HEAD = "tower_0/CenternetHead"


class Model:
    """Writes a graph model as TensorFlow.js does: names, base64, integers as text, weights in half precision."""

    def __init__(self) -> None:
        self.nodes: list[dict[str, Any]] = [{"name": IMAGES, "op": "Placeholder"}]
        self.weights: list[tuple[str, npt.NDArray[Any]]] = []
        self._rng = np.random.default_rng(5)

    def const(self, name: str, values: npt.ArrayLike) -> str:
        self.nodes.append({"name": name, "op": "Const"})
        self.weights.append((name, np.asarray(values)))
        return name

    def node(self, name: str, op: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append({"name": name, "op": op, "input": list(inputs), "attr": attributes})
        return name

    def conv(self, name: str, x: str, shape: tuple[int, ...], stride: int = 1, fused: str = "BiasAdd") -> str:
        """Of `shape` HWIO; with the last side 1 depthwise."""
        depthwise = shape[3] == 1
        scale = 1.5 / np.sqrt(shape[0] * shape[1] * (1 if depthwise else shape[2]))
        inputs = [x, self.const(f"{name}/weights", self._rng.normal(0, scale, shape).astype(np.float32))]
        attributes: dict[str, Any] = {
            "padding": text("SAME"),
            "strides": {"list": {"i": ["1", str(stride), str(stride), "1"]}},
        }
        if fused:
            attributes["fused_ops"] = {"list": {"s": [text(part)["s"] for part in fused.split()]}}
            bias = self._rng.normal(0, 0.5, shape[2 if depthwise else 3])
            inputs.append(self.const(f"{name}/bias", bias.astype(np.float32)))
        kind = ("FusedDepthwiseConv2dNative" if fused else "DepthwiseConv2dNative") if depthwise else "Conv2D"
        return self.node(name, "_FusedConv2D" if fused and not depthwise else kind, *inputs, **attributes)

    def write(self, folder: Path) -> Path:
        entries, raw = [], b""
        for name, values in self.weights:
            entry: dict[str, Any] = {"name": name, "shape": list(values.shape), "dtype": "int32"}
            if values.dtype != np.int32:
                entry |= {"dtype": "float32", "quantization": {"dtype": "float16", "original_dtype": "float32"}}
            entries.append(entry)
            raw += values.astype(np.int32 if values.dtype == np.int32 else np.float16).tobytes()
        (folder / "net.bin").write_bytes(raw)
        manifest = [{"paths": ["net.bin"], "weights": entries}]
        # Nodes come in any order.
        topology = {"node": self.nodes[::-1]}
        path = folder / "net.json"
        path.write_text(json.dumps({"format": "graph-model", "modelTopology": topology, "weightsManifest": manifest}))
        return path


def text(value: str) -> dict[str, str]:
    return {"s": base64.b64encode(value.encode()).decode()}


def small_net() -> Model:
    """Every operation of the real network once or more, three classes, cells of four pixels."""
    net = Model()
    x = net.conv("stem", IMAGES, (3, 3, 3, 4), stride=2)
    sixth = net.const("sixth", np.float32(1 / 6 / 128))
    net.node("scaled", "Mul", sixth, x)
    net.node("shifted", "Add", x, net.const("three", np.float32(3)))
    net.node("gate", "Relu6", "shifted")
    net.node("swish", "Mul", "scaled", "gate")
    fine = net.conv("fine", "swish", (5, 5, 4, 1), stride=2, fused="BiasAdd Relu")
    net.node("mean", "Mean", fine, net.const("axes", np.array([1, 2], np.int32)), keep_dims={"b": True})
    net.conv("squeeze", "mean", (1, 1, 4, 2), fused="BiasAdd Relu")
    net.conv("excite", "squeeze", (1, 1, 2, 4), fused="")
    net.node("excited", "Sigmoid", "excite")
    net.node("weighted", "Mul", "excited", fine)
    net.conv("coarse", "weighted", (3, 3, 4, 6), stride=2)
    size = net.const("size", np.array([16, 24], np.int32))
    half_pixel = {"align_corners": {"b": False}, "half_pixel_centers": {"b": False}}
    net.node("up", "ResizeBilinear", "coarse", size, **half_pixel)
    net.node("both", "ConcatV2", "weighted", "up", net.const("axis", np.int32(3)))
    net.node("relu", "Relu", "both")
    net.conv("depth", "relu", (3, 3, 10, 1), fused="")
    net.conv(HEAT, "depth", (1, 1, 10, 3))
    net.conv("wh", "depth", (1, 1, 10, 4))
    net.node("wide", "Mul", "wh", net.const("by", np.float32(16)))
    net.node(SIDES, "Identity", "wide")
    net.node("tower_0/detections", "TopKV2", SIDES)  # what lies behind is not looked at
    return net


@pytest.fixture
def pixels() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(2).integers(0, 256, (2, WIRE.height, WIRE.width, 3), dtype=np.uint8)


def run(model: onnx.ModelProto, image: npt.NDArray[Any], *names: str) -> list[npt.NDArray[Any]]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(list(names), {"image": image}))


def with_outputs(model: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    more = onnx.ModelProto()
    more.CopyFrom(model)
    more.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return more


def test_the_translated_network_computes_what_plain_numpy_computes(
    tmp_path: Path, pixels: npt.NDArray[np.uint8]
) -> None:
    graph = read_tfjs(small_net().write(tmp_path))
    heat, sides = run(with_outputs(centernet(graph, WIRE), HEAT, SIDES), pixels, HEAT, SIDES)
    wanted = reference.carried_out(graph, {IMAGES: pixels.astype(np.float64)}, [HEAT, SIDES])
    assert wanted[0].shape == (2, 16, 24, 3)
    assert wanted[0].std() > 0.5  # the image reaches the outputs
    np.testing.assert_allclose(heat.transpose(0, 2, 3, 1), wanted[0], atol=1e-4)
    np.testing.assert_allclose(sides.transpose(0, 2, 3, 1), wanted[1], atol=1e-3)


def test_the_candidates_are_the_hottest_peaks_with_the_boxes_around_them(
    tmp_path: Path, pixels: npt.NDArray[np.uint8]
) -> None:
    model = with_outputs(centernet(read_tfjs(small_net().write(tmp_path)), WIRE), HEAT, SIDES)
    heat, sides, boxes, scores, classes = run(model, pixels, HEAT, SIDES, "boxes", "scores", "classes")
    assert boxes.shape == (2, CANDIDATES, 4)
    assert classes.dtype == np.int32
    for frame in range(2):
        wanted = reference.decoded(heat[frame].transpose(1, 2, 0), sides[frame].transpose(1, 2, 0), CANDIDATES, 4)
        assert len(wanted) > 10
        count = len(wanted)  # of so small a map there may be fewer peaks than candidates: the rest scores 0
        np.testing.assert_allclose(scores[frame, :count], [score for score, _, _ in wanted], atol=1e-6)
        assert classes[frame, :count].tolist() == [index for _, index, _ in wanted]
        np.testing.assert_allclose(boxes[frame, :count], [box for _, _, box in wanted], atol=1e-3)
        assert (scores[frame, count:] == 0).all()


def test_an_operation_that_is_not_known_is_named(tmp_path: Path) -> None:
    net = small_net()
    net.nodes[-2]["op"] = "Softplus"
    with pytest.raises(BuildError, match=f"{SIDES} is a Softplus"):
        centernet(read_tfjs(net.write(tmp_path)), WIRE)


def test_a_graph_without_the_networks_outputs_is_another_model(tmp_path: Path) -> None:
    net = Model()
    net.conv("stem", IMAGES, (3, 3, 3, 4))
    with pytest.raises(BuildError, match="not the CenterNet this project knows"):
        centernet(read_tfjs(net.write(tmp_path)), WIRE)


def test_sides_that_the_network_can_not_halve_five_times_are_refused(tmp_path: Path) -> None:
    wire = Wire(width=100, height=64, layout="nhwc", dtype="uint8", mean=(0.0,) * 3, std=(1.0,) * 3)
    with pytest.raises(BuildError, match="multiples of 32, the contract has 100x64"):
        centernet(read_tfjs(small_net().write(tmp_path)), wire)


@pytest.mark.parametrize("damage", ["cut", "longer", "circle", "no json", "another type"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    net = small_net()
    if damage == "circle":
        net.nodes[-1]["input"] = ["tower_0/detections"]
    path = net.write(tmp_path)
    weights = tmp_path / "net.bin"
    match damage:
        case "cut":
            weights.write_bytes(weights.read_bytes()[:-1])
        case "longer":
            weights.write_bytes(weights.read_bytes() + b"\0")
        case "no json":
            path.write_bytes(b"\x80\x04K\x01.")
        case "another type":
            path.write_text(path.read_text().replace('"float16"', '"uint8"'))
    with pytest.raises(BuildError, match=r"net\.json is not a TensorFlow\.js graph model"):
        read_tfjs(path)
