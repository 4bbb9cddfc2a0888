"""A TensorFlow graph carried out in plain NumPy, node by node as TensorFlow's documentation describes each operation.

What the translated ONNX graph is compared with: (N, H, W, C) as the original, float64, explicit padding, and none of the
translator's code. `decoded` is CenterNet's decoding in loops, and `suppressed` class-wise suppression in loops.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from triton_models.build.tfjs import Node, TfjsGraph

Array = npt.NDArray[np.float64]
Candidate = tuple[float, int, tuple[float, ...]]  # score, class, (x0, y0, x1, y1)


def carried_out(graph: TfjsGraph, feeds: dict[str, Array], outputs: Sequence[str]) -> list[Array]:
    """Values of `outputs` for the placeholders in `feeds`."""
    values: dict[str, Any] = {name: np.asarray(weight) for name, weight in graph.weights.items()} | feeds
    for node in graph.nodes:
        if node.name not in values and set(node.inputs) <= set(values):  # what lies behind an output is not reached
            values[node.name] = _value(node, [values[name] for name in node.inputs])
        if all(name in values for name in outputs):
            break
    return [values[name] for name in outputs]


def _value(node: Node, inputs: list[Any]) -> Any:
    x = inputs[0]
    match node.op:
        case "Conv2D" | "_FusedConv2D":
            return _fused(node, _conv(node, x, inputs[1]), inputs[2:])
        case "DepthwiseConv2dNative" | "FusedDepthwiseConv2dNative":
            return _fused(node, _depthwise(node, x, inputs[1]), inputs[2:])
        case "Add":
            return x + inputs[1]
        case "Mul":
            return x * inputs[1]
        case "Relu":
            return np.maximum(x, 0)
        case "Relu6":
            return np.clip(x, 0, 6)
        case "Sigmoid":
            return 1 / (1 + np.exp(-x))
        case "Identity":
            return x
        case "Mean":
            return x.mean(axis=tuple(inputs[1]), keepdims=node.attributes["keep_dims"])
        case "ConcatV2":
            return np.concatenate(inputs[:-1], axis=int(inputs[-1]))
        case "ResizeBilinear":
            return _resized(
                x, 2 * x.shape[1], 2 * x.shape[2]
            )  # for any size of input, not the size written in the graph
    raise ValueError(f"{node.name}: the interpreter has no {node.op}; the network has changed")


def _windows(node: Node, x: Array, height: int, width: int) -> Array:
    """(N, H', W', height, width, C) under the node's stride and padding."""
    stride = node.attributes["strides"][1]
    pads = [(0, 0), (0, 0)]
    if node.attributes["padding"] == "SAME":
        for axis, (size, kernel) in enumerate(zip(x.shape[1:3], (height, width), strict=True)):
            total = max(kernel - (stride if size % stride == 0 else size % stride), 0)
            pads[axis] = (total // 2, total - total // 2)
    padded = np.pad(x, [(0, 0), *pads, (0, 0)])
    rows, columns = ((padded.shape[axis + 1] - side) // stride + 1 for axis, side in enumerate((height, width)))
    out = np.empty((len(x), rows, columns, height, width, x.shape[3]))
    for row in range(height):
        for column in range(width):
            out[:, :, :, row, column] = padded[
                :, row : row + stride * rows : stride, column : column + stride * columns : stride
            ][:, :rows, :columns]
    return out


def _conv(node: Node, x: Array, kernel: Array) -> Array:
    return np.tensordot(_windows(node, x, *kernel.shape[:2]), kernel.astype(np.float64), axes=3)


def _depthwise(node: Node, x: Array, kernel: Array) -> Array:
    assert kernel.shape[3] == 1
    product: Array = _windows(node, x, *kernel.shape[:2]) * kernel[:, :, :, 0]
    total: Array = product.sum(axis=(3, 4))
    return total


def _fused(node: Node, x: Array, more: list[Array]) -> Array:
    for name in node.attributes.get("fused_ops", ()):
        x = x + more[0] if name == "BiasAdd" else {"Relu": np.maximum(x, 0)}[name]
    return x


def _resized(x: Array, height: int, width: int) -> Array:
    """Bilinear with align_corners and half_pixel_centers both false."""
    for axis, size in ((1, height), (2, width)):
        place = np.arange(size) * (x.shape[axis] / size)
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, x.shape[axis] - 1)
        share = (place - low).reshape([-1 if each == axis else 1 for each in range(4)])
        x = x.take(low, axis) * (1 - share) + x.take(high, axis) * share
    return x


def decoded(heat: Array, sides: Array, count: int, stride: int) -> list[Candidate]:
    """The `count` hottest peaks of one frame, hottest first.

    `heat` (H, W, classes) before the sigmoid, `sides` (H, W, 4): distances to left, top, right and bottom.
    """
    found: list[Candidate] = []
    for row in range(heat.shape[0]):
        for column in range(heat.shape[1]):
            around = heat[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].max(axis=(0, 1))
            left, top, right, bottom = sides[row, column]
            x, y = stride * column, stride * row
            for index in np.flatnonzero(heat[row, column] == around):
                score = float(1 / (1 + np.exp(-heat[row, column, index])))
                found.append((score, int(index), (x - left, y - top, x + right, y + bottom)))
    return sorted(found, key=lambda each: -each[0])[:count]


def suppressed(found: Sequence[Candidate], min_score: float, max_overlap: float) -> list[Candidate]:
    """Greedy and class by class: a box goes when one kept before it covers it by more than `max_overlap`."""
    kept: list[Candidate] = []
    for score, index, box in sorted(found, key=lambda each: -each[0]):
        rivals = (other for _, other_index, other in kept if other_index == index)
        if score >= min_score and all(overlap(box, other) <= max_overlap for other in rivals):
            kept.append((score, index, box))
    return kept


def overlap(first: Sequence[float], second: Sequence[float]) -> float:
    """Intersection over union of two boxes with area."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return width * height / (sum(areas) - width * height)
