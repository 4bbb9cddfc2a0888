"""What Triton's statuses mean, in one table: tritonclient's exceptions become errors of `worker.errors` here only.

The class decides what happens to the batch: an InferenceUnavailable may succeed later, an InferenceRejected will be
refused again. Statuses as a Triton 2.51 was seen to give them.
"""

from __future__ import annotations

from typing import Any

from worker.errors import (
    DependencyError,
    EndpointDown,
    HeadraceError,
    InferenceRejected,
    InferenceTimedOut,
    InferenceUnavailable,
)

_UNAVAILABLE = (InferenceUnavailable, "is unavailable")
_TABLE: dict[str, tuple[type[HeadraceError], str]] = {
    "INVALID_ARGUMENT": (InferenceRejected, "refused the batch"),  # shape, dtype, name or batch size
    "INTERNAL": (InferenceRejected, "failed on the batch"),  # an exception in the model
    "NOT_FOUND": (InferenceUnavailable, "does not serve the model"),  # also while it loads, and while the server ends
    "UNAVAILABLE": _UNAVAILABLE,  # no connection, queue full, or too long in the queue
    "DEADLINE_EXCEEDED": (InferenceTimedOut, "did not answer within the deadline"),
    "CANCELLED": (InferenceUnavailable, "was not waited for, because the engine closed"),
    "RESOURCE_EXHAUSTED": (InferenceUnavailable, "is overloaded"),
    "UNIMPLEMENTED": (InferenceUnavailable, "is no Triton"),
    "UNAUTHENTICATED": (InferenceUnavailable, "does not know us"),
    "PERMISSION_DENIED": (InferenceUnavailable, "does not let us"),
}
# INTERNAL without the batch's fault: the stream broke, memory is short.
_NOT_THE_BATCH = ("rst_stream", "stream removed", "out of memory", "failed to allocate")
# INTERNAL for good: the model's process is gone, though the server goes on saying that the model is ready.
_DEAD_MODEL = ("stub process", "not healthy")
# UNAVAILABLE because the connection went, so whatever answers next may be another server.
_CONNECTION = ("socket closed", "connect", "broken pipe", "goaway", "recvmsg", "transport", "ping")


def inference_error(error: Any, endpoint: str) -> HeadraceError:
    """The project's error for tritonclient's InferenceServerException of one inference at `endpoint`."""
    status = _status(error)
    text = _text(error)
    kind, what = _TABLE.get(status, _UNAVAILABLE)
    if status == "INTERNAL" and any(sign in text.lower() for sign in _NOT_THE_BATCH):
        kind, what = _UNAVAILABLE
    if is_lost_connection(error) or (status == "INTERNAL" and any(sign in text.lower() for sign in _DEAD_MODEL)):
        kind, what = EndpointDown, "is down"
    made = kind(f"{endpoint} {what}: {text} [{status}]")
    made.__cause__ = error
    return made


def start_error(error: Any, url: str, model: str) -> DependencyError:
    """The project's error for an exception of a question asked before any inference."""
    status = _status(error)
    if status in ("NOT_FOUND", "INVALID_ARGUMENT", "INTERNAL"):
        remedy = f"Triton at {url} does not serve {model}; look at its model repository and its log"
    elif status == "UNIMPLEMENTED":
        remedy = f"What listens at {url} is no Triton; infer.url must name Triton's gRPC port (8001 unless changed)"
    else:
        remedy = f"Triton at {url} can't be reached; start it, or set infer.url to its gRPC address and infer.tls as it wants"
    return DependencyError(f"{remedy}: {_text(error)} [{status}]")


def is_missing_region(error: Any) -> bool:
    """Whether the server does not know the shared region: it was started anew since we registered it."""
    return _status(error) == "NOT_FOUND" and "shared memory region" in _text(error).lower()


def is_lost_connection(error: Any) -> bool:
    """Whether the connection to the server went: the server that answers next may be another one."""
    return _status(error) == "UNAVAILABLE" and any(sign in _text(error).lower() for sign in _CONNECTION)


def _status(error: Any) -> str:
    return str(error.status()).removeprefix("StatusCode.")


def _text(error: Any) -> str:
    return str(error.message()).strip()
