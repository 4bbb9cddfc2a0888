"""Reads a TensorFlow.js graph model: a JSON file of nodes and a file of raw weights beside it.

Nothing in it is run. Node attributes become plain values and weights become arrays; what a node means is for whoever
translates the graph, operation by operation.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from triton_models.build.folders import BuildError

# (dtype, dtype it is stored in) -> numpy's. Stored values are little-endian; half precision is all that is unpacked.
_STORED = {("float32", "float32"): "<f4", ("float32", "float16"): "<f2", ("int32", "int32"): "<i4"}


@dataclass(frozen=True, slots=True)
class Node:
    """One operation. An attribute is a text, a number, a truth value or a tuple of such."""

    name: str
    op: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TfjsGraph:
    """`nodes` come after their inputs. `weights` are float32 or int32, by the name of the constant they belong to."""

    nodes: tuple[Node, ...]
    weights: Mapping[str, npt.NDArray[Any]]

    def needed(self, outputs: Sequence[str]) -> list[Node]:
        """The nodes that `outputs` come from, in order, without constants. Raises KeyError for an unknown name."""
        by_name = {node.name: node for node in self.nodes}
        wanted, reached = list(outputs), set[str]()
        while wanted:
            name = wanted.pop()
            if name not in reached:
                reached.add(name)
                wanted += by_name[name].inputs
        return [node for node in self.nodes if node.name in reached and node.op != "Const"]


def read_tfjs(path: Path) -> TfjsGraph:
    """A graph model whose weights are one file. Raises BuildError if it is not what this reader knows."""
    try:
        model = json.loads(path.read_text(encoding="utf-8"))
        (group,) = model["weightsManifest"]
        (file,) = group["paths"]
        weights = _weights(group["weights"], path.with_name(Path(file).name).read_bytes())
        nodes = [_node(entry) for entry in model["modelTopology"]["node"]]
        return TfjsGraph(tuple(_in_order(nodes)), weights)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise BuildError(f"{path.name} is not a TensorFlow.js graph model this project reads: {error!r}") from error


def _weights(entries: Sequence[Mapping[str, Any]], raw: bytes) -> dict[str, npt.NDArray[Any]]:
    weights: dict[str, npt.NDArray[Any]] = {}
    position = 0
    for entry in entries:
        stored = entry.get("quantization", {}).get("dtype", entry["dtype"])
        dtype = np.dtype(_STORED[entry["dtype"], stored])
        values = np.frombuffer(raw, dtype, count=math.prod(entry["shape"]), offset=position)
        weights[entry["name"]] = values.astype(entry["dtype"]).reshape(entry["shape"])
        position += values.nbytes
    if position != len(raw):
        raise ValueError(f"its weights take {position} bytes, the file has {len(raw)}")
    return weights


def _node(entry: Mapping[str, Any]) -> Node:
    # "^name" says what comes before and carries no value; ":0" is the first output, as is no number.
    inputs = tuple(name.removesuffix(":0") for name in entry.get("input", ()) if not name.startswith("^"))
    return Node(
        entry["name"], entry["op"], inputs, {name: _value(value) for name, value in entry.get("attr", {}).items()}
    )


def _value(entry: Mapping[str, Any]) -> Any:
    """Of a protobuf AttrValue in JSON: bytes are base64 and 64-bit integers are text there."""
    ((kind, value),) = entry.items()
    if kind == "list":
        return tuple(_value({each: part}) for each, parts in value.items() for part in parts)
    if kind == "s":
        return base64.b64decode(value).decode()
    return int(value) if kind == "i" else value


def _in_order(nodes: Sequence[Node]) -> list[Node]:
    ordered: list[Node] = []
    done: set[str] = set()
    waiting = list(nodes)
    while waiting:
        ready = [node for node in waiting if all(name.partition(":")[0] in done for name in node.inputs)]
        if not ready:
            raise ValueError(f"{waiting[0].name} waits for an input that never comes")
        ordered += ready
        done.update(node.name for node in ready)
        waiting = [node for node in waiting if node.name not in done]
    return ordered
