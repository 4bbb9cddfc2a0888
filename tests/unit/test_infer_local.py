"""The local engine with a real onnxruntime, a real OpenVINO, and a model of three nodes."""

from __future__ import annotations

import json
import queue
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from worker.buffers import SlotPool
from worker.errors import ConfigurationError, HeadraceError, InferenceRejected, InferenceUnavailable, ModelError
from worker.frames import Answer, TensorSpec
from worker.infer.local import LocalEngine

SHAPE = (4, 4, 3)
INPUT = TensorSpec("image", np.dtype(np.uint8), SHAPE)


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    """A served folder whose model gives each row's sum, and fails on an odd batch."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", ["f", "axes"], ["sum"], keepdims=0),
            # Fails on an odd batch, with onnxruntime's own error at run time.
            helper.make_node("Reshape", ["sum", "pairs"], ["pairs_out"]),
        ],
        "sums",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", *SHAPE])],
        [
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["batch"]),
            helper.make_tensor_value_info("pairs_out", TensorProto.FLOAT, [2, "half"]),
        ],
        [
            helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3]),
            helper.make_tensor("pairs", TensorProto.INT64, [2], [2, -1]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "1").mkdir()
    onnx.save(model, str(tmp_path / "1" / "model.onnx"))
    manifest = {
        "name": "sums",
        "version": "1",
        "digest": "sha256:1234",
        "preprocess": "sha256:5678",
        "runtime": "onnxruntime",
        "precision": "fp32",
        "onnx": "1/model.onnx",
    }
    (tmp_path / "model.json").write_text(json.dumps(manifest))
    return tmp_path


@pytest.fixture(params=["onnxruntime", "openvino"])
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def engine(model_dir: Path, runtime: str) -> Iterator[LocalEngine]:
    made = LocalEngine(model_dir, input_spec=INPUT, output_names=("sum",), threads=2, runtime=runtime)
    yield made
    made.close()


def ask(engine: LocalEngine, pool: SlotPool, rows: int, within_s: float = 60.0) -> Answer | HeadraceError:
    heard: queue.SimpleQueue[Answer | HeadraceError] = queue.SimpleQueue()
    slot = pool.acquire(60)
    assert slot is not None
    slot.array[:] = np.arange(len(slot.array), dtype=np.uint8).reshape(-1, 1, 1, 1)
    engine.submit(slot, rows, time.monotonic() + within_s, heard.put)
    outcome = heard.get(timeout=60)
    slot.let_go()
    return outcome


def test_the_local_engine_answers_each_row_with_the_models_identity(engine: LocalEngine, runtime: str) -> None:
    pool = SlotPool(2, 4, SHAPE, INPUT.dtype, shared=False)
    engine.attach(pool)
    outcome = ask(engine, pool, 2)
    assert isinstance(outcome, Answer)
    np.testing.assert_array_equal(outcome.outputs["sum"], np.array([0, 48], np.float32))
    model = outcome.model
    assert (model.name, model.version, model.runtime) == ("sums", "1", runtime)
    # Other arithmetic than the manifest's is another model.
    assert (model.digest == "sha256:1234") == (runtime == "onnxruntime")
    assert engine.preprocess_digest == "sha256:5678"
    assert engine.outputs == (TensorSpec("sum", np.dtype(np.float32), ()),)
    assert pool.in_use == 0


def test_a_batch_past_its_deadline_is_unavailable_and_its_slot_comes_back(engine: LocalEngine) -> None:
    pool = SlotPool(1, 4, SHAPE, INPUT.dtype, shared=False)
    engine.attach(pool)
    assert isinstance(ask(engine, pool, 4, within_s=-1.0), InferenceUnavailable)
    slot = pool.acquire(60)
    assert slot is not None, "the slot comes back"
    slot.let_go()
    assert isinstance(ask(engine, pool, 4), Answer)


def test_a_batch_the_model_fails_on_is_rejected_and_the_next_is_answered(model_dir: Path) -> None:
    engine = LocalEngine(
        model_dir, input_spec=INPUT, output_names=("pairs_out",), threads=1
    )  # OpenVINO takes that batch
    pool = SlotPool(1, 4, SHAPE, INPUT.dtype, shared=False)
    engine.attach(pool)
    refused = ask(engine, pool, 3)
    assert isinstance(refused, InferenceRejected)
    assert "sums" in str(refused)
    assert isinstance(ask(engine, pool, 4), Answer)
    engine.close()


def test_close_answers_every_submission(engine: LocalEngine) -> None:
    pool = SlotPool(8, 4, SHAPE, INPUT.dtype, shared=False)
    engine.attach(pool)
    heard: queue.SimpleQueue[Answer | HeadraceError] = queue.SimpleQueue()
    slots = [pool.acquire(0) for _ in range(8)]
    for slot in slots:
        assert slot is not None
        engine.submit(slot, 4, time.monotonic() + 60, heard.put)
        slot.let_go()
    engine.close()
    assert heard.qsize() == 8
    assert pool.in_use == 0


def test_a_model_of_another_shape_is_refused_with_both_shapes_named(model_dir: Path, runtime: str) -> None:
    other = TensorSpec("image", np.dtype(np.float32), (3, 8, 8))
    with pytest.raises(ModelError) as caught:
        LocalEngine(model_dir, input_spec=other, output_names=("sum",), runtime=runtime)
    assert "uint8 (4, 4, 3)" in str(caught.value)
    assert "float32 (3, 8, 8)" in str(caught.value)


def test_slots_that_do_not_fit_the_model_are_refused(engine: LocalEngine) -> None:
    with pytest.raises(ModelError, match=r"\(5, 5, 3\)"):
        engine.attach(SlotPool(1, 4, (5, 5, 3), INPUT.dtype, shared=False))


def test_a_missing_output_is_named_with_those_there_are(model_dir: Path, runtime: str) -> None:
    with pytest.raises(ModelError, match="no output logits; it has sum, pairs_out"):
        LocalEngine(model_dir, input_spec=INPUT, output_names=("logits",), runtime=runtime)


def test_answers_from_several_threads_at_once_are_each_their_own(engine: LocalEngine) -> None:
    pool = SlotPool(16, 4, SHAPE, INPUT.dtype, shared=False)
    engine.attach(pool)
    heard: list[queue.SimpleQueue[Answer | HeadraceError]] = []
    for number in range(200):
        slot = pool.acquire(60)
        assert slot is not None
        slot.array[:] = number
        heard.append(queue.SimpleQueue())
        engine.submit(slot, 4, time.monotonic() + 60, heard[-1].put)
        slot.let_go()
    answers = [each.get(timeout=60) for each in heard]
    for number, answer in enumerate(answers):
        assert isinstance(answer, Answer)
        np.testing.assert_array_equal(answer.outputs["sum"], np.full(4, number * 48, np.float32))


def test_a_file_that_is_no_model_and_a_library_that_is_not_there_are_told(
    model_dir: Path, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model_dir / "1" / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=f"can't be loaded by {runtime}"):
        LocalEngine(model_dir, input_spec=INPUT, output_names=("sum",), runtime=runtime)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'headrace\[openvino\]'"):
        LocalEngine(model_dir, input_spec=INPUT, output_names=("sum",), runtime="openvino")


def test_a_folder_that_holds_no_model_is_a_configuration_error(tmp_path: Path, model_dir: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"is no served model"):
        LocalEngine(tmp_path / "nothing", input_spec=INPUT, output_names=("sum",))
    (model_dir / "model.json").write_text('{"name": "sums"}')
    with pytest.raises(ConfigurationError, match="lacks digest, onnx, precision"):
        LocalEngine(model_dir, input_spec=INPUT, output_names=("sum",))
