"""Environments from lock files, without a network: what is remembered, and what is said when pip fails."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from triton_models.build.packages import LOCKS
from worker.embedded.environment import data_dir, ensure_environment
from worker.errors import DependencyError


def test_the_data_folder_is_the_one_named_in_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEADRACE_DATA_DIR", str(tmp_path))
    assert data_dir() == tmp_path
    monkeypatch.delenv("HEADRACE_DATA_DIR")
    assert data_dir() == Path.home() / ".cache" / "headrace"


def test_an_environment_is_made_once_and_another_lock_gets_another(tmp_path: Path) -> None:
    lock, said = tmp_path / "a.lock", list[str]()
    lock.write_text("")
    python = ensure_environment("empty", lock, tmp_path, said.append)
    assert python.is_file()
    assert ensure_environment("empty", lock, tmp_path, said.append) == python
    assert len(said) == 1
    lock.write_text("# changed\n")
    assert ensure_environment("empty", lock, tmp_path, said.append) != python


def test_a_failed_install_says_what_pip_said_and_what_to_do_and_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    lock, said = tmp_path / "a.lock", list[str]()
    lock.write_text("numpy==1.26.4 --hash=sha256:" + "0" * 64 + "\n")
    for _ in range(2):
        with pytest.raises(DependencyError, match=r"(?s)Check the network.*No matching distribution.*numpy"):
            ensure_environment("broken", lock, tmp_path, said.append)
    assert len(said) == 2


@pytest.mark.parametrize("lock", sorted(LOCKS.glob("*.lock")), ids=lambda lock: lock.name)
def test_every_shipped_lock_pins_hashes_and_names_no_address(lock: Path) -> None:
    text = lock.read_text()
    assert "http://" not in text
    assert "https://" not in text
    assert "--index" not in text
    requirements = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert requirements
    for line in requirements:
        if lock.name == "npm-models.lock":  # npm's way to write a version; the hash is in the same line
            assert re.fullmatch(r"@?[\w/-]+@[\w.]+ --hash=sha256:[0-9a-f]{64}", line)
            continue
        assert "==" in line
        assert line.endswith("\\")  # its hashes follow
