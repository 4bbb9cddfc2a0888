"""The checks of `headrace doctor`. Each yields findings, raises nothing, and changes nothing at broker or server."""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Iterator
from enum import StrEnum
from importlib import metadata
from pathlib import Path

import msgspec
import psutil

from worker import device, librdkafka, security, topics
from worker.cli.broker import DEAD_LETTER_EXTRA_BYTES
from worker.errors import HeadraceError
from worker.settings import MIB, Settings
from worker.topics import Cluster

_SHOWN = (
    "headrace",
    "kafka-python",
    "confluent-kafka",
    "crc32c",
    "numpy",
    "opencv-python-headless",
    "simplejpeg",
    "onnxruntime",
    "tritonclient",
)
_CODECS = {"lz4": "lz4", "snappy": "python-snappy", "zstandard": "zstandard"}
_GPU_PACKAGES = ("cupy-cuda12x", "cupy-cuda13x", "nvidia-nvimgcodec-cu12", "nvidia-nvimgcodec-cu13")


class Verdict(StrEnum):
    """What a check came to."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(msgspec.Struct, frozen=True):
    """One line. `exit_code` is what the command ends with if this one failed."""

    name: str
    verdict: Verdict
    detail: str
    remedy: str = ""
    exit_code: int = 3


def packages() -> Iterator[Finding]:
    """Python and the packages whose absence or version matters."""
    found = {name: _version(name) for name in _SHOWN}
    shown = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    yield Finding("versions", Verdict.OK, f"Python {platform.python_version()}, {shown}")
    if importlib.util.find_spec("crc32c") is None:
        detail = (
            "missing: the Kafka client would compute checksums in Python at 35 times the CPU; `run` refuses to start"
        )
        yield Finding("crc32c", Verdict.FAIL, detail, "pip install crc32c")
    else:
        yield Finding("crc32c", Verdict.OK, "checksums of records are computed in C")
    missing = [package for module, package in _CODECS.items() if importlib.util.find_spec(module) is None]
    if missing:
        detail = f"{', '.join(missing)} missing: a partition stops at the first record compressed with it"
        yield Finding("codecs", Verdict.FAIL, detail, f"pip install {' '.join(missing)}")
    else:
        yield Finding("codecs", Verdict.OK, "gzip, lz4, snappy and zstd can be read")


def client(settings: Settings) -> Iterator[Finding]:
    """Whether the Kafka client that is wanted is installed."""
    try:
        librdkafka.require(settings.kafka)
    except HeadraceError as error:
        yield Finding("client", Verdict.FAIL, str(error), exit_code=error.exit_code)
    else:
        yield Finding("client", Verdict.OK, settings.kafka.client)


def memory(settings: Settings) -> Iterator[Finding]:
    """Whether the budget fits into what the machine has left."""
    budget, available = settings.ingest.max_in_flight_bytes, psutil.virtual_memory().available
    detail = f"budget {budget // MIB} MiB of {available // MIB} MiB available"
    if budget > available // 2:
        yield Finding("memory", Verdict.WARN, detail, "lower ingest.max_in_flight_bytes")
    else:
        yield Finding("memory", Verdict.OK, detail)


def gpu(settings: Settings) -> Iterator[Finding]:
    """Where pixels are prepared, and why. A missing GPU is no failure unless it is demanded: the CPU does the same work."""
    sight = device.look(settings)
    try:
        choice = device.choose(settings, sight)
    except HeadraceError as error:
        yield Finding("device", Verdict.FAIL, str(error), "or set device to auto or cpu", exit_code=error.exit_code)
        return
    is_missed = choice.gpu is None and bool(sight.gpus)
    yield Finding("device", Verdict.WARN if is_missed else Verdict.OK, str(choice), choice.remedy)
    if choice.gpu is None:
        return
    versions = {name: _version(name) for name in _GPU_PACKAGES}
    shown = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    yield Finding("gpu versions", Verdict.OK, shown)
    if _has_mps():
        detail = "by MPS: worker and Triton run side by side, and a fault of either ends both"
    else:
        detail = "no MPS: worker and Triton take turns on the GPU (docs/gpu.md has the price of either)"
    yield Finding("gpu sharing", Verdict.OK, detail)
    if settings.gpu.decode == "gpu":
        detail = "nvImageCodec decodes JPEGs: its verdicts on damaged ones are proven by `make test-gpu` alone"
        yield Finding("gpu decode", Verdict.WARN, detail, "run it with this driver, or set gpu.decode to cpu")


def broker(settings: Settings) -> Iterator[Finding]:
    """The broker, and on it the four topics, their partitions and size limits."""
    names = settings.topics
    every = (names.frames, names.predictions, names.dead_letters, names.statistics)
    servers = settings.kafka.bootstrap_servers
    try:
        cluster = topics.describe(settings.kafka, every)
    except HeadraceError as error:
        yield Finding("broker", Verdict.FAIL, str(error), exit_code=error.exit_code)
        return
    yield Finding("broker", Verdict.OK, f"{servers} answers, cluster {cluster.cluster_id or 'without a name'}")
    protection, exposed = security.protection_of_kafka(settings.kafka), security.is_exposed(settings.kafka, servers)
    yield _protection("broker access", protection, exposed, "kafka.tls")
    for name in every:
        if name in cluster.topics:
            facts = cluster.topics[name]
            detail = f"{facts.partitions} partitions, records up to {facts.max_message_bytes} bytes"
            yield Finding(f"topic {name}", Verdict.OK, detail)
        else:
            remedy = f"headrace produce --create, or kafka-topics.sh --create --topic {name} --partitions 4"
            yield Finding(f"topic {name}", Verdict.FAIL, "missing", remedy)
    yield from _limits(settings, cluster)


def model(settings: Settings) -> Iterator[Finding]:
    """What `run` does at its start, for each endpoint of the primary and the fallback apart."""
    models = [("model", settings)]
    if (fallback := settings.fallback_as_primary) is not None:
        models.append(("fallback", fallback))
    for name, tree in models:
        for url in tree.infer.endpoints:
            infer = msgspec.structs.replace(tree.infer, url=url)
            yield from _model(name, msgspec.structs.replace(tree, infer=infer))


def _model(name: str, settings: Settings) -> Iterator[Finding]:
    """Contract, labels, server or local engine, and that they fit each other."""
    from worker.pipeline.model import open_model  # its libraries take a second; other checks shall show first

    where = f"Triton at {settings.infer.url}" if settings.infer.backend == "triton" else "the local engine"
    try:
        served = open_model(settings)
    except HeadraceError as error:
        where = (
            "fallback.url, .name and .directory" if name == "fallback" else "infer.url, model.name and model.directory"
        )
        remedy = f"start Triton with this model, or set {where}"
        yield Finding(name, Verdict.FAIL, str(error), remedy, exit_code=error.exit_code)
        return
    try:
        identity, contract = served.engine.identity, served.contract
        size = f"{contract.width}x{contract.height} {contract.resize} {contract.wire_dtype}"
        detail = (
            f"{identity.name} {identity.version} ({identity.runtime}, {identity.precision}) ready in {where}, {size}"
        )
        yield Finding(name, Verdict.OK, detail)
        if settings.infer.backend == "triton":
            exposed = security.is_exposed(settings.infer, settings.infer.url)
            yield _protection("triton access", security.protection_of_triton(settings.infer), exposed, "infer.tls")
        made_with = served.engine.preprocess_digest
        if made_with not in (None, contract.digest):
            detail = f"the model was built with {made_with}, preprocess.toml is {contract.digest}"
            yield Finding("contract", Verdict.WARN, detail, "build the model again after a change of its contract")
        else:
            yield Finding("contract", Verdict.OK, contract.digest)
    finally:
        served.engine.close()


def _protection(name: str, protection: str, exposed: bool, setting: str) -> Finding:
    if exposed:
        return Finding(name, Verdict.WARN, f"{protection}: others on the network can read it", f"set {setting}")
    return Finding(name, Verdict.OK, protection)


def _limits(settings: Settings, cluster: Cluster) -> Iterator[Finding]:
    frames = cluster.topics.get(settings.topics.frames)
    letters = cluster.topics.get(settings.topics.dead_letters)
    if frames is None or letters is None:
        return
    wanted = frames.max_message_bytes + DEAD_LETTER_EXTRA_BYTES
    if letters.max_message_bytes < wanted:
        yield Finding(
            "dead letters",
            Verdict.FAIL,
            f"{letters.name} takes {letters.max_message_bytes} bytes, a dead letter of the largest frame {wanted}: "
            f"its value would be left out",
            _alter(letters.name, wanted),
        )
    elif settings.publish.max_record_bytes < wanted:
        detail = f"publish.max_record_bytes is {settings.publish.max_record_bytes}, a dead letter may take {wanted}"
        yield Finding("dead letters", Verdict.FAIL, detail, f"set it to {wanted}", exit_code=2)
    else:
        yield Finding("dead letters", Verdict.OK, "a dead letter of the largest frame fits")
    if frames.max_message_bytes < settings.ingest.max_frame_bytes:
        detail = (
            f"{frames.name} takes records up to {frames.max_message_bytes} bytes, less than ingest.max_frame_bytes "
            f"({settings.ingest.max_frame_bytes}): larger frames never get here"
        )
        yield Finding(
            "frame size",
            Verdict.WARN,
            detail,
            _alter(frames.name, settings.ingest.max_frame_bytes + DEAD_LETTER_EXTRA_BYTES),
        )


def _alter(topic: str, limit: int) -> str:
    return f"kafka-configs.sh --alter --entity-type topics --entity-name {topic} --add-config max.message.bytes={limit}"


def _has_mps() -> bool:
    """Whether the control daemon of CUDA's Multi-Process Service is where this process would look for it."""
    return (Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")) / "control").exists()  # noqa: S108


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
