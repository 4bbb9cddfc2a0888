"""Faults of the worker itself: killed, stopped, scaled, ended."""

from __future__ import annotations

import time

from tests.faults.run import SESSION_S, Run
from tests.rig.kafka_proxy import Api
from tests.rig.worker import WorkerProcess

BACKLOG = 600  # so that the worker is busy when the fault comes: more than fits into flight
STORM = 60
SOON_S = 0.5  # after a start's first acknowledged prediction


def _fixed(run: Run) -> bool:
    """Every second seed is run with a fixed identity in the group."""
    return run.seed % 2 == 1


def killed_mid_batch(run: Run) -> None:
    sent = run.send(BACKLOG)
    with run.feed() as feed:
        for _ in range(2):
            worker = run.worker(fixed=_fixed(run))
            run.until_predicting(worker)
            run.sleep(0.0, 1.5)
            run.until_busy(worker)
            run.kill9(worker)
        run.until_predicting(run.worker(fixed=_fixed(run)))
        sent += feed.end()
    run.finish(sent)


def killed_before_the_commit(run: Run) -> None:
    """The proxy holds the request that commits, and the worker is killed: what it wrote is acknowledged, and nobody knows."""
    proxy = run.kafka.proxies[1]
    committing = [Api.OFFSET_COMMIT] if run.mode == "at_least_once" else [Api.TXN_OFFSET_COMMIT, Api.END_TXN]
    sent = run.send(BACKLOG)
    with run.feed() as feed:
        for _ in range(2):
            worker = run.worker(fixed=_fixed(run))
            run.until_predicting(worker)
            run.sleep(0.0, 1.5)
            proxy.moment(run.rng.choice(committing)).result(timeout=30)
            run.kill9(worker)
            proxy.cut()  # what was held is gone
            proxy.heal()
        run.until_predicting(run.worker(fixed=_fixed(run)))
        sent += feed.end()
    run.finish(sent)


def stopped_past_the_poll_interval(run: Run) -> None:
    """A zombie: SIGSTOP until another worker has its partitions and longer, then SIGCONT."""
    interval_s = SESSION_S + 2
    kafka = {"max_poll_interval_ms": int(interval_s * 1000)}
    run.ordered = False  # a zombie that wakes may write once more; readers fence it by its generation
    hung = run.worker(kafka=kafka)
    with run.feed() as feed:
        run.until_predicting(hung)
        other = run.worker("other", kafka=kafka)
        other.wait_ready()
        run.until(lambda: other.metric("partitions_assigned") == 2, "the second worker has its half")
        run.sleep(0.0, 2.0)
        run.strike(hung)
        losses = hung.metric("rebalances_total", kind="lost")
        hung.pause()
        run.until(lambda: other.metric("partitions_assigned") == 4, "the other worker took over")
        time.sleep(max(0.0, run.strikes[-1].at_s + interval_s - time.time()))
        run.sleep(0.0, 1.0)
        hung.resume()
        run.until(
            lambda: hung.metric("rebalances_total", kind="lost") > losses, "the woken worker has heard of its loss"
        )
        run.until(lambda: hung.metric("partitions_assigned") == 2, "the woken worker is a member again")
        sent = feed.end()
    run.finish(sent)


def scaled_up_and_down(run: Run) -> None:
    with run.feed() as feed:
        workers: list[WorkerProcess] = []
        for name in ("one", "two", "three"):
            for worker in workers[:1]:
                run.strike(worker)
            workers.append(run.worker(name))
            workers[-1].wait_ready()
            run.sleep(0.0, 2.0)
        run.rng.shuffle(workers)
        for worker in workers[:2]:
            run.strike(worker)
            code = worker.stop()
            run.expect(code == 0, f"exit code {code} at SIGTERM")
            run.sleep(0.0, 2.0)
        sent = feed.end()
    run.finish(sent)


def killed_again_and_again(run: Run, kills: int = STORM) -> None:
    proxy = run.kafka.proxies[1]
    with run.feed() as feed:
        for _ in range(kills):
            first = proxy.moment(Api.PRODUCE, answered=True, freeze=False)
            worker = run.worker(fixed=_fixed(run))
            run.until(first.done, "its first acknowledged prediction")
            run.sleep(0.0, SOON_S)
            run.kill9(worker)
        run.until_predicting(run.worker(fixed=_fixed(run)))
        sent = feed.end()
    run.finish(sent)


def ended_with_full_queues(run: Run) -> None:
    sent = run.send(5 * BACKLOG)
    worker = run.worker()
    worker.wait_ready()
    run.until_busy(worker, 200)
    run.sleep(0.0, 0.5)
    run.strike(worker)
    started = time.monotonic()
    code = worker.stop()
    took_s = time.monotonic() - started
    run.notes["end_s"] = round(took_s, 2)
    run.expect(code == 0, f"exit code {code} at SIGTERM")
    run.expect(took_s < 20, f"the end took {took_s:.1f} s, its grace is 20 s")
    with run.watching(sent) as auditor:
        run.expect(auditor.look().lost > 0, "nothing was left: the queues were not full")
    run.worker()
    run.finish(sent)
