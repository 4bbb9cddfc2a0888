"""Runs the acceptance scenarios at full size on servers of their own and prints what they showed.

`python -m tests.acceptance [NAME ...] [--json]`; without names all of them, which takes about half an hour on two cores. With
`--json` the last line of standard output is one JSON object. Exit code 4 if a figure misses its bound.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.acceptance.killing import Killed, killed_and_restarted
from tests.acceptance.memory import BOUND_MIB, BUDGET_MIB, Backlog, worked_off
from tests.acceptance.sharing import joined_and_left
from tests.acceptance.takeover import TAKEOVER_BOUND_S, takeover_s
from tests.rig.kafka_server import KafkaServer
from tests.rig.topics import Topics, create_topics, delete_topics
from triton_models.build import build_repository, data_dir
from worker.embedded.triton import TritonServer

FRAMES = 5000
ENDS = 10
BACKLOG = 20_000
SESSION_TIMEOUT_MS = 10_000  # the default


@dataclass(frozen=True, slots=True)
class Figure:
    """One number with what is asked of it."""

    name: str
    value: float
    bound: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Servers:
    """What a scenario runs on."""

    kafka: KafkaServer
    triton: TritonServer
    repository: Path

    @contextmanager
    def topics(self, partitions: int, kafka: KafkaServer | None = None) -> Iterator[Topics]:
        """Topics for one run, gone with their data after it: a backlog takes gigabytes."""
        made = create_topics((kafka or self.kafka).bootstrap_servers, partitions)
        try:
            yield made
        finally:
            delete_topics(made)

    def settings(self, topics: Topics, **sections: dict[str, Any]) -> dict[str, Any]:
        """The null model, so that the worker and not the model is what the load falls on."""
        tree: dict[str, Any] = {name: dict(section) for name, section in topics.settings.items()}
        tree["kafka"]["session_timeout_ms"] = SESSION_TIMEOUT_MS
        tree["model"] = {"name": "null", "directory": str(self.repository / "null")}
        tree["infer"] = {"url": self.triton.grpc_url}
        return tree | sections


def sigterm(servers: Servers) -> list[Figure]:
    with servers.topics(4) as topics:
        killed = killed_and_restarted(topics, servers.settings(topics), ENDS, FRAMES, 100, 6, by_signal=True, seed=1)
    return [
        *_sent(killed),
        _zero("duplicates", killed.audit.duplicates_raw),
        _zero("ends that were not exit 0", sum(end.exit_code != 0 for end in killed.ends)),
        _most("slowest end, s", max(end.took_s for end in killed.ends), 20),
    ]


def kill_9(servers: Servers) -> list[Figure]:
    with servers.topics(4) as topics:
        killed = killed_and_restarted(topics, servers.settings(topics), ENDS, FRAMES, 60, 14, by_signal=False, seed=2)
    over = sum(max(0, repeated - allowed) for repeated, allowed in zip(killed.repeated, killed.allowed, strict=True))
    return [
        *_sent(killed),
        Figure("raw duplicates", killed.audit.duplicates_raw, f"of {sum(killed.allowed)} allowed", over == 0),
        _zero("beyond in flight and one commit interval", over),
        Figure("oldest repeated, s before its end", killed.oldest_repeated_s, "", True),
    ]


def join_and_leave(servers: Servers) -> list[Figure]:
    with servers.topics(8) as topics:
        shared = joined_and_left(topics, servers.settings(topics), 60, 150, seed=1)
    return [
        Figure("frames", shared.audit.sent, "", True),
        Figure("joins", shared.joins, "", True),
        Figure("leaves", shared.leaves, "", True),
        _zero("lost", shared.audit.lost),
        _zero("out of order", shared.audit.out_of_order),
        _zero("duplicates", shared.audit.duplicates_raw),
        _zero("lag at the end", shared.lag),
    ]


def take_over(servers: Servers) -> list[Figure]:
    with servers.topics(4) as topics:
        seconds = takeover_s(topics, servers.settings(topics))
    return [_most("until the last frame has its outcome, s", seconds, SESSION_TIMEOUT_MS / 1000 + TAKEOVER_BOUND_S)]


def memory_1_partition(servers: Servers) -> list[Figure]:
    return _memory(servers, 1)


def memory_64_partitions(servers: Servers) -> list[Figure]:
    return _memory(servers, 64)


def memory_broker_stopped(servers: Servers) -> list[Figure]:
    with KafkaServer.start() as kafka, servers.topics(4, kafka) as topics:
        ingest = {"max_in_flight_bytes": BUDGET_MIB * 2**20}
        backlog = worked_off(topics, servers.settings(topics, ingest=ingest), BACKLOG, kafka, stopped_s=20)
    return _backlog(backlog)


SCENARIOS: dict[str, Callable[[Servers], list[Figure]]] = {
    "sigterm": sigterm,
    "kill-9": kill_9,
    "join-and-leave": join_and_leave,
    "take-over": take_over,
    "memory-1-partition": memory_1_partition,
    "memory-64-partitions": memory_64_partitions,
    "memory-broker-stopped": memory_broker_stopped,
}


def _memory(servers: Servers, partitions: int) -> list[Figure]:
    with servers.topics(partitions) as topics:
        ingest = {"max_in_flight_bytes": BUDGET_MIB * 2**20}
        backlog = worked_off(topics, servers.settings(topics, ingest=ingest), BACKLOG)
    return [*_backlog(backlog), _zero("duplicates", backlog.audit.duplicates_raw)]


def _backlog(backlog: Backlog) -> list[Figure]:
    return [
        Figure("frames", backlog.audit.sent, "", True),
        _most("peak resident memory, MiB", backlog.peak_mib, BOUND_MIB),
        _zero("lost", backlog.audit.lost),
        _zero("lag at the end", backlog.lag),
        _zero("exit code", backlog.exit_code),
        Figure("seconds", backlog.seconds, "", True),
    ]


def _sent(killed: Killed) -> list[Figure]:
    return [
        Figure("frames", killed.audit.sent, f">= {FRAMES}", killed.audit.sent >= FRAMES),
        Figure("ends", len(killed.ends), "", True),
        _zero("lost", killed.audit.lost),
        _zero("out of order", killed.audit.out_of_order),
        _zero("lag at the end", killed.lag),
    ]


def _zero(name: str, value: float) -> Figure:
    return Figure(name, value, "0", value == 0)


def _most(name: str, value: float, bound: float) -> Figure:
    return Figure(name, value, f"<= {bound:g}", value <= bound)


def main() -> int:
    """Exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SCENARIOS)}")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line of standard output")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(SCENARIOS)
    if unknown:
        parser.error(f"no scenario {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    console = Console(stderr=arguments.json, highlight=False)
    results: dict[str, list[Figure]] = {}
    with ExitStack() as stack:
        repository = build_repository(data_dir())
        kafka = stack.enter_context(KafkaServer.start())
        servers = Servers(kafka, stack.enter_context(TritonServer.start(repository, models=["null"])), repository)
        for name in arguments.names or SCENARIOS:
            started = time.monotonic()
            console.print(f"{name} ...")
            results[name] = SCENARIOS[name](servers)
            console.print(f"{name}: {time.monotonic() - started:.0f} s")
    table = Table("scenario", "figure", "value", "asked", "")
    for name, figures in results.items():
        for number, figure in enumerate(figures):
            verdict = "" if not figure.bound else "holds" if figure.holds else "[bold red]MISSED[/]"
            table.add_row(name if number == 0 else "", figure.name, f"{figure.value:.5g}", figure.bound, verdict)
        table.add_section()
    console.print(table)
    holds = all(figure.holds for figures in results.values() for figure in figures)
    if arguments.json:
        tree = {name: {figure.name: figure.value for figure in figures} for name, figures in results.items()}
        print(json.dumps({"holds": holds, **tree}))
    return 0 if holds else 4


if __name__ == "__main__":
    sys.exit(main())
