"""Both engines with a shipped model: behind the one face they must give the same numbers and the same identity."""

from __future__ import annotations

import queue
import time
from pathlib import Path

import numpy as np

from worker.buffers import SlotPool
from worker.embedded.triton import TritonServer
from worker.errors import HeadraceError
from worker.frames import Answer, TensorSpec
from worker.infer import Engine, TritonEngine
from worker.infer.local import LocalEngine

MODEL = "efficientnet_lite0"
INPUT = TensorSpec("image", np.dtype(np.uint8), (224, 224, 3))
OUTPUTS = ("logits", "embedding")
ROWS = 4


def answer_of(engine: Engine) -> Answer:
    pool = SlotPool(2, ROWS, INPUT.shape, INPUT.dtype, shared=True)
    try:
        engine.attach(pool)
        slot = pool.acquire(60)
        assert slot is not None
        levels = np.random.default_rng(4).random((ROWS, 7, 7, 3))
        slot.array[:] = np.kron(levels, np.ones((1, 32, 32, 1))) * 255
        heard: queue.SimpleQueue[Answer | HeadraceError] = queue.SimpleQueue()
        engine.submit(slot, ROWS, time.monotonic() + 60, heard.put)
        outcome = heard.get(timeout=120)
        assert isinstance(outcome, Answer), outcome
        return outcome
    finally:
        engine.close()
        pool.close()


def test_openvino_answers_as_onnxruntime_does_under_a_digest_of_its_own(served_repository: Path) -> None:
    folder = served_repository / MODEL
    answers = [
        answer_of(LocalEngine(folder, input_spec=INPUT, output_names=OUTPUTS, threads=1, runtime=runtime))
        for runtime in ("onnxruntime", "openvino")
    ]
    models = [answer.model for answer in answers]
    assert [model.runtime for model in models] == ["onnxruntime", "openvino"]
    assert models[0].digest != models[1].digest
    logits = [answer.outputs["logits"] for answer in answers]
    assert (logits[0].argmax(axis=1) == logits[1].argmax(axis=1)).all()
    if models[1].precision == "fp32":  # a CPU with bfloat16 has its own idea of the rest
        np.testing.assert_allclose(logits[0], logits[1], rtol=1e-3, atol=1e-3)


def test_triton_and_the_local_engine_answer_alike_with_the_same_identity(
    triton: TritonServer, served_repository: Path
) -> None:
    remote = TritonEngine(triton.grpc_url, MODEL, input_spec=INPUT, output_names=OUTPUTS, shared_memory="on")
    local = LocalEngine(served_repository / MODEL, input_spec=INPUT, output_names=OUTPUTS, threads=1)
    assert remote.preprocess_digest == local.preprocess_digest
    assert remote.outputs == local.outputs
    one, other = answer_of(remote), answer_of(local)
    assert one.model == other.model
    assert one.outputs["logits"].shape == (ROWS, 1000)
    for name in OUTPUTS:
        np.testing.assert_allclose(one.outputs[name], other.outputs[name], rtol=1e-3, atol=1e-3)
    assert len({row.tobytes() for row in one.outputs["logits"]}) == ROWS
