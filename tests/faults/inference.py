"""Faults of the model server: killed, hanging, failing, another version; with one endpoint unless a fault says otherwise."""

from __future__ import annotations

import json
import time

from confluent_kafka import Message

from tests.faults.run import Run
from tests.faults.stage import MODEL
from tests.faults.workers import BACKLOG
from worker.infer.retries import ALMS_EVERY_S, EARNED, MOST

DEADLINE_MS = 1000
MOST_EXTRA = 0.2  # requests beyond one a batch
CLOSED, OPEN = 0.0, 2.0  # values of breaker_state; half open, it is for some milliseconds
LOOK_S = 0.005


def killed_and_restarted(run: Run) -> None:
    triton = run.stage.triton
    sent = run.send(BACKLOG)
    with run.feed() as feed:
        worker = run.worker()
        run.until_predicting(worker)
        run.sleep(0.0, 2.0)
        run.strike(worker, over=False)
        triton.kill()
        try:
            run.sleep(0.0, 3.0)
        finally:
            triton.restart()
        run.over()
        run.goes_on()
        sent += feed.end()
    run.finish(sent)
    _repeats_none(run)


def hangs(run: Run) -> None:
    triton = run.stage.triton
    with run.feed() as feed:
        worker = run.worker(infer={"deadline_ms": DEADLINE_MS})
        run.until_predicting(worker, 100)
        run.sleep(0.0, 1.0)
        run.strike(worker, over=False)
        answered = worker.metric("infer_requests_total", outcome="ok")
        ended = worker.metric("infer_requests_total")
        triton.hang()
        try:
            run.sleep(1.5 * DEADLINE_MS / 1000, 4.0)
            late = worker.metric("infer_requests_total") - ended
            late -= worker.metric("infer_requests_total", outcome="ok") - answered
            run.expect(late > 0, "no request ended at its deadline while the server hung")
        finally:
            triton.wake()
        run.over()
        run.goes_on()
        sent = feed.end()
    run.finish(sent)
    _repeats_none(run)


def answers_errors(run: Run) -> None:
    """By seed: the only endpoint, or one of two. The load is in images, probes included, each of which is one.

    How many requests there were is Triton's own count; those that the worker doesn't call tries of a batch are probes. The
    budget is of all batches since the start: the whole run is held to a fifth more. Since the fault began there may be those
    saved up in good times besides; what that made is noted.
    """
    triton, other = run.stage.triton, run.stage.second
    two = run.seed % 2 == 0
    states: set[float] = set()
    counts = ("batches_total", "infer_requests_total", "frames_predicted_total")
    asked_first = triton.requests() + other.requests()
    with run.feed() as feed:
        worker = run.worker(infer={"url": f"{triton.url},{other.url}" if two else triton.url})
        run.until_predicting(worker, 100)
        run.sleep(0.0, 1.0)
        run.strike(worker, over=False)
        asked, before = triton.requests() + other.requests(), [worker.metric(name) for name in counts]
        began = time.monotonic()
        until = time.monotonic() + run.rng.uniform(3.0, 6.0)
        triton.mood("half")
        try:
            while time.monotonic() < until:
                states.add(worker.metric("breaker_state", endpoint=triton.url))
                time.sleep(LOOK_S)
        finally:
            triton.mood("")
        run.over()
        run.until(lambda: worker.metric("breaker_state", endpoint=triton.url) == CLOSED, "the breaker closes")
        run.goes_on()
        sent = feed.end()
        run.until(lambda: worker.metric("frames_in_flight") == 0, "all is answered")
        asked_last, after = triton.requests() + other.requests(), [worker.metric(name) for name in counts]
    batches, tries, frames = after
    probes = asked_last - asked_first - tries
    extra = tries / batches - 1 + probes / frames
    batches_since, tries_since, frames_since = (now - was for now, was in zip(after, before, strict=True))
    extra_since = tries_since / batches_since - 1 + (asked_last - asked - tries_since) / frames_since
    run.notes |= {"endpoints": 1 + two, "batches": batches, "tries": tries, "probes": probes, "states": sorted(states)}
    run.notes |= {"extra_load": round(extra, 3), "extra_load_since_the_fault": round(extra_since, 3)}
    run.expect(OPEN in states, "the breaker did not open")
    may_be = EARNED * batches_since + MOST + (time.monotonic() - began) / ALMS_EVERY_S + 1
    run.expect(
        tries_since - batches_since <= may_be, f"{tries_since - batches_since:.0f} retries since the fault began"
    )
    run.expect(extra <= MOST_EXTRA, f"{extra:.0%} more load than the batches make")
    run.finish(sent)
    _repeats_none(run)


