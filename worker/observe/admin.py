"""The worker's admin port: `/metrics` for Prometheus, `/health/live` and `/health/ready` for whoever restarts it.

A small threaded HTTP server beside the way; it only reads what `Metrics` and `Health` hold. Health answers 200 or 503
with a JSON body that names the reasons.
"""

from __future__ import annotations

import logging
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

import msgspec
from prometheus_client.exposition import choose_encoder

from worker.errors import ConfigurationError
from worker.observe.health import Health, Verdict
from worker.observe.metrics import Metrics
from worker.security import is_loopback
from worker.settings import AdminSettings

log = logging.getLogger(__name__)

# A client that opens a connection and says nothing keeps a thread no longer than this.
_CLIENT_TIMEOUT_S = 10
_CLOSE_S = 5.0


class AdminServer:
    """Serves until closed. `port` is the one in use, also where the settings asked for any (0).

    Raises ConfigurationError where the address can't be bound.
    """

    def __init__(self, settings: AdminSettings, metrics: Metrics, health: Health) -> None:
        handler = _handler(metrics, health)
        try:
            self._server = ThreadingHTTPServer((settings.host, settings.port), handler)
        except OSError as error:
            raise ConfigurationError(
                f"the admin server can't listen on {settings.host}:{settings.port}: {error.strerror or error}. "
                f"Set admin.port to a free port, or to 0 for any"
            ) from error
        if not is_loopback(settings.host):
            log.warning(
                "the admin port is open on %s: whoever reaches it reads metrics and health without a login (admin.host)",
                settings.host or "every address",
            )
        self._server.daemon_threads = True
        self.host = settings.host
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="admin", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening; may be called again."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(_CLOSE_S)

    def __enter__(self) -> AdminServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _handler(metrics: Metrics, health: Health) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _CLIENT_TIMEOUT_S
        server_version = "headrace"
        sys_version = ""  # no need to tell the world our Python's version

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                encode, content_type = choose_encoder(self.headers.get("Accept", ""))
                self._answer(HTTPStatus.OK, content_type, encode(metrics.registry))
            elif path == "/health/live":
                self._verdict(health.live())
            elif path == "/health/ready":
                self._verdict(health.ready())
            else:
                known = "/metrics, /health/live, /health/ready"
                self._answer(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", f"try one of {known}\n".encode())

        do_HEAD = do_GET  # noqa: N815  # the name is the protocol of http.server

        def _verdict(self, verdict: Verdict) -> None:
            body = {"ok": verdict.ok, "reasons": verdict.reasons}
            if verdict.heartbeat_age_s:
                body["heartbeat_age_s"] = verdict.heartbeat_age_s
            status = HTTPStatus.OK if verdict.ok else HTTPStatus.SERVICE_UNAVAILABLE
            self._answer(status, "application/json", msgspec.json.encode(body) + b"\n")

        def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """A scrape every few seconds is no news."""

    return Handler
