"""What happens at the inference endpoints, told to metrics and readiness."""

from __future__ import annotations

from collections.abc import Sequence

from worker.errors import HeadraceError, InferenceRejected, InferenceTimedOut, InferenceUnavailable
from worker.frames import Answer
from worker.infer.breaker import State
from worker.infer.member import Observer
from worker.observe.health import Health
from worker.observe.metrics import Metrics, RequestOutcome


class Endpoints(Observer):
    """Those of one model, by their names in metrics. With `health` the worker is not ready while none takes batches."""

    def __init__(self, names: Sequence[str], metrics: Metrics, health: Health | None) -> None:
        self._metrics = metrics
        self._health = health
        self._states = dict.fromkeys(names, State.CLOSED)

    def tried(self, endpoint: str, result: Answer | HeadraceError) -> None:
        """See `Observer`."""
        self._metrics.infer_request(endpoint, _outcome(result))

    def breaker(self, endpoint: str, state: State) -> None:
        """See `Observer`."""
        self._metrics.breaker(endpoint, state)
        self._states[endpoint] = state
        if self._health is None:
            return
        if State.CLOSED in self._states.values():
            self._health.met("model")
        else:
            self._health.unmet("model", f"no endpoint takes batches ({', '.join(self._states)}); the log says why")


def _outcome(result: Answer | HeadraceError) -> RequestOutcome:
    match result:
        case Answer():
            return RequestOutcome.OK
        case InferenceRejected():
            return RequestOutcome.REJECTED
        case InferenceTimedOut():
            return RequestOutcome.TIMED_OUT
        case InferenceUnavailable():
            return RequestOutcome.UNAVAILABLE
        case _:
            return RequestOutcome.FAILED
