"""The fault of hostile bytes: what a careless or an ill-meaning sender may send, all of it among good frames."""

from __future__ import annotations

import functools

from tests.faults.run import Run
from tests.rig.audit import TopicReader, header
from tests.rig.hostile import PREDICTED, Hostile, hostile_values


@functools.cache
def _hostile() -> tuple[Hostile, ...]:
    return tuple(hostile_values())


def hostile_bytes(run: Run) -> None:
    """The whole list in an order of the seed's choice, each value from a sender of its own, among good frames."""
    values = run.rng.sample(_hostile(), len(_hostile()))
    with run.feed(per_s=20) as feed:
        worker = run.worker()
        run.until_predicting(worker)
        sent = run.send((f"sender-{number}".encode(), hostile.value) for number, hostile in enumerate(values))
        good = feed.end()
    verdicts = dict(zip(sent, values, strict=True))
    dead = [frame for frame, hostile in verdicts.items() if hostile.expected not in (None, PREDICTED)]
    either = [frame for frame, hostile in verdicts.items() if hostile.expected is None]
    run.finish([*good, *sent], dead=dead, either=either)
    told = _reasons(run)
    for frame in dead:
        reason = told.get(f"{run.topics.frames}/{frame.partition}/{frame.offset}")
        wanted = verdicts[frame].expected
        run.expect(reason == wanted, f"{verdicts[frame].name} is told as {reason}, not as {wanted}")


def _reasons(run: Run) -> dict[str, str]:
    """Id of each dead frame -> why."""
    with TopicReader(run.topics.bootstrap_servers, [run.topics.dlq]) as reader:
        return {header(m, "dlq-source").decode(): header(m, "dlq-reason").decode() for m in reader.read_on()}
