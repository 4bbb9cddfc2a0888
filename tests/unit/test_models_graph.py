"""The rebuilt network on small random weights against plain NumPy: padding, folding, strides, shortcuts, wire types."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rig import reference_efficientnet as reference
from triton_models.build.contract import Wire
from triton_models.build.efficientnet import efficientnet, same_padding
from triton_models.build.null import null

WIDTHS = (8, 16, 24, 32, 40, 48, 56)
UINT8 = Wire(width=40, height=33, layout="nhwc", dtype="uint8", mean=(127.0,) * 3, std=(128.0,) * 3)


def random_weights(depth: float, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """A narrow EfficientNet-Lite with the names and the depth of a real one.

    Gains of 0.5 to 1.5 let the image through (it moves the logits by 2) and don't make the net chaotic: with gains to 2 and
    small variances a change of 1e-7 in the weights moves them by 0.1.
    """
    rng = np.random.default_rng(seed)
    weights: dict[str, npt.NDArray[Any]] = {}

    def conv(name: str, norm: str, out: int, into: int, kernel: int) -> None:
        scale = 1.5 / np.sqrt(into * kernel * kernel)
        weights[f"{name}.weight"] = rng.normal(0, scale, (out, into, kernel, kernel)).astype(np.float32)
        weights[f"{norm}.weight"] = rng.uniform(0.5, 1.5, out).astype(np.float32)
        weights[f"{norm}.bias"] = rng.normal(0, 0.5, out).astype(np.float32)
        weights[f"{norm}.running_mean"] = rng.normal(0, 0.5, out).astype(np.float32)
        weights[f"{norm}.running_var"] = rng.uniform(0.5, 2, out).astype(np.float32)

    conv("_conv_stem", "_bn0", 8, 3, 3)
    into, index = 8, 0
    for width, (kernel, _, expansion, repeats) in zip(WIDTHS, reference.STAGES, strict=True):
        for _ in range(repeats if width in (WIDTHS[0], WIDTHS[-1]) else int(np.ceil(repeats * depth))):
            name, inside = f"_blocks.{index}", into * expansion
            if expansion != 1:
                conv(f"{name}._expand_conv", f"{name}._bn0", inside, into, 1)
            conv(f"{name}._depthwise_conv", f"{name}._bn1", inside, 1, kernel)
            conv(f"{name}._project_conv", f"{name}._bn2", width, inside, 1)
            into, index = width, index + 1
    conv("_conv_head", "_bn1", 1280, into, 1)
    weights["_bn0.running_var"][:] = 0.002  # near the epsilon of 0.001, as some trained channels are
    weights["_fc.weight"] = rng.normal(0, 0.05, (1000, 1280)).astype(np.float32)
    weights["_fc.bias"] = rng.normal(0, 1, 1000).astype(np.float32)
    return weights


def run(model: Any, image: npt.NDArray[Any], *names: str) -> list[npt.NDArray[Any]]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(list(names), {"image": image}))


def pixels(wire: Wire, count: int = 1) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (count, wire.height, wire.width, 3), dtype=np.uint8)


@pytest.mark.parametrize("depth", [1.0, 1.2])
def test_the_graph_computes_what_plain_numpy_computes(depth: float) -> None:
    weights, image = random_weights(depth), pixels(UINT8)
    logits, embedding = run(efficientnet(weights, UINT8), image, "logits", "embedding")
    wanted_logits, wanted_embedding = reference.forward(weights, depth, image[0])
    other_logits, _ = reference.forward(weights, depth, 255 - image[0])
    assert np.abs(other_logits - wanted_logits).max() > 0.5  # the image does reach the outputs
    np.testing.assert_allclose(embedding[0], wanted_embedding, atol=1e-3)
    np.testing.assert_allclose(logits[0], wanted_logits, atol=1e-3)


@pytest.mark.parametrize(("dtype", "layout"), [("float32", "nchw"), ("float32", "nhwc"), ("float16", "nchw")])
def test_a_wire_tensor_normalised_by_the_sender_gives_the_same_logits(dtype: str, layout: str) -> None:
    weights, image = random_weights(1.0), pixels(UINT8)
    sent = ((image.astype(np.float32) - 127) / 128).astype(dtype)
    sent = sent.transpose(0, 3, 1, 2) if layout == "nchw" else sent
    (of_uint8,) = run(efficientnet(weights, UINT8), image, "logits")
    (of_floats,) = run(efficientnet(weights, replace(UINT8, dtype=dtype, layout=layout)), sent, "logits")
    tolerance = 1e-4 if dtype == "float32" else 0.05  # float16 keeps 11 bits of each value
    np.testing.assert_allclose(of_floats, of_uint8, atol=tolerance)


def test_uint8_planes_normalise_to_the_same_logits_as_uint8_pixels() -> None:
    weights, image = random_weights(1.0), pixels(UINT8)
    (nhwc,) = run(efficientnet(weights, UINT8), image, "logits")
    (nchw,) = run(efficientnet(weights, replace(UINT8, layout="nchw")), image.transpose(0, 3, 1, 2), "logits")
    np.testing.assert_allclose(nchw, nhwc, atol=1e-4)


def test_each_channel_is_normalised_with_its_own_mean_and_std() -> None:
    weights, image = random_weights(1.0), pixels(UINT8)
    wire = replace(UINT8, mean=(10.0, 20.0, 30.0), std=(40.0, 50.0, 60.0))
    sent = (image - np.array([10, 20, 30], np.float32)) / np.array([40, 50, 60], np.float32)
    (by_graph,) = run(efficientnet(weights, wire), image, "logits")
    (by_sender,) = run(efficientnet(weights, replace(wire, dtype="float32")), sent, "logits")
    np.testing.assert_allclose(by_graph, by_sender, atol=1e-3)


def test_a_frame_gets_the_same_answer_alone_as_in_a_batch() -> None:
    model, images = efficientnet(random_weights(1.0), UINT8), pixels(UINT8, 5)
    (together,) = run(model, images, "logits")
    (alone,) = run(model, images[3:4], "logits")
    np.testing.assert_allclose(alone[0], together[3], atol=1e-4)


@given(size=st.integers(1, 600), kernel=st.sampled_from([1, 3, 5]), stride=st.sampled_from([1, 2]))
@settings(max_examples=200)
def test_padding_gives_ceil_of_size_over_stride_and_puts_the_odd_pixel_after(
    size: int, kernel: int, stride: int
) -> None:
    before, after = same_padding(size, kernel, stride)
    assert after - before in (0, 1)
    if before or after:
        assert (size + before + after - kernel) // stride + 1 == -(-size // stride)
    else:
        assert (-(-size // stride) - 1) * stride + kernel <= size


def test_an_unchanged_network_serialises_to_the_same_bytes() -> None:
    weights = random_weights(1.0)
    assert efficientnet(weights, UINT8).SerializeToString() == efficientnet(weights, UINT8).SerializeToString()


@pytest.mark.parametrize("count", [0, 1, 16])
def test_the_null_model_lets_class_0_win_for_any_batch(count: int) -> None:
    (logits,) = run(null(UINT8), pixels(UINT8, count), "logits")
    assert logits.shape == (count, 1000)
    assert logits.dtype == np.float32
    assert (logits.argmax(axis=1) == 0).all()
