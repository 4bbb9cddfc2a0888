"""Triton in trouble under load: endpoints killed, hanging, erring, without their model; who answers meanwhile, and who after."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.feed import Feed
from tests.faults.stage import MODEL, Inference
from tests.integration.conftest import MakeSettings
from tests.integration.watching import eventually, until
from tests.rig.audit import TopicReader, committed_lag, wait_until_done
from tests.rig.kafka import MakeTopics
from tests.rig.outcomes import Audit, SentFrame
from tests.rig.topics import Topics
from tests.rig.worker import WorkerProcess
from worker.embedded.triton import TritonServer
from worker.infer.breaker import State
from worker.infer.retries import ALMS_EVERY_S, EARNED

pytestmark = pytest.mark.triton

PER_S = 60
DEADLINE_MS = 1000  # of a try; hundreds of times what the model takes


@pytest.fixture(scope="module")
def servers(triton: TritonServer) -> Iterator[tuple[Inference, Inference]]:
    """Two Tritons that a test may harm; the session's own tells whether one can be had at all."""
    with Inference() as one, Inference() as other:
        yield one, other
        for server in (one, other):
            server.kill()  # at the end nobody waits for an answer


def actor_settings(
    settings: MakeSettings, made: Topics, server: Inference, url: str = "", **sections: Any
) -> dict[str, Any]:
    infer = {
        "url": url or server.url,
        "deadline_ms": DEADLINE_MS,
        "batch_deadline_ms": 2 * DEADLINE_MS + 500,
    }
    return settings(made, infer=infer, **sections) | {"model": {"name": MODEL, "directory": str(server.model)}}


def state_of(worker: WorkerProcess, endpoint: str) -> float:
    return worker.metric("breaker_state", endpoint=endpoint)


def goes_on(worker: WorkerProcess, served_by: str, server: Inference | None = None) -> None:
    """A second's frames more are answered by that model. A `server` that has died by itself meanwhile is started again."""
    seen = worker.metric("frames_predicted_total", served_by=served_by)

    def answered() -> bool:
        worker.check_alive()
        if server is not None:
            server.tend()  # Triton's stub may crash as it is woken, and Triton with it
        return worker.metric("frames_predicted_total", served_by=served_by) >= seen + PER_S

    eventually(answered, f"the {served_by} answers")


def predictions(made: Topics) -> list[dict[str, Any]]:
    with TopicReader(made.bootstrap_servers, [made.predictions]) as reader:
        return [json.loads(message.value() or b"") for message in reader.read_on()]


def finished(made: Topics, sent: list[SentFrame], worker: WorkerProcess) -> Audit:
    done = wait_until_done(made, sent, 120, worker.check_alive)
    assert worker.metric("frames_dead_lettered_total") == 0
    assert worker.stop() == 0
    assert done.problems == [], done  # lost, repeated, out of order
    assert committed_lag(made) == 0
    return done


def test_one_of_two_endpoints_killed_under_load_is_left_out_and_taken_in_again(
    topics: MakeTopics, settings: MakeSettings, servers: tuple[Inference, Inference]
) -> None:
    one, other = servers
    made = topics(partitions=2)
    tree = actor_settings(settings, made, one, url=f"{one.url}, {other.url}")
    with WorkerProcess(tree) as worker, Feed(made, PER_S) as feed:
        until(worker, "frames_predicted_total", PER_S)
        for server in servers:
            assert worker.metric("infer_requests_total", endpoint=server.url, outcome="ok") > 0, "both get batches"
        one.kill()
        try:
            eventually(lambda: state_of(worker, one.url) > State.CLOSED, "the dead one gets no batches")
            goes_on(worker, "primary")
            assert state_of(worker, other.url) == State.CLOSED
        finally:
            one.restart()
        eventually(lambda: state_of(worker, one.url) == State.CLOSED, "it is back")
        answered = worker.metric("infer_requests_total", endpoint=one.url, outcome="ok")
        goes_on(worker, "primary")
        assert worker.metric("infer_requests_total", endpoint=one.url, outcome="ok") > answered
        finished(made, feed.end(), worker)


def hang(server: Inference) -> Callable[[], None]:
    server.hang()
    return server.wake


def kill(server: Inference) -> Callable[[], None]:
    server.kill()
    return server.restart


def kill_stub(server: Inference) -> Callable[[], None]:
    """The server goes on, and says that its model is ready."""
    assert server.kill_stubs() == 1
    return server.restart


def test_whatever_befalls_the_primary_the_fallback_answers_until_it_is_back_and_no_answer_comes_twice(
    topics: MakeTopics, settings: MakeSettings, servers: tuple[Inference, Inference], served_repository: Path
) -> None:
    server, _ = servers
    made = topics(partitions=2)
    simpler = served_repository / "efficientnet_lite0"
    tree = actor_settings(settings, made, server, fallback={"directory": str(simpler)})
    with WorkerProcess(tree) as worker, Feed(made, PER_S) as feed:
        until(worker, "frames_predicted_total", PER_S)
        for harm in (hang, kill_stub, kill):
            mend = harm(server)
            try:
                goes_on(worker, "fallback")
                assert state_of(worker, server.url) > State.CLOSED
                worker.wait_ready(10)  # degraded, and at work
            finally:
                mend()
            goes_on(worker, "primary")
            assert state_of(worker, server.url) == State.CLOSED
        sent = feed.end()
        finished(made, sent, worker)
    by_model: dict[str, set[tuple[Any, ...]]] = {"primary": set(), "fallback": set()}
    for prediction in predictions(made):
        model = prediction["model"]
        facts = (model["name"], model["digest"], prediction["preprocess"], prediction["image"]["decoder"])
        by_model[model["served_by"]].add(facts)
        labels = {best["label"] for best in prediction["classes"]}
        assert (labels <= {"zero", "one", "two", "three"}) == (model["served_by"] == "primary"), "labels of its own"
    ((primary, *of_primary),) = by_model["primary"]
    ((fallback, *of_fallback),) = by_model["fallback"]
    assert (primary, fallback) == (MODEL, "efficientnet_lite0")
    assert of_primary[:2] != of_fallback[:2], "digest and contract are those of the model that answered"


