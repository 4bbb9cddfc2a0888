"""A float32 graph in another precision, as TensorRT 11 wants it: the types stand in the graph, the builder adds none.

FP16: weights and arithmetic converted, inputs and outputs keep their types. INT8: quantise/dequantise pairs with fixed
scales, measured on real frames, before every convolution and matrix product; symmetric, weights by output channel.
The tools are onnxruntime's own.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from triton_models.build.folders import BuildError
from triton_models.build.triton_config import INPUT, Precision

Batch = npt.NDArray[Any]

# What TensorRT has INT8 kernels for. The sums beside them stay in float: a pair around each costs accuracy and no launch less.
_QUANTISED = ["Conv", "Gemm", "MatMul"]


def in_precision(model: bytes, precision: Precision, batches: Sequence[Batch]) -> bytes:
    """The ONNX graph `model` (float32) in `precision`. `batches`, each (N, *input shape) of the wire's dtype, are the
    frames that INT8's scales are measured on; the others don't read them. Raises BuildError.
    """
    graph = load_graph(model)
    _cast_first(graph)
    match precision:
        case Precision.FP32:
            return _checked(graph)
        case Precision.FP16:
            return _fp16(graph)
        case Precision.INT8:
            if not batches:
                raise BuildError("INT8 needs frames to measure its scales on: name some with --frames")
            return _int8(graph, batches)


def load_graph(model: bytes) -> Any:
    """An `onnx.ModelProto`. Raises BuildError where onnx is not installed."""
    try:
        import onnx
    except ModuleNotFoundError:
        raise BuildError("onnx is not installed; install the extra: pip install 'headrace[demo]'") from None
    return onnx.load_from_string(model)


def _cast_first(model: Any) -> None:
    """Cast the wire's bytes before anything else: TensorRT takes uint8 at an input, and into a cast alone. The shipped
    graphs transpose while a value is still one byte, which a CPU likes.
    """
    image = model.graph.input[0].name
    for first, second in itertools.pairwise(model.graph.node):
        ops = (first.op_type, second.op_type)
        if ops == ("Transpose", "Cast") and first.input[0] == image and list(second.input) == list(first.output):
            # Each takes the other's place; the names between them stay.
            transpose = type(first)()
            transpose.CopyFrom(first)
            for node, becomes in ((first, second), (second, transpose)):
                node.op_type = becomes.op_type
                attributes = [*becomes.attribute]
                del node.attribute[:]
                node.attribute.extend(attributes)


def _fp16(model: Any) -> bytes:
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    converted = ONNXModel(convert_float_to_float16(model, keep_io_types=True))
    converted.topological_sort()  # it puts its casts at the end, wherever they belong
    return _checked(converted.model)


def _int8(model: Any, batches: Sequence[Batch]) -> bytes:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory(prefix="headrace-int8-") as folder, _quiet():
        target = Path(folder) / "int8.onnx"
        quantize_static(
            model,
            target,
            _Frames(batches),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_QUANTISED,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={
                "ActivationSymmetric": True,  # TensorRT's INT8 has no zero point
                "WeightSymmetric": True,
                "QuantizeBias": False,  # TensorRT's parser refuses a bias of int32 behind a dequantise node
                # Only what goes in is quantised, so that an activation function stays fused to its convolution.
                "OpTypesToExcludeOutputQuantization": _QUANTISED,
            },
        )
        return _checked(load_graph(target.read_bytes()))


class _Frames:
    """onnxruntime's CalibrationDataReader: `get_next` until None."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, Batch] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser recommends a pre-processing by the root logger, which fuses what these graphs have fused already."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _checked(model: Any) -> bytes:
    import onnx

    onnx.checker.check_model(model, full_check=True)
    graph: bytes = model.SerializeToString()
    return graph


def quantised_operators(model: bytes) -> tuple[int, int]:
    """(operators fed by dequantised tensors only, operators of the kinds that INT8 covers)."""
    graph = load_graph(model).graph
    dequantised = {output for node in graph.node if node.op_type == "DequantizeLinear" for output in node.output}
    nodes = [node for node in graph.node if node.op_type in _QUANTISED]
    return sum(set(node.input[:2]) <= dequantised for node in nodes), len(nodes)
