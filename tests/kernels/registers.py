"""What each kernel takes of each architecture, from the compiler's own words: `python -m tests.kernels.registers`.

Prints the table of docs/kernels.md. Needs NVRTC, no GPU.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kernels import launch, modules

# Of a multiprocessor, from CUDA's programming guide, "Compute Capabilities": threads, blocks, KiB of shared memory. Each has
# 65,536 registers, given to a warp in steps of 256; each block takes 1 KiB of shared memory for the system from 8.0 on.
MULTIPROCESSOR = {
    "75": (1024, 16, 64),
    "80": (2048, 32, 164),
    "86": (1536, 16, 100),
    "89": (1536, 24, 100),
    "90": (2048, 32, 228),
    "100": (2048, 32, 228),
    "120": (1536, 24, 100),
}
REGISTERS, REGISTER_STEP, WARP = 65536, 256, 32

_COMPILED = re.compile(
    r"Compiling entry function '(?P<kernel>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers[^\n]*?(?P<shared>\d+) bytes smem",
    re.DOTALL,
)


@dataclass(frozen=True)
class Use:
    """Of one kernel on one architecture; `occupancy` is the share of a multiprocessor's threads that can be resident."""

    kernel: str
    architecture: str
    registers: int
    stack: int
    spilled: int  # bytes
    shared: int  # bytes a block

    @property
    def occupancy(self) -> float:
        threads, blocks, shared_kib = MULTIPROCESSOR[self.architecture]
        warps = launch.THREADS // WARP
        a_warp = -(-self.registers * WARP // REGISTER_STEP) * REGISTER_STEP
        by_registers = REGISTERS // a_warp // warps
        system = 0 if self.architecture == "75" else 1024
        by_shared = shared_kib * 1024 // (self.shared + system)
        return min(by_registers, by_shared, blocks, threads // launch.THREADS) * launch.THREADS / threads


def uses(architecture: str) -> list[Use]:
    """Of every kernel, compiled for `architecture` now."""
    _, log = modules.compile_source(f"sm_{architecture}", ("--ptxas-options=-v",))
    return [
        Use(
            found["kernel"],
            architecture,
            int(found["registers"]),
            int(found["stack"]),
            int(found["stores"]) + int(found["loads"]),
            int(found["shared"]),
        )
        for found in _COMPILED.finditer(log)
    ]


def main() -> None:
    print("| kernel | " + " | ".join(f"sm_{name}" for name in modules.ARCHITECTURES) + " |")
    print("|---" * (len(modules.ARCHITECTURES) + 1) + "|")
    columns = [{use.kernel: use for use in uses(name)} for name in modules.ARCHITECTURES]
    for kernel in columns[0]:
        cells = [f"{column[kernel].registers}, {column[kernel].occupancy:.0%}" for column in columns]
        print(f"| `{kernel}` | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
