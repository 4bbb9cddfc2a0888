from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.rig.worker import WorkerProcess, to_toml
from worker.errors import DependencyError

names = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1)
values = (
    st.text(st.characters(exclude_categories=["Cs"]))
    | st.integers(-(2**63), 2**63 - 1)
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.lists(st.text("abc/.-"))
)
trees = st.recursive(
    st.dictionaries(names, values), lambda inner: st.dictionaries(names, values | inner, max_size=4), max_leaves=5
)


@given(trees)
def test_settings_come_back_from_the_file_as_they_were(tree: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml(tree)) == _without_empty_tables(tree)


def _without_empty_tables(tree: dict[str, Any]) -> dict[str, Any]:
    kept = {key: _without_empty_tables(value) if isinstance(value, dict) else value for key, value in tree.items()}
    return {key: value for key, value in kept.items() if value != {}}


def test_a_worker_with_wrong_settings_ends_with_two_and_its_log_says_why() -> None:
    with WorkerProcess({"kafka": {"bootstrap_server": "nowhere:1"}}) as worker:
        assert worker.wait() == 2
        assert "did you mean kafka.bootstrap_servers?" in worker.log
        with pytest.raises(DependencyError, match="did you mean"):
            worker.wait_ready()
