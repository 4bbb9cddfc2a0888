"""The served `config.pbtxt`: the owner's half as it stands in the tree, and the half that follows from elsewhere.

The owner writes name, outputs and batching. The input's shape and type follow from the preprocessing contract, the
backend and the kind of instance from the runtime, and the parameters from the build, so none of them is said twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from triton_models.build.contract import Wire


class Runtime(StrEnum):
    """What runs the model under Triton."""

    ONNXRUNTIME = "onnxruntime"  # 1/model.onnx, through the python backend of 1/model.py
    TENSORRT = "tensorrt"  # 1/model.plan, an engine built on the very GPU that runs it


_BACKEND = {Runtime.ONNXRUNTIME: 'backend: "python"', Runtime.TENSORRT: 'platform: "tensorrt_plan"'}
_KIND = {Runtime.ONNXRUNTIME: "KIND_CPU", Runtime.TENSORRT: "KIND_GPU"}


def triton_config(
    owner_half: str, wire: Wire, runtime: Runtime, max_batch_size: int, instances: int, parameters: Mapping[str, str]
) -> str:
    """Text of a config.pbtxt. Protobuf's text format merges fields in any order, so the halves are just joined."""
    lines = [
        owner_half.rstrip(),
        "",
        "# From here on: made by triton_models.build.",
        _BACKEND[runtime],
        f"max_batch_size: {max_batch_size}",
        f'input [{{ name: "image" data_type: {wire.triton_dtype} dims: {list(wire.shape)} }}]',
        f"instance_group [{{ kind: {_KIND[runtime]} count: {instances} }}]",
    ]
    lines += [
        f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}' for key, value in parameters.items()
    ]
    return "\n".join(lines) + "\n"
