"""Health and the admin port: silence makes a worker not live, an unmet condition makes it not ready."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from worker.errors import ConfigurationError
from worker.observe.admin import AdminServer
from worker.observe.health import Health
from worker.observe.metrics import Metrics
from worker.settings import AdminSettings


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_role_silent_longer_than_its_limit_makes_the_worker_not_live() -> None:
    clock = Clock()
    health = Health(clock=clock)
    health.watch("poll", 5.0)
    health.watch("publish", 30.0)
    clock.now += 6
    verdict = health.live()
    assert not verdict.ok
    assert len(verdict.reasons) == 1
    assert verdict.reasons[0].startswith("poll gave no sign of life for 6.0 s")
    assert verdict.heartbeat_age_s == {"poll": 6.0, "publish": 6.0}
    health.beat("poll")
    assert health.live().ok


def test_a_role_that_ended_as_it_should_is_not_missed() -> None:
    clock = Clock()
    health = Health(clock=clock)
    health.watch("poll", 5.0)
    health.unwatch("poll")
    clock.now += 60
    assert health.live().ok


def test_a_worker_is_not_ready_until_each_condition_is_met() -> None:
    health = Health(conditions=("broker", "model"))
    assert not health.ready().ok
    health.met("broker")
    assert health.ready().reasons == ("model: starting",)
    health.met("model")
    assert health.ready().ok
    health.unmet("drain", "SIGTERM came; finishing what is in flight")
    assert health.ready().reasons == ("drain: SIGTERM came; finishing what is in flight",)
    assert health.live().ok


def test_a_worker_that_is_not_live_is_not_ready() -> None:
    clock = Clock()
    health = Health(conditions=(), clock=clock)
    health.watch("poll", 1.0)
    clock.now += 2
    assert not health.ready().ok


@contextmanager
def _admin(metrics: Metrics, health: Health) -> Iterator[str]:
    with AdminServer(AdminSettings(port=0), metrics, health) as server:
        yield f"http://127.0.0.1:{server.port}"


def _get(url: str) -> tuple[int, str, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read()


def test_the_admin_port_serves_metrics_to_prometheus() -> None:
    metrics = Metrics()
    metrics.frames_received(3)
    with _admin(metrics, Health()) as url:
        status, content_type, body = _get(f"{url}/metrics")
    assert status == 200
    assert content_type.startswith("text/plain")
    assert b"\nheadrace_frames_received_total 3.0\n" in body


def test_health_answers_200_or_503_with_the_reasons() -> None:
    health = Health(conditions=("model",))
    with _admin(Metrics(), health) as url:
        status, content_type, body = _get(f"{url}/health/ready")
        assert (status, content_type) == (503, "application/json")
        assert json.loads(body) == {"ok": False, "reasons": ["model: starting"]}
        assert _get(f"{url}/health/live")[0] == 200
        health.met("model")
        assert _get(f"{url}/health/ready")[0] == 200
        assert _get(f"{url}/elsewhere")[0] == 404


def test_a_taken_admin_port_is_a_configuration_error_that_names_it() -> None:
    with AdminServer(AdminSettings(port=0), Metrics(), Health()) as first:
        settings = AdminSettings(port=first.port)
        with pytest.raises(ConfigurationError, match=f"127.0.0.1:{first.port}.*admin.port"):
            AdminServer(settings, Metrics(), Health())
