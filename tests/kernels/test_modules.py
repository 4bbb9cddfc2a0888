"""The kernels compile for every architecture in service within their budget, and stay compiled. No GPU is needed."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from kernels import modules
from kernels.plan import Filter
from tests.kernels import registers

# 80 registers a thread let three blocks of 256 share a multiprocessor, which the kernels ask for: 38 to 75 percent of its threads.
MOST_REGISTERS = 80


@pytest.mark.parametrize("architecture", modules.ARCHITECTURES)
def test_every_kernel_compiles_without_spilling_within_its_registers(architecture: str) -> None:
    uses = registers.uses(architecture)
    assert {use.kernel for use in uses} == {f"preprocess_{name}" for name in get_args(Filter)}
    for use in uses:
        assert (use.spilled, use.stack) == (0, 0), use
        assert use.registers <= MOST_REGISTERS, use
        assert use.occupancy >= 0.375, use


def test_a_module_is_compiled_once_and_never_taken_from_other_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = modules.compiled(tmp_path, "sm_90")
    assert path.read_bytes().startswith(b"\x7fELF")
    path.write_bytes(b"kept")
    assert modules.compiled(tmp_path, "sm_90").read_bytes() == b"kept"
    monkeypatch.setattr(modules, "OPTIONS", (*modules.OPTIONS, "--define-macro=OTHER"))
    assert modules.compiled(tmp_path, "sm_90") != path
    assert path.stat().st_mode & 0o044 == 0o044, "an image's are read by another user than made them"
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".cubin", ".cubin"]


def test_an_architecture_that_is_not_listed_gets_ptx(tmp_path: Path) -> None:
    assert modules.target("90") == "sm_90"
    assert modules.target("121") == modules.PTX
    text = modules.compiled(tmp_path, modules.target("121")).read_text()
    assert ".target sm_75" in text
    assert all(f".entry preprocess_{name}" in text for name in get_args(Filter))


def test_a_source_that_does_not_compile_is_told_in_the_compilers_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "OPTIONS", (*modules.OPTIONS, "--define-macro=static_assert=no_such_name"))
    with pytest.raises(RuntimeError, match=r"sums\.h\(\d+\): error"):
        modules.compile_source("sm_90")
