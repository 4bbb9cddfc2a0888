"""The GPU host's compose file and image: what makes shared memory and CUDA's handles work, and what keeps them running.

Nothing is started. That the image builds is `make image-check`'s.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from worker import config
from worker.settings import Settings

ROOT = Path(__file__).parents[2]
SERVICES = ("pod", "triton", "worker", "broker", "topics")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.gpu.yaml").read_text())["services"]
    return parsed


@pytest.fixture(scope="module")
def settings() -> Settings:
    return config.load(ROOT / "deploy" / "worker.gpu.toml", {}, {}).settings


def stages() -> list[str]:
    """Of Dockerfile.gpu, from each FROM to the next, continued lines joined."""
    text = (ROOT / "Dockerfile.gpu").read_text().replace("\\\n", " ")
    return [stage for stage in re.split(r"^(?=FROM )", text, flags=re.MULTILINE) if stage.startswith("FROM")]


def test_the_compose_file_has_the_services_of_a_gpu_host(services: dict[str, Any]) -> None:
    assert set(services) == set(SERVICES)


@pytest.mark.parametrize("name", ["triton", "worker"], ids=["server", "client"])
def test_triton_and_worker_share_ipc_pid_and_network_of_the_pod(services: dict[str, Any], name: str) -> None:
    assert (services[name]["ipc"], services[name]["pid"]) == ("service:pod", "service:pod")
    assert services[name]["network_mode"] == "service:pod"
    assert services["pod"]["ipc"] == "shareable"
    assert services["pod"]["init"] is True


def test_triton_takes_clients_shared_memory_and_the_flags_of_its_engines(services: dict[str, Any]) -> None:
    (command,) = services["triton"]["command"]
    assert "--allow-client-shm=true" in command
    assert "$$(cat /models/server.flags)" in command  # $$: compose leaves it to the shell


def test_both_get_the_same_gpu(services: dict[str, Any]) -> None:
    given = [services[name]["deploy"]["resources"]["reservations"]["devices"] for name in ("triton", "worker")]
    assert given[0] == given[1]
    assert given[0][0]["device_ids"] == ["${GPU:-0}"]


def test_every_service_says_when_it_is_started_again(services: dict[str, Any]) -> None:
    policies = {name: service["restart"] for name, service in services.items()}
    assert policies["worker"].startswith("on-failure")
    assert policies["topics"] == "no"
    assert {policies[name] for name in ("pod", "triton", "broker")} == {"unless-stopped"}


def test_the_worker_starts_behind_a_ready_triton_and_made_topics(services: dict[str, Any]) -> None:
    conditions = {name: need["condition"] for name, need in services["worker"]["depends_on"].items()}
    assert conditions["triton"] == "service_healthy"
    assert conditions["topics"] == "service_completed_successfully"
    assert services["triton"]["healthcheck"]["test"][-1].endswith("/v2/health/ready")


def test_the_worker_may_drain_before_it_is_killed(services: dict[str, Any], settings: Settings) -> None:
    grace_s = int(services["worker"]["stop_grace_period"].removesuffix("s"))
    assert grace_s * 1000 > settings.delivery.drain_grace_ms


def test_the_topics_take_what_the_worker_is_set_to_write(services: dict[str, Any], settings: Settings) -> None:
    (script,) = services["topics"]["command"]
    limits = {name: int(size) for name, size in re.findall(r"--topic (\S+) --config max.message.bytes=(\d+)", script)}
    assert limits["frames"] >= settings.ingest.max_frame_bytes
    assert limits["frames.dlq"] >= limits["frames"] + 64 * 1024
    names = settings.topics
    assert set(re.findall(r"--topic (\S+)", script)) == {
        names.frames,
        names.predictions,
        names.dead_letters,
        names.statistics,
    }


def test_the_shared_memory_holds_the_workers_slots_twice(services: dict[str, Any], settings: Settings) -> None:
    shm_bytes = int(services["pod"]["shm_size"].removesuffix("gb")) * 2**30
    row = 512 * 512 * 3  # the largest of the shipped models
    slots = settings.batching.max_in_flight + 2  # and one for each decode thread
    assert shm_bytes > 2 * slots * settings.batching.max_batch_size * row


def test_the_workers_settings_are_valid_and_meet_the_pod(settings: Settings, services: dict[str, Any]) -> None:
    assert settings.device == "gpu"
    assert settings.infer.url == "127.0.0.1:8001"
    assert settings.infer.shared_memory == "on"
    host, port = services["broker"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].removeprefix("PLAINTEXT://").split(":")
    assert settings.kafka.bootstrap_servers == f"{host}:{port}"
    assert services["pod"]["ports"] == [f"127.0.0.1:{settings.admin.port}:{settings.admin.port}"]


def test_no_image_is_named_with_a_registry(services: dict[str, Any]) -> None:
    images = {service["image"].partition(":?")[0] for service in services.values()}
    assert images == {"headrace:gpu", "${TRITON_IMAGE", "apache/kafka:4.1.1"}
    (base,) = re.findall(r"^ARG BASE=(\S+)$", (ROOT / "Dockerfile.gpu").read_text(), flags=re.MULTILINE)
    assert re.fullmatch(r"nvidia/cuda:[\d.]+-runtime-ubuntu[\d.]+", base)


def test_the_image_installs_by_hash_and_leaves_the_build_behind() -> None:
    build, final = stages()
    assert "--require-hashes -r requirements-gpu.lock" in build
    assert all(word in final for word in ("COPY --from=build", "USER 10001:10001", "HEALTHCHECK"))
    assert "pip" not in final
    assert re.search(r"\n(ENTRYPOINT|CMD) \[", final)


def test_what_the_image_copies_is_let_through_to_the_build() -> None:
    let_through = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), flags=re.MULTILINE))
    copied = {
        name.removeprefix("./")
        for line in re.findall(r"^COPY (?!--from)(.+) \S+$", stages()[0], flags=re.MULTILINE)
        for name in line.split()
    }
    assert copied == let_through


def test_the_image_and_the_project_name_the_same_folders() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    build = stages()[0]
    assert all(f"COPY {package.rstrip('*')} ./{package.rstrip('*')}" in build for package in packages)
