"""The ways to use a machine's cores that are worth trying, a question at a time. Pure.

Settings that pull at the same cores (engine and processes) are tried together; the others one after the other, each around
the best found so far. That is a dozen arrangements instead of hundreds, and the answer says which question decided what.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

MAX_DECODE_THREADS = 8  # the worker's own bound when it chooses by itself
_BATCHES = (4, 8, 16, 32)
_IN_FLIGHT = (3, 6, 12)


@dataclass(frozen=True, slots=True, order=True)
class Arrangement:
    """One way. Smaller is simpler and takes less memory; the order of the fields is that of what it costs.

    `engines`: threads of the local engine, or instances of the model in Triton; 0 where that is not ours to set.
    """

    processes: int
    engines: int
    threads: int
    in_flight: int
    batch: int

    def settings(self, is_local: bool) -> dict[str, int]:
        """Dotted keys of the worker's settings; processes and Triton's instances have none."""
        keys = {
            "decode.threads": self.threads,
            "batching.max_batch_size": self.batch,
            "batching.max_in_flight": self.in_flight,
        }
        return {**keys, "infer.local_threads": self.engines} if is_local else keys


@dataclass(frozen=True, slots=True)
class Ground:
    """What may be varied: the cores, the engines if they are ours to set, and the largest batch the model takes.

    `engines` is how many there are by default, 0 where they are not ours.
    """

    cores: int
    engines: int
    max_batch: int

    @property
    def start(self) -> Arrangement:
        """The worker's defaults on this machine."""
        return Arrangement(
            processes=1,
            engines=self.engines,
            threads=min(self.cores, MAX_DECODE_THREADS),
            in_flight=6,
            batch=min(16, self.max_batch),
        )


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to find out. The answers to try include the incumbent, so that all are measured in the same minutes."""

    name: str
    candidates: tuple[Arrangement, ...]


QUESTIONS = ("engines and processes", "decode threads", "batch size", "batches in flight")


def question(name: str, incumbent: Arrangement, ground: Ground) -> Question:
    """The named one of QUESTIONS around the best arrangement so far. Raises ValueError for another name."""
    return Question(name, tuple(dict.fromkeys((incumbent, *_answers(name, incumbent, ground)))))


def _answers(name: str, incumbent: Arrangement, ground: Ground) -> Iterator[Arrangement]:
    half = max(1, ground.cores // 2)
    match name:
        case "engines and processes":
            for processes in (1, 2) if ground.cores > 1 else (1,):
                for engines in sorted({half, ground.cores}) if ground.engines else (0,):
                    yield replace(incumbent, processes=processes, engines=engines)
        case "decode threads":
            for threads in (half, ground.cores):
                yield replace(incumbent, threads=min(threads, MAX_DECODE_THREADS))
        case "batch size":
            for batch in _BATCHES:
                yield replace(incumbent, batch=min(batch, ground.max_batch))
        case "batches in flight":
            for in_flight in _IN_FLIGHT:
                yield replace(incumbent, in_flight=in_flight)
        case _:
            raise ValueError(f"{name!r} is none of {', '.join(QUESTIONS)}")
