"""What a GPU's Triton is told: the config of a tensorrt_plan, its CUDA graphs and profile, and the server's arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2, service_pb2

from triton_models.build import SOURCE
from triton_models.build.contract import Wire, read_contract
from triton_models.build.triton_config import (
    MIB,
    Footprint,
    Runtime,
    captured_batch_sizes,
    optimisation_profile,
    owner_half,
    server_flags,
    triton_config,
)
from worker.frames import TensorSpec
from worker.infer.facts import read_facts

MODEL = SOURCE / "efficientnet_lite2"
PARAMETERS = {"digest": "sha256:graph", "runtime": "tensorrt", "precision": "fp16", "engine_digest": "sha256:plan"}


def wire() -> Wire:
    return read_contract(MODEL / "preprocess.toml")[0]


def config(max_batch_size: int = 64, instances: int = 2) -> Any:
    owner = (MODEL / "config.pbtxt").read_text()
    parsed = model_config_pb2.ModelConfig()
    text_format.Parse(triton_config(owner, wire(), Runtime.TENSORRT, max_batch_size, instances, PARAMETERS), parsed)
    return parsed


def test_a_plan_is_served_with_a_bounded_queue_and_without_a_cache() -> None:
    made = config()
    assert (made.platform, made.instance_group[0].count) == ("tensorrt_plan", 2)
    assert made.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    policy = made.dynamic_batching.default_queue_policy
    assert policy.timeout_action == model_config_pb2.ModelQueuePolicy.REJECT
    assert policy.max_queue_size > 0
    assert 0 < policy.default_timeout_microseconds < 10_000_000  # a worker's default infer.deadline_ms
    assert made.dynamic_batching.max_queue_delay_microseconds == 0
    assert made.HasField("response_cache")
    assert not made.response_cache.enable


@settings(max_examples=25)
@given(st.integers(1, 300))
def test_every_batch_runs_in_exactly_one_captured_graph_at_most_twice_its_size(max_batch_size: int) -> None:
    sizes = captured_batch_sizes(max_batch_size)
    made = config(max_batch_size)
    specs = made.optimization.cuda.graph_spec
    assert made.optimization.cuda.graphs
    assert tuple(spec.batch_size for spec in specs) == sizes
    for rows in range(1, max_batch_size + 1):
        (graph,) = (spec for spec in specs if spec.graph_lower_bound.batch_size <= rows <= spec.batch_size)
        assert graph.batch_size < 2 * rows or graph.batch_size == rows
    for spec in specs:
        assert list(spec.input["image"].dim) == [260, 260, 3]
        assert list(spec.graph_lower_bound.input["image"].dim) == [260, 260, 3]


def test_each_captured_size_is_warmed_up_before_the_model_is_ready() -> None:
    made = config(48)
    assert [warm.batch_size for warm in made.model_warmup] == [1, 2, 4, 8, 16, 32, 48]
    assert all(list(warm.inputs["image"].dims) == [260, 260, 3] for warm in made.model_warmup)
    assert all(warm.inputs["image"].data_type == model_config_pb2.TYPE_UINT8 for warm in made.model_warmup)


def test_the_profile_reaches_from_one_frame_to_the_full_batch() -> None:
    assert optimisation_profile(wire(), 48) == {"image": [[1, 260, 260, 3], [48, 260, 260, 3], [48, 260, 260, 3]]}


def test_the_worker_reads_precision_and_engine_from_what_the_server_loaded() -> None:
    metadata = service_pb2.ModelMetadataResponse(name="efficientnet_lite2", versions=["1"])
    metadata.inputs.add(name="image", datatype="UINT8", shape=[-1, 260, 260, 3])
    metadata.outputs.add(name="logits", datatype="FP32", shape=[-1, 1000])
    expected = TensorSpec("image", np.dtype(np.uint8), (260, 260, 3))
    identity = read_facts(metadata, config(), "", expected, ["logits"]).identity
    assert (identity.runtime, identity.precision, identity.digest) == ("tensorrt", "fp16", "sha256:graph")
    assert identity.engine_digest == "sha256:plan"


def test_the_pools_grow_with_batch_and_instances_and_never_fall_below_tritons_own() -> None:
    small, large = Footprint(200_000, 1, 1), Footprint(200_000, 128, 4)
    assert server_flags([small]) == [
        f"--pinned-memory-pool-byte-size={256 * MIB}",
        f"--cuda-memory-pool-byte-size=0:{64 * MIB}",
    ]
    pinned, cuda = (int(flag.rpartition("=")[2].rpartition(":")[2]) for flag in server_flags([large, large]))
    assert pinned == cuda >= 2 * 2 * 200_000 * 128 * 4
    assert cuda % MIB == 0


def test_a_version_compatible_engine_makes_the_backend_accept_it() -> None:
    flag = "--backend-config=tensorrt,version-compatible=true"
    assert flag in server_flags([Footprint(1, 1, 1), Footprint(1, 1, 1, version_compatible=True)])
    assert flag not in server_flags([Footprint(1, 1, 1)])


@pytest.mark.parametrize("runtime", list(Runtime))
def test_the_owners_half_comes_back_out_of_what_was_made_of_it(runtime: Runtime) -> None:
    owner = (MODEL / "config.pbtxt").read_text()
    assert owner_half(triton_config(owner, wire(), runtime, 8, 1, {})) == owner
    assert owner_half(owner) == owner