def fallback_down_too(run: Run) -> None:
    primary, fallback = run.stage.triton, run.stage.second
    settings = {"backend": "triton", "name": MODEL, "directory": str(fallback.model), "url": fallback.url}
    short = {"deadline_ms": DEADLINE_MS, "batch_deadline_ms": 2 * DEADLINE_MS + 100}
    with run.feed() as feed:
        worker = run.worker(infer=short, fallback=settings, ingest={"max_in_flight_bytes": 8 * 2**20})
        run.until_predicting(worker, 100)
        run.sleep(0.0, 1.0)
        run.strike(worker)
        primary.kill()
        try:
            run.until(
                lambda: worker.metric("frames_predicted_total", served_by="fallback") >= 100, "the fallback answers"
            )
            run.sleep(0.0, 1.0)
            run.strike(worker, over=False)
            fallback.kill()
            more = run.send(2 * BACKLOG)
            run.until(lambda: worker.metric("partitions_paused") > 0, "partitions pause")
            before = worker.metric("frames_predicted_total")
            run.sleep(1.0, 3.0)
            run.expect(
                worker.metric("frames_predicted_total") == before, "there are predictions though no model is there"
            )
        finally:
            for server in run.rng.sample((primary, fallback), 2):
                server.restart()
        run.over()
        run.goes_on()
        by_primary = worker.metric("frames_predicted_total", served_by="primary")
        run.until(
            lambda: worker.metric("frames_predicted_total", served_by="primary") >= by_primary + 100,
            "back to the primary",
        )
        sent = feed.end() + more
    run.finish(sent)
    run.expect(run.judged["fallback"] > 0, "no prediction is marked as the fallback's")
    _repeats_none(run)


def stub_killed(run: Run) -> None:
    """The server goes on and says that its model is ready; only another start helps, of the server or of the model."""
    triton = run.stage.triton
    with run.feed() as feed:
        worker = run.worker()
        run.until_predicting(worker, 100)
        run.sleep(0.0, 1.0)
        run.strike(worker, over=False)
        run.expect(triton.kill_stubs() == 1, "there is one process of the model")
        try:
            run.sleep(1.0, 4.0)
        finally:
            triton.restart()
        run.over()
        run.goes_on()
        sent = feed.end()
    run.finish(sent)
    _repeats_none(run)


def model_switched(run: Run) -> None:
    """From version 1 to 2 and back under load. The model answers with its own number, so that nobody's word is taken."""
    triton = run.stage.triton
    try:
        with run.feed() as feed:
            worker = run.worker()
            run.until_predicting(worker, 100)
            for version in (2, 1):
                run.sleep(0.5, 2.0)
                run.strike(worker)
                triton.serve(version)
                run.goes_on()
            sent = feed.end()
    finally:
        triton.serve(1)
    run.finish(sent)
    with run.watching() as auditor:
        auditor.look()
        made = [_made(message) for message in auditor.records if message.topic() == run.topics.predictions]
    wrong = [told for told, best in made if told != best]
    run.notes["by_version"] = {version: sum(told == version for told, _ in made) for version in ("1", "2")}
    run.expect(not wrong, f"{len(wrong)} predictions name another version than the one that made them")
    run.expect(all(run.notes["by_version"].values()), "one of the versions made no prediction")


def _made(message: Message) -> tuple[str, str]:
    """The version that a prediction names, and the one whose answer it carries."""
    prediction = json.loads(message.value() or b"")
    return prediction["model"]["version"], str(prediction["classes"][0]["index"])


def _repeats_none(run: Run) -> None:
    """The worker lives: no answer, however late, may be published a second time."""
    repeated = run.judged["repeated_raw"]
    run.expect(repeated == 0, f"{repeated} repeats though no worker ended")
