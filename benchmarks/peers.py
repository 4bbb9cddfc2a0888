"""`peers`: the worker against the loops and frameworks that people use, each as its documentation would have it.

All read the same frames from the same broker, call the same model on the same Triton, and carry out the same preprocessing
contract. Three settings: the real model, and one that answers at once at 768x576 and at 1080p. Each side runs in its best
number of processes; `vs_best_...` is the worker against the fastest peer, `vs_best_tuned_...` against the fastest whose malloc
is tuned by its environment variables. `full_decode` holds the same without the worker's scaled decode, `bilinear` with a
plain bilinear filter on every side.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.clock import Run
from benchmarks.contest import Entrant, entrants, figures, is_choice, winners
from benchmarks.corpus import mosaic
from benchmarks.options import Options
from benchmarks.peer_sides import OURS, PEERS, start_peer, start_worker_side
from benchmarks.report import side_row
from benchmarks.rig import Rig, say, started_rig
from benchmarks.spread import interleaved
from benchmarks.stream import Way, stream_run
from benchmarks.throughput import agreement, top1_of
from benchmarks.variants import Variant
from triton_models.build import SOURCE
from worker.embedded.process import ServerProcess
from worker.errors import HeadraceError
from worker.preprocess.contract import Contract

# Both processes of a side join in one round: a second one that came late would stall the first by a heartbeat.
BROKER_SETTINGS = {"group.initial.rebalance.delay.ms": "500"}
SIZE_1080P = (1920, 1080)
LEAST_FRAMES = 192  # twice what a worker has in flight: of fewer there may be no window
FRAMES_1080P = 100  # different ones: 50 MB
CONTRACT, FULL_DECODE, BILINEAR = "contract", "full_decode", "bilinear"


@dataclass(frozen=True, slots=True)
class Setting:
    """`frames` lie ready: what the fastest side takes in a round of the full benchmark; `quick_frames` in `quick_s`."""

    model: str
    frames: int
    quick_frames: int
    quick_s: float


SETTINGS = {
    "real": Setting("efficientnet_lite2", 2000, 400, 2.5),
    "null": Setting("null", 10_000, 1500, 1.0),
    "null_1080p": Setting("null", 4000, 800, 1.5),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is tried. `places` is how many peers of each malloc reach the rounds."""

    peer_processes: Sequence[int]
    our_processes: Sequence[int]
    places: int
    rounds: int
    trial_s: float
    round_s: float
    thorough: bool  # trials for malloc and filter of their own, or those of the first table stand for them


@dataclass(slots=True)
class Table:
    """What was measured in one setting with one filter. `agrees`: share of frames with the worker's top class."""

    rounds: dict[Entrant, list[Run]] = field(default_factory=dict)
    trials: dict[Entrant, Run] = field(default_factory=dict)
    failed: dict[Entrant, str] = field(default_factory=dict)
    agrees: dict[Entrant, float] = field(default_factory=dict)

    def rates(self, sides: Collection[str]) -> dict[Entrant, list[float]]:
        """Frames a second of the rounds of these sides."""
        return {
            entrant: [run.window.frames_per_second for run in runs]
            for entrant, runs in self.rounds.items()
            if entrant.side in sides
        }

    def rows(self, setting: str, kind: str) -> dict[str, Any]:
        """Each entrant's own row, of its rounds or else of its trial, under a name that says all of it."""
        runs = {**{entrant: [run] for entrant, run in self.trials.items()}, **self.rounds}
        return {
            f"{setting}, {kind} filter: {entrant}": {
                "setting": setting,
                "filter": kind,
                "side": entrant.side,
                "processes": entrant.processes,
                "malloc_tuned": entrant.tuned,
                "trial": entrant not in self.rounds,
                **side_row(of_entrant),
                **({"same_top1_as_worker": self.agrees[entrant]} if entrant in self.agrees else {}),
            }
            for entrant, of_entrant in runs.items()
        }


def plan_of(options: Options) -> Plan:
    """Quick: every peer in as many processes as there are cores, no trials where the first table can stand in, and
    times that are each setting's own.
    """
    cores = len(os.sched_getaffinity(0))
    if options.quick:
        return Plan((cores,), (1,), 1, options.rounds or 1, 0.0, 0.0, thorough=False)
    numbers = sorted({1, cores})
    return Plan(numbers, numbers, 2, options.rounds or 3, 4.0, 12.0, thorough=True)


