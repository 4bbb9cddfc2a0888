"""The decode threads' path over a GPU, on a stand-in made of NumPy: outcomes and pixels are those of the CPU path.

This proves the plumbing up to the calls of CUDA, not the hardware: `make test-gpu` does that.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.rig import images
from tests.rig.gpu import StandInCodec, StandInCuda, StandInImage
from worker.batching import BatchRule, FrameQueue, Taken
from worker.buffers import Slot, SlotPool
from worker.cuda import Cuda
from worker.decode.nvimagecodec import NAME, OPTIONS, NvImageCodec
from worker.device import Choice, Gpu
from worker.errors import ConfigurationError, DependencyError, GpuLost
from worker.frames import Frame, Prepared, SourcePartition, UInt8Array
from worker.ingest.budget import PixelGate
from worker.ingest.validate import ImageLimits
from worker.observe.metrics import Metrics
from worker.pipeline.filling import CRASHED, Admission, Filler, Filling, Placing
from worker.pipeline.filling_gpu import GpuFilling, Lane, Lanes, make_lanes, open_lanes
from worker.pipeline.journal import CrashJournal
from worker.preprocess.contract import Contract
from worker.preprocess.gpu import GpuTransform
from worker.settings import BatchingSettings, GpuSettings, IngestSettings, Settings

CONTRACTS = {
    "crop, uint8": ("shorter_side_crop", "crop_fraction = 0.875", "bilinear_antialias", "rgb", "nhwc", "uint8"),
    "letterbox, halves": ("letterbox", "pad_value = 114", "area", "bgr", "nchw", "float16"),
    "stretch, floats": ("stretch", "", "bilinear", "rgb", "nchw", "float32"),
}
SHARE = 200_000  # bytes of staging: three or four of the pictures
LIMITS = ImageLimits()


def contract(name: str = "crop, uint8") -> Contract:
    resize, more, filtered, colour, layout, dtype = CONTRACTS[name]
    return Contract.parse(
        f'width = 40\nheight = 32\nresize = "{resize}"\n{more}\nfilter = "{filtered}"\ncolour = "{colour}"\n'
        f'mean = [127.0, 120.0, 110.0]\nstd = [128.0, 60.0, 50.0]\nlayout = "{layout}"\nwire_dtype = "{dtype}"\n'
        "scaled_decode = false\n"
    )


def values() -> list[bytes | None]:
    """Good, odd and bad ones, mixed."""
    good: list[bytes | None] = [images.encode(images.photo(160, 120, 1), kind) for kind in ("jpeg", "png", "gif")]
    good += [images.encode(images.photo(w, h, w), "jpeg") for w, h in ((90, 200), (300, 200), (1, 1), (33, 250))]
    good += [images.with_orientation(images.photo(150, 110, n), n) for n in range(2, 9)]
    good += [images.encode(images.photo(160, 120, 3), "jpeg", progressive=True)]
    good += images.odd_jpegs(images.photo(120, 90, 4)).values()
    bad = list(images.bad_frames().values())
    return [value for pair in zip(good, bad * 2, strict=False) for value in pair] + bad[len(good) :]


def taken(some: list[bytes | None]) -> Taken:
    now = time.monotonic()
    frames = tuple(Frame(SourcePartition("f", 0), n, value, received_at=now) for n, value in enumerate(some))
    return Taken(7, frames, now)


@dataclass
class Side:
    """One of the two ways, with a slot of its own."""

    fill: Callable[[Taken, Slot, int], Prepared]
    slot: Slot
    cuda: StandInCuda = field(default_factory=StandInCuda)

    def run(self, some: list[bytes | None]) -> Prepared:
        return self.fill(taken(some), self.slot, 0)


def slot_for(made: Contract, rows: int, cuda: Cuda | None) -> Slot:
    slot = SlotPool(1, rows, made.tensor_shape, made.dtype, shared=False, cuda=cuda).acquire(0)
    assert slot is not None
    return slot


def cpu(made: Contract, rows: int) -> Side:
    place = Placing(made, PixelGate(1 << 26))
    return Side(Filling(place, Admission(LIMITS, None), Metrics()), slot_for(made, rows, None))


def gpu(
    made: Contract,
    rows: int,
    codec: StandInCodec | None = None,
    cuda: StandInCuda | None = None,
    journal: CrashJournal | None = None,
) -> Side:
    cuda = cuda or StandInCuda()
    there = NvImageCodec(codec, 0, 4711) if codec else None
    lane = Lane(GpuTransform(made, cuda, rows, SHARE), there)
    return Side(gpu_fill(cuda, lane, SHARE, journal), slot_for(made, rows, cuda), cuda)


def gpu_fill(cuda: Cuda, lane: Lane, share: int, journal: CrashJournal | None = None) -> GpuFilling:
    lanes = Lanes(cuda, (lane,), share)
    return GpuFilling(lanes, PixelGate(1 << 26), Admission(LIMITS, journal), Metrics())


def assert_within_a_level(made: Contract, some: list[bytes | None], side: Side) -> None:
    """The side's outcomes are the CPU path's, its pixels within one grey level."""
    want = cpu(made, len(some))
    expected, got = want.run(some), side.run(some)
    assert got.rejections == expected.rejections
    rows = len(got.rows)
    assert [row.index for row in got.rows] == [row.index for row in expected.rows]
    # A grey level of the wire: a normalised value moves by a deviation's part of it.
    level = 1.0 if made.wire_dtype == "uint8" else 1 / min(made.std) * 1.01
    apart = np.abs(side.slot.read(rows).astype(np.float64) - want.slot.read(rows).astype(np.float64))
    assert apart.max() <= level
    assert apart.mean() < 0.3 * level  # roundings: the CPU path's antialiasing differs from Pillow's as much
    np.testing.assert_allclose(got.features[:, :2], expected.features[:, :2], atol=0.5)


def assert_same(made: Contract, some: list[bytes | None], side: Side, decoders: set[str] | None = None) -> Prepared:
    """The side's outcomes, order, pixels and features are the CPU path's."""
    want = cpu(made, len(some))
    expected, got = want.run(some), side.run(some)
    assert got.rejections == expected.rejections
    assert [row.index for row in got.rows] == [row.index for row in expected.rows]
    assert [row.facts for row in got.rows] == [row.facts for row in expected.rows]
    if decoders is None:
        assert [row.decoder for row in got.rows] == [row.decoder for row in expected.rows]
    else:
        assert {row.decoder for row in got.rows} == decoders
    rows = len(got.rows)
    np.testing.assert_array_equal(side.slot.read(rows), want.slot.read(rows))
    np.testing.assert_allclose(got.features, expected.features, rtol=1e-5)
    assert got.features.dtype == np.float32
    assert got.features.shape == (rows, 3)
    return got


@pytest.mark.parametrize("name", CONTRACTS)
def test_a_batch_decoded_by_the_cpu_and_prepared_on_the_gpu_is_the_cpu_paths(name: str) -> None:
    made, some = contract(name), values()
    side = gpu(made, len(some))
    prepared = assert_same(made, some, side)
    assert len(side.cuda.launches) > 1, "the staging memory is smaller than the batch"
    assert_same(made, some[::-1], side)
    assert prepared.number == 7
    assert min(row.decode_ms for row in prepared.rows) > 0


@pytest.mark.parametrize("name", CONTRACTS)
def test_a_batch_decoded_on_the_gpu_is_the_cpu_paths_and_says_who_decoded_it(name: str) -> None:
    made, some, codec = contract(name), values(), StandInCodec()
    assert_same(made, some, gpu(made, len(some), codec), {NAME, "simplejpeg", "opencv", "pillow"})
    assert sum(codec.calls) > 15
    assert len(codec.calls) > 1, "what they take at once on the GPU is bounded"


def test_the_gpu_decoder_is_set_up_explicitly() -> None:
    codec = StandInCodec()
    gpu(contract(), 4, codec).run(values()[:4])
    assert codec.arguments == {
        "device_id": 0,
        "max_num_cpu_threads": 1,
        "backends": ["hybrid"],
        "options": OPTIONS,
        "apply_exif_orientation": False,
        "sample_format": "interleaved RGB",
        "cuda_stream": 4711,
    }
    assert "fancy_upsampling=1" in OPTIONS


JPEGS: list[bytes | None] = [images.encode(images.photo(60, 40, seed), "jpeg") for seed in range(8)]


def test_memory_that_does_not_suffice_for_all_splits_the_batch_on_its_way_to_the_kernels() -> None:
    made = contract()
    side = gpu(made, 8, cuda=StandInCuda(most_images=3))
    assert_same(made, JPEGS, side)
    assert side.cuda.launches == [2, 2, 2, 2]


def test_memory_that_does_not_suffice_for_all_splits_the_batch_in_the_gpu_decoder() -> None:
    made, codec = contract(), StandInCodec(most=3)
    assert_same(made, JPEGS, gpu(made, 8, codec), {NAME})
    assert codec.calls == [2, 2, 2, 2]


def test_a_picture_for_which_the_gpu_decoder_has_no_memory_at_all_is_the_cpus() -> None:
    made = contract()
    assert_same(made, JPEGS, gpu(made, 8, StandInCodec(most=0)), {"simplejpeg"})


def fails(images: list[Any]) -> list[Any]:
    raise RuntimeError("nvJPEG internal error")


def test_what_the_gpu_decoder_declines_or_garbles_is_the_cpus() -> None:
    made = contract()

    def declines_odd(pictures: list[Any]) -> list[Any]:
        return [picture if n % 2 == 0 else None for n, picture in enumerate(pictures)]

    def cuts(pictures: list[Any]) -> list[Any]:
        return [StandInImage(picture.pixels[1:].copy()) for picture in pictures]

    assert_same(made, JPEGS, gpu(made, 8, StandInCodec(mend=declines_odd)), {NAME, "simplejpeg"})
    for mend in (cuts, fails, lambda pictures: pictures[1:]):
        assert_same(made, JPEGS, gpu(made, 8, StandInCodec(mend=mend)), {"simplejpeg"})


def test_a_gpu_decoder_that_fails_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    side = gpu(contract(), 8, StandInCodec(mend=fails))
    side.run(JPEGS)
    side.run(JPEGS)
    assert caplog.text.count("nvJPEG internal error") == 1


class Witness:
    """A crash journal that remembers who is entered."""

    suspects = frozenset({"f/0/2"})

    def __init__(self) -> None:
        self.entered: str | None = None
        self.seen: list[str] = []

    def enter(self, thread: int, frame_id: str) -> None:
        self.entered = frame_id
        self.seen.append(frame_id)

    def leave(self, thread: int) -> None:
        self.entered = None


def test_the_journal_knows_the_frame_the_cpu_decodes_and_accuses_none_while_the_gpu_decodes_many() -> None:
    witness: Any = Witness()
    at_decode: list[str | None] = []

    def looks(pictures: list[Any]) -> list[Any]:
        at_decode.append(witness.entered)
        return [None if n == 0 else picture for n, picture in enumerate(pictures)]

    prepared = gpu(contract(), 8, StandInCodec(mend=looks), journal=witness).run(JPEGS)
    assert at_decode == [None]
    assert prepared.rejections == {2: CRASHED}
    assert witness.seen == [f"f/0/{n}" for n in (0, 1, 3, 4, 5, 6, 7)] + ["f/0/0"]
    assert witness.entered is None


def test_a_batch_without_a_usable_frame_has_no_rows() -> None:
    prepared = gpu(contract(), 2).run([b"", None])
    assert prepared.rows == ()
    assert prepared.features.shape == (0, 3)
    assert set(prepared.rejections) == {0, 1}


def test_threads_fill_and_hand_on_batches_and_a_lost_gpu_ends_them(caplog: pytest.LogCaptureFixture) -> None:
    made, cuda = contract(), StandInCuda()
    lanes = make_lanes(cuda, some_settings(), made, 2)
    pool = SlotPool(3, 4, made.tensor_shape, made.dtype, shared=False, cuda=cuda)
    queue = FrameQueue(BatchRule(4, 0.0), clock=time.monotonic)
    delivered: list[UInt8Array] = []
    failures: list[BaseException] = []

    def deliver(prepared: Prepared, slot: Slot | None) -> None:
        assert slot is not None
        delivered.append(slot.read(len(prepared.rows)).copy())
        slot.let_go()

    fill = GpuFilling(lanes, PixelGate(1 << 26), Admission(LIMITS, None), Metrics())
    filler = Filler(queue, pool, fill, deliver, failures.append)
    filler.start(2)
    queue.offer(taken(JPEGS[:4]).frames)
    wait_for(lambda: delivered)
    want = cpu(made, 4)
    want.run(JPEGS[:4])
    np.testing.assert_array_equal(delivered[0], want.slot.array)
    for stream in cuda.streams:
        stream.wait = lose  # type: ignore[method-assign]
    queue.offer(taken(JPEGS[4:]).frames)
    wait_for(lambda: failures)
    assert isinstance(failures[0], GpuLost)
    assert failures[0].exit_code == 3
    assert len(delivered) == 1
    queue.close()
    filler.close()


def lose() -> None:
    raise GpuLost("the context is dead")


def wait_for(condition: Callable[[], Any]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def some_settings(**gpu_keys: Any) -> Settings:
    return Settings(
        ingest=IngestSettings(max_pixels=1 << 20),
        batching=BatchingSettings(max_batch_size=4),
        gpu=GpuSettings(**({"staging_bytes": 8 << 20} | gpu_keys)),
    )


def test_all_memory_is_made_at_start_and_a_share_that_is_too_small_for_a_picture_is_refused() -> None:
    lanes = make_lanes(StandInCuda(), some_settings(), contract(), 2)
    assert [lane.codec for lane in lanes.each] == [None, None]
    assert lanes.decoded_bytes == 4 << 20
    with pytest.raises(ConfigurationError, match=str(9 << 20)):
        make_lanes(StandInCuda(), some_settings(), contract(), 3)


def test_a_gpu_decoder_that_is_not_installed_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia", None)
    with pytest.raises(DependencyError, match=r"pip install 'headrace\[gpu\]'"):
        make_lanes(StandInCuda(), some_settings(decode="gpu"), contract(), 1)


def test_whatever_stands_against_the_gpu_is_the_cpu_with_auto_and_an_error_with_gpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    def refuse(*arguments: Any) -> Any:
        raise DependencyError("the driver is too old")

    monkeypatch.setattr("worker.pipeline.filling_gpu.decide", lambda settings: Choice(Gpu(0, "GPU-1", "H200"), "why"))
    monkeypatch.setattr("worker.pipeline.filling_gpu.open_cuda", refuse)
    auto = some_settings(kernel_folder=str(tmp_path))
    assert open_lanes(auto, contract(), 1) is None
    assert "on the CPU: the driver is too old" in caplog.text
    with pytest.raises(DependencyError, match="too old"):
        open_lanes(msgspec.structs.replace(auto, device="gpu"), contract(), 1)
    monkeypatch.setattr("worker.pipeline.filling_gpu.open_cuda", lambda *arguments: StandInCuda())
    assert open_lanes(auto, contract(), 1) is not None
