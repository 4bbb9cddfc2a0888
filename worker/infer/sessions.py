"""An ONNX file on this machine's CPU: the same questions to onnxruntime and, with the extra `openvino`, to OpenVINO.

`Session.run` is for any number of threads at once; each call works on one core. Shapes are without the batch.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime

from worker.errors import ConfigurationError, ModelError
from worker.frames import AnyArray, TensorSpec

_DTYPES = {
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
}


class Session(Protocol):
    """A loaded model; `max_batch_size` is None where its batch is free.

    `precision` is that of its arithmetic where this library chose another than the file's; empty: the file's.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int | None
    precision: str

    def run(self, names: Sequence[str], batch: AnyArray) -> list[AnyArray]:
        """The outputs of these names, each (rows, ...), for the only input. Raises the library's own exceptions."""
        ...


def open_session(path: Path, runtime: str, threads: int) -> Session:
    """`runtime` is `onnxruntime` or `openvino`; `threads` is how many calls there may be at once.

    Raises ModelError if the file can't be loaded, ConfigurationError if the library is missing.
    """
    try:
        return OpenVinoSession(path, threads) if runtime == "openvino" else OnnxRuntimeSession(path)
    except (ConfigurationError, ModelError):
        raise
    except Exception as error:  # neither library's exceptions share a base
        raise ModelError(f"{path} can't be loaded by {runtime}: {error}. Build the models again.") from error


class OnnxRuntimeSession:
    """See `Session`."""

    precision = ""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        # The default, ALL, stays: EXTENDED was 2.6 times slower on the shipped models.
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        inputs = self._session.get_inputs()
        self.inputs = tuple(_spec(tensor.name, _dtype(tensor), tensor.shape) for tensor in inputs)
        self.outputs = tuple(_spec(tensor.name, _dtype(tensor), tensor.shape) for tensor in self._session.get_outputs())
        batch = inputs[0].shape[0]
        self.max_batch_size = batch if isinstance(batch, int) and batch > 0 else None

    def run(self, names: Sequence[str], batch: AnyArray) -> list[AnyArray]:
        """See `Session`."""
        outputs: list[AnyArray] = self._session.run(list(names), {self.inputs[0].name: batch})
        return outputs


class OpenVinoSession:
    """See `Session`. On a CPU with instructions for it OpenVINO computes in bfloat16 by itself: `precision` tells."""

    def __init__(self, path: Path, threads: int) -> None:
        try:
            import openvino
        except ImportError as error:
            raise ConfigurationError(
                "infer.local_runtime is openvino, and the package is missing; install it with pip install 'headrace[openvino]'"
            ) from error
        core = openvino.Core()
        model = core.read_model(str(path))
        # A stream is a call at a time, of one thread each.
        settings = {"NUM_STREAMS": threads, "INFERENCE_NUM_THREADS": threads}
        self._compiled = core.compile_model(model, "CPU", settings)
        self._requests = threading.local()
        self.inputs = tuple(map(_openvino_spec, model.inputs))
        self.outputs = tuple(map(_openvino_spec, model.outputs))
        batch = model.inputs[0].partial_shape[0]
        self.max_batch_size = int(batch.get_length()) if batch.is_static else None
        computed = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self.precision = {"f32": "", "f16": "fp16"}.get(computed, computed)

    def run(self, names: Sequence[str], batch: AnyArray) -> list[AnyArray]:
        """See `Session`."""
        request = getattr(self._requests, "own", None)
        if request is None:
            request = self._requests.own = self._compiled.create_infer_request()
        request.infer([batch], share_inputs=True)
        # Copies: the request's own memory is written by its next batch.
        return [np.array(request.get_tensor(name).data) for name in names]


def _dtype(tensor: Any) -> Any:
    dtype = _DTYPES.get(tensor.type)
    if dtype is None:
        raise ModelError(f"The tensor {tensor.name} is {tensor.type}, which is no array of numbers.")
    return dtype


def _openvino_spec(port: Any) -> TensorSpec:
    sizes = [size.get_length() if size.is_static else None for size in port.partial_shape]
    return _spec(port.any_name, port.element_type.to_dtype(), sizes)


def _spec(name: str, dtype: Any, shape: Sequence[Any]) -> TensorSpec:
    return TensorSpec(name, np.dtype(dtype), tuple(size if isinstance(size, int) else -1 for size in shape[1:]))
