"""Compiled kernels: one cubin an architecture in a folder of the caller's, PTX for architectures not listed.

`python -m kernels.modules FOLDER` fills the folder without a GPU, as an image build does. At run time what is missing
is compiled once by the NVRTC that CuPy brings or finds, and kept there.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).resolve().parent

# Turing to Blackwell: what is in service. Any other device of 7.5 or above runs the PTX, which its driver compiles.
ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "120")
PTX = "compute_75"

# Products and sums rounded one by one, as the references round them: fused, some grey levels would differ by one.
OPTIONS = ("--std=c++17", "--fmad=false")


def target(capability: str) -> str:
    """What a device of compute capability `capability` (CuPy's "90") is given: `sm_90`, or PTX if it isn't listed."""
    return f"sm_{capability}" if capability in ARCHITECTURES else PTX


def compiled(folder: Path, wanted: str) -> Path:
    """The module for `wanted` (`sm_90`, `compute_75`) in `folder`, compiled now if it isn't there yet.

    The name holds a digest of sources and options, so that an old folder can't give old kernels. Raises OSError if the
    folder can't be written, and CuPy's own error, with the compiler's words, if the source doesn't compile.
    """
    path = folder / f"preprocess-{_digest()}-{wanted}.{'ptx' if wanted == PTX else 'cubin'}"
    if not path.exists():
        binary, _ = compile_source(wanted)
        folder.mkdir(parents=True, exist_ok=True)
        # Another process may do the same: each writes its own file and moves it into place whole.
        descriptor, name = tempfile.mkstemp(dir=folder, prefix=path.name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(binary)
            os.fchmod(descriptor, 0o644)  # an image's are made by root, and read by the worker's own user
        Path(name).replace(path)
    return path


def compile_source(wanted: str, extra: tuple[str, ...] = ()) -> tuple[bytes, str]:
    """(cubin or PTX, the compiler's log) of preprocess.cu. Needs NVRTC, no GPU."""
    from cupy.cuda import nvrtc

    program = nvrtc.createProgram((SOURCES / "preprocess.cu").read_text("utf-8"), "preprocess.cu", (), ())
    options = (f"--gpu-architecture={wanted}", f"--include-path={SOURCES}", *OPTIONS, *extra)
    try:
        try:
            nvrtc.compileProgram(program, options)
        except nvrtc.NVRTCError as error:
            raise RuntimeError(f"preprocess.cu for {wanted}: {error}\n{nvrtc.getProgramLog(program)}") from error
        log: str = nvrtc.getProgramLog(program)
        if wanted == PTX:
            ptx: bytes | str = nvrtc.getPTX(program)
            return ptx if isinstance(ptx, bytes) else ptx.encode(), log
        return bytes(nvrtc.getCUBIN(program)), log
    finally:
        nvrtc.destroyProgram(program)


def load(folder: Path, device: Any) -> Any:
    """CuPy's module of the kernels for `device` (cupy.cuda.Device), from `folder`."""
    import cupy

    return cupy.RawModule(path=str(compiled(folder, target(device.compute_capability))))


def _digest() -> str:
    digest = hashlib.sha256(" ".join(OPTIONS).encode())
    for source in sorted([*SOURCES.glob("*.cu"), *SOURCES.glob("*.h")]):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


if __name__ == "__main__":
    for name in (*(f"sm_{architecture}" for architecture in ARCHITECTURES), PTX):
        print(compiled(Path(sys.argv[1]), name))  # noqa: T201
