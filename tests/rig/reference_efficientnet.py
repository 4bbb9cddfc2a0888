"""EfficientNet-Lite in plain NumPy, straight from the checkpoint's weights: what the ONNX graph is compared with.

Written from the paper's table and from the published TensorFlow code, with explicit BatchNorm and explicit padding; it
shares nothing with `triton_models.build.efficientnet` but the names of the weights. Slow (seconds a frame), in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# Tan & Le 2019, table 1: (kernel, stride, expansion, repeats) of each stage of B0; Lite scales the repeats of all but
# the first and the last stage.
STAGES = ((3, 1, 1, 1), (3, 2, 6, 2), (5, 2, 6, 2), (3, 2, 6, 3), (5, 1, 6, 3), (5, 2, 6, 4), (3, 1, 6, 1))
DEPTH = {"efficientnet_lite0": 1.0, "efficientnet_lite2": 1.2}


def forward(weights: Mapping[str, npt.NDArray[Any]], depth: float, image: npt.NDArray[np.uint8]) -> tuple[Array, Array]:
    """(logits (1000,), embedding (1280,)) of one (H, W, 3) RGB image in 0..255."""
    x = ((image.astype(np.float64) - 127.0) / 128.0).transpose(2, 0, 1)
    x = relu6(norm(conv(x, weights["_conv_stem.weight"], 2), weights, "_bn0"))
    for name, stride, expansion in _blocks(depth):
        x = _block(x, weights, name, stride, expansion)
    x = relu6(norm(conv(x, weights["_conv_head.weight"], 1), weights, "_bn1"))
    embedding = x.mean(axis=(1, 2))
    return weights["_fc.weight"].astype(np.float64) @ embedding + weights["_fc.bias"], embedding


def _blocks(depth: float) -> list[tuple[str, int, int]]:
    blocks: list[tuple[str, int, int]] = []
    for number, (_, stride, expansion, repeats) in enumerate(STAGES):
        count = repeats if number in (0, len(STAGES) - 1) else ceil(repeats * depth)
        for repeat in range(count):
            blocks.append((f"_blocks.{len(blocks)}", stride if repeat == 0 else 1, expansion))
    return blocks


def _block(x: Array, weights: Mapping[str, npt.NDArray[Any]], name: str, stride: int, expansion: int) -> Array:
    y = x
    if expansion != 1:
        y = relu6(norm(conv(y, weights[f"{name}._expand_conv.weight"], 1), weights, f"{name}._bn0"))
    y = relu6(norm(depthwise(y, weights[f"{name}._depthwise_conv.weight"], stride), weights, f"{name}._bn1"))
    y = norm(conv(y, weights[f"{name}._project_conv.weight"], 1), weights, f"{name}._bn2")
    return x + y if y.shape == x.shape else y


def relu6(x: Array) -> Array:
    """min(max(x, 0), 6)."""
    return np.minimum(np.maximum(x, 0.0), 6.0)


def norm(x: Array, weights: Mapping[str, npt.NDArray[Any]], name: str) -> Array:
    """BatchNorm at inference, channel by channel."""
    columns = (
        weights[f"{name}.{part}"].astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var")
    )
    gamma, beta, mean, variance = (column[:, None, None] for column in columns)
    return gamma * (x - mean) / np.sqrt(variance + 0.001) + beta


def patches(x: Array, kernel: int, stride: int) -> Array:
    """(C, k, k, H', W') windows of x under TensorFlow's SAME padding, which puts the odd pixel after."""
    sizes = x.shape[1:]
    needed = [max((ceil(size / stride) - 1) * stride + kernel - size, 0) for size in sizes]
    padded = np.pad(x, [(0, 0)] + [(n // 2, n - n // 2) for n in needed])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(1, 2))
    return windows[:, ::stride, ::stride].transpose(0, 3, 4, 1, 2)


def conv(x: Array, kernel: npt.NDArray[Any], stride: int) -> Array:
    """Full convolution; `kernel` (out, in, k, k)."""
    if kernel.shape[2] == 1 and stride == 1:
        return np.tensordot(kernel[:, :, 0, 0].astype(np.float64), x, axes=1)
    return np.tensordot(kernel.astype(np.float64), patches(x, kernel.shape[2], stride), axes=3)


def depthwise(x: Array, kernel: npt.NDArray[Any], stride: int) -> Array:
    """Each channel with its own kernel; `kernel` (channels, 1, k, k)."""
    windows = patches(x, kernel.shape[2], stride)
    y = np.zeros((x.shape[0], *windows.shape[3:]))
    for row in range(kernel.shape[2]):
        for column in range(kernel.shape[3]):
            y += kernel[:, 0, row, column, None, None].astype(np.float64) * windows[:, row, column]
    return y
