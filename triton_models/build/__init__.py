"""From the shipped weights to a repository that Triton serves, in a data folder.

Owner's half in the tree (`triton_models/repository/<model>`: config, preprocessing contract, labels) + weights from
a package -> ONNX with the normalisation in the graph -> a served folder named after everything it was made of.
`python -m triton_models.build` does it from the command line.
"""

from __future__ import annotations

from triton_models.build.folders import BuildError, data_dir
from triton_models.build.served import (
    CLASSIFIERS,
    DETECTORS,
    MANIFEST,
    SERVED_MODELS,
    SOURCE,
    Serving,
    build_repository,
    read_manifests,
)

__all__ = [
    "CLASSIFIERS",
    "DETECTORS",
    "MANIFEST",
    "SERVED_MODELS",
    "SOURCE",
    "BuildError",
    "Serving",
    "build_repository",
    "data_dir",
    "read_manifests",
]
