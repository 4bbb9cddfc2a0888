"""The checks of `headrace doctor`. Each yields findings, raises nothing, and changes nothing at broker or server."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
from collections.abc import Iterator
from enum import StrEnum
from importlib import metadata
from typing import Any

import msgspec
import psutil

from worker import security, topics
from worker.cli.broker import DEAD_LETTER_EXTRA_BYTES
from worker.errors import HeadraceError
from worker.settings import MIB, Settings
from worker.topics import Cluster

_SHOWN = (
    "headrace",
    "kafka-python",
    "crc32c",
    "numpy",
    "opencv-python-headless",
    "simplejpeg",
    "onnxruntime",
    "tritonclient",
)
_CODECS = {"lz4": "lz4", "snappy": "python-snappy", "zstandard": "zstandard"}
_NVIDIA_SMI_S = 10.0  # it has been seen to hang on a broken driver


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


def memory(settings: Settings) -> Iterator[Finding]:
    """Whether the budget fits into what the machine has left."""
    budget, available = settings.ingest.max_in_flight_bytes, psutil.virtual_memory().available
    detail = f"budget {budget // MIB} MiB of {available // MIB} MiB available"
    if budget > available // 2:
        yield Finding("memory", Verdict.WARN, detail, "lower ingest.max_in_flight_bytes")
    else:
        yield Finding("memory", Verdict.OK, detail)


def gpu(settings: Settings) -> Iterator[Finding]:
    """Whether there is a GPU; its absence is no failure, the CPU does the same work."""
    if settings.device == "cpu":
        yield Finding("gpu", Verdict.OK, "not wanted (device = cpu)")
        return
    names = _gpu_names()
    if not names:
        yield Finding("gpu", Verdict.OK, "none seen: decoding and preprocessing run on the CPU")
    elif importlib.util.find_spec("cupy") is None:
        detail = f"{', '.join(names)}, but cupy is not installed: the CPU does the work"
        yield Finding("gpu", Verdict.WARN, detail, "pip install 'headrace[gpu]'")
    else:
        yield Finding("gpu", Verdict.OK, ", ".join(names))


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


def _gpu_names() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        told: Any = subprocess.run(command, capture_output=True, text=True, timeout=_NVIDIA_SMI_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in told.stdout.splitlines() if line.strip()]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
