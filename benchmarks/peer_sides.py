"""How the sides of `peers` are started: the worker's variants in the project's environment, frameworks in one of their own.

That environment holds exactly what `requirements-peers.lock` names; it is made on demand and is no dependency of the
project.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.contest import Entrant
from benchmarks.rig import Rig, say
from benchmarks.sides import child
from benchmarks.sides.peer import PeerSpec
from benchmarks.stream import Way
from benchmarks.worker_side import start_worker
from worker.embedded.environment import ensure_environment
from worker.embedded.process import ServerProcess

LOCK = Path(__file__).with_name("requirements-peers.lock")
BATCH = 16
# What glibc takes: freed buffers up to 32 MiB stay with the process. See <malloc.h>, mallopt(3).
TUNED_MALLOC = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(512 * 2**20),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}


@dataclass(frozen=True, slots=True)
class Peer:
    """`module` of `benchmarks.sides`; `batch` frames a call; `framework`: it runs in the peers' environment."""

    module: str
    batch: int
    framework: bool = True


PEERS = {
    "loop": Peer("loop", 1, framework=False),
    "loop_batched": Peer("loop", BATCH, framework=False),
    "faststream_batch": Peer("with_faststream", BATCH),
    "faststream_concurrent": Peer("with_faststream", 1),
    "quix": Peer("with_quix", 1),
    "arroyo": Peer("with_arroyo", BATCH),
}


@dataclass(frozen=True, slots=True)
class Ours:
    """A side of the worker's: its Kafka client, and whether it is held to decoding at full size."""

    client: str = "kafka-python"
    full_decode: bool = False
    settings: dict[str, str] = field(default_factory=dict)


_FAST = {"kafka__client": "confluent"}
OURS = {
    "worker": Ours(),
    "worker_fast": Ours("fast", settings=_FAST),
    "worker_full_decode": Ours(full_decode=True),
    "worker_fast_full_decode": Ours("fast", full_decode=True, settings=_FAST),
}


def start_worker_side(rig: Rig, entrant: Entrant, model: str, way: Way) -> ServerProcess:
    """One process of `headrace run`."""
    ours = OURS[entrant.side]
    return start_worker(rig, f"{model}_full_decode" if ours.full_decode else model, way, **ours.settings)


def start_peer(rig: Rig, entrant: Entrant, model: str, way: Way) -> ServerProcess:
    """One process of a peer. Raises DependencyError if the peers' environment can't be made."""
    peer = PEERS[entrant.side]
    spec = PeerSpec(
        bootstrap_servers=rig.broker.bootstrap_servers,
        frames_topic=way.frames,
        predictions_topic=way.predictions,
        group=way.group,
        triton_url=rig.triton.grpc_url,
        model=model,
        model_folder=str(rig.model_folder(model)),
        batch=peer.batch,
    )
    python = str(ensure_environment("peers", LOCK, say=say)) if peer.framework else sys.executable
    return child.start(peer.module, spec, rig.folder, python, TUNED_MALLOC if entrant.tuned else None)
