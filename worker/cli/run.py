"""`headrace run`: the streaming worker. Settings, logs, admin server and signals, then the pipeline until it is stopped."""

from __future__ import annotations

import importlib.util
import logging
import threading

from worker.cli.options import ConfigFile, Sets, load
from worker.cli.signals import stop_on_signals
from worker.errors import DependencyError
from worker.observe import logs
from worker.observe.admin import AdminServer
from worker.observe.health import Health
from worker.observe.metrics import Metrics

log = logging.getLogger(__name__)


def run(file: ConfigFile = None, sets: Sets = None) -> None:
    """Read frames from Kafka and write predictions until SIGTERM or SIGINT, then finish what is in flight.

    Exit 0 after a clean drain; a second signal ends the worker at once.
    """
    settings = load(file, sets).settings
    logs.configure(settings.log.level, settings.log.format)
    require_crc32c()
    stop = threading.Event()
    stop_on_signals(stop)
    metrics, health = Metrics(settings.endpoints), Health()
    with AdminServer(settings.admin, metrics, health) as admin:
        log.info("metrics and health on http://%s:%d", admin.host, admin.port)
        from worker import pipeline  # its libraries take a second to load; `--help` and a wrong flag shall not wait

        pipeline.run_stream(settings, metrics, health, stop)
    log.info("left cleanly")


def require_crc32c() -> None:
    """Raises DependencyError where kafka-python would fall back to checksums in Python: 35 times the CPU on frames."""
    if importlib.util.find_spec("crc32c") is None:
        raise DependencyError(
            "the package crc32c is missing: the Kafka client would compute checksums in Python at 35 times the CPU. "
            "Install it: pip install crc32c"
        )
