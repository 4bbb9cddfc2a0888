"""What Triton says of a model, read once at start and again when another version or another server answers;
while none does, what the model's folder says.

Metadata and configuration come in; out go the model's identity and tensors, after they were held against what the
preprocessing contract makes. Pure: the shell asks the server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig
from tritonclient.grpc.service_pb2 import ModelMetadataResponse
from tritonclient.utils import triton_to_np_dtype

from worker.errors import ModelError
from worker.frames import ModelIdentity, TensorSpec
from worker.infer.engine import shapes_agree


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One version of a model as a server has it. `preprocess_digest` is None where the model does not tell it."""

    identity: ModelIdentity
    input: TensorSpec
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    preprocess_digest: str | None


def read_facts(
    metadata: Any, config: Any, version: str, expected: TensorSpec, output_names: Sequence[str]
) -> ModelFacts:
    """Facts from the protobuf messages ModelMetadataResponse and ModelConfig.

    `version` is the one that serves, "" for the newest that is ready. Raises ModelError if the model does not batch,
    its input is not `expected`, or an output is missing.
    """
    name = metadata.name
    if config.max_batch_size < 1:
        raise ModelError(f"{name} does not batch: set max_batch_size in its config.pbtxt to 1 or more.")
    if len(metadata.inputs) != 1:
        raise ModelError(f"{name} has {len(metadata.inputs)} inputs; Headrace serves models with one image input.")
    given = _spec(metadata.inputs[0], name)
    if given.name != expected.name or given.dtype != expected.dtype or not shapes_agree(given.shape, expected.shape):
        raise ModelError(
            f"{name} takes {_say(given)}, but its preprocessing contract makes {_say(expected)} (batch dimension left "
            "out): name the contract that belongs to this model (model.directory), or serve the model it was made for."
        )
    outputs = {spec.name: spec for spec in (_spec(output, name) for output in metadata.outputs)}
    missing = [output for output in output_names if output not in outputs]
    if missing:
        raise ModelError(f"{name} has no output {', '.join(missing)}; its outputs are {', '.join(outputs)}.")
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    return ModelFacts(
        identity=_identity(name, version or _newest(metadata.versions), parameters, config.platform or config.backend),
        input=given,
        outputs=tuple(outputs[output] for output in output_names),
        max_batch_size=config.max_batch_size,
        preprocess_digest=parameters.get("preprocess"),
    )


def facts_of_folder(config_pbtxt: str, expected: TensorSpec, output_names: Sequence[str]) -> ModelFacts:
    """What the text of a served folder's config.pbtxt says, for as long as no server can be asked; its version is "".

    Raises ModelError as `read_facts`, or if the text does not tell.
    """
    config = ModelConfig()
    try:
        text_format.Parse(config_pbtxt, config)
    except text_format.ParseError as error:
        raise ModelError(f"config.pbtxt can't be read: {error}") from error
    metadata = ModelMetadataResponse(name=config.name)
    for side, tensors in ((metadata.inputs, config.input), (metadata.outputs, config.output)):
        for tensor in tensors:
            side.add(
                name=tensor.name,
                datatype=DataType.Name(tensor.data_type).removeprefix("TYPE_"),
                shape=[-1, *tensor.dims],
            )
    return read_facts(metadata, config, "", expected, output_names)


def _identity(name: str, version: str, parameters: Mapping[str, str], backend: str) -> ModelIdentity:
    return ModelIdentity(
        name=name,
        version=version,
        digest=parameters.get("digest", "unknown"),
        runtime=parameters.get("runtime", backend),
        precision=parameters.get("precision", "unknown"),
        engine_digest=parameters.get("engine_digest"),
    )


def _newest(versions: Sequence[str]) -> str:
    return max(versions, key=int, default="")


def _spec(tensor: Any, model: str) -> TensorSpec:
    dtype = triton_to_np_dtype(tensor.datatype)
    if dtype is None or dtype is np.object_:
        raise ModelError(
            f"{model} has the tensor {tensor.name} of type {tensor.datatype}, which is no array of numbers."
        )
    return TensorSpec(tensor.name, np.dtype(dtype), tuple(tensor.shape[1:]))


def _say(spec: TensorSpec) -> str:
    return f"{spec.name!r} {spec.dtype} {spec.shape}"
