"""The calls of nvImageCodec, on its own CPU backend: no GPU is needed, and none is proven."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.rig import images
from worker.decode import decode
from worker.decode.nvimagecodec import NvImageCodec, takes
from worker.frames import ImageFacts
from worker.ingest.validate import ImageLimits, inspect

RGB = images.photo(64, 48, 1)
JPEG = images.encode(RGB, "jpeg")


def facts(value: bytes) -> ImageFacts:
    return inspect(value, ImageLimits())


def on_cpu(library: Any) -> Any:
    """The library with the CPU backend in place of nvJPEG's; pictures tell where they lie as those on a GPU do."""

    class Decoder:
        def __init__(self, **arguments: Any) -> None:
            self._decoder = library.Decoder(**(arguments | {"device_id": library.NVIMGCODEC_DEVICE_CPU_ONLY}))

        def decode(self, values: list[bytes], **arguments: Any) -> list[Any]:
            decoded = self._decoder.decode(values, **arguments)
            return [
                image and SimpleNamespace(owner=image, __cuda_array_interface__=image.__array_interface__)
                for image in decoded
            ]

    return SimpleNamespace(
        Backend=library.Backend,
        BackendKind=SimpleNamespace(HYBRID_CPU_GPU=library.BackendKind.CPU_ONLY),
        DecodeParams=library.DecodeParams,
        SampleFormat=library.SampleFormat,
        Decoder=Decoder,
    )


def test_pictures_are_rgb_as_stored_and_equal_to_libjpeg_turbos() -> None:
    library = pytest.importorskip("nvidia.nvimgcodec", reason="nvImageCodec has wheels for Linux only")
    values = [
        JPEG,
        images.encode(RGB[:, :, 0], "jpeg"),
        images.with_orientation(RGB, 6),
        images.encode(RGB, "jpeg")[:-40],
    ]
    pictures: list[Any] = NvImageCodec(on_cpu(library), 0, 0).decode(values, [facts(value) for value in values])
    for value, picture in zip(values[:2], pictures, strict=False):
        pixels = np.asarray(SimpleNamespace(__array_interface__=picture.__cuda_array_interface__))
        np.testing.assert_array_equal(pixels, decode(value, facts(value)).pixels)
    assert pictures[2].__cuda_array_interface__["shape"] == (64, 48, 3), "orientation 6 is not applied"


@pytest.mark.parametrize(
    ("value", "is_taken"),
    [
        (JPEG, True),
        (images.encode(RGB[:, :, 0], "jpeg"), True),
        (images.with_orientation(RGB, 5), True),
        (images.encode(RGB, "jpeg", progressive=True), False),
        (images.encode(RGB, "png"), False),
        (JPEG + JPEG, False),
        (images.odd_jpegs(RGB)["YCCK"], False),
    ],
)
def test_only_baseline_jpegs_that_pass_the_checks_before_decoding_are_taken(value: bytes, is_taken: bool) -> None:
    assert takes(value, facts(value)) == is_taken
