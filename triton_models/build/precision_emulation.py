"""A half-precision graph as a float32 graph that rounds where a GPU rounds.

onnxruntime has hardly any FP16 kernels on a CPU: it casts to float32 before a node, and where two such nodes meet it leaves
the casts out, so a graph run as it stands rounds its weights and nothing else. Casts that stand in the graph are kept. So
every result of a node is brought to half precision and back by two of them; sums inside a node stay float32, as a GPU's do.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from triton_models.build.precision import load_graph

# Computed in the kernel before it, on values not yet rounded.
_ACTIVATIONS = ("Clip", "Relu")


def rounded_as_run(model: bytes) -> bytes:
    """The same function in float32 with each FP16 result rounded; a graph without FP16 comes back as it is."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    half = onnx.shape_inference.infer_shapes(load_graph(model), strict_mode=True, data_prop=False)
    graph = half.graph
    rounded = {value.name for value in (*graph.value_info, *graph.output) if _is_half(value)}
    weights = [tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT16]
    if not rounded and not weights:
        return model
    for tensor in weights:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float32"), tensor.name))
    for value in (*graph.input, *graph.output):
        if _is_half(value):
            raise ValueError(f"{value.name} travels in half precision; expected a float32 or integer tensor")
    readers = Counter(name for node in graph.node for name in node.input)
    next_node = {name: node for node in graph.node for name in node.input}
    nodes: list[Any] = []
    for node in graph.node:
        _widen(node)
        nodes.append(node)
        for index, name in enumerate(node.output):
            fused = readers[name] == 1 and next_node[name].op_type in _ACTIVATIONS
            if name in rounded and not fused:
                node.output[index] = f"{name}.exact"
                nodes.append(helper.make_node("Cast", [f"{name}.exact"], [f"{name}.half"], to=TensorProto.FLOAT16))
                nodes.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]  # of types that are no longer theirs
    onnx.checker.check_model(half, full_check=True)
    widened: bytes = half.SerializeToString()
    return widened


def _is_half(value: Any) -> bool:
    from onnx import TensorProto

    return bool(value.type.tensor_type.elem_type == TensorProto.FLOAT16)


def _widen(node: Any) -> None:
    """Types that stand in the node: of a cast, and of a constant."""
    from onnx import TensorProto, numpy_helper

    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
            attribute.i = TensorProto.FLOAT
        if attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT16:
            attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype("float32")))
