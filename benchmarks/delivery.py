"""`delivery`: what exactly-once costs. Both modes in turn, with the real model and with one that answers at once.

Everything is timed by a reader of committed records, so that a frame counts when such a reader can have it. Frames lie
ready for the rates; for the latencies they come evenly at half of what exactly-once takes, and run from just before the
producer's send to the reader. `exactly_once_ratio` is exactly once / at least once in frames a second, real model;
`exactly_once_ratio_null` the same with the null model. `longest_transaction_ms` is from the first record to the commit.
"""

from __future__ import annotations

import math
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.clock import WARM_UP_SHARE, Run, window
from benchmarks.committed import CommittedReader
from benchmarks.cpu import CpuSampler
from benchmarks.latency import READY_FRAMES, identity, percentile
from benchmarks.options import Options
from benchmarks.report import side_row
from benchmarks.rig import Rig, say, started_rig
from benchmarks.sides import child
from benchmarks.sides.producer import ProducerResult, ProducerSpec
from benchmarks.spread import interleaved, paired_ratio, spread
from benchmarks.stream import delete_outputs, new_way
from benchmarks.worker_side import start_worker
from worker.embedded.process import free_port

MODELS = {"real": "efficientnet_lite2", "null": "null"}
MODES = ("at_least_once", "exactly_once")
ROUNDS, ROUNDS_QUICK = 5, 3
FRAMES, FRAMES_QUICK = {"real": 2000, "null": 10_000}, {"real": 400, "null": 2400}
LOAD = 0.5  # of the rate of exactly once
PACED_S, PACED_QUICK_S = 60.0, 12.0
_STOP_S = 20.0
_SPARE_S = 120.0
_ASK_S = 5.0


@dataclass(frozen=True, slots=True)
class Done:
    """One run; `longest_ms` of its transactions, 0 where there are none."""

    run: Run
    longest_ms: float
    transactions: int


def measure(options: Options) -> dict[str, Any]:
    """Run it; the keys of the contract and the rows of each side."""
    with started_rig(list(MODELS.values())) as rig:
        frames = {model: options.frames or (FRAMES_QUICK if options.quick else FRAMES)[model] for model in MODELS}
        rounds = options.rounds or (ROUNDS_QUICK if options.quick else ROUNDS)
        done: dict[str, list[Done]] = {}
        for model, count in frames.items():
            topic = f"frames.{model}"
            rig.broker.create(topic)
            rig.broker.fill(topic, rig.corpus.cycle(count))
            sides = {f"{mode}_{model}": _backlog(rig, model, mode, topic, count) for mode in MODES}
            for number, side, one in interleaved(sides, rounds):
                done.setdefault(side, []).append(one)
                rate = one.run.window.frames_per_second
                say(f"round {number + 1}, {side}: {rate:.1f} frames/s, longest transaction {one.longest_ms:.0f} ms")
        rate = LOAD * spread([one.run.window.frames_per_second for one in done["exactly_once_real"]]).value
        paced_frames = options.frames or math.ceil(rate * (PACED_QUICK_S if options.quick else PACED_S))
        latencies = {mode: _paced(rig, mode, paced_frames, rate) for mode in MODES}
        return {
            **figures(done, latencies),
            "offered_frames_per_second": round(rate, 2),
            "frames": rig.corpus.source,
            "frames_per_run": {**frames, "paced": paced_frames},
            "broker": rig.broker_name,
            "models": MODELS,
        }


def figures(done: Mapping[str, Sequence[Done]], latencies_ms: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """The contract's keys; `done` by `<mode>_<model>`, `latencies_ms` by mode, ascending."""
    rates = {side: [one.run.window.frames_per_second for one in of_side] for side, of_side in done.items()}
    transacted = [one for side, of_side in done.items() if side.startswith("exactly_once") for one in of_side]
    return {
        **paired_ratio(rates["exactly_once_real"], rates["at_least_once_real"]).keys("exactly_once_ratio"),
        **paired_ratio(rates["exactly_once_null"], rates["at_least_once_null"]).keys("exactly_once_ratio_null"),
        **spread([one.longest_ms for one in transacted]).keys("longest_transaction_in_a_run_ms"),
        "longest_transaction_ms": max(one.longest_ms for one in transacted),
        "transactions": sum(one.transactions for one in transacted),
        **{f"p50_ms_{mode}": round(percentile(values, 50), 1) for mode, values in latencies_ms.items()},
        **{f"p99_ms_{mode}": round(percentile(values, 99), 1) for mode, values in latencies_ms.items()},
        "sides": {side: side_row([one.run for one in of_side]) for side, of_side in done.items()},
    }


def _backlog(rig: Rig, model: str, mode: str, topic: str, frames: int) -> Callable[[], Done]:
    def measured() -> Done:
        way = new_way(rig, topic, mode)
        port = free_port()
        worker = start_worker(rig, MODELS[model], way, delivery__mode=mode, admin__port=port)
        try:
            with (
                CpuSampler(rig.roots | {"worker": worker.pid}) as sampler,
                CommittedReader(rig.broker.bootstrap_servers, way.predictions) as reader,
            ):
                reader.wait(frames, [worker])
            longest_ms, transactions = _transactions(port)
        finally:
            worker.stop(_STOP_S)
        delete_outputs(rig, way)
        measured = window([record.at for record in reader.seen])
        return Done(Run(measured, sampler.series.between(measured.start, measured.end)), longest_ms, transactions)

    return measured


def _paced(rig: Rig, mode: str, frames: int, rate: float) -> list[float]:
    """Latencies in ms, ascending, without the warm-up's."""
    topic = f"paced.{mode}"
    rig.broker.create(topic)
    way = new_way(rig, topic, mode)
    result = rig.folder / f"{topic}.json"
    spec = ProducerSpec(rig.broker.bootstrap_servers, topic, str(rig.frames_file), frames, rate, str(result))
    processes = [start_worker(rig, MODELS["real"], way, delivery__mode=mode)]
    try:
        with CommittedReader(rig.broker.bootstrap_servers, way.predictions) as reader:
            rig.broker.fill(topic, rig.corpus.cycle(READY_FRAMES))
            reader.wait(READY_FRAMES, processes)
            processes.append(child.start("producer", spec, rig.folder))
            produced = child.wait_result(processes[1], result, ProducerResult, frames / rate + _SPARE_S)
            reader.wait(READY_FRAMES + frames, processes[:1])
    finally:
        for process in processes:
            process.stop(_STOP_S)
    delete_outputs(rig, way)
    seen_at = {number: record.at for record in reader.seen if (number := identity(record)) is not None}
    first = math.ceil(frames * WARM_UP_SHARE)
    latencies = sorted(1000 * (seen_at[number] - produced.sent[number]) for number in range(first, frames))
    say(f"{mode} at {rate:.1f} frames/s: p99 {percentile(latencies, 99):.1f} ms")
    return latencies


def _transactions(port: int) -> tuple[float, int]:
    """Of the worker on this admin port: the longest in ms, and how many."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=_ASK_S) as response:
        samples = {
            sample.name: sample.value
            for family in text_string_to_metric_families(response.read().decode())
            for sample in family.samples
        }
    return (
        round(1000 * samples["headrace_transaction_longest_seconds"], 1),
        int(samples["headrace_transaction_seconds_count"]),
    )
