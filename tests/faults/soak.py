"""Half an hour at 70 % of capacity with a fault every minute: `python -m tests.faults.soak [--minutes N] [--mode MODE]`.

One worker lives through all of it, so only faults that leave it alive strike, and what each leaves behind adds up: memory,
descriptors, shared memory. The last line of standard output is one JSON object; exit code 4 if a bound is missed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.faults.catalogue import AT_LEAST_ONCE, BOTH
from tests.faults.run import Run
from tests.faults.stage import Stage
from tests.rig.kafka_proxy import Api
from tests.rig.worker import WorkerProcess

MINUTES = 30
SETTLED = 5  # minutes; memory and descriptors are held against what they were then
GROWTH = 1.05
# Connections come and go by a few; what leaks does so with each fault.
DESCRIPTORS_MORE = 8
LOAD = 0.7
MODEL_TAKES = "slow 0.1"  # a batch, as a real model does; else the sender would be what is measured
_MINUTE_S = 60.0
_BACKLOG = 1000
_TEND_S = 1.0
_LOOK_S = 5.0  # a picture that is being decoded is no leak: of so long the least counts


def triton_restarts(run: Run) -> None:
    run.stage.triton.kill()
    run.sleep(0.0, 3.0)
    run.stage.triton.restart()


def triton_hangs(run: Run) -> None:
    run.stage.triton.hang()
    run.sleep(1.0, 4.0)
    run.stage.triton.wake()


def triton_errs(run: Run) -> None:
    run.stage.triton.mood(f"{MODEL_TAKES} half")
    run.sleep(2.0, 5.0)
    run.stage.triton.mood(MODEL_TAKES)


def stub_dies(run: Run) -> None:
    run.stage.triton.kill_stubs()
    run.sleep(0.0, 2.0)
    run.stage.triton.restart()


def broker_hangs(run: Run) -> None:
    run.kafka.pause()
    run.sleep(1.0, 4.0)
    run.kafka.resume()


def broker_restarts(run: Run) -> None:
    run.kafka.restart()


def network_breaks(run: Run) -> None:
    proxy = run.kafka.proxies[1]
    proxy.moment(Api.OFFSET_COMMIT if run.mode == AT_LEAST_ONCE else Api.END_TXN).result(timeout=_MINUTE_S)
    run.sleep(0.0, 2.0)
    proxy.cut()
    run.sleep(0.0, 2.0)
    proxy.heal()


FAULTS: tuple[Callable[[Run], None], ...] = (
    triton_restarts,
    network_breaks,
    triton_hangs,
    broker_hangs,
    triton_errs,
    broker_restarts,
    stub_dies,
)


def soak(stage: Stage, mode: str, minutes: int, seed: int) -> dict[str, Any]:
    """Figures, and in `problems` what does not hold."""
    stage.triton.mood(MODEL_TAKES)
    with Run(stage, mode, seed, "capacity") as run:
        per_s = LOAD * _capacity(run)
    with Run(stage, mode, seed, "soak") as run:
        worker = run.worker(ingest={"max_in_flight_bytes": 64 * 2**20})
        minutely: list[tuple[float, int]] = []
        with run.feed(per_s) as feed:
            run.until_predicting(worker)
            started = time.monotonic()
            for number, fault in zip(range(minutes), itertools.cycle(FAULTS), strict=False):
                _tend_until(run, started + number * _MINUTE_S + run.rng.uniform(0.0, _MINUTE_S / 2))
                run.strike(worker, over=False)
                fault(run)
                run.over()
                _tend_until(run, started + (number + 1) * _MINUTE_S - _LOOK_S)
                minutely.append(_held(worker))
            sent = feed.end()
        run.finish(sent)
        left = [path.name for path in Path("/dev/shm").glob(f"headrace-*-{worker.pid}-*")]
    (settled_mib, settled_open), (end_mib, end_open) = minutely[min(SETTLED, minutes) - 1], minutely[-1]
    run.expect(
        end_mib <= GROWTH * settled_mib, f"{end_mib:.0f} MiB at the end, {settled_mib:.0f} after {SETTLED} minutes"
    )
    run.expect(end_open <= settled_open + DESCRIPTORS_MORE, f"{end_open} descriptors at the end, {settled_open} before")
    run.expect(not left, f"left in /dev/shm: {left}")
    return {
        "mode": mode,
        "minutes": minutes,
        "frames_per_second": round(per_s, 1),
        "faults": len(run.strikes),
        **run.judged,
        "settled_mib": round(settled_mib, 1),
        "end_mib": round(end_mib, 1),
        "minutely_mib": [round(mib, 1) for mib, _ in minutely],
        "descriptors": [open_ for _, open_ in minutely],
        "problems": run.problems,
        "notes": run.notes,
    }


def _capacity(run: Run) -> float:
    """Frames a second of a backlog."""
    run.send(2 * _BACKLOG)
    worker = run.worker()
    run.until_predicting(worker, _BACKLOG)
    started, before = time.monotonic(), worker.metric("frames_predicted_total")
    run.until(lambda: worker.metric("frames_predicted_total") >= 2 * _BACKLOG, "the backlog is done")
    return (2 * _BACKLOG - before) / (time.monotonic() - started)


def _held(worker: WorkerProcess) -> tuple[float, int]:
    """Resident MiB, shared memory included, and open descriptors."""
    process = psutil.Process(worker.pid)
    until = time.monotonic() + _LOOK_S
    looks = []
    while time.monotonic() < until:
        looks.append((process.memory_info().rss / 2**20, process.num_fds()))
        time.sleep(0.1)
    return min(mib for mib, _ in looks), min(open_ for _, open_ in looks)


def _tend_until(run: Run, when: float) -> None:
    """A Triton that was stopped may die of it, and is started again as a supervisor would."""
    while (left := when - time.monotonic()) > 0:
        run.tend()
        time.sleep(min(_TEND_S, left))


def main() -> int:
    """Exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=int, default=MINUTES, help="one fault each")
    parser.add_argument("--mode", choices=BOTH, default=AT_LEAST_ONCE)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with Stage() as stage:
        figures = soak(stage, arguments.mode, arguments.minutes, arguments.seed)
    print(json.dumps(figures))
    return 4 if figures["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
