"""Runs inside the TensorRT environment, by its Python: one request as JSON on stdin, one answer as JSON into a file.

Stands alone: nothing of this project and no package but TensorRT is imported, because the environment is the server's
and may be of another Python. TensorRT can end the process; the file that is missing then tells.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import json
import os
import re
import sys
from typing import Any

_COMPUTE_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
_NAME_BYTES = 256


class RefusedError(Exception):
    """TensorRT said no; the message is what it said."""


def facts(request: dict[str, Any]) -> dict[str, Any]:
    """Version, CUDA major, and the GPU that CUDA calls device 0."""
    module = importlib.import_module(request["module"])
    return {"tensorrt": module.__version__, "cuda": _cuda_major(request["module"]), **_device()}


def build(request: dict[str, Any]) -> dict[str, Any]:
    """ONNX file -> plan file, with one optimisation profile; reads and writes the timing cache if one is named."""
    trt = importlib.import_module(request["module"])
    log = _log(trt)
    builder = trt.Builder(log)
    network = builder.create_network()
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(request["onnx"]):
        said = "; ".join(str(parser.get_error(number)) for number in range(parser.num_errors))
        raise RefusedError(f"the ONNX graph is not parsed: {said}")
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for name, shapes in request["profile"].items():
        profile.set_shape(name, *shapes)
    config.add_optimization_profile(profile)
    if request["hardware"] != "this":
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.__members__[request["hardware"].upper()]
    if request["version_compatible"]:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    targets = request.get("compute_capabilities", ())  # TensorRT-RTX alone: it builds for GPUs that aren't there
    if targets:
        config.num_compute_capabilities = len(targets)
        for number, target in enumerate(targets):
            config.set_compute_capability(trt.ComputeCapability.__members__["SM" + target.replace(".", "")], number)
    cache_file = request.get("timing_cache")
    if cache_file:
        known = b""
        if os.path.exists(cache_file):
            with open(cache_file, "rb") as file:
                known = file.read()
        # One of another version or GPU is not used, and not an error either: it is measured anew.
        if not config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False):
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RefusedError("; ".join(log.said) or "the build failed without a word")
    with open(request["plan"], "wb") as file:
        file.write(plan)
    if cache_file:
        with open(cache_file, "wb") as file:
            file.write(config.get_timing_cache().serialize())
    return {"bytes": os.path.getsize(request["plan"])}


def check(request: dict[str, Any]) -> dict[str, Any]:
    """Deserialise a plan: its tensors with their types and the greatest batch of its profile."""
    trt = importlib.import_module(request["module"])
    log = _log(trt)
    runtime = trt.Runtime(log)
    if request["version_compatible"]:
        runtime.engine_host_code_allowed = True
    with open(request["plan"], "rb") as file:
        engine = runtime.deserialize_cuda_engine(file.read())
    if engine is None:
        raise RefusedError("; ".join(log.said) or "the plan does not load, without a word")
    names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    greatest = [tuple(engine.get_tensor_profile_shape(name, 0)[2]) for name in inputs]
    return {"tensors": names, "inputs": inputs, "max_batch_size": min(shape[0] for shape in greatest)}


def _log(trt: Any) -> Any:
    """A logger that keeps errors and passes everything else over."""

    class Log(trt.ILogger):  # type: ignore[misc]  # its base comes with the module
        def __init__(self) -> None:
            super().__init__()
            self.said: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.said.append(message)

    return Log()


def _cuda_major(module: str) -> str | None:
    """From the names of the packages that hold TensorRT (`tensorrt-cu12`), else from the container's CUDA_VERSION."""
    owners = importlib.metadata.packages_distributions()
    for name in (
        owner for package in (module, module + "_bindings", module + "_libs") for owner in owners.get(package, ())
    ):
        if found := re.search(r"cu(\d+)", name):
            return found[1]
    told = re.match(r"\d+", os.environ.get("CUDA_VERSION", ""))
    return told[0] if told else None


def _device() -> dict[str, str | None]:
    """Device 0 by the driver itself: no package of CUDA's is needed for it."""
    none: dict[str, str | None] = {"compute_capability": None, "device": None}
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return none
    handle, name = ctypes.c_int(), ctypes.create_string_buffer(_NAME_BYTES)
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(handle), 0) or cuda.cuDeviceGetName(name, _NAME_BYTES, handle):
        return none
    numbers = []
    for attribute in _COMPUTE_CAPABILITY:
        value = ctypes.c_int()
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle)
        numbers.append(str(value.value))
    return {"compute_capability": ".".join(numbers), "device": name.value.decode()}


_ACTIONS = {"facts": facts, "build": build, "check": check}


def main() -> None:
    """Argument: where the answer goes."""
    request = json.load(sys.stdin)
    try:
        answer = _ACTIONS[request["action"]](request)
    except ModuleNotFoundError as error:
        answer = {"error": f"{sys.executable} has no module {error.name}"}
    except Exception as error:  # whatever it is, the other side makes a sentence of it
        kind = "" if isinstance(error, RefusedError) else f"{type(error).__name__}: "
        answer = {"error": f"{kind}{error}"}
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump(answer, file)


if __name__ == "__main__":
    main()
