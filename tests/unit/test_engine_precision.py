"""Graphs in other precisions, on a small random network: what is converted, what stays, and how agreement is counted."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_models_graph import UINT8, pixels, random_weights
from triton_models.build.efficientnet import efficientnet
from triton_models.build.folders import BuildError
from triton_models.build.precision import in_precision, quantised_operators
from triton_models.build.precision_agreement import agreement, found_again, measured_agreement, overlap, same_classes
from triton_models.build.precision_emulation import emulated
from triton_models.build.triton_config import Precision


@pytest.fixture(scope="module")
def graph() -> bytes:
    return bytes(efficientnet(random_weights(1.0), UINT8).SerializeToString())


@pytest.fixture(scope="module")
def batches() -> list[npt.NDArray[np.uint8]]:
    return [frame[None] for frame in pixels(UINT8, 8)]


@pytest.fixture(scope="module")
def int8(graph: bytes, batches: list[npt.NDArray[np.uint8]]) -> bytes:
    return in_precision(graph, Precision.INT8, batches)


def logits(graph: bytes, image: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Node by node: merged into integer kernels, quantised nodes saturate on CPUs without VNNI."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"image": image})[0])


@pytest.mark.parametrize("precision", list(Precision))
def test_the_wires_bytes_go_into_a_cast_first_as_tensorrt_wants_them(
    precision: Precision, graph: bytes, int8: bytes
) -> None:
    assert onnx.load_from_string(graph).graph.node[0].op_type == "Transpose"
    converted = int8 if precision is Precision.INT8 else in_precision(graph, precision, [])
    assert {node.op_type for node in onnx.load_from_string(converted).graph.node if "image" in node.input} == {"Cast"}


def test_float32_answers_as_the_graph_itself(graph: bytes, batches: list[npt.NDArray[np.uint8]]) -> None:
    assert np.array_equal(logits(in_precision(graph, Precision.FP32, []), batches[0]), logits(graph, batches[0]))


def test_float16_converts_the_weights_and_keeps_what_travels(graph: bytes) -> None:
    converted = onnx.load_from_string(in_precision(graph, Precision.FP16, [])).graph
    floats = {constant.data_type for constant in converted.initializer}
    assert floats == {onnx.TensorProto.FLOAT16}
    assert [output.type.tensor_type.elem_type for output in converted.output] == [onnx.TensorProto.FLOAT] * 2
    assert converted.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.INT8])
def test_a_converted_graph_answers_close_to_float32_and_not_the_same(
    precision: Precision, graph: bytes, int8: bytes, batches: list[npt.NDArray[np.uint8]]
) -> None:
    converted = int8 if precision is Precision.INT8 else in_precision(graph, precision, [])
    expected, given = (logits(each, batches[0]) for each in (graph, converted))
    difference, spread = np.abs(given - expected).max(), np.ptp(expected)
    assert 0 < difference < spread * (0.02 if precision is Precision.FP16 else 0.3)


def test_int8_quantises_every_convolution_and_product_symmetrically_by_channel(int8: bytes) -> None:
    assert quantised_operators(int8)[0] == quantised_operators(int8)[1] > 20
    model = onnx.load_from_string(int8).graph
    constants = {constant.name: onnx.numpy_helper.to_array(constant) for constant in model.initializer}
    pairs = [node for node in model.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    zero_points = [constants[node.input[2]] for node in pairs]
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zero_points)
    weights = [node for node in pairs if node.input[0] in constants]
    assert all(
        constants[node.input[1]].size == constants[node.input[0]].shape[0]
        for node in weights
        if constants[node.input[0]].ndim == 4
    )


def test_int8_leaves_biases_in_float_as_tensorrts_parser_wants_them(int8: bytes) -> None:
    model = onnx.load_from_string(int8).graph
    constants = {constant.name: constant.data_type for constant in model.initializer}
    biases = [node.input[2] for node in model.node if node.op_type in ("Conv", "Gemm")]
    assert {constants[bias] for bias in biases} == {onnx.TensorProto.FLOAT}


def test_an_activation_stays_beside_its_convolution(int8: bytes) -> None:
    model = onnx.load_from_string(int8).graph
    makers = {output: node.op_type for node in model.node for output in node.output}
    clips = [node for node in model.node if node.op_type == "Clip"]
    assert clips
    assert {makers[node.input[0]] for node in clips} == {"Conv"}


def test_half_precision_is_emulated_with_a_rounding_after_every_result() -> None:
    """2048 + 1 is 2048 in half precision, however often it is added; onnxruntime on a CPU says 2051."""
    one = onnx.numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "one")
    bias = onnx.numpy_helper.from_array(np.ones(1, np.float32), "bias")
    names = ["image", "a", "b", "logits"]
    nodes = [onnx.helper.make_node("Conv", [x, "one", "bias"], [y]) for x, y in itertools.pairwise(names)]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 1, 1, 1]) for name in ("image", "logits")
    ]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], initializer=[one, bias]),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
    )
    model.ir_version = 8
    half, image = in_precision(model.SerializeToString(), Precision.FP16, []), np.full((1, 1, 1, 1), 2048, np.float32)
    assert logits(half, image).item() != 2048  # else the emulation is no longer needed
    assert logits(emulated(half), image).item() == 2048


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.INT8])
def test_the_emulation_changes_no_number_of_the_other_precisions(
    precision: Precision, graph: bytes, int8: bytes, batches: list[npt.NDArray[np.uint8]]
) -> None:
    converted = int8 if precision is Precision.INT8 else graph
    expected, given = (logits(each, batches[0]) for each in (converted, emulated(converted)))
    # A sum in another order may round one activation to the next step.
    np.testing.assert_allclose(given, expected, atol=0.02 * float(np.ptp(expected)))


def test_the_emulation_rounds_more_than_the_weights(graph: bytes, batches: list[npt.NDArray[np.uint8]]) -> None:
    half = in_precision(graph, Precision.FP16, [])
    rounded, plain = (logits(each, batches[0]) for each in (emulated(half), half))
    assert 0 < np.abs(rounded - plain).max() < 0.02 * np.ptp(plain)


def test_int8_without_frames_says_how_to_name_some(graph: bytes) -> None:
    with pytest.raises(BuildError, match="--frames"):
        in_precision(graph, Precision.INT8, [])


def test_a_graph_agrees_with_itself_on_every_frame(graph: bytes, batches: list[npt.NDArray[np.uint8]]) -> None:
    measured = measured_agreement(graph, graph, batches)
    assert (measured.same, measured.frames) == (8, 8)
    assert measured.low < 0.7  # eight frames prove little


def test_a_graph_without_a_verdict_is_refused(batches: list[npt.NDArray[np.uint8]]) -> None:
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["batch", *UINT8.shape])
    other = onnx.helper.make_tensor_value_info("other", onnx.TensorProto.UINT8, ["batch", *UINT8.shape])
    nodes = [onnx.helper.make_node("Identity", ["image"], ["other"])]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", [image], [other]), opset_imports=[onnx.helper.make_opsetid("", 17)]
    )
    model.ir_version = 8
    with pytest.raises(ValueError, match="gives other"):
        measured_agreement(model.SerializeToString(), model.SerializeToString(), batches)


@pytest.mark.parametrize(
    ("same", "frames", "low", "high"), [(98, 100, 0.9300, 0.9945), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0)]
)
def test_the_interval_is_wilsons(same: int, frames: int, low: float, high: float) -> None:
    measured = agreement(same, frames)
    assert [measured.low, measured.high] == pytest.approx([low, high], abs=1e-4)


@given(st.integers(1, 2000).flatmap(lambda frames: st.tuples(st.integers(0, frames), st.just(frames))))
def test_the_interval_holds_the_share_and_stays_a_share(counts: tuple[int, int]) -> None:
    measured = agreement(*counts)
    assert 0 <= measured.low <= measured.share <= measured.high <= 1


def test_a_classifier_is_judged_by_its_best_class() -> None:
    expected, given = np.array([[1, 2, 0], [3, 1, 0]]), np.array([[0, 9, 8], [1, 3, 0]])
    assert same_classes([expected], [given]).tolist() == [True, False]


BOX, MOVED, FAR = [0, 0, 10, 10], [1, 1, 11, 11], [50, 50, 60, 60]


@pytest.mark.parametrize(
    ("boxes", "scores", "classes", "same"),
    [
        ([MOVED, FAR], [0.5, 0.9], [3, 3], True),  # second now, still there
        ([MOVED, FAR], [0.2, 0.9], [3, 3], False),  # no longer confident
        ([MOVED, FAR], [0.9, 0.9], [4, 3], False),  # of another class
        ([FAR, FAR], [0.9, 0.9], [3, 3], False),
        ([BOX, FAR], [0.1, 0.1], [3, 3], False),
    ],
)
def test_a_detector_is_judged_by_finding_its_best_box_again(
    boxes: list[list[int]], scores: list[float], classes: list[int], same: bool
) -> None:
    expected = [np.array([[BOX, FAR]], float), np.array([[0.8, 0.4]]), np.array([[3, 1]])]
    given = [np.array([boxes], float), np.array([scores]), np.array([classes])]
    assert found_again(expected, given).tolist() == [same]


def test_where_nothing_was_seen_nothing_may_be_found() -> None:
    empty = [np.array([[BOX]], float), np.array([[0.1]]), np.array([[3]])]
    full = [np.array([[BOX]], float), np.array([[0.9]]), np.array([[3]])]
    assert found_again(empty, empty).tolist() == [True]
    assert found_again(empty, full).tolist() == [False]


def test_overlap_is_the_common_area_of_the_whole() -> None:
    boxes = np.array([BOX, MOVED, FAR, [0, 0, 0, 0]], float)
    assert overlap(np.array(BOX, float), boxes) == pytest.approx([1, 81 / 119, 0, 0])
