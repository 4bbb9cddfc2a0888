"""The legacy-pickle reader against files written as PyTorch writes them, and against files that want to do harm."""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from triton_models.build import BuildError
from triton_models.build.checkpoint import read_checkpoint

MAGIC = 0x1950A86A20F9469CFC6C
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


class Storage:
    """Stands for a torch storage: pickled as a persistent id, its values appended to the file."""

    def __init__(self, key: str, values: npt.NDArray[Any]) -> None:
        self.key, self.values = key, values


class Tensor:
    """Pickled as torch's tensors are: a call of torch._utils._rebuild_tensor_v2 over a storage."""

    def __init__(self, storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
        self.arguments: tuple[Any, ...] = (storage, offset, shape, strides, False, OrderedDict())

    def __reduce__(self) -> Any:
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.arguments


@pytest.fixture
def torch_names(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Enough of a `torch` for pickle to write references to it."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2(*_: object) -> None: ...

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2  # type: ignore[attr-defined]
    for name in ("FloatStorage", "LongStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return torch


def write(path: Path, torch: Any, tensors: dict[str, Any], storages: list[Storage]) -> Path:
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            if not isinstance(obj, Storage):
                return None
            kind = torch.FloatStorage if obj.values.dtype == np.float32 else torch.LongStorage
            return ("storage", kind, obj.key, "cpu", obj.values.size, None)

    file = io.BytesIO()
    for part in (MAGIC, 1001, SYSTEM):
        pickle.dump(part, file, protocol=2)
    Pickler(file, protocol=2).dump(tensors)
    pickle.dump([storage.key for storage in storages], file, protocol=2)
    for storage in storages:
        file.write(struct.pack("<q", storage.values.size) + storage.values.tobytes())
    path.write_bytes(file.getvalue())
    return path


def test_tensors_are_read_with_their_shape_strides_and_offset(tmp_path: Path, torch_names: Any) -> None:
    floats = Storage("17", np.arange(24, dtype=np.float32))
    longs = Storage("99", np.array([7], np.int64))
    tensors = {
        "plain": Tensor(floats, 0, (2, 3, 4), (12, 4, 1)),
        "transposed": Tensor(floats, 0, (4, 6), (1, 4)),
        "part": Tensor(floats, 20, (4,), (1,)),
        "scalar": Tensor(longs, 0, (), ()),
    }
    read = read_checkpoint(write(tmp_path / "a.pth", torch_names, tensors, [floats, longs]))
    values = np.arange(24, dtype=np.float32)
    np.testing.assert_array_equal(read["plain"], values.reshape(2, 3, 4))
    np.testing.assert_array_equal(read["transposed"], values.reshape(6, 4).T)
    np.testing.assert_array_equal(read["part"], values[20:])
    assert read["scalar"].shape == ()
    assert read["scalar"] == 7


def test_a_checkpoint_that_wants_to_run_a_command_is_refused_and_runs_nothing(tmp_path: Path, torch_names: Any) -> None:
    class Harm:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "harm"),)

    path = write(tmp_path / "a.pth", torch_names, {"weight": Harm()}, [])
    with pytest.raises(BuildError, match="mkdir, which is not allowed"):
        read_checkpoint(path)
    assert not (tmp_path / "harm").exists()


def test_a_tensor_that_reaches_past_its_storage_is_refused(tmp_path: Path, torch_names: Any) -> None:
    storage = Storage("1", np.zeros(8, np.float32))
    path = write(tmp_path / "a.pth", torch_names, {"weight": Tensor(storage, 1, (8,), (1,))}, [storage])
    with pytest.raises(BuildError, match="past its storage"):
        read_checkpoint(path)


@pytest.mark.parametrize("kept", [0, 10, 200, -5])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, torch_names: Any, kept: int) -> None:
    storage = Storage("1", np.zeros(8, np.float32))
    path = write(tmp_path / "a.pth", torch_names, {"weight": Tensor(storage, 0, (8,), (1,))}, [storage])
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(BuildError, match="not a checkpoint"):
        read_checkpoint(path)
