"""The tree of settings: every limit and default of the worker, named once, with its unit in the name and its reason beside it.

Pure data. `worker.config` fills it from file, environment and flags; nothing else makes one but tests.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

MIB = 1024 * 1024
DEFAULT_MAX_FRAME_BYTES = 8 * MIB  # a 12-megapixel JPEG at its best quality
DEFAULT_MAX_PIXELS = 16 * MIB  # 4096 x 4096, more than the usual cameras have; 48 MiB once decoded

Port = Annotated[int, Meta(ge=0, le=65535)]
Positive = Annotated[int, Meta(ge=1)]
Milliseconds = Annotated[int, Meta(ge=0)]


class Secret:
    """A password: it shows itself as `***` wherever it is printed. `reveal` is for the client that sends it."""

    __slots__ = ("_text",)

    def __init__(self, text: str = "") -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, which even in a dump of the client's arguments shows as `***`."""
        return _Hidden(self._text)

    def __bool__(self) -> bool:
        return bool(self._text)

    def __repr__(self) -> str:
        return "***" if self._text else ""


class _Hidden(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return "***"


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the settings file. Unknown keys are refused."""


class KafkaSettings(Section, frozen=True):
    """The broker and the consumer group."""

    # confluent is librdkafka, from the extra `fast`: less CPU a frame, the same promises. docs/clients.md has the figures.
    client: Literal["kafka-python", "confluent"] = "kafka-python"
    bootstrap_servers: str = "localhost:9092"
    group_id: str = "headrace"
    group_instance_id: str = ""  # set one per replica for static membership: a restart then moves no partition
    # 10 s: a killed worker's partitions move within it plus a rebalance; shorter ejects workers in long GC or disk stalls.
    session_timeout_ms: Annotated[int, Meta(ge=1000)] = 10_000
    # A worker that stopped polling this long is ejected; the drain on revocation is bounded by half of it.
    max_poll_interval_ms: Annotated[int, Meta(ge=1000)] = 60_000
    # How long the broker may hold an empty fetch. 50 keeps latency low for little polling CPU; raise it for pure throughput.
    fetch_max_wait_ms: Milliseconds = 50
    request_timeout_ms: Annotated[int, Meta(ge=1000)] = 30_000
    # How long partitions that are added to the frames topic may go unnoticed; the clients' own 5 min are long for a camera.
    metadata_max_age_ms: Annotated[int, Meta(ge=1000)] = 30_000
    # Without it all travels in plain text. With it the broker must show a certificate for the name it was called by.
    tls: bool = False
    # PEM, read anew for each connection. Empty: the authorities this machine trusts.
    tls_ca_file: str = ""
    tls_certificate_file: str = ""  # PEM, this worker's own with its chain, for brokers that ask for one
    tls_key_file: str = ""
    sasl_mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = ""
    sasl_username: str = ""
    # Only from HEADRACE_KAFKA__SASL_PASSWORD: a settings file is committed, a command line is in every process list.
    sasl_password: Secret = msgspec.field(default_factory=Secret)
    sasl_password_file: str = ""
    sasl_token_file: str = ""  # of OAUTHBEARER; read anew for each login, since Kubernetes renews it in place
    sasl_without_tls: bool = False  # lets a password or token travel where others can read it


class TopicSettings(Section, frozen=True):
    """Names of the topics."""

    frames: str = "frames"
    predictions: str = "predictions"
    dead_letters: str = "frames.dlq"
    statistics: str = "frames.stats"


class IngestSettings(Section, frozen=True):
    """What is let in, and how much of it at once."""

    # Everything that comes and goes is inside this: fetch buffers, encoded frames, decoded pixels, unacknowledged output.
    # The batch slots are made once and stand beside it.
    max_in_flight_bytes: Annotated[int, Meta(ge=8 * MIB)] = 256 * MIB
    poll_chunk_frames: Positive = 64  # records a poll hands on together: larger gains nothing, smaller costs locks
    max_frame_bytes: Positive = DEFAULT_MAX_FRAME_BYTES
    max_pixels: Positive = DEFAULT_MAX_PIXELS
    formats: tuple[str, ...] = ("jpeg", "png", "webp", "bmp", "tiff", "gif")


class DecodeSettings(Section, frozen=True):
    """The pool that decodes and preprocesses."""

    threads: Annotated[int, Meta(ge=0)] = 0  # 0: one for each core the process may use, at most 8
    # A native decoder that is at one picture for longer has hung, and the process ends. The slowest known picture takes 1 s.
    deadline_ms: Annotated[int, Meta(ge=1000)] = 60_000
    # Remembers over restarts which frame crashed a native decoder; empty: a folder under the system's temporary one.
    crash_folder: str = ""


class BatchingSettings(Section, frozen=True):
    """Size or deadline, whichever is first."""

    max_batch_size: Positive = 16
    linger_ms: Milliseconds = 20  # a lone frame waits no longer than this for company
    max_in_flight: Annotated[int, Meta(ge=1, le=256)] = (
        6  # batches between decode and answer; 6 x 16 kept Triton fed on 2 cores
    )


class ModelSettings(Section, frozen=True):
    """Which model serves, and what comes with it (contract, labels): a folder of the served repository."""

    name: str = "efficientnet_lite2"
    version: str = ""  # empty: the one the server chooses
    directory: str = ""  # the served model's folder, with preprocess.toml and labels.txt; has to be given
    task: Literal["classify", "detect", "embed"] = "classify"
    top_k: Annotated[int, Meta(ge=1, le=100)] = 5
    # Of a detection. On a street the shipped detector is wrong as often as right from here down.
    min_score: Annotated[float, Meta(ge=0, le=1)] = 0.3
    # Intersection over union at which of two boxes of a class only the better one stays; people in a crowd overlap by less.
    max_overlap: Annotated[float, Meta(ge=0, le=1)] = 0.5


class InferSettings(Section, frozen=True):
    """Where inference happens."""

    backend: Literal["triton", "local"] = "triton"
    url: str = "localhost:8001"  # Triton's gRPC addresses, separated by commas; each batch goes to one of them
    shared_memory: Literal["auto", "on", "off"] = "auto"
    deadline_ms: Annotated[int, Meta(ge=1)] = 10_000  # of one try, the time it waits for an endpoint with room included
    # Of all tries of a batch together: two, and the pause between them. A try that would not fit is not begun: the fallback
    # answers instead, or without one the batch waits until an endpoint is well, and begins anew.
    batch_deadline_ms: Annotated[int, Meta(ge=1)] = 21_000
    local_threads: Annotated[int, Meta(ge=0)] = 0  # threads of the local engine; 0: half of the cores
    # By whom the local engine computes. openvino (extra `openvino`) pays where the CPU has bfloat16; docs/tuning.md.
    local_runtime: Literal["onnxruntime", "openvino"] = "onnxruntime"
    tls: bool = False  # to Triton; its certificate must name the host in the url
    tls_ca_file: str = ""  # PEM; empty: the authorities that come with gRPC
    tls_certificate_file: str = ""  # PEM, this worker's own with its chain, for a Triton that asks for one
    tls_key_file: str = ""

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Triton's addresses, each once; or `local`."""
        urls = tuple(dict.fromkeys(part for url in self.url.split(",") if (part := url.strip())))
        return urls if self.backend == "triton" else ("local",)


class GpuSettings(Section, frozen=True):
    """The GPU that prepares pixels, where `device` lets one; docs/gpu.md."""

    uuid: str = ""  # as `nvidia-smi -L` prints it; empty: the one that both this process and Triton see
    triton_metrics_port: Port = 8002  # of each endpoint, asked at start which GPUs it has; 0: not asked
    triton_ordinal: Annotated[int, Meta(ge=0)] = 0  # this GPU's number as Triton counts: 0 where it has only this one
    # Pixels on their way, in page-locked memory and as much again on the GPU, shared out among the decode threads. All of
    # it is made at start. 16 frames of 1080p are 95 MiB; what does not fit a thread's share goes in parts.
    staging_bytes: Annotated[int, Meta(ge=MIB)] = 512 * MIB
    kernel_folder: str = ""  # where compiled kernels are kept; empty: ~/.cache/headrace/kernels
    # gpu: JPEGs by nvImageCodec. Off until `make test-gpu` has passed on this very GPU and driver: it compares verdicts.
    decode: Literal["cpu", "gpu"] = "cpu"


class FallbackSettings(Section, frozen=True):
    """The simpler model that answers, marked `served_by: fallback`, while the primary can't. Its task is the primary's."""

    directory: str = ""  # the folder with its preprocess.toml and labels.txt; empty: no fallback, batches wait
    backend: Literal["local", "triton"] = "local"  # in this process it depends on nobody
    # Of one try, as infer.deadline_ms. Apart from it, because a CPU that answers late is better than no answer.
    deadline_ms: Annotated[int, Meta(ge=1)] = 10_000
    # For triton:
    name: str = "efficientnet_lite0"
    version: str = ""  # empty: the one the server chooses
    url: str = "localhost:8001"  # as infer.url; best another machine than the primary's


class PublishSettings(Section, frozen=True):
    """How outcomes are written."""

    linger_ms: Milliseconds = 5
    batch_bytes: Positive = 256 * 1024  # kafka-python at 256 KiB halves the CPU of its default 16 KiB
    delivery_timeout_ms: Annotated[int, Meta(ge=1000)] = 30_000
    max_record_bytes: Positive = 16 * MIB + 64 * 1024  # a dead letter carries its frame and its headers


class DeliverySettings(Section, frozen=True):
    """What is promised, when offsets are committed and how the worker leaves."""

    # at_least_once repeats frames after a crash; exactly_once shows none twice to readers that read committed, for more
    # delay and CPU.
    mode: Literal["at_least_once", "exactly_once"] = "at_least_once"
    # Of this replica alone, and the same after a restart, which by it ends what its predecessor left open. Empty: the group
    # id with kafka.group_instance_id, else with the host's name (in Kubernetes the pod's).
    transactional_id: str = ""
    # From the first record of a transaction to its commit, about: readers wait for it, and a shorter one costs more CPU.
    transaction_length_ms: Annotated[int, Meta(ge=10, le=1000)] = 120
    # Then the broker ends the transaction of a worker that vanished: until then readers stand still.
    transaction_timeout_ms: Annotated[int, Meta(ge=1000)] = 15_000
    commit_interval_ms: Annotated[int, Meta(ge=10, le=1000)] = 500
    drain_grace_ms: Annotated[int, Meta(ge=100)] = 20_000  # SIGTERM to exit; below Kubernetes' usual 30 s


class LimitSettings(Section, frozen=True):
    """How many frames the model may refuse (`inference_*`) before the worker stops with exit code 4; senders' faults never count."""

    # More than this share of the window: one camera of several that the model can't stand stays below a half. 1: no limit.
    inference_ratio: Annotated[float, Meta(gt=0, le=1)] = 0.5
    inference_window_frames: Positive = 400  # of all partitions; at 0.5 a mixture is stopped after 200 dead letters
    # A model that refuses all is stopped sooner. Six full batches are no chance; `dlq replay` brings them back. 0: no limit.
    inference_consecutive: Annotated[int, Meta(ge=0)] = 100


class AdminSettings(Section, frozen=True):
    """Metrics and health over HTTP."""

    host: str = "127.0.0.1"
    port: Port = 9400  # 0: any free port


class LogSettings(Section, frozen=True):
    """Structured logs on stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Settings(Section, frozen=True):
    """All of it."""

    # Where pixels become the model's input. auto: on the GPU that Triton uses, if this process sees it and has CuPy.
    device: Literal["auto", "gpu", "cpu"] = "auto"
    kafka: KafkaSettings = msgspec.field(default_factory=KafkaSettings)  # the schema's writer can't encode its secret
    topics: TopicSettings = TopicSettings()
    ingest: IngestSettings = IngestSettings()
    decode: DecodeSettings = DecodeSettings()
    batching: BatchingSettings = BatchingSettings()
    model: ModelSettings = ModelSettings()
    infer: InferSettings = InferSettings()
    gpu: GpuSettings = GpuSettings()
    fallback: FallbackSettings = FallbackSettings()
    publish: PublishSettings = PublishSettings()
    delivery: DeliverySettings = DeliverySettings()
    limits: LimitSettings = LimitSettings()
    admin: AdminSettings = AdminSettings()
    log: LogSettings = LogSettings()

    @property
    def fallback_as_primary(self) -> Settings | None:
        """The settings by which the fallback would be the primary: it is opened and checked as that. None without one."""
        fallback = self.fallback
        if not fallback.directory:
            return None
        replace = msgspec.structs.replace
        model = replace(self.model, name=fallback.name, version=fallback.version, directory=fallback.directory)
        theirs = {"backend": fallback.backend, "url": fallback.url, "deadline_ms": fallback.deadline_ms}
        infer = replace(self.infer, shared_memory="off", **theirs)
        return replace(self, model=model, infer=infer, fallback=FallbackSettings())

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Every inference endpoint by its name in metrics; those of the fallback begin with `fallback/`."""
        other = self.fallback_as_primary
        return self.infer.endpoints + tuple(f"fallback/{name}" for name in (other.infer.endpoints if other else ()))
