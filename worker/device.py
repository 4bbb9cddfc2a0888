"""CPU or GPU: what this machine has, what the settings want, and the sentence that explains the choice.

`look` asks the driver (through its own library: no context is made and nothing of CuPy imported) and Triton's metrics
page; `choose` is pure and decides. A GPU is named by its UUID everywhere: CUDA, nvidia-smi and a Triton in another
container each count from 0 in an order of their own.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import re
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from worker.errors import ConfigurationError, DependencyError
from worker.settings import Settings

log = logging.getLogger(__name__)

PACKAGE = "cupy"
INSTALL = "pip install 'headrace[gpu]'"
_DRIVER = "libcuda.so.1"
# Codes of the driver that need another remedy than `install a driver`: CUDA's cudaError enumeration.
_NO_DEVICE, _DRIVER_MISMATCH = 100, 803
_TRITON_UUID = re.compile(r'gpu_uuid="([^"]+)"')
_METRICS_S = 1.0  # a page on this host comes in milliseconds
_METRICS_BYTES = 4 << 20
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # Triton is no website: past any proxy


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. `ordinal` is how CUDA counts in this process, `uuid` as `nvidia-smi -L` prints it."""

    ordinal: int
    uuid: str
    name: str

    def __str__(self) -> str:
        return f"{self.name} ({self.uuid})"


@dataclass(frozen=True, slots=True)
class Sight:
    """What can be seen from here. `trouble` says why there are no `gpus`; `tritons` are the UUIDs that Triton tells,
    None where no endpoint has told any."""

    gpus: tuple[Gpu, ...] = ()
    trouble: str = ""
    has_package: bool = True
    tritons: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """`gpu` None: the CPU. `why` is a clause for logs and `doctor`; `remedy` is what would make it a GPU, if one was looked for."""

    gpu: Gpu | None
    why: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"pixels are prepared on {self.gpu or 'the CPU'}: {self.why}"


def decide(settings: Settings) -> Choice:
    """Look and choose. Raises as `choose`."""
    return choose(settings, look(settings))


def choose(settings: Settings, sight: Sight) -> Choice:
    """The device by these settings; with `auto` whatever stands against a GPU makes it the CPU.

    With `device = "gpu"` raises ConfigurationError where the settings themselves stand against it, DependencyError where
    driver, package or the right GPU is missing.
    """
    if settings.device == "cpu":
        return Choice(None, 'device = "cpu"')
    if settings.infer.backend == "local":
        why = 'infer.backend = "local" runs the model on the CPU, and its pixels are needed there'
        if settings.device == "gpu":
            raise ConfigurationError(f'device = "gpu" needs a Triton: {why}; set infer.backend or device')
        return Choice(None, why)
    choice = _pick(settings, sight)
    if choice.gpu is None and settings.device == "gpu":
        raise DependencyError(f'device = "gpu", but {choice.why}; {choice.remedy}')
    return choice


def _pick(settings: Settings, sight: Sight) -> Choice:
    if not sight.gpus:
        return Choice(None, sight.trouble, "install NVIDIA's driver and give this process a GPU (docs/gpu.md)")
    seen = ", ".join(map(str, sight.gpus))
    if not sight.has_package:
        return Choice(None, f"{seen} is here, but {PACKAGE} is not installed", INSTALL)
    fitting = sight.gpus
    if sight.tritons is None and settings.device == "auto":
        why = f"{seen} is here, but no Triton of infer.url tells on its metrics page that it has a GPU"
        return Choice(None, why, "set gpu.triton_metrics_port, or device to gpu if Triton uses this one")
    if sight.tritons is not None:
        fitting = tuple(gpu for gpu in sight.gpus if any(_same(gpu.uuid, theirs) for theirs in sight.tritons))
        if not fitting:
            why = f"this process sees {seen}, and Triton has {', '.join(sorted(sight.tritons)) or 'none'}"
            return Choice(None, why, "give both the same GPU; two containers that each ask for one get different ones")
    if settings.gpu.uuid:
        fitting = tuple(gpu for gpu in fitting if _same(gpu.uuid, settings.gpu.uuid))
        if not fitting:
            why = f"gpu.uuid {settings.gpu.uuid} is not among {seen}, or not Triton's"
            return Choice(None, why, "name one that both see (nvidia-smi -L)")
    if len(fitting) > 1:
        return Choice(None, f"several GPUs would do: {seen}", "set gpu.uuid; each worker process has one")
    told = "Triton is on it too" if sight.tritons is not None else "wanted, and Triton does not tell which it has"
    return Choice(fitting[0], told)


