"""The Triton engine against a real Triton that serves `models/probe`: a model that shows its input, sleeps and fails."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as tritongrpc

from tests.rig.gpu import StandInCuda
from worker.buffers import SHARED_MEMORY_FOLDER, SharedRegion, Slot, SlotPool, remove_regions_of_dead_workers
from worker.embedded.process import ServerProcess
from worker.embedded.triton import TritonServer, unsupported_reason
from worker.errors import (
    DependencyError,
    HeadraceError,
    InferenceRejected,
    InferenceUnavailable,
    ModelError,
)
from worker.frames import Answer, TensorSpec
from worker.infer import TritonEngine

pytestmark = pytest.mark.triton

MODELS = Path(__file__).parent / "models"
SHAPE = (32, 32, 3)
INPUT = TensorSpec("image", np.dtype(np.uint8), SHAPE)
ROWS = 16
MAGIC = (0xDE, 0xAD, 0xBE, 0xEF)
SLEEP, RAISE = 1, 2
LONG_S = 60.0  # a bound on what takes milliseconds on an idle machine

Outcome = Answer | HeadraceError


@pytest.fixture(scope="module")
def server() -> Iterator[TritonServer]:
    if (why := unsupported_reason()) and os.environ.get("CI") != "true":
        pytest.skip(f"no Triton: {why}")
    with TritonServer.start(MODELS, models=["probe"]) as running:
        yield running


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[TritonServer]:
    """A server, and a repository, that the test may spoil."""
    shutil.copytree(MODELS, tmp_path / "models")
    with TritonServer.start(tmp_path / "models", models=["probe"]) as running:
        yield running


def engine_at(server: TritonServer, shared_memory: str = "auto", **changes: object) -> TritonEngine:
    arguments: dict[str, object] = {"input_spec": INPUT, "output_names": ("sums", "corner")} | changes
    return TritonEngine(server.grpc_url, "probe", shared_memory=shared_memory, **arguments)  # type: ignore[arg-type]


@contextlib.contextmanager
def attached(
    server: TritonServer, shared_memory: str = "auto", slots: int = 3
) -> Iterator[tuple[TritonEngine, SlotPool]]:
    engine = engine_at(server, shared_memory)
    pool = SlotPool(slots, ROWS, SHAPE, INPUT.dtype, shared=shared_memory != "off")
    try:
        engine.attach(pool)
        yield engine, pool
    finally:
        engine.close()
        pool.close()


def picture(seed: int, rows: int = ROWS) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (rows, *SHAPE), np.uint8)


def command(slot: Slot, row: int, what: int, tenths_of_a_second: int = 0) -> None:
    slot.array[row].reshape(-1)[:6] = (*MAGIC, what, tenths_of_a_second)


def filled(pool: SlotPool, seed: int) -> Slot:
    slot = pool.acquire(LONG_S)
    assert slot is not None
    slot.array[:] = picture(seed)
    return slot


class Inbox:
    """Receives outcomes as a pipeline would, lets the caller's hold go, and keeps count."""

    def __init__(self, engine: TritonEngine) -> None:
        self.engine = engine
        self.outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()

    def submit(self, slot: Slot, rows: int = ROWS, within_s: float = LONG_S) -> None:
        def done(outcome: Outcome) -> None:
            self.outcomes.put(outcome)
            slot.let_go()

        self.engine.submit(slot, rows, time.monotonic() + within_s, done)

    def next(self) -> Outcome:
        return self.outcomes.get(timeout=LONG_S)

    def ask(self, slot: Slot, rows: int = ROWS, within_s: float = LONG_S) -> Outcome:
        self.submit(slot, rows, within_s)
        return self.next()