def test_a_worker_starts_while_its_model_server_is_away_and_goes_over_to_it_when_it_is_back(
    topics: MakeTopics, settings: MakeSettings, servers: tuple[Inference, Inference], served_repository: Path
) -> None:
    server, _ = servers
    made = topics(partitions=2)
    tree = actor_settings(settings, made, server, fallback={"directory": str(served_repository / "efficientnet_lite0")})
    server.kill()
    with WorkerProcess(tree) as worker, Feed(made, PER_S) as feed:
        try:
            until(worker, "frames_predicted_total", PER_S)
            goes_on(worker, "fallback")
            worker.wait_ready(10)
        finally:
            server.restart()
        goes_on(worker, "primary")
        finished(made, feed.end(), worker)


def test_a_fallback_that_is_away_stops_no_worker_unless_the_primary_is_away_too(
    topics: MakeTopics, settings: MakeSettings, servers: tuple[Inference, Inference]
) -> None:
    primary, fallback = servers
    made = topics(partitions=2)
    simpler = {"backend": "triton", "name": MODEL, "url": fallback.url, "directory": str(fallback.model)}
    tree = actor_settings(settings, made, primary, fallback=simpler)
    fallback.kill()
    try:
        with WorkerProcess(tree) as worker, Feed(made, PER_S) as feed:
            until(worker, "frames_predicted_total", PER_S)
            finished(made, feed.end(), worker)
        primary.kill()
        try:
            with WorkerProcess(tree) as worker:
                assert worker.wait(60) == 3
                assert "And the fallback: " in worker.log
        finally:
            primary.restart()
    finally:
        fallback.restart()


def test_an_endpoint_that_fails_every_second_request_gets_little_more_load_and_is_left_until_it_is_well(
    topics: MakeTopics, settings: MakeSettings, servers: tuple[Inference, Inference], served_repository: Path
) -> None:
    server, _ = servers
    made = topics(partitions=2)
    tree = actor_settings(settings, made, server, fallback={"directory": str(served_repository / "efficientnet_lite0")})
    states: Counter[float] = Counter()
    with WorkerProcess(tree) as worker, Feed(made, PER_S) as feed:
        until(worker, "frames_predicted_total", PER_S)
        batches = worker.metric("batches_total")
        requests = worker.metric("infer_requests_total", endpoint=server.url)
        began = time.monotonic()
        server.mood("half")
        try:
            eventually(lambda: state_of(worker, server.url) == State.OPEN, "the breaker opens")
            while time.monotonic() < began + 6:
                states[state_of(worker, server.url)] += 1
                time.sleep(0.005)
            batches = worker.metric("batches_total") - batches
            requests = worker.metric("infer_requests_total", endpoint=server.url) - requests
            took_s = time.monotonic() - began
        finally:
            server.mood("")
        eventually(lambda: state_of(worker, server.url) == State.CLOSED, "the breaker closes")
        goes_on(worker, "primary")
        retries, in_all = worker.metric("retries_total"), worker.metric("batches_total")
        finished(made, feed.end(), worker)
    assert states[State.OPEN] > 0
    assert requests <= batches * (1 + EARNED), "the primary got at most a fifth more than there were batches"
    assert retries <= in_all * EARNED + took_s / ALMS_EVERY_S + 1


def test_with_the_fallback_down_too_nothing_is_skipped_and_all_goes_on_when_one_of_them_is_back(
    topics: MakeTopics, settings: MakeSettings, servers: tuple[Inference, Inference]
) -> None:
    primary, fallback = servers
    made = topics(partitions=2)
    tree = actor_settings(
        settings,
        made,
        primary,
        fallback={"backend": "triton", "name": MODEL, "url": fallback.url, "directory": str(fallback.model)},
        ingest={"max_in_flight_bytes": 8 * 2**20},
    )
    with WorkerProcess(tree) as worker, Feed(made, 4 * PER_S) as feed:
        until(worker, "frames_predicted_total", PER_S)
        primary.kill()
        try:
            goes_on(worker, "fallback")
            fallback.kill()
            try:
                eventually(lambda: not is_ready(worker), "readiness says that no model answers")
                eventually(lambda: worker.metric("partitions_paused") == 2, "reading pauses")
                predicted = worker.metric("frames_predicted_total")
                time.sleep(1)
                assert worker.metric("frames_predicted_total") == predicted
            finally:
                fallback.restart()
            goes_on(worker, "fallback")
        finally:
            primary.restart()
        goes_on(worker, "primary")
        finished(made, feed.end(), worker)


def is_ready(worker: WorkerProcess) -> bool:
    worker.check_alive()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{worker.admin_port}/health/ready", timeout=5):
            return True
    except urllib.error.HTTPError:
        return False
