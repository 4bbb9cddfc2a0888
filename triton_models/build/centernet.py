"""CenterNet on MobileNetV3 as an ONNX graph, translated from its TensorFlow.js graph, with the decoding in the graph.

The network gives a heat map for each class and, in each cell of it, the distances from there to the four sides of a box.
The last nodes turn the hottest peaks into `boxes` (N, K, 4), `scores` (N, K) and `classes` (N, K), so that a few kilobytes
leave the server and not five megabytes a frame. Zhou, Wang & Krähenbühl 2019, "Objects as Points".
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from triton_models.build.contract import Wire
from triton_models.build.efficientnet import same_padding
from triton_models.build.folders import BuildError
from triton_models.build.graphs import OUTPUT_DTYPE, finished, wire_input
from triton_models.build.tfjs import Node, TfjsGraph

CANDIDATES = 100  # boxes a frame before suppression, as the network was published with
CLASSES = 80
STRIDE = 4  # input pixels to a cell of the heat map
IMAGES, HEAT, SIDES = (
    f"tower_0/{name}" for name in ("images", "CenternetHead/centernet_cls_output/BiasAdd", "wh")
)  # heat is taken before its sigmoid: the order is the same and only the hottest need it
_COLDEST = -1e4  # for cells that are no peak; fits in half precision, and its sigmoid is 0


def centernet(graph: TfjsGraph, wire: Wire) -> onnx.ModelProto:
    """The whole network; sides of the wire's picture are multiples of 32. Raises BuildError for what it can't translate."""
    if wire.width % 32 or wire.height % 32:
        raise BuildError(f"CenterNet takes sides that are multiples of 32, the contract has {wire.width}x{wire.height}")
    return _Net(graph, wire).model()


class _Net:
    """Nodes and initialisers as they are added, in (N, C, H, W), and the (height, width) of every tensor."""

    def __init__(self, graph: TfjsGraph, wire: Wire) -> None:
        self.graph = graph
        self.wire = wire
        self.sizes: dict[str, tuple[int, int]] = {IMAGES: (wire.height, wire.width)}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def model(self) -> onnx.ModelProto:
        image, self.nodes, constants = wire_input(self.wire, IMAGES)
        self.constants = {constant.name: constant for constant in constants}
        try:
            for node in self.graph.needed([HEAT, SIDES]):
                if node.name != IMAGES:
                    self.sizes[node.name] = self._translate(node)
        except (KeyError, IndexError) as error:
            raise BuildError(f"the graph is not the CenterNet this project knows: {error!r}") from error
        self._decode(*self.sizes[HEAT])
        outputs = [
            helper.make_tensor_value_info("boxes", OUTPUT_DTYPE, ["batch", CANDIDATES, 4]),
            helper.make_tensor_value_info("scores", OUTPUT_DTYPE, ["batch", CANDIDATES]),
            helper.make_tensor_value_info("classes", TensorProto.INT32, ["batch", CANDIDATES]),
        ]
        return finished("centernet", self.nodes, [image], outputs, list(self.constants.values()))

    def _translate(self, node: Node) -> tuple[int, int]:
        """Add the node's equal; returns the size of what comes out."""
        match node.op:
            case "Conv2D" | "_FusedConv2D":
                return self._convolution(node, self.graph.weights[node.inputs[1]].transpose(3, 2, 0, 1))
            case "DepthwiseConv2dNative" | "FusedDepthwiseConv2dNative":
                kernel = self.graph.weights[node.inputs[1]]
                return self._convolution(node, kernel.transpose(2, 3, 0, 1), group=kernel.shape[2])
            case "Add" | "Mul":
                return self._elementwise(node)
            case "Relu" | "Sigmoid" | "Identity":
                self._node(node.op, [node.inputs[0]], node.name)
            case "Relu6":
                bounds = [self._constant("zero", np.float32(0)), self._constant("six", np.float32(6))]
                self._node("Clip", [node.inputs[0], *bounds], node.name)
            case "Mean":  # over height and width, the only one there is
                self._node("GlobalAveragePool", [node.inputs[0]], node.name)
                return 1, 1
            case "ConcatV2":
                self._node("Concat", node.inputs[:-1], node.name, axis=1)
            case "ResizeBilinear":
                return self._doubled(node)
            case _:
                raise BuildError(f"{node.name} is a {node.op}, which this project does not translate")
        return self.sizes[node.inputs[0]]

    def _convolution(self, node: Node, kernel: npt.NDArray[np.float32], group: int = 1) -> tuple[int, int]:
        height, width = self.sizes[node.inputs[0]]
        stride = node.attributes["strides"][1]
        pads = [(0, 0), (0, 0)]
        if node.attributes["padding"] == "SAME":
            pads = [
                same_padding(size, side, stride) for size, side in zip((height, width), kernel.shape[2:], strict=True)
            ]
        inputs = [node.inputs[0], self._constant(f"{node.name}.kernel", np.ascontiguousarray(kernel))]
        fused = node.attributes.get("fused_ops", ())
        if "BiasAdd" in fused:
            inputs.append(self._constant(f"{node.name}.bias", self.graph.weights[node.inputs[2]]))
        relu = "Relu" in fused
        self._node(
            "Conv",
            inputs,
            f"{node.name}.linear" if relu else node.name,
            kernel_shape=list(kernel.shape[2:]),
            strides=[stride, stride],
            pads=[before for before, _ in pads] + [after for _, after in pads],
            group=group,
        )
        if relu:
            self._node("Relu", [f"{node.name}.linear"], node.name)
        return -(-height // stride), -(-width // stride)

    def _elementwise(self, node: Node) -> tuple[int, int]:
        """Of two tensors, or of one and a number."""
        numbers = {name: self.graph.weights[name] for name in node.inputs if name in self.graph.weights}
        if any(number.shape for number in numbers.values()):
            raise BuildError(f"{node.name} takes an array of weights, which this project does not translate")
        inputs = [self._constant(name, numbers[name]) if name in numbers else name for name in node.inputs]
        self._node(node.op, inputs, node.name)
        return max(self.sizes[name] for name in node.inputs if name not in numbers)  # a squeezed one is (1, 1)

    def _doubled(self, node: Node) -> tuple[int, int]:
        """TensorFlow's first bilinear: a pixel of the output takes from its place times the ratio, corners aligned or not."""
        if node.attributes["align_corners"] or node.attributes["half_pixel_centers"]:
            raise BuildError(f"{node.name} resizes in another way than this project translates")
        scales = self._constant("doubled", np.array([1, 1, 2, 2], np.float32))
        self._node(
            "Resize",
            [node.inputs[0], "", scales],
            node.name,
            mode="linear",
            coordinate_transformation_mode="asymmetric",
        )
        height, width = self.sizes[node.inputs[0]]
        return 2 * height, 2 * width

    def _decode(self, height: int, width: int) -> None:
        """Peaks of 3x3 cells, the hottest CANDIDATES of all classes together, each with the box around its cell."""
        self._node("MaxPool", [HEAT], "hottest", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        self._node("Equal", [HEAT, "hottest"], "is_peak")
        self._node("Where", ["is_peak", HEAT, self._constant("coldest", np.float32(_COLDEST))], "peaks")
        self._node("Reshape", ["peaks", self._constant("flat", np.array([0, -1]))], "all_peaks")
        self._node("TopK", ["all_peaks", self._constant("candidates", np.array([CANDIDATES]))], "heat", "place", axis=1)
        self._node("Sigmoid", ["heat"], "scores")
        cells = self._constant("cells", np.array(height * width))
        self._node("Div", ["place", cells], "class")
        self._node("Cast", ["class"], "classes", to=TensorProto.INT32)
        self._node("Mod", ["place", cells], "flat_cell")
        self._node("Unsqueeze", ["flat_cell", self._constant("side_axis", np.array([1]))], "cell")
        columns = self._constant("columns", np.array(width))
        self._node("Mod", ["cell", columns], "column")
        self._node("Div", ["cell", columns], "row")
        self._node("Reshape", [SIDES, self._constant("flat_sides", np.array([0, 4, -1]))], "sides")
        self._node("Concat", ["cell"] * 4, "cell_of_side", axis=1)
        self._node("GatherElements", ["sides", "cell_of_side"], "distances", axis=2)
        self._node("Concat", ["column", "row"] * 2, "place_of_side", axis=1)
        self._node("Cast", ["place_of_side"], "centres", to=TensorProto.FLOAT)
        self._node("Mul", ["centres", self._constant("stride", np.float32(STRIDE))], "centre_pixels")
        outwards = np.array([-1, -1, 1, 1], np.float32).reshape(1, 4, 1)
        self._node("Mul", ["distances", self._constant("outwards", outwards)], "offsets")
        self._node("Add", ["centre_pixels", "offsets"], "side_pixels")
        self._node("Transpose", ["side_pixels"], "boxes", perm=[0, 2, 1])

    def _node(self, op: str, inputs: list[str] | tuple[str, ...], *outputs: str, **attributes: object) -> None:
        self.nodes.append(helper.make_node(op, inputs, outputs, name=outputs[0], **attributes))

    def _constant(self, name: str, values: npt.ArrayLike) -> str:
        self.constants[name] = numpy_helper.from_array(np.asarray(values), name)
        return name