def _same(left: str, right: str) -> bool:
    """Whether two UUIDs are of one device, with or without the `GPU-` before them."""
    return left.lower().removeprefix("gpu-") == right.lower().removeprefix("gpu-")


def look(settings: Settings) -> Sight:
    """What driver, packages and Triton say, where the settings leave a choice. Waits a second at most for each endpoint."""
    if settings.device == "cpu" or settings.infer.backend == "local":
        return Sight()
    try:
        gpus, trouble = visible_gpus(ctypes.CDLL(_DRIVER)), ""
    except OSError:
        gpus, trouble = (), f"there is no NVIDIA driver here ({_DRIVER})"
    except NoGpuError as error:
        gpus, trouble = (), str(error)
    if not gpus:
        return Sight(trouble=trouble or "CUDA_VISIBLE_DEVICES hides every GPU")
    has_package = importlib.util.find_spec(PACKAGE) is not None
    return Sight(gpus, "", has_package, _ask_tritons(settings.infer.endpoints, settings.gpu.triton_metrics_port))


class NoGpuError(Exception):
    """What the driver says instead of its devices."""


def visible_gpus(driver: Any) -> tuple[Gpu, ...]:
    """The GPUs that CUDA would show this process, in its order; `driver` is the loaded libcuda. Raises NoGpuError."""
    count = ctypes.c_int()
    _check(driver, driver.cuInit(0))
    _check(driver, driver.cuDeviceGetCount(ctypes.byref(count)))
    gpus = []
    for ordinal in range(count.value):
        device, uuid, name = ctypes.c_int(), (ctypes.c_ubyte * 16)(), ctypes.create_string_buffer(256)
        _check(driver, driver.cuDeviceGet(ctypes.byref(device), ordinal))
        _check(driver, driver.cuDeviceGetUuid_v2(ctypes.byref(uuid), device))
        _check(driver, driver.cuDeviceGetName(name, len(name), device))
        gpus.append(Gpu(ordinal, printed(bytes(uuid)), name.value.decode(errors="replace")))
    return tuple(gpus)


def printed(uuid: bytes) -> str:
    """A UUID's 16 bytes as nvidia-smi and Triton print it."""
    digits = uuid.hex()
    return "GPU-" + "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _check(driver: Any, code: int) -> None:
    if code == 0:
        return
    if code == _NO_DEVICE:
        raise NoGpuError("the driver sees no GPU")
    if code == _DRIVER_MISMATCH:
        raise NoGpuError("the driver's library and its kernel module are of different versions (restart the machine)")
    name = ctypes.c_char_p()
    driver.cuGetErrorName(code, ctypes.byref(name))
    raise NoGpuError(f"the driver says {(name.value or b'an unknown error').decode()} ({code})")


def uuids_of(page: str) -> frozenset[str]:
    """The GPUs that a metrics page of Triton has figures for."""
    return frozenset(_TRITON_UUID.findall(page))


def _ask_tritons(endpoints: Iterable[str], port: int) -> frozenset[str] | None:
    """Of all endpoints together: one on another host can only add UUIDs that nobody has here."""
    told: set[str] = set()
    has_answer = False
    for endpoint in endpoints if port else ():
        url = f"http://{endpoint.rpartition(':')[0]}:{port}/metrics"
        try:
            with _DIRECT.open(url, timeout=_METRICS_S) as page:
                told |= uuids_of(page.read(_METRICS_BYTES).decode(errors="replace"))
            has_answer = True
        except (OSError, ValueError) as error:
            log.debug("%s did not answer: %s", url, error)
    # A Triton whose GPU metrics are off (--allow-gpu-metrics=false) tells none, which says nothing.
    return frozenset(told) if has_answer and told else None
