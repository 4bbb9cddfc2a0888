"""Whether a TensorRT and a GPU are those that an engine was asked for, or built with. Pure; every misfit is a sentence.

TensorRT's rules: a plan loads only in the version that built it, unless it is version-compatible (then in that version
and later ones of its major), and on the model of GPU it was built on, unless it is hardware-compatible.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from triton_models.build.engine.manifest import EngineManifest, Hardware

# From 11 on every network is strongly typed: an older builder would choose the precision of each layer itself.
_FIRST_MAJOR = 11
_AMPERE = (8, 0)


@dataclass(frozen=True, slots=True)
class Machine:
    """A Python environment's TensorRT and the GPU it sees; what can't be told is None."""

    tensorrt: str
    cuda: str | None
    compute_capability: str | None
    device: str | None


@dataclass(frozen=True, slots=True)
class Server:
    """What the plan is for: the server's TensorRT, to the patch at least, and its CUDA's major version."""

    tensorrt: str
    cuda: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d+\.\d+\.\d+(\.\d+)?", self.tensorrt) or not self.cuda.isdigit():
            raise ValueError(
                f"TensorRT {self.tensorrt!r} with CUDA {self.cuda!r}; expected the server's own as its release notes give "
                "them, for example 11.4.0 and 12: a plan of another patch version does not load"
            )


def unfit_builder(machine: Machine, server: Server, *, version_compatible: bool) -> list[str]:
    """Why this environment must not build a plan for `server`; empty if it may."""
    reasons = []
    built, wanted = _parts(machine.tensorrt), _parts(server.tensorrt)
    if built[0] < _FIRST_MAJOR:
        reasons.append(
            f"this is TensorRT {machine.tensorrt}; plans are built with {_FIRST_MAJOR} or later, where the graph alone "
            "decides the precision"
        )
    if version_compatible:
        if built[0] != wanted[0] or built[: len(wanted)] > wanted:
            reasons.append(
                f"this is TensorRT {machine.tensorrt}, the server has {server.tensorrt}; a version-compatible plan loads in "
                "later versions of the same major only: build it with the server's version or an earlier one"
            )
    elif built[: len(wanted)] != wanted:
        reasons.append(
            f"this is TensorRT {machine.tensorrt}, the server has {server.tensorrt}; a plan loads only in the version that "
            "built it: name the Python of an environment with that version, or ask for --version-compatible"
        )
    if machine.cuda is None:
        reasons.append(
            "which CUDA this TensorRT was built for can't be told; set CUDA_VERSION to it in that environment, as NVIDIA's "
            "containers do"
        )
    elif machine.cuda != server.cuda:
        reasons.append(
            f"this TensorRT was built for CUDA {machine.cuda}, the server runs CUDA {server.cuda}: install the packages "
            f"whose names end in cu{server.cuda}"
        )
    if machine.compute_capability is None:
        reasons.append("no GPU is seen: a plan is built on the model of GPU that will run it")
    return reasons


def unfit_machine(manifest: EngineManifest, machine: Machine) -> list[str]:
    """Why `machine` can't load the engine; empty if its version, CUDA and GPU are right for it."""
    reasons = []
    built, here = _parts(manifest.tensorrt), _parts(machine.tensorrt)
    if manifest.version_compatible:
        if here[0] != built[0] or here < built:
            reasons.append(
                f"the plan was built with TensorRT {manifest.tensorrt} for later versions of its major, this is "
                f"{machine.tensorrt}"
            )
    elif here != built:
        reasons.append(f"the plan was built with TensorRT {manifest.tensorrt}, this is {machine.tensorrt}")
    if machine.cuda is not None and machine.cuda != manifest.cuda:
        reasons.append(f"the plan was built for CUDA {manifest.cuda}, this TensorRT is for CUDA {machine.cuda}")
    if machine.compute_capability is None:
        reasons.append("no GPU is seen")
    elif not _runs_on(manifest, machine):
        reasons.append(
            f"the plan was built on {manifest.device} (compute capability {manifest.compute_capability}) for "
            f"{_SAID[manifest.hardware]}, this is {machine.device} ({machine.compute_capability})"
        )
    return reasons


_SAID = {
    Hardware.THIS: "that model of GPU alone",
    Hardware.SAME_COMPUTE_CAPABILITY: "GPUs of that compute capability",
    Hardware.AMPERE_PLUS: "compute capability 8.0 and later",
}


def _runs_on(manifest: EngineManifest, machine: Machine) -> bool:
    if manifest.hardware is Hardware.THIS:
        return (machine.device, machine.compute_capability) == (manifest.device, manifest.compute_capability)
    if manifest.hardware is Hardware.SAME_COMPUTE_CAPABILITY:
        return machine.compute_capability == manifest.compute_capability
    return _parts(machine.compute_capability or "0") >= _AMPERE


def _parts(version: str) -> tuple[int, ...]:
    """Of the numbers a version begins with: `11.4.0.53` -> (11, 4, 0, 53)."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:4])
