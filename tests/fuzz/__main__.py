"""Fuzz for some seconds: `python -m tests.fuzz --seconds 600`. Exit code 1 and the file that did it if something was found.

Seeds come from `tests.rig.hostile`; what the fuzzer adds to them stays in the data folder and is gone through first the
next time, as are findings until they are deleted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path

from tests.rig.hostile import hostile_values
from triton_models.build.folders import data_dir

# Larger seeds cost executions; what only shows in megabytes is in the unit tests.
MAX_VALUE_BYTES = 64 << 10
# Interpreter, libraries, corpus and coverage take 300; the most that one picture may take is 235 (`worker.decode.memory`).
RSS_LIMIT_MB = 640
# Of wall time, for what never comes back; a second of CPU is the target's own limit.
ALARM_S = 20
# After the time is up one execution may still be going on, and the corpus is read before it begins.
_SLACK_S = 120
_TAIL_LINES = 40


def main() -> int:
    """Exit code: 0, or 1 if something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=600)
    seconds: int = parser.parse_args().seconds
    home = data_dir() / "fuzz"
    seeds, corpus, findings = (home / name for name in ("seeds", "corpus", "findings"))
    for folder in (seeds, corpus, findings):
        folder.mkdir(parents=True, exist_ok=True)
    _write_seeds(seeds)
    started = time.time()
    log = home / "log"
    status = _fuzz(seconds, [corpus, seeds], findings, log)
    text = log.read_text(errors="replace")
    report = _figures(text) | {"seconds": round(time.time() - started), "corpus": len(list(corpus.iterdir()))}
    found = sorted(path for path in findings.iterdir() if path.stat().st_mtime >= started - 1)
    if status or found:
        print("\n".join(text.splitlines()[-_TAIL_LINES:]), file=sys.stderr)
        print(f"The fuzzer ended with {status}. All it said: {log}", file=sys.stderr)
        for path in found:
            print(f"To see it again: python -m tests.fuzz.target {path}", file=sys.stderr)
    print(json.dumps(report | {"findings": [str(path) for path in found]}))
    return 1 if status or found else 0


def _write_seeds(folder: Path) -> None:
    for _, value, _ in hostile_values():
        if value and len(value) <= MAX_VALUE_BYTES:
            (folder / hashlib.sha256(value).hexdigest()[:16]).write_bytes(value)


def _fuzz(seconds: int, corpora: list[Path], findings: Path, log: Path) -> int:
    old = [str(path) for path in sorted(findings.iterdir())]
    options = [f"-rss_limit_mb={RSS_LIMIT_MB}", f"-timeout={ALARM_S}", f"-artifact_prefix={findings}/"]
    target = [sys.executable, "-m", "tests.fuzz.target", *options]
    runs = [[*target, *old]] if old else []
    runs.append(
        [
            *target,
            f"-max_total_time={seconds}",
            f"-max_len={MAX_VALUE_BYTES}",
            "-print_final_stats=1",
            *map(str, corpora),
        ]
    )
    with log.open("wb") as out:
        for run in runs:
            status = subprocess.run(run, stdout=out, stderr=out, timeout=seconds + _SLACK_S, check=False).returncode
            if status:
                return status
    return 0


def _figures(log: str) -> dict[str, int]:
    """Executions, and the edges of Python code that they reached."""
    executions = re.findall(r"^#(\d+)\s.*?\bcov: (\d+) ft: (\d+)", log, re.MULTILINE)
    done = re.findall(r"^stat::number_of_executed_units:\s*(\d+)", log, re.MULTILINE)
    count, edges, features = executions[-1] if executions else (0, 0, 0)
    return {"executions": int(done[-1] if done else count), "edges": int(edges), "features": int(features)}


if __name__ == "__main__":
    raise SystemExit(main())
