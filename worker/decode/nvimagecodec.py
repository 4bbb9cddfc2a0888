"""JPEGs decoded on the GPU by nvImageCodec, a batch at a time. Off unless `gpu.decode` asks for it.

Encoded bytes and header facts go in; pictures in the GPU's memory come out, as stored, and None for what is better left
to the CPU. Of nvImageCodec's decoders only nvJPEG on the GPU's cores is let in: with all of them it would take the
hardware's or a CPU codec of its own without a word, and they differ in their pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from worker.cuda import DeviceArray
from worker.decode.jpeg import survey
from worker.device import INSTALL
from worker.errors import DependencyError, GpuMemoryFull
from worker.frames import ImageFacts, Rejected

log = logging.getLogger(__name__)

NAME = "nvimagecodec"
# As libjpeg-turbo does by default, which the CPU path and training pipelines use; nvImageCodec's own default is not to.
OPTIONS = ":fancy_upsampling=1"
# The texts of an allocation that failed, in nvImageCodec's exceptions, which have no code.
_MEMORY = ("out of memory", "cudaerrormemoryallocation", "bad_alloc", "allocation failed")


def takes(value: bytes, facts: ImageFacts) -> bool:
    """Whether the GPU decodes it: baseline JPEG, grey or YCbCr, which is what cameras send. What the CPU's decoder refuses
    before it decodes goes there, for its verdict.
    """
    if facts.format != "jpeg" or facts.channels not in (1, 3) or facts.is_buffered:
        return False
    try:
        survey(value, facts)
    except Rejected:
        return False
    return True


class NvImageCodec:
    """A decoder for one thread and one stream: shared ones have given None for good pictures.

    `library` is nvidia.nvimgcodec, `ordinal` CUDA's number of the GPU, `stream` the cudaStream_t.
    """

    def __init__(self, library: Any, ordinal: int, stream: int) -> None:
        # One thread for what nvJPEG leaves to the CPU: the decode threads are the parallelism.
        backends = [library.Backend(library.BackendKind.HYBRID_CPU_GPU)]
        self._decoder = library.Decoder(device_id=ordinal, max_num_cpu_threads=1, backends=backends, options=OPTIONS)
        self._params = library.DecodeParams(
            apply_exif_orientation=False,  # the kernels turn by our own reading of EXIF
            sample_format=library.SampleFormat.I_RGB,  # by default grey pictures have one channel
        )
        self._stream = stream
        self._has_failed = False

    def decode(self, values: Sequence[bytes], facts: Sequence[ImageFacts]) -> list[DeviceArray | None]:
        """(H, W, 3) uint8 RGB for each value that `takes` said yes to; None: it was declined, or is not what its header says.

        They are there for work put on the stream later. Raises GpuMemoryFull.
        """
        try:
            images = self._decoder.decode(list(values), params=self._params, cuda_stream=self._stream)
        except Exception as error:  # RuntimeError with a text, by all that is known
            if any(sign in str(error).lower() for sign in _MEMORY):
                raise GpuMemoryFull(f"nvImageCodec has no memory for {len(values)} pictures ({error})") from error
            self._tell(f"it says: {error}")
            return [None] * len(values)
        if len(images) != len(values):  # older versions left failed pictures out, and nobody knows which
            self._tell(f"it gave {len(images)} pictures for {len(values)}")
            return [None] * len(values)
        return [_checked(image, fact) for image, fact in zip(images, facts, strict=True)]

    def _tell(self, why: str) -> None:
        if not self._has_failed:
            self._has_failed = True
            log.warning("nvImageCodec failed on a batch, which the CPU decodes instead (told once): %s", why)


def open_nvimagecodec(ordinal: int, stream: int) -> NvImageCodec:
    """Raises DependencyError where nvImageCodec is not installed or has no decoder for this GPU."""
    try:
        from nvidia import nvimgcodec

        return NvImageCodec(nvimgcodec, ordinal, stream)
    except Exception as error:  # ImportError, or whatever its native part says
        raise DependencyError(
            f'gpu.decode = "gpu", but nvImageCodec can\'t be used ({error}): {INSTALL}, or set gpu.decode = "cpu"'
        ) from error


def _checked(image: DeviceArray | None, facts: ImageFacts) -> DeviceArray | None:
    if image is None or tuple(image.__cuda_array_interface__["shape"]) != (facts.height, facts.width, 3):
        return None
    return image
