"""EfficientNet-Lite as an ONNX graph, rebuilt from its weights.

Weights by PyTorch name -> convolutions with their BatchNorm folded in -> `logits` (N, 1000) and `embedding`
(N, 1280), both float32, batch dimension free. The first nodes turn the wire tensor into the normalised (N, 3, H, W)
the network was trained on. Architecture: Tan & Le 2019 (EfficientNet) without squeeze-and-excitation and with ReLU6.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from triton_models.build.checkpoint import Weights
from triton_models.build.contract import Wire
from triton_models.build.graphs import OUTPUT_DTYPE, finished, wire_input

_BATCH_NORM_EPSILON = 1e-3  # of the TensorFlow original; PyTorch's default of 1e-5 shifts the logits
_STAGE_STRIDES = (1, 2, 2, 2, 1, 2, 1)  # Tan & Le 2019, table 1; a stage is a run of blocks of equal output width
CLASSES = 1000
EMBEDDING = 1280

Float32 = npt.NDArray[np.float32]


def efficientnet(weights: Weights, wire: Wire) -> onnx.ModelProto:
    """The whole network. Raises KeyError where a weight of the architecture is missing."""
    return _Net(weights, wire).model()


def block_strides(weights: Weights) -> list[int]:
    """Stride of each block's depthwise convolution: a stage's stride on its first block, 1 on the others."""
    strides: list[int] = []
    stage, width = -1, 0
    while (name := f"_blocks.{len(strides)}._project_conv.weight") in weights:
        new_stage = weights[name].shape[0] != width
        stage, width = stage + new_stage, weights[name].shape[0]
        strides.append(_STAGE_STRIDES[stage] if new_stage else 1)
    return strides


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """(before, after) as TensorFlow's SAME pads one axis: an odd pixel goes after. Not what a symmetric pad gives."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def folded(kernel: Float32, norm: Weights) -> tuple[Float32, Float32]:
    """Convolution kernel and bias that do the work of convolution, then BatchNorm; computed in float64."""
    scale = norm["weight"].astype(np.float64) / np.sqrt(norm["running_var"].astype(np.float64) + _BATCH_NORM_EPSILON)
    bias = norm["bias"] - norm["running_mean"] * scale
    return (kernel * scale[:, None, None, None]).astype(np.float32), bias.astype(np.float32)


class _Net:
    """Nodes and initialisers as they are added, and the spatial size that the next layer sees."""

    def __init__(self, weights: Weights, wire: Wire) -> None:
        self.weights = weights
        self.wire = wire
        self.height, self.width = wire.height, wire.width
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def model(self) -> onnx.ModelProto:
        image, nodes, constants = wire_input(self.wire, "normalised")
        self.nodes += nodes
        self.constants += constants
        self._constant("zero", np.float32(0))
        self._constant("six", np.float32(6))
        x = self._conv("normalised", "_conv_stem", "_bn0", stride=2)
        for index, stride in enumerate(block_strides(self.weights)):
            x = self._block(x, f"_blocks.{index}", stride)
        x = self._conv(x, "_conv_head", "_bn1")
        x = self._node("GlobalAveragePool", [x], "pooled")
        self._node("Flatten", [x], "embedding", axis=1)
        self._constant("_fc.weight", self.weights["_fc.weight"])
        self._constant("_fc.bias", self.weights["_fc.bias"])
        self._node("Gemm", ["embedding", "_fc.weight", "_fc.bias"], "logits", transB=1)
        outputs = [
            helper.make_tensor_value_info("logits", OUTPUT_DTYPE, ["batch", CLASSES]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", EMBEDDING]),
        ]
        return finished("efficientnet_lite", self.nodes, [image], outputs, self.constants)

    def _block(self, x: str, name: str, stride: int) -> str:
        """Inverted residual: expand, depthwise, project without activation; added to its input where shapes agree."""
        inside = x
        if f"{name}._expand_conv.weight" in self.weights:
            inside = self._conv(inside, f"{name}._expand_conv", f"{name}._bn0")
        inside = self._conv(inside, f"{name}._depthwise_conv", f"{name}._bn1", stride=stride, depthwise=True)
        inside = self._conv(inside, f"{name}._project_conv", f"{name}._bn2", relu6=False)
        first = self.weights.get(f"{name}._expand_conv.weight", self.weights[f"{name}._depthwise_conv.weight"])
        width_in = first.shape[1] if f"{name}._expand_conv.weight" in self.weights else first.shape[0]
        if stride == 1 and width_in == self.weights[f"{name}._project_conv.weight"].shape[0]:
            return self._node("Add", [inside, x], f"{name}.sum")
        return inside

    def _conv(
        self, x: str, conv: str, norm: str, *, stride: int = 1, depthwise: bool = False, relu6: bool = True
    ) -> str:
        parts = ("weight", "bias", "running_mean", "running_var")
        kernel, bias = folded(self.weights[f"{conv}.weight"], {part: self.weights[f"{norm}.{part}"] for part in parts})
        self._constant(f"{conv}.kernel", kernel)
        self._constant(f"{conv}.bias", bias)
        top, bottom = same_padding(self.height, kernel.shape[2], stride)
        left, right = same_padding(self.width, kernel.shape[3], stride)
        self.height, self.width = -(-self.height // stride), -(-self.width // stride)
        y = self._node(
            "Conv",
            [x, f"{conv}.kernel", f"{conv}.bias"],
            f"{conv}.out",
            kernel_shape=list(kernel.shape[2:]),
            strides=[stride, stride],
            pads=[top, left, bottom, right],
            group=kernel.shape[0] if depthwise else 1,
        )
        return self._node("Clip", [y, "zero", "six"], f"{conv}.relu6") if relu6 else y

    def _node(self, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def _constant(self, name: str, values: npt.ArrayLike) -> None:
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
