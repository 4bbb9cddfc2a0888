"""What a figure was measured on: processor, cores this process may use, memory, system and versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import psutil

_PACKAGES = (
    "headrace",
    "kafka-python",
    "crc32c",
    "tritonclient",
    "onnxruntime",
    "numpy",
    "opencv-python-headless",
    "simplejpeg",
    "pillow",
)


def machine() -> dict[str, Any]:
    """Facts for the JSON object; `load` is the one-minute load average at the call, which an idle machine has near 0."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "load": round(os.getloadavg()[0], 2),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
