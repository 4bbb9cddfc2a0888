"""The other side of `tensorrt_side`: one request to another Python, in a process that may crash without harm.

Request -> JSON on its stdin -> answer from a file. Whatever goes wrong over there becomes one sentence.
"""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from triton_models.build.engine.fit import Machine
from triton_models.build.folders import BuildError

TENSORRT = "tensorrt"
_SCRIPT = Path(__file__).with_name("tensorrt_side.py")
# A first build with an empty timing cache times every kernel: minutes for these networks, tens of them for large ones.
BUILD_TIMEOUT_S = 3600.0
ASK_TIMEOUT_S = 300.0  # loading TensorRT's libraries from a cold disk included
_SHOWN_LINES = 5


class EngineError(BuildError):
    """TensorRT can't do it: another version, another GPU, a graph it refuses. The message is what it said."""


def facts(python: Path, module: str = TENSORRT) -> Machine:
    """TensorRT and GPU as the environment of `python` sees them. Raises BuildError if there is none."""
    told = ask(python, {"action": "facts", "module": module}, ASK_TIMEOUT_S)
    return Machine(told["tensorrt"], told["cuda"], told["compute_capability"], told["device"])


def ask(python: Path, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """The answer to one request. Raises EngineError with the other side's error, BuildError if it could not be asked."""
    with tempfile.TemporaryDirectory(prefix="headrace-engine-") as folder:
        answer = Path(folder) / "answer.json"
        # -I: that environment and nothing of ours, by PYTHONPATH or the working directory.
        command = [str(python), "-I", str(_SCRIPT), str(answer)]
        try:
            done = subprocess.run(
                command, input=json.dumps(request), capture_output=True, text=True, timeout=timeout_s, check=False
            )
        except OSError as error:
            raise BuildError(f"{python} can't be started ({error.strerror}): name the Python with TensorRT") from error
        except subprocess.TimeoutExpired as error:
            raise EngineError(f"TensorRT was not done within {timeout_s:g} s; the process was ended") from error
        if not answer.is_file():
            tail = " / ".join(done.stderr.strip().splitlines()[-_SHOWN_LINES:])
            raise EngineError(f"TensorRT's process {_ended(done.returncode)}{f': {tail}' if tail else ''}")
        told: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    if "error" in told:
        raise EngineError(told["error"])
    return told


def _ended(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code} and no answer"
