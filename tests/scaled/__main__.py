"""`python -m tests.scaled [PICTURE...]`: how scaled decoding agrees with a full decode, by model and kind of frame.

Over the demo's photos and video, vtest.avi, and the pictures named; minutes of CPU. Exit code 1 if a model does not pass.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.scaled.corpus import SIZES, TWELVE_MEGAPIXELS, at_size, mirrored, photos, video
from tests.scaled.models import CLASSIFIERS, classifier
from triton_models.build import build_repository, data_dir
from worker.embedded.assets import demo_images, demo_video, vtest_video
from worker.frames import UInt8Array
from worker.tuning.agreement import Pair, agreement
from worker.tuning.parity import pairs

_ROWS = 16


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.scaled", description=__doc__)
    parser.add_argument("pictures", nargs="*", type=Path, metavar="PICTURE")
    parser.add_argument("--every", type=int, default=4, help="so manieth frame of the videos (default: %(default)s)")
    arguments = parser.parse_args()
    repository = build_repository(data_dir())
    failed = []
    for name in CLASSIFIERS:
        contract, score = classifier(repository / name)
        every: list[Pair] = []
        for kind, pictures, sizes in _kinds(arguments.pictures, arguments.every):
            for size in sizes:
                found = list(pairs(contract, at_size(pictures, size), score, _ROWS))
                every += found
                if found:
                    print(f"{name}  {kind} {size[0]}x{size[1]}: {agreement(found)}", flush=True)
        verdict = agreement(every)
        print(f"{name}  all: {verdict}: {'passes' if verdict.passes else 'FAILS'}", flush=True)
        if not verdict.passes:
            failed.append(name)
    return int(bool(failed))


def _kinds(named: list[Path], every: int) -> Iterator[tuple[str, list[UInt8Array], tuple[tuple[int, int], ...]]]:
    pictures = photos([*(image.path for image in demo_images(data_dir())), *named])
    yield "photos", mirrored(pictures), SIZES
    yield "photos", pictures, (TWELVE_MEGAPIXELS,)
    yield "street video", list(video(demo_video(data_dir()), every)), SIZES
    if vtest := vtest_video(data_dir()):
        yield "vtest.avi", list(video(vtest, every)), SIZES


if __name__ == "__main__":
    sys.exit(main())