def assert_answers(outcome: Outcome, images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    assert isinstance(outcome, Answer), outcome
    np.testing.assert_array_equal(outcome.outputs["sums"], images.sum(axis=(1, 2), dtype=np.float32))
    np.testing.assert_array_equal(outcome.outputs["corner"], images[:, 0, :2, :].astype(np.float32))


def eventually(fact: object, what: str) -> None:
    until = time.monotonic() + LONG_S
    while not fact():  # type: ignore[operator]
        assert time.monotonic() < until, what
        time.sleep(0.02)


def regions_at(server: TritonServer) -> set[str]:
    with tritongrpc.InferenceServerClient(server.grpc_url) as client:
        return set(client.get_system_shared_memory_status().regions)


def our_files() -> set[str]:
    return {path.name for path in SHARED_MEMORY_FOLDER.glob(f"headrace-*-{os.getpid()}-*")}


@pytest.mark.parametrize("transport", ["on", "off"])
@pytest.mark.parametrize("rows", [1, 7, ROWS])
def test_a_batch_is_answered_row_by_row_through_shared_memory_and_as_tensors(
    server: TritonServer, transport: str, rows: int
) -> None:
    with attached(server, transport) as (engine, pool):
        assert engine.shares_memory == (transport == "on")
        outcome = Inbox(engine).ask(filled(pool, seed=rows), rows)
        assert_answers(outcome, picture(rows)[:rows])
        assert isinstance(outcome, Answer)
        assert (outcome.model.name, outcome.model.version, outcome.model.digest) == ("probe", "1", "sha256:aaaa")
        assert (outcome.model.runtime, outcome.model.precision) == ("numpy", "fp32")
        assert (outcome.served_by, engine.preprocess_digest) == ("primary", "sha256:bbbb")
        assert outcome.infer_ms > 0
        eventually(lambda: pool.in_use == 0, "the slot is free after the answer")


def test_slots_filled_again_and_again_get_the_answers_of_their_own_content(server: TritonServer) -> None:
    with attached(server) as (engine, pool):
        assert engine.shares_memory
        inbox = Inbox(engine)
        for round_ in range(10):
            slots = [filled(pool, seed=100 * round_ + i) for i in range(3)]
            for i, slot in enumerate(slots):
                assert_answers(inbox.ask(slot), picture(100 * round_ + i))


def test_slots_on_a_gpu_go_as_tensors_to_a_triton_that_does_not_take_their_memory(server: TritonServer) -> None:
    pool = SlotPool(2, ROWS, SHAPE, INPUT.dtype, shared=True, cuda=StandInCuda())  # no GPU: nor has this Triton CUDA
    engine = engine_at(server)
    try:
        engine.attach(pool)
        assert not engine.shares_memory
        assert_answers(Inbox(engine).ask(filled(pool, seed=3), 5), picture(3)[:5])
        with pytest.raises(DependencyError, match="Triton says"):
            engine_at(server, "on").attach(pool)
    finally:
        engine.close()
        pool.close()


def test_a_model_of_another_shape_is_refused_with_both_shapes_named(server: TritonServer) -> None:
    with pytest.raises(ModelError) as caught:
        engine_at(server, input_spec=TensorSpec("image", np.dtype(np.float32), (224, 224, 3)))
    sentence = str(caught.value)
    assert "uint8 (32, 32, 3)" in sentence
    assert "float32 (224, 224, 3)" in sentence


def test_an_output_that_the_model_lacks_is_named_with_those_it_has(server: TritonServer) -> None:
    with pytest.raises(ModelError, match=r"no output logits; its outputs are sums, corner"):
        engine_at(server, output_names=("logits",))


def test_a_model_that_is_not_served_is_named_with_those_that_are(server: TritonServer) -> None:
    with pytest.raises(DependencyError, match=r"does not serve nothing_like_it; it serves probe 1"):
        TritonEngine(server.grpc_url, "nothing_like_it", input_spec=INPUT, output_names=("sums",))


def test_a_server_that_is_not_there_is_named_with_the_setting() -> None:
    with pytest.raises(DependencyError, match=r"127.0.0.1:1 can't be reached; start it, or set infer.url"):
        TritonEngine("127.0.0.1:1", "probe", input_spec=INPUT, output_names=("sums",))


def test_slots_of_more_rows_than_the_model_batches_are_refused(server: TritonServer) -> None:
    engine = engine_at(server)
    try:
        with pytest.raises(ModelError, match="at most 16 frames"):
            engine.attach(SlotPool(1, ROWS + 1, SHAPE, INPUT.dtype, shared=False))
    finally:
        engine.close()


def test_an_exception_in_the_model_rejects_the_batch_and_not_the_next(server: TritonServer) -> None:
    with attached(server) as (engine, pool):
        inbox = Inbox(engine)
        slot = filled(pool, seed=1)
        command(slot, 3, RAISE)
        outcome = inbox.ask(slot)
        assert isinstance(outcome, InferenceRejected)
        assert "the picture told me to fail" in str(outcome)
        assert_answers(inbox.ask(filled(pool, seed=2)), picture(2))


def test_private_slots_are_an_error_only_where_shared_memory_was_demanded(server: TritonServer) -> None:
    private = SlotPool(1, ROWS, SHAPE, INPUT.dtype, shared=False)
    for wish, fails in (("auto", False), ("on", True)):
        engine = engine_at(server, wish)
        with pytest.raises(DependencyError, match="private memory") if fails else contextlib.nullcontext():
            engine.attach(private)
        engine.close()


def test_a_region_that_only_seems_shared_is_found_out_and_tensors_are_used(
    server: TritonServer, caplog: pytest.LogCaptureFixture
) -> None:
    pool = SlotPool(2, ROWS, SHAPE, INPUT.dtype, shared=True)
    other = SlotPool(1, ROWS, SHAPE, INPUT.dtype, shared=True)
    ours, theirs = pool.slots[0].region, other.slots[0].region
    assert isinstance(ours, SharedRegion)
    assert isinstance(theirs, SharedRegion)
    with tritongrpc.InferenceServerClient(server.grpc_url) as client:
        client.register_system_shared_memory(ours.name, theirs.key, ours.byte_size)
    engine = engine_at(server)
    try:
        engine.attach(pool)
        assert "as tensors, not through shared memory" in caplog.text
        assert not engine.shares_memory
        assert_answers(Inbox(engine).ask(filled(pool, seed=5)), picture(5))
        assert not regions_at(server) & {slot.region.name for slot in pool.slots if slot.region}
    finally:
        engine.close()
        pool.close()
        other.close()


def test_close_leaves_neither_files_nor_registrations(server: TritonServer) -> None:
    before = regions_at(server)
    with attached(server) as (engine, pool):
        assert_answers(Inbox(engine).ask(filled(pool, seed=6)), picture(6))
        assert len(regions_at(server) - before) == 3
        assert len(our_files()) == 3
    assert regions_at(server) <= before
    assert our_files() == set()


def test_close_answers_what_is_outstanding(server: TritonServer) -> None:
    with attached(server) as (engine, pool):
        inbox = Inbox(engine)
        slot = filled(pool, seed=7)
        command(slot, 0, SLEEP, tenths_of_a_second=60)
        inbox.submit(slot)
    assert isinstance(inbox.next(), InferenceUnavailable)
    assert inbox.outcomes.empty()
    assert pool.in_use == 0
    assert our_files() == set()


def test_a_slot_is_not_reusable_while_a_server_stopped_past_the_deadline_may_still_read_it(
    own_server: TritonServer,
) -> None:
    with attached(own_server) as (engine, pool):
        assert engine.shares_memory
        inbox = Inbox(engine)
        own_server.process.send_signal(signal.SIGSTOP)
        try:
            first = filled(pool, seed=8)
            outcome = inbox.ask(first, within_s=0.5)
            assert isinstance(outcome, InferenceUnavailable)
            assert "deadline" in str(outcome)
            assert (pool.in_use, pool.quarantined) == (1, 1)
            assert pool.acquire(0.2, among=[first]) is None
        finally:
            own_server.process.send_signal(signal.SIGCONT)
        eventually(lambda: pool.in_use == 0, "the slot is free once the late answer is here")
        assert pool.quarantined == 0
        assert inbox.outcomes.empty(), "the late answer is dropped"
        assert_answers(inbox.ask(filled(pool, seed=9)), picture(9))


def test_as_tensors_a_missed_deadline_frees_the_slot_at_once(own_server: TritonServer) -> None:
    with attached(own_server, "off") as (engine, pool):
        own_server.process.send_signal(signal.SIGSTOP)
        try:
            assert isinstance(Inbox(engine).ask(filled(pool, seed=8), within_s=0.5), InferenceUnavailable)
            eventually(lambda: pool.in_use == 0, "the batch was copied into its request")
        finally:
            own_server.process.send_signal(signal.SIGCONT)


def start_again(server: TritonServer) -> None:
    """Kill the server and start it just as it was, on the same ports."""
    environment = Path(f"/proc/{server.pid}/environ").read_bytes().decode().split("\0")
    server.process.send_signal(signal.SIGKILL)
    server.stop()
    server.process = ServerProcess(
        server.process.argv, server.process.log_path, dict(pair.split("=", 1) for pair in environment if pair)
    )
    with tritongrpc.InferenceServerClient(
        server.grpc_url, channel_args=[("grpc.max_reconnect_backoff_ms", 500)]
    ) as client:

        def ready() -> bool:
            with contextlib.suppress(Exception):
                return bool(client.is_model_ready("probe", client_timeout=1.0))
            return False

        eventually(ready, "Triton is ready again")


def test_after_a_servers_restart_batches_are_answered_and_regions_registered_again(own_server: TritonServer) -> None:
    repository = next(part for part in own_server.process.argv if part.startswith("--model-repository="))
    config = Path(repository.partition("=")[2]) / "probe" / "config.pbtxt"
    with attached(own_server) as (engine, pool):
        inbox = Inbox(engine)
        assert_answers(inbox.ask(filled(pool, seed=10)), picture(10))
        slot = filled(pool, seed=11)
        command(slot, 0, SLEEP, tenths_of_a_second=50)
        inbox.submit(slot)
        time.sleep(0.3)  # on its way when the server dies
        config.write_text(config.read_text().replace("sha256:aaaa", "sha256:cccc"))
        start_again(own_server)
        assert isinstance(inbox.next(), InferenceUnavailable)
        eventually(lambda: pool.in_use == 0, "a dead server reads nothing")
        answers = [inbox.ask(filled(pool, seed=12 + i)) for i in range(4)]
        for i, answer in enumerate(answers):
            assert_answers(answer, picture(12 + i))
            assert isinstance(answer, Answer)
            assert answer.model.digest == "sha256:cccc", "the server that answers now has other weights"
        eventually(lambda: engine.shares_memory, "the regions are proven anew")
        assert len(regions_at(own_server)) == 3
        assert_answers(inbox.ask(filled(pool, seed=20)), picture(20))


def test_while_the_server_is_away_batches_are_unavailable_and_not_rejected(own_server: TritonServer) -> None:
    with attached(own_server) as (engine, pool):
        own_server.process.send_signal(signal.SIGKILL)
        own_server.process.stop()
        assert isinstance(Inbox(engine).ask(filled(pool, seed=1)), InferenceUnavailable)
        assert not engine.live()
        assert not engine.ready()


def test_a_killed_model_process_makes_batches_unavailable_and_not_rejected(own_server: TritonServer) -> None:
    with attached(own_server) as (engine, pool):
        children = subprocess.run(["pgrep", "-P", str(own_server.pid)], capture_output=True, text=True, check=True)
        for pid in children.stdout.split():
            os.kill(int(pid), signal.SIGKILL)
        outcomes = [Inbox(engine).ask(filled(pool, seed=i)) for i in range(3)]
        assert all(isinstance(outcome, InferenceUnavailable) for outcome in outcomes), outcomes


def test_an_answer_carries_the_version_that_made_it_and_that_versions_facts(own_server: TritonServer) -> None:
    repository = next(part for part in own_server.process.argv if part.startswith("--model-repository="))
    model = Path(repository.partition("=")[2]) / "probe"
    with attached(own_server) as (engine, pool):
        inbox = Inbox(engine)
        shutil.copytree(model / "1", model / "2", ignore=shutil.ignore_patterns("__pycache__"))
        config = model / "config.pbtxt"
        config.write_text(config.read_text().replace("sha256:aaaa", "sha256:cccc"))
        with tritongrpc.InferenceServerClient(own_server.grpc_url) as client:
            client.load_model("probe")
        outcome = inbox.ask(filled(pool, seed=1))
        assert isinstance(outcome, Answer)
        assert outcome.model == replace(outcome.model, version="2", digest="sha256:cccc")
        assert engine.identity == outcome.model

        config.write_text(config.read_text().replace("sha256:bbbb", "sha256:dddd"))
        shutil.copytree(model / "2", model / "3", ignore=shutil.ignore_patterns("__pycache__"))
        with tritongrpc.InferenceServerClient(own_server.grpc_url) as client:
            client.load_model("probe")
        refused = inbox.ask(filled(pool, seed=2))
        assert isinstance(refused, ModelError)
        assert "sha256:dddd" in str(refused)


WORKER = """
import sys
import numpy as np
from worker.buffers import SlotPool
from worker.frames import TensorSpec
from worker.infer import TritonEngine
spec = TensorSpec("image", np.dtype(np.uint8), (32, 32, 3))
engine = TritonEngine(sys.argv[1], "probe", input_spec=spec, output_names=("sums",), shared_memory="on")
pool = SlotPool(2, 16, spec.shape, spec.dtype, shared=True)
engine.attach(pool)
print(*[slot.region.name for slot in pool.slots], flush=True)
sys.stdin.read()
"""


def test_what_a_killed_worker_left_is_taken_away_by_the_next_start(server: TritonServer) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, server.grpc_url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert worker.stdout is not None
    names = set(worker.stdout.readline().split())
    assert len(names) == 2
    worker.kill()
    worker.communicate()
    assert names <= regions_at(server)
    assert names <= set(remove_regions_of_dead_workers())
    with attached(server):
        assert not names & regions_at(server)
    assert not any((SHARED_MEMORY_FOLDER / name).exists() for name in names)


def test_submitting_to_a_closed_engine_is_an_error_of_the_caller(server: TritonServer) -> None:
    with attached(server) as (engine, pool):
        pass
    slot = SlotPool(1, ROWS, SHAPE, INPUT.dtype, shared=False).acquire(0)
    assert slot is not None
    assert pool.in_use == 0
    with pytest.raises(RuntimeError, match="closed"):
        engine.submit(slot, 1, time.monotonic() + 1, lambda outcome: None)


def test_an_endpoint_that_comes_while_slots_are_in_use_takes_tensors_until_each_was_free(server: TritonServer) -> None:
    engine = engine_at(server)
    pool = SlotPool(3, ROWS, SHAPE, INPUT.dtype, shared=True)
    try:
        held = filled(pool, 1)
        engine.attach(pool)
        assert not engine.shares_memory
        assert_answers(Inbox(engine).ask(filled(pool, 2)), picture(2))
        held.let_go()
        eventually(lambda: engine.shares_memory, "batches go through shared memory")
        assert_answers(Inbox(engine).ask(filled(pool, 3)), picture(3))
    finally:
        engine.close()
        pool.close()
