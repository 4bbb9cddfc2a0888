"""Reads a PyTorch checkpoint without PyTorch.

A `.pth` of before PyTorch 1.6 is four pickles (magic, protocol, system, the tensors' table) followed by the list of
storage keys and each storage's raw values. A pickle can call anything; this unpickler resolves five names only, each
to something harmless of ours, and refuses the rest.
"""

from __future__ import annotations

import pickle
import struct
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from triton_models.build.folders import BuildError

Weights = dict[str, npt.NDArray[Any]]

# torch/serialization.py, `_legacy_load`
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


@dataclass(frozen=True, slots=True)
class _StorageType:
    dtype: np.dtype[Any]


@dataclass(frozen=True, slots=True)
class _Stored:
    """A tensor before its values are read: element offset, shape and strides into storage `key`."""

    key: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(stored: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object) -> _Stored:
    return _Stored(stored, offset, tuple(shape), tuple(strides))


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch", "FloatStorage"): _StorageType(np.dtype("<f4")),
    ("torch", "LongStorage"): _StorageType(np.dtype("<i8")),
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, np.dtype[Any]] = {}

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"the checkpoint asks for {module}.{name}, which is not allowed") from None

    def persistent_load(self, reference: Any) -> str:
        kind, storage_type, key, _location, _size, view = reference
        if kind != "storage" or not isinstance(storage_type, _StorageType) or view is not None:
            raise pickle.UnpicklingError(f"the checkpoint refers to {kind!r}, expected a whole storage")
        self.storages[key] = storage_type.dtype
        return str(key)


def read_checkpoint(path: Path) -> Weights:
    """Name -> array of every tensor in a legacy `.pth`. Raises BuildError if it is not one, or wants to run code."""
    with path.open("rb") as file:
        try:
            return _read(file)
        except (pickle.UnpicklingError, EOFError, ValueError, TypeError, struct.error, KeyError) as error:
            raise BuildError(f"{path.name} is not a checkpoint this project reads: {error}") from error


def _read(file: BinaryIO) -> Weights:
    header = [_Unpickler(file).load() for _ in range(3)]
    if header[:2] != [_MAGIC, _PROTOCOL] or not header[2]["little_endian"]:
        raise ValueError("no little-endian legacy PyTorch header")
    table = _Unpickler(file)
    tensors: dict[str, _Stored] = table.load()
    values: dict[str, npt.NDArray[Any]] = {}
    for key in _Unpickler(file).load():
        dtype = table.storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        raw = file.read(count * dtype.itemsize)
        values[key] = np.frombuffer(raw, dtype=dtype, count=count)
    return {name: _tensor(stored, values[stored.key]) for name, stored in tensors.items()}


def _tensor(stored: _Stored, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A contiguous copy of the strided view; a view past the storage's end raises ValueError."""
    reach = stored.offset + sum((n - 1) * s for n, s in zip(stored.shape, stored.strides, strict=True)) + 1
    if stored.offset < 0 or min(stored.strides, default=0) < 0 or reach > values.size:
        raise ValueError("a tensor reaches past its storage")
    strides = tuple(s * values.itemsize for s in stored.strides)
    view = np.lib.stride_tricks.as_strided(values[stored.offset :], stored.shape, strides, writeable=False)
    return np.ascontiguousarray(view).reshape(stored.shape)
