"""Runs faults one after another and writes a line for each run at once, so that a cut session loses nothing."""

from __future__ import annotations

import datetime
import json
import subprocess
import time
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.faults.catalogue import Fault
from tests.faults.run import Run
from tests.faults.stage import Stage
from tests.faults.verdict import Result

Key = tuple[int, str, int]  # fault, mode, seed


def read(out: Path) -> dict[Key, dict[str, Any]]:
    """The lines of earlier runs; of two for the same run the later counts."""
    if not out.exists():
        return {}
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines() if line.strip()]
    return {(line["fault"], line["mode"], line["seed"]): line for line in lines}


def append(out: Path, result: Result) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(result.to_dict(), ensure_ascii=False) + "\n")


def run_all(stage: Stage, jobs: Iterable[tuple[Fault, str, int]], logs: Path) -> Iterator[Result]:
    """One result a job. A server that a failed run left broken is not used again."""
    for fault, mode, seed in jobs:
        if not fault.three_brokers:
            stage.end_cluster()
        yield run_once(stage, fault, mode, seed, logs)


def run_once(stage: Stage, fault: Fault, mode: str, seed: int, logs: Path) -> Result:
    """Never raises for what a run showed: what went wrong is among the result's problems, with the workers' logs kept."""
    started = time.monotonic()
    kafka = stage.cluster if fault.three_brokers else stage.kafka
    with Run(stage, mode, seed, fault.name, kafka) as run:
        try:
            fault.act(run)
        except Exception as error:
            run.problems.append(f"{type(error).__name__}: {str(error).splitlines()[0]}")
            run.notes["traceback"] = traceback.format_exc()
        if run.problems:
            folder = logs / f"{fault.number:02}-{fault.name}-{mode}-{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            for number, worker in enumerate(run.workers):
                (folder / f"worker-{number}.log").write_text(worker.log, encoding="utf-8")
        return Result(
            fault=fault.number,
            name=fault.name,
            mode=mode,
            seed=seed,
            **run.judged,
            peak_mib=round(max((worker.peak_rss_mib for worker in run.workers), default=0.0), 1),
            seconds=round(time.monotonic() - started, 1),
            problems=tuple(run.problems),
            notes=run.notes,
            commit=_commit(),
            at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )


def _commit() -> str:
    """Of the tree that was tried; empty outside a checkout."""
    told = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    return told.stdout.strip()
