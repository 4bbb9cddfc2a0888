"""Fixtures of the tests that run the whole way: settings for a worker against the real servers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.rig.topics import Topics
from worker.embedded.triton import TritonServer

Tree = dict[str, Any]
MakeSettings = Callable[..., Tree]


@pytest.fixture
def settings(triton: TritonServer, served_repository: Path) -> MakeSettings:
    """`settings(topics, model="null", **sections)`: the tree for a worker; sections are merged over the defaults."""

    def make(topics: Topics, model: str = "null", **sections: Tree) -> Tree:
        tree: Tree = {
            "kafka": {
                "bootstrap_servers": topics.bootstrap_servers,
                "group_id": topics.group,
                "session_timeout_ms": 6000,
            },
            "topics": {
                "frames": topics.frames,
                "predictions": topics.predictions,
                "dead_letters": topics.dlq,
                "statistics": topics.stats,
            },
            "model": {"name": model, "directory": str(served_repository / model)},
            "infer": {"url": triton.grpc_url},
        }
        for name, section in sections.items():
            tree[name] = tree.get(name, {}) | section
        return tree

    return make
