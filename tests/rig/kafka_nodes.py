"""Where a real Apache Kafka node comes from: a container if a Docker engine answers, else a JVM over Maven artefacts.

A node gets a directory with its `server.properties` and can be started, paused, killed and started again; both kinds
listen on the host's own loopback ports, so that everything above is the same for both.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any, Protocol

from triton_models.build.folders import data_dir, made_once
from worker.embedded.process import ServerProcess
from worker.errors import DependencyError

KAFKA_VERSION = "4.1.1"
DOCKER_IMAGE = f"apache/kafka:{KAFKA_VERSION}"
_POM = Path(__file__).with_name("kafka-pom.xml")
_MIN_JAVA = 17  # Kafka 4 brokers do not run on less
_DOCKER_ANSWER_S = 2
_FORMAT_S = 60.0
_MAVEN_S = 600.0
_ARCHIVE_S = 20.0  # a clean stop of 2 s, and 2 s to write the archive; several times that on a busy machine
_JVM_FLAGS = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",  # test brokers live for seconds: the optimising compiler never pays for itself
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)


class Node(Protocol):
    """One broker. `kill` gives it no chance to say goodbye; `start` after it is a restart over the same data."""

    log_dirs: str

    def start(self) -> None: ...
    def check_alive(self) -> None: ...
    def tail(self) -> str: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def kill(self) -> None: ...
    def close(self) -> None: ...


class Provider(Protocol):
    name: str

    def node(self, directory: Path, cluster_id: str, heap_mib: int) -> Node:
        """A node that is not yet started; `directory/server.properties` is written before it is."""
        ...


@functools.cache
def kafka_provider() -> Provider:
    """The first that works of Docker and Java. Raises DependencyError with the reason for each that does not."""
    reasons = []
    for make in (_docker, _java):
        try:
            return make()
        except DependencyError as error:
            reasons.append(str(error))
    raise DependencyError("no real Apache Kafka can be started here. " + " ".join(reasons))


class JavaNode:
    def __init__(self, java: str, libs: Path, directory: Path, cluster_id: str, heap_mib: int) -> None:
        self.log_dirs = str(directory / "data")
        self._directory = directory
        self._cluster_id = cluster_id
        self._archive = libs / f"classes-{_java_release(java)[0]}.jsa"  # it fits these very files, so it lies with them
        self._command = [java, *_JVM_FLAGS, f"-Xmx{heap_mib}m"]
        if self._archive.exists():  # halves the CPU time of a start: 3.4 -> 1.7 s with formatting
            self._command.append(f"-XX:SharedArchiveFile={self._archive}")
        self._class_path = ["-cp", f"{libs}/*"]
        self._server: ServerProcess | None = None

    def start(self) -> None:
        properties = str(self._directory / "server.properties")
        if not Path(self.log_dirs).exists():
            self._format(properties)
        command = list(self._command)
        if not self._archive.exists():
            command.append(f"-XX:ArchiveClassesAtExit={self._directory / 'classes.jsa'}")
        self._server = ServerProcess([*command, *self._class_path, "kafka.Kafka", properties], self._log_path)

    def check_alive(self) -> None:
        self._running.check_alive()

    def tail(self) -> str:
        return self._running.tail()

    def pause(self) -> None:
        self._running.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._running.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        if self._server is not None:
            self._server.stop(grace_s=0)

    def close(self) -> None:
        if self._server is None:
            return
        self._server.stop(grace_s=0 if self._archive.exists() else _ARCHIVE_S)
        fresh = self._directory / "classes.jsa"
        if fresh.exists():
            partial = self._archive.with_suffix(f".{os.getpid()}")
            shutil.copyfile(fresh, partial)
            partial.replace(self._archive)

    @property
    def pid(self) -> int:
        """Of the broker as it runs now."""
        return self._running.pid

    @property
    def _log_path(self) -> Path:
        return self._directory / "kafka.log"

    @property
    def _running(self) -> ServerProcess:
        assert self._server is not None, "the node was not started"
        return self._server

    def _format(self, properties: str) -> None:
        tool = ["kafka.tools.StorageTool", "format", "-t", self._cluster_id, "-c", properties]
        done = subprocess.run(
            [*self._command, *self._class_path, *tool], capture_output=True, text=True, timeout=_FORMAT_S
        )
        if done.returncode != 0:
            raise DependencyError(f"Kafka's storage tool refused {properties}: {done.stdout}{done.stderr}")


class JavaProvider:
    """Plain JVMs over the jars in `libs`."""

    def __init__(self, java: str, libs: Path) -> None:
        self.name = f"Apache Kafka {KAFKA_VERSION} (Java)"
        self._java = java
        self._libs = libs

    def node(self, directory: Path, cluster_id: str, heap_mib: int) -> Node:
        return JavaNode(self._java, self._libs, directory, cluster_id, heap_mib)


class DockerNode:
    """A container in the host's network, so that the ports of `server.properties` are the host's."""

    log_dirs = "/tmp/kafka-data"

    def __init__(self, directory: Path, cluster_id: str, heap_mib: int) -> None:
        from testcontainers.core.container import DockerContainer

        self._container: Any = (
            DockerContainer(DOCKER_IMAGE)
            .with_env("CLUSTER_ID", cluster_id)
            .with_env("KAFKA_HEAP_OPTS", f"-Xmx{heap_mib}m")
            .with_volume_mapping(str(directory), "/mnt/shared/config", "ro")
            .with_kwargs(network_mode="host")
        )
        self._started = False

    def start(self) -> None:
        if self._started:
            self._docker.start()
        else:
            self._container.start()
            self._started = True

    def check_alive(self) -> None:
        self._docker.reload()
        if self._docker.status not in ("created", "running", "paused"):
            raise DependencyError(f"the Kafka container ended ({self._docker.status}); its log:\n{self.tail()}")

    def tail(self) -> str:
        return str(self._docker.logs(tail=20).decode("utf-8", "replace"))

    def pause(self) -> None:
        self._docker.pause()

    def resume(self) -> None:
        self._docker.unpause()

    def kill(self) -> None:
        self._docker.kill()
        self._docker.wait()

    def close(self) -> None:
        if self._started:
            self._container.stop()

    @property
    def _docker(self) -> Any:
        return self._container.get_wrapped_container()


class DockerProvider:
    """Containers of the official image."""

    name = f"Apache Kafka {KAFKA_VERSION} (Docker)"

    def node(self, directory: Path, cluster_id: str, heap_mib: int) -> Node:
        directory.chmod(0o755)  # the image runs as its own user
        return DockerNode(directory, cluster_id, heap_mib)


def _docker() -> Provider:
    import docker  # type: ignore[import-untyped]
    from docker.errors import DockerException  # type: ignore[import-untyped]

    try:
        with contextlib.closing(docker.from_env(timeout=_DOCKER_ANSWER_S)) as client:
            client.ping()
        with contextlib.closing(docker.from_env(timeout=int(_MAVEN_S))) as client:
            if not client.images.list(name=DOCKER_IMAGE):
                client.images.pull(DOCKER_IMAGE)
    except (DockerException, OSError) as error:
        raise DependencyError(f"Docker: {str(error).splitlines()[0]}.") from error
    return DockerProvider()


def _java() -> Provider:
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if java is None:
        raise DependencyError(f"Java: not found; install Java {_MIN_JAVA} or later and Maven.")
    _, major = _java_release(java)
    if major < _MIN_JAVA:
        raise DependencyError(f"Java: {java} is version {major}, Kafka needs {_MIN_JAVA} or later.")
    return JavaProvider(java, _jars())


@functools.cache
def _java_release(java: str) -> tuple[str, int]:
    """Full version and major number: ("17.0.15+6", 17). A class archive fits one full version only."""
    try:
        text = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=_FORMAT_S).stderr
    except OSError as error:
        raise DependencyError(f"Java: {java} can't be started: {error.strerror}.") from error
    found = re.search(r"build ((\d+)[\w.+-]*)", text)
    if found is None:
        raise DependencyError(f"Java: {java} told no version: {text.strip()!r}.")
    return found[1], int(found[2])


def _jars() -> Path:
    """The folder of Kafka's jars, fetched with Maven the first time."""
    return made_once(data_dir() / f"kafka-{KAFKA_VERSION}" / "libs", _fetch_jars)


def _fetch_jars(folder: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise DependencyError("Maven: mvn not found; install Maven, or set HEADRACE_TEST_BOOTSTRAP to a test broker.")
    goal = ["dependency:copy-dependencies", f"-DoutputDirectory={folder}"]
    done = subprocess.run([maven, "-q", "-B", "-f", str(_POM), *goal], capture_output=True, text=True, timeout=_MAVEN_S)
    if done.returncode != 0:
        raise DependencyError(f"Maven could not fetch Kafka's jars: {(done.stdout + done.stderr)[-2000:]}")
