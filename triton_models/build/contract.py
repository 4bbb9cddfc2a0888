"""The preprocessing contract as the build sees it: what travels to the model, and the hash that names it.

`preprocess.toml` belongs to the model. The worker carries out its first half (resize, colour); which half of the
normalisation is the graph's depends on `wire_dtype`, so the same file decides the shape of the graph's input.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triton_models.build.folders import BuildError

_WIRE = {"uint8": "TYPE_UINT8", "float16": "TYPE_FP16", "float32": "TYPE_FP32"}


@dataclass(frozen=True, slots=True)
class Wire:
    """What the graph receives. Mean and std are in units of 0..255; used by the graph only if `dtype` is uint8."""

    width: int
    height: int
    layout: str
    dtype: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Without the batch dimension."""
        return (self.height, self.width, 3) if self.layout == "nhwc" else (3, self.height, self.width)

    @property
    def triton_dtype(self) -> str:
        """The dtype's name in config.pbtxt."""
        return _WIRE[self.dtype]

    @property
    def normalised_by_graph(self) -> bool:
        """True where raw 0..255 values travel."""
        return self.dtype == "uint8"


def contract_digest(contract: dict[str, Any]) -> str:
    """`sha256:…` of the parsed contract as canonical JSON: comments and the order of keys don't count."""
    canonical = json.dumps(contract, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def read_contract(path: Path) -> tuple[Wire, str]:
    """The wire half of a `preprocess.toml`, and the whole contract's hash. Raises BuildError naming file and key."""
    try:
        contract = tomllib.loads(path.read_text(encoding="utf-8"))
        wire = Wire(
            width=int(contract["width"]),
            height=int(contract["height"]),
            layout=contract["layout"],
            dtype=contract["wire_dtype"],
            mean=_triple(contract["mean"]),
            std=_triple(contract["std"]),
        )
    except (OSError, tomllib.TOMLDecodeError, TypeError, ValueError) as error:
        raise BuildError(f"{path} can't be read as a preprocessing contract: {error}") from error
    except KeyError as error:
        raise BuildError(f"{path} lacks the key {error}") from error
    if wire.layout not in ("nhwc", "nchw") or wire.dtype not in _WIRE or min(wire.width, wire.height) < 1:
        raise BuildError(
            f"{path}: layout {wire.layout!r}, wire_dtype {wire.dtype!r}, size {wire.width}x{wire.height}; expected "
            f"layout nhwc or nchw, wire_dtype one of {', '.join(_WIRE)}, and a positive size"
        )
    return wire, contract_digest(contract)


def _triple(values: list[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
