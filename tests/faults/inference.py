"""Faults of the model server: killed, hanging, failing, another version; with one endpoint unless a fault says otherwise."""

from __future__ import annotations

import json

from confluent_kafka import Message

from tests.faults.run import Run
from tests.faults.workers import BACKLOG
from tests.rig.worker import WorkerProcess

DEADLINE_MS = 1000


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
        _goes_on(run, worker)
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
        _goes_on(run, worker)
        sent = feed.end()
    run.finish(sent)
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
        _goes_on(run, worker)
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
                _goes_on(run, worker)
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


def _goes_on(run: Run, worker: WorkerProcess) -> None:
    run.until_predicting(worker, int(worker.metric("frames_predicted_total")) + 100)


def _repeats_none(run: Run) -> None:
    """The worker lives: no answer, however late, may be published a second time."""
    repeated = run.judged["repeated_raw"]
    run.expect(repeated == 0, f"{repeated} repeats though no worker ended")
