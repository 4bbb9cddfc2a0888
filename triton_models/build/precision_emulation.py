"""A converted graph as a float32 graph that rounds where a GPU rounds, for onnxruntime on a CPU.

FP16: onnxruntime has hardly any such kernels on a CPU. It casts to float32 before a node, and where two such nodes meet it
leaves the casts out, so a graph run as it stands rounds its weights and nothing else. Casts that stand in the graph are
kept: every result of a node is brought to half precision and back by two of them. Sums inside a node stay float32, as a
GPU's do. INT8: weights are dequantised once instead of for every batch, which changes no number.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from triton_models.build.precision import load_graph

# Computed in the kernel before it, on values not yet rounded.
_ACTIVATIONS = ("Clip", "Relu")


def emulated(model: bytes) -> bytes:
    """The same function in float32. Raises ValueError where an input or output is FP16 itself."""
    import onnx

    widened = onnx.shape_inference.infer_shapes(load_graph(model), strict_mode=True)
    _dequantise_weights(widened.graph)
    _round_results(widened.graph)
    del widened.graph.value_info[:]  # of types that are no longer theirs
    onnx.checker.check_model(widened, full_check=True)
    content: bytes = widened.SerializeToString()
    return content


def _dequantise_weights(graph: Any) -> None:
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            weight, scale = (numpy_helper.to_array(constants[name]) for name in node.input[:2])
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
            values = _dequantised(weight, scale, axis)
            graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
        else:
            nodes.append(node)
    _set_nodes(graph, nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _dequantised(weight: npt.NDArray[Any], scale: npt.NDArray[Any], axis: int) -> npt.NDArray[np.float32]:
    """Symmetric: no zero point. `scale` is one number, or one for each index along `axis`."""
    if scale.ndim:
        scale = scale.reshape([-1 if dimension == axis else 1 for dimension in range(weight.ndim)])
    values: npt.NDArray[np.float32] = (weight.astype(np.float32) * scale).astype(np.float32)
    return values


def _round_results(graph: Any) -> None:
    from onnx import TensorProto, helper, numpy_helper

    for value in (*graph.input, *graph.output):
        if _is_half(value):
            raise ValueError(f"{value.name} travels in half precision; expected a float32 or integer tensor")
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    halves = {value.name for value in graph.value_info if _is_half(value)}
    readers = Counter(name for node in graph.node for name in node.input)
    reader = {name: node for node in graph.node for name in node.input}
    nodes = []
    for node in graph.node:
        _widen_attributes(node)
        nodes.append(node)
        for index, name in enumerate(node.output):
            fused = readers[name] == 1 and reader[name].op_type in _ACTIVATIONS
            if name in halves and not fused:
                node.output[index] = f"{name}.exact"
                nodes.append(helper.make_node("Cast", [f"{name}.exact"], [f"{name}.half"], to=TensorProto.FLOAT16))
                nodes.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    _set_nodes(graph, nodes)


def _widen_attributes(node: Any) -> None:
    """Types that stand in the node: of a cast, and of a constant."""
    from onnx import TensorProto, numpy_helper

    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
            attribute.i = TensorProto.FLOAT
        if attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT16:
            attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float32)))


def _is_half(value: Any) -> bool:
    from onnx import TensorProto

    return bool(value.type.tensor_type.elem_type == TensorProto.FLOAT16)


def _set_nodes(graph: Any, nodes: list[Any]) -> None:
    del graph.node[:]
    graph.node.extend(nodes)
