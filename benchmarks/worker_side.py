"""Starts `headrace run` as a user would: the console script, a settings file, the shipped defaults for all the rest."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.rig import Rig
from benchmarks.stream import Way
from worker.embedded.process import ServerProcess


def start_worker(rig: Rig, model: str, way: Way, **settings: str | int) -> ServerProcess:
    """The streaming worker over the way's topics, with `section__key` settings on top. It runs until it is stopped."""
    file = rig.folder / f"{way.group}.toml"
    file.write_text(settings_text(rig, model, way), encoding="utf-8")
    script = Path(sys.executable).with_name("headrace")
    flags = [flag for key, value in settings.items() for flag in ("--set", f"{key.replace('__', '.')}={value}")]
    return ServerProcess([str(script), "run", "-c", str(file), *flags], file.with_suffix(".log"))


def settings_text(rig: Rig, model: str, way: Way) -> str:
    """Addresses and names only: what is measured is what a user gets who sets nothing else."""
    return f"""
[kafka]
bootstrap_servers = "{rig.broker.bootstrap_servers}"
group_id = "{way.group}"
[topics]
frames = "{way.frames}"
predictions = "{way.predictions}"
dead_letters = "{way.dead_letters}"
statistics = "{way.statistics}"
[model]
name = "{model}"
directory = "{rig.model_folder(model)}"
[infer]
backend = "triton"
url = "{rig.triton.grpc_url}"
[admin]
port = 0
"""
