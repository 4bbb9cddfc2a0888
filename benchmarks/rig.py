"""What every benchmark stands on: a real Apache Kafka, a real Triton with the models it needs, and the frames.

`Rig.start` brings them up on 127.0.0.1; sides get addresses and paths from it, the CPU accounting gets process ids.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.broker import Broker
from benchmarks.corpus import Corpus, load_corpus, write_frames
from benchmarks.variants import Variant, repository_with
from tests.rig.kafka_server import KafkaServer
from triton_models.build import build_repository, data_dir
from worker.embedded.triton import TritonServer


@dataclass(frozen=True, slots=True)
class Rig:
    """`roots` maps "triton" and "broker" to their process ids; `folder` is scratch space that goes with the rig."""

    broker: Broker
    broker_name: str
    triton: TritonServer
    repository: Path
    corpus: Corpus
    folder: Path
    roots: dict[str, int]

    @property
    def frames_file(self) -> Path:
        """The corpus, for the processes of the sides."""
        return self.folder / "frames.msgpack"

    def model_folder(self, model: str) -> Path:
        return self.repository / model


@contextmanager
def started_rig(
    models: Sequence[str], variants: Sequence[Variant] = (), broker_settings: Mapping[str, str] | None = None
) -> Iterator[Rig]:
    """Bring all of it up with these models and variants of them loaded, and take it down again.

    `broker_settings` are lines of server.properties. Raises DependencyError.
    """
    data = data_dir()
    folder = Path(tempfile.mkdtemp(prefix="headrace-benchmark-"))
    try:
        say("frames: decoding and encoding the video")
        corpus = load_corpus(data)
        write_frames(folder / "frames.msgpack", corpus)
        say("models")
        repository = repository_with(variants, data, folder) if variants else build_repository(data)
        loaded = [*models, *(variant.name for variant in variants)]
        with TritonServer.start(repository, models=loaded, data=data, say=say) as triton:
            say("starting Kafka")
            with KafkaServer.start(overrides=broker_settings) as kafka:
                broker = Broker(kafka.bootstrap_servers)
                roots = {"triton": triton.pid, "broker": listening_pid(int(kafka.bootstrap_servers.rpartition(":")[2]))}
                try:
                    yield Rig(broker, kafka.provider_name, triton, repository, corpus, folder, roots)
                finally:
                    broker.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def listening_pid(port: int) -> int:
    """The process that listens on a TCP port, in a container with the host's network too. Raises RuntimeError."""
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            return int(connection.pid)
    raise RuntimeError(f"no process that this user may see listens on port {port}, so its CPU time can't be read")


def say(message: str) -> None:
    """Progress, with the time of day, to stderr."""
    print(time.strftime("%H:%M:%S"), message, file=sys.stderr, flush=True)
