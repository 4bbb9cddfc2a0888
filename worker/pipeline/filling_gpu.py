"""What decode threads do where a GPU prepares pixels: a whole batch is decoded, one launch makes its rows in the slot.

encoded bytes -> header facts -> decoded pixels, by the CPU or by nvImageCodec -> kernels -> rows of a slot that Triton maps.
When a batch leaves here its rows are there: the stream has been waited for, since Triton knows nothing of it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.batching import Taken
from worker.buffers import Slot
from worker.cuda import Cuda, DeviceArray, open_cuda
from worker.decode.nvimagecodec import NAME, NvImageCodec, open_nvimagecodec, takes
from worker.device import decide
from worker.errors import GpuMemoryFull, HeadraceError
from worker.frames import Frame, ImageFacts, Prepared, Rejected, Rejection, Stage
from worker.ingest.budget import PixelGate
from worker.observe.metrics import Metrics
from worker.observe.ranges import RANGES
from worker.pipeline.filling import Admission, Gathered, decoded
from worker.preprocess.contract import Contract
from worker.preprocess.gpu import GpuTransform
from worker.preprocess.gpu_plan import PIXEL_BYTES, by_halves, in_parts, staging_share
from worker.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lane:
    """What one decode thread has on the GPU. Without `codec` the CPU decodes everything."""

    transform: GpuTransform
    codec: NvImageCodec | None


@dataclass(frozen=True, slots=True)
class Lanes:
    """One for each decode thread. At most `decoded_bytes` of a GPU decoder's pictures lie there at once in each of them."""

    cuda: Cuda
    each: tuple[Lane, ...]
    decoded_bytes: int


def open_lanes(settings: Settings, contract: Contract, threads: int) -> Lanes | None:
    """All that the decode threads need on the GPU that the settings choose; None: they work on the CPU. Says why in the log.

    Raises ConfigurationError and DependencyError where `device = "gpu"` can't be had.
    """
    try:
        choice = decide(settings)
        if choice.gpu is None:
            log.info("%s", choice)
            return None
        folder = Path(settings.gpu.kernel_folder or "~/.cache/headrace/kernels").expanduser()
        cuda = open_cuda(choice.gpu, settings.gpu.triton_ordinal, folder)
        lanes = make_lanes(cuda, settings, contract, threads)
    except HeadraceError as error:
        if settings.device == "gpu":
            raise
        log.warning("pixels are prepared on the CPU: %s", error)
        return None
    log.info("%s", choice)
    return lanes


def make_lanes(cuda: Cuda, settings: Settings, contract: Contract, threads: int) -> Lanes:
    """Their memory, kernels and decoders. Raises ConfigurationError, DependencyError, GpuMemoryFull."""
    share = staging_share(settings.gpu.staging_bytes, threads, settings.ingest.max_pixels)
    lanes = []
    for _ in range(threads):
        transform = GpuTransform(contract, cuda, settings.batching.max_batch_size, share)
        codec = None
        if settings.gpu.decode == "gpu":
            codec = open_nvimagecodec(cuda.gpu.ordinal, transform.stream.address)
        lanes.append(Lane(transform, codec))
    return Lanes(cuda, tuple(lanes), share)


@dataclass(frozen=True, slots=True)
class _Admitted:
    index: int  # position in the batch
    frame: Frame
    facts: ImageFacts
    validate_s: float
    pixel_bytes: int  # that a GPU decoder makes; 0: the CPU decodes it


class GpuFilling:
    """A batch on the GPU; decode thread n has lane n.

    Raises GpuMemoryFull where not even one picture fits, and GpuLost. Pictures are decoded at full size: the kernels take
    windows of whole pixels, and shrinking costs them nothing.
    """

    def __init__(self, lanes: Lanes, gate: PixelGate, admit: Admission, metrics: Metrics) -> None:
        self._cuda = lanes.cuda
        self._lanes = lanes
        self._gate = gate
        self._admit = admit
        self._metrics = metrics

    def __call__(self, taken: Taken, slot: Slot, thread: int) -> Prepared:
        """The batch, its rows in `slot`."""
        self._cuda.enter()
        lane, gathered = self._lanes.each[thread], Gathered()
        with RANGES.of(Stage.VALIDATE):
            admitted = list(self._validate(taken, thread, lane.codec is not None, gathered))
        lane.transform.begin(slot.array)
        for part in in_parts([each.pixel_bytes for each in admitted], self._lanes.decoded_bytes):
            if part.start:
                lane.transform.flush()
            self._decode(lane, admitted[part.start : part.stop], thread, gathered)
        self._admit.leave(thread)
        started = time.perf_counter()
        with RANGES.of(Stage.PREPROCESS):
            values = lane.transform.finish()
        share = (time.perf_counter() - started) / max(1, len(gathered.rows))
        gathered.preprocess_s = [seconds + share for seconds in gathered.preprocess_s]
        return gathered.prepared(taken, values, self._metrics)

    def _validate(self, taken: Taken, thread: int, has_codec: bool, gathered: Gathered) -> list[_Admitted]:
        admitted = []
        for index, frame in enumerate(taken.frames):
            started = time.perf_counter()
            facts = self._admit(frame, thread)
            if isinstance(facts, Rejection):
                gathered.rejections[index] = facts
                continue
            is_there = has_codec and takes(frame.value or b"", facts)
            pixel_bytes = facts.width * facts.height * PIXEL_BYTES if is_there else 0
            admitted.append(_Admitted(index, frame, facts, time.perf_counter() - started, pixel_bytes))
        return admitted

    def _decode(self, lane: Lane, admitted: Sequence[_Admitted], thread: int, gathered: Gathered) -> None:
        """Add these pictures to the lane's batch, in their order."""
        there, there_s = self._decode_there(lane, admitted, thread)
        for each in admitted:
            image = there.get(each.index)
            started = time.perf_counter()
            if image is not None:
                lane.transform.add_there(image, each.facts.upright_size, each.facts.orientation)
                decoder, decode_s = NAME, there_s / len(there)
                at = started
            else:
                self._admit.enter(each.frame, thread)
                try:
                    with RANGES.of(Stage.DECODE):
                        _, decoder, at = decoded(each.frame, each.facts, None, self._gate, lane.transform.add)
                except Rejected as verdict:
                    gathered.rejections[each.index] = verdict.rejection
                    continue
                decode_s = at - started
            preprocess_s = time.perf_counter() - at
            gathered.row(each.index, each.facts, decoder, each.validate_s, decode_s, preprocess_s)

    def _decode_there(
        self, lane: Lane, admitted: Sequence[_Admitted], thread: int
    ) -> tuple[dict[int, DeviceArray], float]:
        """Pictures that the GPU decoded, by their frame's position, and the seconds for all."""
        codec = lane.codec
        wanted = [each for each in admitted if each.pixel_bytes]
        if codec is None or not wanted:
            return {}, 0.0
        # Many frames at once: if it crashes, nobody can say which it was, and none is accused.
        self._admit.leave(thread)

        def decode(some: Sequence[_Admitted]) -> list[DeviceArray | None]:
            try:
                return codec.decode([each.frame.value or b"" for each in some], [each.facts for each in some])
            except GpuMemoryFull:
                if len(some) > 1:
                    raise
                return [None]  # the CPU has memory for it

        started = time.perf_counter()
        with RANGES.of(Stage.DECODE):
            images = by_halves(decode, wanted)
        found = {each.index: image for each, image in zip(wanted, images, strict=True) if image is not None}
        return found, time.perf_counter() - started
