"""The served `config.pbtxt`: the owner's half as it stands in the tree, and the half that follows from elsewhere.

The owner writes name, outputs and batching. The input's shape and type follow from the preprocessing contract, the
backend and the kind of instance from the runtime, and the parameters from the build, so none of them is said twice.
What a GPU server needs besides (its engine's profile, its queue, its CUDA graphs, its memory pools) all follows from
the batch size and the instances, and is worked out here too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from triton_models.build.contract import Wire


class Runtime(StrEnum):
    """What runs the model under Triton."""

    ONNXRUNTIME = "onnxruntime"  # 1/model.onnx, through the python backend of 1/model.py
    TENSORRT = "tensorrt"  # 1/model.plan, an engine built on the very GPU that runs it


class Precision(StrEnum):
    """Of a graph's weights and arithmetic."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


_BACKEND = {Runtime.ONNXRUNTIME: 'backend: "python"', Runtime.TENSORRT: 'platform: "tensorrt_plan"'}
_KIND = {Runtime.ONNXRUNTIME: "KIND_CPU", Runtime.TENSORRT: "KIND_GPU"}

INPUT = "image"
_MADE = "# From here on: made by triton_models.build."
MIB = 2**20
# A worker sends whole batches, 6 on their way by default; more of them waiting than this means that the GPU is late, and
# a refused request is tried elsewhere at once.
_QUEUE_REQUESTS = 64
# Half of a worker's default infer.deadline_ms: what is older would be answered after the worker has given it up.
_QUEUE_TIMEOUT_MS = 5_000
# Triton's own defaults: the pools serve more than our tensors, so they never get less.
_PINNED_POOL_BYTES = 256 * MIB
_CUDA_POOL_BYTES = 64 * MIB
# A batch being answered keeps its buffers while the instance's next one fills others.
_BUFFERS = 2


def triton_config(
    owner: str, wire: Wire, runtime: Runtime, max_batch_size: int, instances: int, parameters: Mapping[str, str]
) -> str:
    """Text of a config.pbtxt. Protobuf's text format merges fields in any order, so the halves are just joined."""
    lines = [
        owner.rstrip(),
        "",
        _MADE,
        _BACKEND[runtime],
        f"max_batch_size: {max_batch_size}",
        f'input [{{ name: "{INPUT}" data_type: {wire.triton_dtype} dims: {list(wire.shape)} }}]',
        f"instance_group [{{ kind: {_KIND[runtime]} count: {instances} }}]",
    ]
    if runtime is Runtime.TENSORRT:
        lines += _engine_lines(wire, max_batch_size)
    lines += [
        f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}' for key, value in parameters.items()
    ]
    return "\n".join(lines) + "\n"


def owner_half(config: str) -> str:
    """What the owner wrote of a config.pbtxt that `triton_config` made; one that it did not make, whole."""
    return config.partition(_MADE)[0].rstrip() + "\n"


def captured_batch_sizes(max_batch_size: int) -> tuple[int, ...]:
    """Batch sizes of which a CUDA graph is captured: powers of two, and the largest batch itself.

    Every smaller batch runs in the next larger graph, its last rows empty: at most twice the arithmetic, and no launch
    of single kernels.
    """
    sizes = [2**power for power in range(max_batch_size.bit_length()) if 2**power < max_batch_size]
    return (*sizes, max_batch_size)


def optimisation_profile(wire: Wire, max_batch_size: int) -> dict[str, list[list[int]]]:
    """Input name -> least, best and greatest shape of the engine, batch first. The best is the full batch: under load
    the worker sends no other.
    """
    return {INPUT: [[rows, *wire.shape] for rows in (1, max_batch_size, max_batch_size)]}


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one served engine asks of the server's pools. `row_bytes` is one frame's input and all its outputs."""

    row_bytes: int
    max_batch_size: int
    instances: int
    version_compatible: bool = False

    @property
    def pool_bytes(self) -> int:
        """Bytes of tensors that are in buffers at the same time."""
        return self.row_bytes * self.max_batch_size * self.instances * _BUFFERS


def server_flags(engines: Iterable[Footprint]) -> list[str]:
    """tritonserver's arguments that follow from the engines it serves, all on the one GPU it sees."""
    engines = list(engines)
    needed = -(-sum(engine.pool_bytes for engine in engines) // MIB) * MIB
    flags = [
        f"--pinned-memory-pool-byte-size={max(needed, _PINNED_POOL_BYTES)}",
        f"--cuda-memory-pool-byte-size=0:{max(needed, _CUDA_POOL_BYTES)}",
    ]
    if any(engine.version_compatible for engine in engines):
        # Such a plan carries code of its own to run on the host, which the backend runs only if it is told to.
        flags.append("--backend-config=tensorrt,version-compatible=true")
    return flags


def _engine_lines(wire: Wire, max_batch_size: int) -> list[str]:
    """Batches of several workers are joined if they wait anyway, never waited for: each comes full already."""
    dims = f'input {{ key: "{INPUT}" value: {{ dim: {list(wire.shape)} }} }}'
    lines = [
        "dynamic_batching {",
        "  max_queue_delay_microseconds: 0",
        "  default_queue_policy {",
        "    timeout_action: REJECT",
        f"    default_timeout_microseconds: {_QUEUE_TIMEOUT_MS * 1000}",
        f"    max_queue_size: {_QUEUE_REQUESTS}",
        "  }",
        "}",
        "response_cache { enable: false }",  # no frame comes twice
        "optimization { cuda {",
        "  graphs: true",
        "  output_copy_stream: true",  # a batch's answer leaves while the next one is computed
    ]
    least = 1
    for size in captured_batch_sizes(max_batch_size):
        bound = f"graph_lower_bound {{ batch_size: {least} {dims} }}"
        lines.append(f"  graph_spec {{ batch_size: {size} {dims} {bound} }}")
        least = size + 1
    lines.append("} }")
    zeros = f"data_type: {wire.triton_dtype} dims: {list(wire.shape)} zero_data: true"
    lines += [
        f'model_warmup {{ name: "batch_{size}" batch_size: {size} inputs {{ key: "{INPUT}" value: {{ {zeros} }} }} }}'
        for size in captured_batch_sizes(max_batch_size)
    ]
    return lines