def measure(options: Options) -> dict[str, Any]:
    """Run it; the keys of the contract and a row for each side in each setting."""
    plan = plan_of(options)
    models = sorted({setting.model for setting in SETTINGS.values()})
    scaled = [model for model in models if _contract(SOURCE / model).scaled_decode]
    variants = [
        Variant(f"{model}_{BILINEAR}", model, {"filter": "bilinear", "scaled_decode": False}) for model in models
    ]
    variants += [Variant(f"{model}_{FULL_DECODE}", model, {"scaled_decode": False}) for model in scaled]
    with started_rig(models, variants, BROKER_SETTINGS) as rig:
        corpora = dict.fromkeys(SETTINGS, rig.corpus)
        corpora["null_1080p"] = mosaic(rig.corpus, *SIZE_1080P, FRAMES_1080P)
        tables: dict[str, dict[str, Table]] = {CONTRACT: {}, BILINEAR: {}}
        for name, setting in SETTINGS.items():
            wanted = options.frames or (setting.quick_frames if options.quick else setting.frames)
            count = max(LEAST_FRAMES, wanted)
            rig.broker.create(name)
            rig.broker.fill(name, corpora[name].cycle(count))
            if options.quick:
                plan = replace(plan, trial_s=setting.quick_s, round_s=setting.quick_s)
            ours = [side for side, kind in OURS.items() if not kind.full_decode]
            full = [side for side, kind in OURS.items() if kind.full_decode and setting.model in scaled]
            first = _Contest(rig, plan, name, setting.model, count).table(ours + full, list(PEERS))
            peers = list(PEERS) if plan.thorough else sorted({one.side for one in first.rounds if one.side in PEERS})
            again = ours if plan.thorough else ours[:1]
            second = _Contest(rig, plan, name, f"{setting.model}_{BILINEAR}", count).table(again, peers)
            tables[CONTRACT][name], tables[BILINEAR][name] = first, second
        return {
            **results(tables),
            "frames": {name: corpus.source for name, corpus in corpora.items()},
            "frame_kib": {name: round(corpus.mean_kib, 1) for name, corpus in corpora.items()},
            "broker": rig.broker_name,
            "models": {name: setting.model for name, setting in SETTINGS.items()},
        }


def results(tables: Mapping[str, Mapping[str, Table]]) -> dict[str, Any]:
    """The contract's keys. `tables` by filter and setting."""
    contract = tables[CONTRACT]
    everyone = {entrant.side for table in contract.values() for entrant in table.rounds}
    ours = {side: kind for side, kind in OURS.items() if side in everyone}
    # Where the contract forbids scaled decoding there is no side without it, because then all decode at full size.
    full = {side for side, kind in ours.items() if kind.full_decode} or set(ours)
    as_shipped = {side for side, kind in ours.items() if not kind.full_decode}
    return {
        **_ratios(contract, as_shipped),
        FULL_DECODE: _ratios(contract, full),
        BILINEAR: _ratios(tables[BILINEAR], as_shipped),
        "clients": {ours[side].client: _ratios(contract, {side}) for side in sorted(as_shipped)},
        "sides": {
            name: row
            for kind, of_kind in tables.items()
            for setting, table in of_kind.items()
            for name, row in table.rows(setting, kind).items()
        },
        "failed": {
            f"{setting}, {kind} filter: {entrant}": reason
            for kind, of_kind in tables.items()
            for setting, table in of_kind.items()
            for entrant, reason in table.failed.items()
        },
    }


def _ratios(tables: Mapping[str, Table], ours: Collection[str]) -> dict[str, float]:
    ratios: dict[str, float] = {}
    for setting, table in tables.items():
        ratios |= figures(setting, table.rates(ours), table.rates(PEERS))
    return ratios


def _contract(folder: Path) -> Contract:
    return Contract.load(folder / "preprocess.toml")


class _Contest:
    """One setting with one filter: trials, then rounds."""

    def __init__(self, rig: Rig, plan: Plan, setting: str, model: str, frames: int) -> None:
        self._rig, self._plan, self._setting, self._model, self._frames = rig, plan, setting, model, frames
        self._table = Table()
        self._top1: dict[Entrant, Mapping[int, int]] = {}

    def table(self, ours: Sequence[str], peers: Sequence[str]) -> Table:
        """Measure these sides of ours and those peers."""
        plan = self._plan
        plain = self._chosen(entrants(peers, plan.peer_processes), plan.places)
        to_tune = peers if plan.thorough else [entrant.side for entrant in plain]
        tuned = self._chosen(entrants(to_tune, plan.peer_processes, tuned=True), plan.places)
        own = [self._chosen(entrants([side], plan.our_processes), 1)[0] for side in ours]
        sides = {str(entrant): entrant for entrant in (*own, *plain, *tuned)}
        runs = {name: partial(self._run, entrant, plan.round_s) for name, entrant in sides.items()}
        for _, name, run in interleaved(runs, plan.rounds):
            self._table.rounds.setdefault(sides[name], []).append(run)
        if self._setting == "real":  # the null model sees one class in everything
            self._table.agrees = {
                entrant: agreement(found, self._top1[own[0]])
                for entrant, found in self._top1.items()
                if found.keys() & self._top1[own[0]].keys()  # a slow side's few frames may be others than the worker's
            }
        return self._table

    def _chosen(self, candidates: Sequence[Entrant], places: int) -> list[Entrant]:
        if not is_choice(candidates, places):
            return list(candidates)
        for entrant in candidates:
            try:
                self._table.trials[entrant] = self._run(entrant, self._plan.trial_s)
            except (HeadraceError, ValueError) as error:  # one peer that fails must not cost the others their hour
                say(f"{entrant} failed: {error}")
                self._table.failed[entrant] = str(error)
        rates = {one: run.window.frames_per_second for one, run in self._table.trials.items() if one in candidates}
        return winners(rates, places)

    def _run(self, entrant: Entrant, seconds: float) -> Run:
        def start(way: Way) -> list[ServerProcess]:
            begin = start_worker_side if entrant.side in OURS else start_peer
            return [begin(self._rig, entrant, self._model, way) for _ in range(entrant.processes)]

        done = stream_run(self._rig, entrant.side, self._setting, self._frames, start, seconds)
        self._top1[entrant] = top1_of(record.value for record in done.records)
        say(f"{self._setting}, {self._model}, {entrant}: {done.run.window.frames_per_second:.1f} frames/s")
        return done.run
