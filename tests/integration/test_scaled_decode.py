"""The gate of scaled decoding: a shipped contract that allows it gives the predictions of a full decode.

About 20 CPU seconds. `python -m tests.scaled` does the same over more and larger frames, and over pictures of one's own.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scaled.corpus import SIZES, TWELVE_MEGAPIXELS, at_size, mirrored, photos, video
from tests.scaled.models import CLASSIFIERS, classifier
from triton_models.build import data_dir
from worker.embedded.assets import demo_images, demo_video, vtest_video
from worker.tuning.agreement import agreement
from worker.tuning.parity import pairs

_ROWS = 16
_EVERY = 40  # frames of the videos
_LARGE = 6  # photos at 12 megapixels, which take ten times the CPU of the others


@pytest.fixture(scope="module")
def frames() -> list[bytes]:
    found = photos(image.path for image in demo_images(data_dir()))
    vtest = vtest_video(data_dir())
    street = [*video(demo_video(data_dir()), _EVERY), *(video(vtest, _EVERY) if vtest else ())]
    return [
        *(value for size in SIZES for value in at_size(mirrored(found), size)),
        *at_size(found[:_LARGE], TWELVE_MEGAPIXELS),
        *(value for size in ((768, 576), (1920, 1080)) for value in at_size(street, size)),
    ]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_where_a_shipped_contract_allows_scaled_decoding_it_agrees_with_a_full_decode(
    served_repository: Path, frames: list[bytes], name: str
) -> None:
    contract, score = classifier(served_repository / name)
    assert contract.scaled_decode, "it passes, so it is allowed"
    seen = agreement(pairs(contract, frames, score, _ROWS))
    assert seen.passes, str(seen)
