"""The embedded Triton as a pytest fixture: one server with all shipped models for the whole session.

`pytest_plugins = ["tests.rig.triton"]` in a conftest makes `triton` and `served_repository` known. Where Triton can't
be had a test is skipped with the reason, except in CI, where that is a failure.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from triton_models.build import CLASSIFIERS, BuildError, build_repository, data_dir
from worker.embedded.triton import TritonServer
from worker.errors import DependencyError


def _missing(reason: object) -> None:
    """Never returns."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"no Triton in CI: {reason}", pytrace=False)
    pytest.skip(f"no Triton: {reason}")


def built_repository(names: Sequence[str]) -> Path:
    """Path of the repository of these models: weights installed, ONNX made."""
    try:
        return build_repository(data_dir(), names=names)
    except BuildError as error:
        _missing(error)
        raise


def started_triton(repository: Path, models: Sequence[str] = ()) -> TritonServer:
    """A running server with these models of the repository, all without any named."""
    try:
        return TritonServer.start(repository, models)
    except DependencyError as error:
        _missing(error)
        raise


@pytest.fixture(scope="session")
def served_repository() -> Path:
    """Path of the built repository of the classifiers."""
    return built_repository(CLASSIFIERS)


@pytest.fixture(scope="session")
def triton(served_repository: Path) -> Iterator[TritonServer]:
    """A running server with efficientnet_lite2, efficientnet_lite0 and null loaded."""
    with started_triton(served_repository) as server:
        yield server
