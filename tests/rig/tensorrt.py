"""A stand-in for TensorRT, in an environment of its own, with a driver that has one GPU.

TensorRT itself comes from NVIDIA's own index and needs a GPU. The stand-in shows what goes over the process boundary and
what becomes of every way to fail there; what real graphs are to the real parser is tests/integration/test_precision_graphs.py's.
"""

from __future__ import annotations

import textwrap
import venv
from dataclasses import dataclass
from pathlib import Path

VERSION = "11.4.0.53"

# What `tensorrt_side` uses of TensorRT, and no more; the plan is what it was asked for.
_TENSORRT = """
    import enum, json, os
    __version__ = "11.4.0.53"
    class ILogger:
        Severity = enum.Enum("Severity", "ERROR INTERNAL_ERROR WARNING")
    class BuilderFlag(enum.Enum):
        VERSION_COMPATIBLE = 1
    HardwareCompatibilityLevel = enum.Enum("HardwareCompatibilityLevel", "AMPERE_PLUS SAME_COMPUTE_CAPABILITY")
    TensorIOMode = enum.Enum("TensorIOMode", "INPUT OUTPUT")
    class Profile:
        def set_shape(self, name, *shapes): self.shapes = {name: shapes}
    class Config:
        flags, hardware_compatibility_level = (), None
        def add_optimization_profile(self, profile): self.profile = profile
        def set_flag(self, flag): self.flags = (flag.name,)
        def create_timing_cache(self, known): return known
        def set_timing_cache(self, cache, ignore_mismatch): self.cache = cache; return True
        def get_timing_cache(self): return self
        def serialize(self): return self.cache + b"+"
    class Builder:
        def __init__(self, log): self.log = log
        def create_network(self): return {}
        def create_builder_config(self): return Config()
        def create_optimization_profile(self): return Profile()
        def build_serialized_network(self, network, config):
            if os.path.exists(os.path.join(os.path.dirname(__file__), "refuses")):
                return self.log.log(ILogger.Severity.ERROR, "no kernel for it")
            level = config.hardware_compatibility_level
            asked = {"shapes": config.profile.shapes, "flags": config.flags, "level": level and level.name}
            return json.dumps(asked).encode()
    class OnnxParser:
        num_errors = 0
        def __init__(self, network, log): pass
        def parse_from_file(self, path): return os.path.getsize(path) > 0
    class Engine:
        num_io_tensors = 1
        def __init__(self, plan): self.shapes = json.loads(plan)["shapes"]
        def get_tensor_name(self, number): return list(self.shapes)[number]
        def get_tensor_mode(self, name): return TensorIOMode.INPUT
        def get_tensor_profile_shape(self, name, profile): return self.shapes[name]
    class Runtime:
        def __init__(self, log): self.log = log
        def deserialize_cuda_engine(self, plan):
            here = os.path.dirname(__file__)
            if os.path.exists(os.path.join(here, "crashes")): os.abort()
            if os.path.exists(os.path.join(here, "refuses")): return self.log.log(ILogger.Severity.ERROR, "magic tag")
            return Engine(plan)
"""
# A driver with one GPU, in place of libcuda.
_DRIVER = """
    import ctypes
    class Driver:
        def cuInit(self, flags): return 0
        def cuDeviceGet(self, handle, ordinal): return 0
        def cuDeviceGetName(self, name, size, handle): name.value = b"NVIDIA A10"; return 0
        def cuDeviceGetAttribute(self, value, attribute, handle): value._obj.value = {75: 8, 76: 6}[attribute]; return 0
    real = ctypes.CDLL
    ctypes.CDLL = lambda name, *more, **others: Driver() if name == "libcuda.so.1" else real(name, *more, **others)
"""


@dataclass(frozen=True, slots=True)
class StandIn:
    """`python` is the environment's; `site` the folder of its packages."""

    python: Path
    site: Path

    @classmethod
    def make(cls, folder: Path) -> StandIn:
        """A fresh environment in `folder`."""
        venv.create(folder, with_pip=False, symlinks=True)
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "tensorrt.py").write_text(textwrap.dedent(_TENSORRT))
        (site / "sitecustomize.py").write_text(textwrap.dedent(_DRIVER))
        return cls(folder / "bin" / "python", site)

    def becomes(self, version: str) -> None:
        """Another version of TensorRT from now on."""
        module = self.site / "tensorrt.py"
        module.write_text(module.read_text().replace(VERSION, version))

    def refuses(self) -> None:
        """Every build and every plan, from now on."""
        (self.site / "refuses").touch()

    def crashes(self) -> None:
        """At every plan, by SIGABRT, from now on."""
        (self.site / "crashes").touch()
