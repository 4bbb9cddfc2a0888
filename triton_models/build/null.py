"""A model that answers at once: stands in for an infinitely fast accelerator where overhead is measured.

It takes the same tensor as the model it stands in for, reads nothing of it but the batch size, and answers with
logits in which class 0 wins.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from triton_models.build.contract import Wire
from triton_models.build.graphs import INPUT, OUTPUT_DTYPE, finished, wire_input

CLASSES = 1000
_WINNER_LOGIT = 10.0  # softmax 0.957 over 1000 classes: a score any threshold lets through


def null(wire: Wire) -> onnx.ModelProto:
    """Constant `logits` (N, 1000) float32 for whatever `image` holds."""
    image, _, _ = wire_input(wire, "unused")
    row = np.zeros((1, CLASSES), np.float32)
    row[0, 0] = _WINNER_LOGIT
    constants = [numpy_helper.from_array(row, "row"), numpy_helper.from_array(np.array([1], np.int64), "one")]
    nodes = [
        helper.make_node("Shape", [INPUT], ["batch_size"], name="batch_size", start=0, end=1),
        helper.make_node("Concat", ["batch_size", "one"], ["repeats"], name="repeats", axis=0),
        helper.make_node("Tile", ["row", "repeats"], ["logits"], name="logits"),
    ]
    outputs = [helper.make_tensor_value_info("logits", OUTPUT_DTYPE, ["batch", CLASSES])]
    return finished("null", nodes, [image], outputs, constants)
