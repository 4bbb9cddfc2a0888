"""The shipped classifiers as functions, straight by onnxruntime: what the gate asks for top-1."""

from __future__ import annotations

import json
from pathlib import Path

import onnxruntime

from worker.frames import AnyArray
from worker.preprocess.contract import Contract
from worker.tuning.parity import Score

CLASSIFIERS = ("efficientnet_lite2", "efficientnet_lite0")


def classifier(folder: Path) -> tuple[Contract, Score]:
    """Contract and scores of a served model's folder."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    onnx = folder / json.loads((folder / "model.json").read_text())["onnx"]
    session = onnxruntime.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])

    def score(inputs: AnyArray) -> AnyArray:
        logits: AnyArray = session.run(["logits"], {session.get_inputs()[0].name: inputs})[0]
        return logits

    return Contract.load(folder / "preprocess.toml"), score
