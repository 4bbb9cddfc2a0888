"""What every ONNX graph of the project shares: its input, its output type, and how it is closed and checked."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from triton_models.build.contract import Wire

INPUT = "image"
OUTPUT_DTYPE = TensorProto.FLOAT
_OPSET = 17  # understood by every onnxruntime since 1.12 and by TensorRT since 8.6
_IR_VERSION = 8  # the one that belongs to opset 17
_ONNX_DTYPE = {"uint8": TensorProto.UINT8, "float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT}


def wire_input(wire: Wire, output: str) -> tuple[onnx.ValueInfoProto, list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Input `image` of the contract's dtype and layout, and the nodes that make of it `output`: normalised
    (N, 3, H, W) float32, (x - mean) / std where the graph normalises and that changes anything.
    """
    image = helper.make_tensor_value_info(INPUT, _ONNX_DTYPE[wire.dtype], ["batch", *wire.shape])
    steps: list[tuple[str, list[str], dict[str, object]]] = []
    constants: list[onnx.TensorProto] = []
    if wire.layout == "nhwc":
        steps.append(("Transpose", [], {"perm": [0, 3, 1, 2]}))  # while a value is still one byte
    if wire.dtype != "float32":
        steps.append(("Cast", [], {"to": TensorProto.FLOAT}))
    if wire.normalised_by_graph:
        for name, values, op, neutral in (("mean", wire.mean, "Sub", 0), ("std", wire.std, "Div", 1)):
            if all(value == neutral for value in values):
                continue
            constants.append(numpy_helper.from_array(np.array(values, np.float32).reshape(1, 3, 1, 1), name))
            steps.append((op, [name], {}))
    steps = steps or [("Identity", [], {})]
    nodes, x = [], INPUT
    for number, (op, more, attributes) in enumerate(steps):
        y = output if number == len(steps) - 1 else f"{INPUT}.{op.lower()}"
        nodes.append(helper.make_node(op, [x, *more], [y], name=y, **attributes))
        x = y
    return image, nodes, constants


def finished(
    name: str,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: list[onnx.TensorProto],
) -> onnx.ModelProto:
    """A checked model. The same arguments give the same bytes, so that the digest names the weights and the graph."""
    graph = helper.make_graph(nodes, name, inputs, outputs, initializer=constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name="headrace")
    model.ir_version = _IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model
