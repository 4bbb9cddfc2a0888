"""The local engine: the same ONNX model inside this process, for machines without a Triton.

A submission waits in a queue for one of a few threads, which run one session of one thread each at a time; answers
leave from those threads. A batch that is past its deadline when its turn comes is not run at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from worker.buffers import Slot, SlotPool
from worker.errors import ConfigurationError, HeadraceError, InferenceRejected, InferenceUnavailable, ModelError
from worker.frames import Answer, ModelIdentity, TensorSpec
from worker.infer.calls import Call, Timer
from worker.infer.engine import Done, check_fit, shapes_agree
from worker.infer.sessions import open_session

MANIFEST = "model.json"
_FREE_BATCH = 1024  # rows of a model whose batch dimension is free; memory, not the model, is the limit


class LocalEngine:
    """The model of a served folder, `model_dir`, run by `runtime` on `threads` threads (0: half of the cores). See `Engine`.

    Raises ConfigurationError if the folder holds no model, ModelError if the model is not what `input_spec` and
    `output_names` say.
    """

    def __init__(
        self,
        model_dir: Path,
        *,
        input_spec: TensorSpec,
        output_names: Sequence[str],
        served_by: str = "primary",
        threads: int = 0,
        runtime: str = "onnxruntime",
    ) -> None:
        manifest = _read_manifest(model_dir)
        self._served_by = served_by
        self._output_names = list(output_names)
        self._endpoint = f"{manifest['name']} in {model_dir}"
        # One thread a batch and several batches: 2 x 1 thread took 9 ms a frame on two cores, 1 x 2 threads 14 to 16.
        threads = threads or max(1, len(os.sched_getaffinity(0)) // 2)
        self._session = open_session(model_dir / manifest["onnx"], runtime, threads)
        self.identity = _identity(manifest, runtime, self._session.precision)
        self.preprocess_digest: str | None = manifest["preprocess"]
        self.input, self.max_batch_size = self._check_input(input_spec)
        self.outputs = self._check_outputs()
        self._closed = False
        self._timer = Timer("local-timer")
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="local")

    def attach(self, pool: SlotPool) -> None:
        """See `Engine`. Warms the model up with one batch."""
        check_fit(pool, self.input, self.max_batch_size, self._endpoint)
        self._session.run(self._output_names, np.zeros((pool.rows, *pool.shape), pool.dtype))

    def submit(self, slot: Slot, rows: int, deadline: float, done: Done) -> None:
        """See `Engine`. Raises RuntimeError after `close`."""
        if self._closed:
            raise RuntimeError("the engine is closed")
        call = Call(slot, rows, deadline, done, self._endpoint)
        self._timer.at(deadline, call.expire)
        self._threads.submit(self._run, call)

    def close(self) -> None:
        """See `Engine`. Waits for the batches that are being run."""
        self._closed = True
        self._threads.shutdown(wait=True)
        self._timer.close()

    def _run(self, call: Call) -> None:
        outcome: Answer | HeadraceError
        if self._closed or time.monotonic() >= call.deadline:
            call.end(InferenceUnavailable(f"{self._endpoint} came to the batch too late, or was closed."))
            return
        try:
            batch = call.slot.read(call.rows)
            arrays = self._session.run(self._output_names, batch)
        except Exception as error:  # the library's own kinds, by none of which one could tell more
            outcome = InferenceRejected(f"{self._endpoint} failed on the batch: {error}")
            outcome.__cause__ = error
        else:
            outputs = dict(zip(self._output_names, arrays, strict=True))
            elapsed_ms = (time.monotonic() - call.submitted_at) * 1e3
            outcome = Answer(outputs, self.identity, self._served_by, elapsed_ms)
        call.end(outcome)

    def _check_input(self, expected: TensorSpec) -> tuple[TensorSpec, int]:
        inputs = self._session.inputs
        given = inputs[0]
        if (
            len(inputs) != 1
            or given.name != expected.name
            or given.dtype != expected.dtype
            or not shapes_agree(given.shape, expected.shape)
        ):
            seen = ", ".join(f"{tensor.name!r} {tensor.dtype} {tensor.shape}" for tensor in inputs)
            raise ModelError(
                f"{self._endpoint} takes {seen}, but its preprocessing contract makes "
                f"{expected.name!r} {expected.dtype} {expected.shape} (batch left out): name the contract that belongs "
                "to this model (model.directory), or serve the model it was made for."
            )
        return given, self._session.max_batch_size or _FREE_BATCH

    def _check_outputs(self) -> tuple[TensorSpec, ...]:
        outputs = {tensor.name: tensor for tensor in self._session.outputs}
        missing = [name for name in self._output_names if name not in outputs]
        if missing:
            raise ModelError(f"{self._endpoint} has no output {', '.join(missing)}; it has {', '.join(outputs)}.")
        return tuple(outputs[name] for name in self._output_names)


def _read_manifest(model_dir: Path) -> dict[str, str]:
    path = model_dir / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        missing = {"name", "version", "digest", "preprocess", "runtime", "precision", "onnx"} - manifest.keys()
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigurationError(
            f"{model_dir} is no served model: {path.name} can't be read ({error}). Build the models, or set "
            "model.directory to the folder of one."
        ) from error
    if missing:
        raise ConfigurationError(f"{path} lacks {', '.join(sorted(missing))}: build the models again.")
    return dict(manifest)


def _identity(manifest: dict[str, str], runtime: str, precision: str) -> ModelIdentity:
    """What a prediction names. Where it is not the manifest's own runtime and precision that computed, the digest is another too."""
    digest, computed = manifest["digest"], precision or manifest["precision"]
    if (runtime, computed) != (manifest["runtime"], manifest["precision"]):
        digest = "sha256:" + hashlib.sha256(f"{digest} {runtime} {computed}".encode()).hexdigest()
    return ModelIdentity(manifest["name"], manifest["version"], digest, runtime, computed)
