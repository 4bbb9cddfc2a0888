"""Shipped models served once more under another preprocessing contract, so that two contracts meet in one run.

A variant's `preprocess.toml` is the shipped one with some keys set anew; the graph follows from it. All are built by
`triton_models.build`, and laid into one repository beside the shipped models.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from triton_models.build import SOURCE, build_repository


@dataclass(frozen=True)
class Variant:
    """`name` is served beside `model`; `keys` of its contract differ."""

    name: str
    model: str
    keys: Mapping[str, str | bool]


def repository_with(variants: Iterable[Variant], data: Path, folder: Path) -> Path:
    """A repository in `folder` of the shipped models and the variants. Raises BuildError."""
    repository = folder / "repository"
    shutil.copytree(build_repository(data), repository)
    for variant in variants:
        source = folder / "sources" / variant.name
        shutil.copytree(SOURCE / variant.model, source / variant.model)
        contract = source / variant.model / "preprocess.toml"
        contract.write_text(with_keys(contract.read_text(encoding="utf-8"), variant.keys), encoding="utf-8")
        target = repository / variant.name
        shutil.copytree(build_repository(data, source) / variant.model, target)
        config = target / "config.pbtxt"
        named = config.read_text(encoding="utf-8").replace(f'name: "{variant.model}"', f'name: "{variant.name}"', 1)
        config.write_text(named, encoding="utf-8")
    return repository


def with_keys(contract: str, keys: Mapping[str, str | bool]) -> str:
    """The contract's text with these keys set, each of which it must have. Raises ValueError."""
    for key, value in keys.items():
        contract, found = re.subn(rf"(?m)^{key} = .*$", f"{key} = {json.dumps(value)}", contract)
        if found != 1:
            raise ValueError(f"the contract has {found} lines for {key}, expected one")
    return contract
