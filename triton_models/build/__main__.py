"""`python -m triton_models.build`: build what Triton serves, and say what was made."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from triton_models.build import CLASSIFIERS, DETECTORS, BuildError, build_repository, data_dir, read_manifests


def main() -> int:
    """Exit code: 0 built or already there, 3 if something it needs can't be had."""
    parser = argparse.ArgumentParser(prog="python -m triton_models.build", description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=data_dir(), metavar="DIR", help="data folder (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line of stdout")
    parser.add_argument(
        "--detectors", action="store_true", help="build the object detectors, in a repository of their own"
    )
    arguments = parser.parse_args()
    try:
        repository = build_repository(arguments.data, names=DETECTORS if arguments.detectors else CLASSIFIERS)
    except BuildError as error:
        print(f"triton_models.build: {error}", file=sys.stderr)
        return 3
    manifests = read_manifests(repository)
    for name, manifest in manifests.items():
        size_mb = (repository / name / manifest["onnx"]).stat().st_size / 1e6
        line = f"{name:20} {manifest['runtime']} {manifest['precision']}  {size_mb:5.1f} MB  {manifest['digest'][:19]}"
        print(f"{line}  preprocess {manifest['preprocess'][:19]}", file=sys.stderr if arguments.json else sys.stdout)
    print(json.dumps({"repository": str(repository), "models": manifests}) if arguments.json else repository)
    return 0


if __name__ == "__main__":
    sys.exit(main())
