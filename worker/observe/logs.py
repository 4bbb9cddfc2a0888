"""Logs on stderr, as lines of text or of JSON: Python's own logging, set up once by the command that starts.

Modules log through `logging.getLogger(__name__)` and give facts as `extra={...}`; both formats show them. Libraries
are heard from WARNING on and not a thousand times a second, and what ends a thread or the process without being caught is
logged too.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import msgspec

# What they tell at INFO and DEBUG only their authors need.
_QUIET = ("kafka", "urllib3", "asyncio", "PIL", "grpc")
# A kafka client that reconnects writes dozens of lines a second, some thousand where the broker hangs up at once.
_APART_S = 1.0
_US = __name__.partition(".")[0]
# What every LogRecord has; the rest came as `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(level: str = "info", format_: str = "text") -> None:
    """Send all logging to stderr; `level` is one of logging's, `format_` is `text` or `json`. May be called again."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if format_ == "json" else TextFormatter())
    handler.addFilter(Thinned())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(True)
    threading.excepthook = _log_thread_death


class Thinned(logging.Filter):
    """Of what a library says at one place in its source, one line a second; the next that passes counts those `left_out` since the last.

    Of an exception that a library met in itself and caught the name is enough; one of ours, in what it calls back, keeps its traceback.
    """

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[tuple[str, int], tuple[float, int]] = {}  # when one passed last, and how many did not since

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written; it may gain `left_out`."""
        if record.name.partition(".")[0] not in _QUIET:
            return True
        place = record.pathname, record.lineno
        last, left_out = self._passed.get(place, (float("-inf"), 0))
        now = time.monotonic()
        if now - last < _APART_S:
            self._passed[place] = last, left_out + 1
            return False
        self._passed[place] = now, 0
        if left_out:
            record.left_out = left_out
        if record.exc_info and record.exc_info[0] and not _is_ours(record.exc_info[2]):
            record.msg, record.args = f"{record.getMessage()} ({record.exc_info[0].__name__}: {record.exc_info[1]})", ()
            record.exc_info = None
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object: `time` (RFC 3339, UTC), `level`, `logger`, `message`, extra fields, `error` (a traceback)."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        # A field may not overwrite one of ours: a reader must be able to trust `level` and `time`.
        fields |= {key: value for key, value in _extra(record).items() if key not in fields}
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return msgspec.json.encode(fields, enc_hook=str).decode()


class TextFormatter(logging.Formatter):
    """`12:00:00.123 WARNING ingest.kafka: message key=value`, then the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line, with a traceback on those after it."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        name = record.name.removeprefix("worker.")
        line = f"{clock}.{int(record.msecs):03d} {record.levelname} {name}: {record.getMessage()}"
        line += "".join(f" {key}={value}" for key, value in _extra(record).items())
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _is_ours(trace: TracebackType | None) -> bool:
    """Whether it came through code of ours."""
    return any(str(frame.f_globals.get("__name__")).partition(".")[0] == _US for frame, _ in traceback.walk_tb(trace))


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _log_thread_death(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is SystemExit:
        return
    name = args.thread.name if args.thread else "a thread"
    error = args.exc_value or args.exc_type()
    logging.getLogger("worker").critical("%s ended on an exception nobody caught", name, exc_info=error)
