"""Runs the faults on servers of their own and writes what they showed.

`python -m tests.faults [NUMBER|NAME ...]`; without any, all. A line of JSON is appended for each fault, mode and seed, and
what already stands in the file is skipped. Exit code 4 if something was asked for that does not hold.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from tests.faults.catalogue import BOTH, FAULTS, Fault
from tests.faults.runner import append, read, run_all
from tests.faults.stage import Stage
from tests.faults.table import write
from worker.embedded.environment import data_dir


def main() -> int:
    """Exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=", ".join(f"{f.number} {f.name}" for f in FAULTS))
    parser.add_argument("--mode", choices=BOTH, help="only this one; else every mode that is asked of a fault")
    parser.add_argument("--seeds", type=int, help="runs of each fault and mode; else as many as its table says")
    parser.add_argument("--out", type=Path, default=data_dir() / "faults.jsonl", help="the file of lines")
    parser.add_argument("--report", action="store_true", help="write docs/reliability.md's table from the whole file")
    arguments = parser.parse_args()
    chosen = [
        fault for fault in FAULTS if not arguments.faults or {str(fault.number), fault.name} & set(arguments.faults)
    ]
    unknown = set(arguments.faults) - {name for fault in chosen for name in (str(fault.number), fault.name)}
    if unknown:
        parser.error(f"no fault {', '.join(sorted(unknown))}")
    done = read(arguments.out)
    jobs = [
        job
        for fault in chosen
        for job in _jobs(fault, arguments.mode, arguments.seeds)
        if (fault.number, *job[1:]) not in done
    ]
    console = Console(stderr=True, highlight=False)
    with Stage() as stage:
        for result in run_all(stage, jobs, arguments.out.with_suffix(".logs")):
            append(arguments.out, result)
            verdict = "[bold red]" + "; ".join(result.problems) + "[/]" if result.problems else "holds"
            console.print(
                f"{result.fault} {result.name} {result.mode} {result.seed}: {result.sent} sent, {result.lost} lost, "
                f"{result.repeated_raw}/{result.repeated_allowed} repeated, {result.out_of_order} out of order, "
                f"recovered in {result.recovery_s} s, {result.seconds:.0f} s: {verdict}",
                soft_wrap=True,
            )
    lines = read(arguments.out)
    if arguments.report:
        write(lines.values(), f"python -m tests.faults {' '.join(sys.argv[1:])}")
    wanted = [(fault.number, *job[1:]) for fault in chosen for job in _jobs(fault, arguments.mode, arguments.seeds)]
    return 4 if any(lines[key]["problems"] for key in wanted) else 0


def _jobs(fault: Fault, mode: str | None, seeds: int | None) -> list[tuple[Fault, str, int]]:
    return [
        (fault, each, seed)
        for each in fault.modes
        if mode in (None, each)
        for seed in range(1, (seeds or fault.seeds) + 1)
    ]


if __name__ == "__main__":
    sys.exit(main())
