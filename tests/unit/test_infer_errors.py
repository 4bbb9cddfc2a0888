from __future__ import annotations

import pytest
from tritonclient.utils import InferenceServerException

from worker.errors import EndpointDown, HeadraceError, InferenceRejected, InferenceTimedOut, InferenceUnavailable
from worker.infer.errors import inference_error, is_lost_connection, is_missing_region, start_error


def of(status: str, message: str) -> InferenceServerException:
    return InferenceServerException(msg=message, status=f"StatusCode.{status}")


# Messages as Triton 2.51 and gRPC gave them.
SEEN: list[tuple[str, str, type[HeadraceError]]] = [
    ("INVALID_ARGUMENT", "unexpected shape for input 'image' for model 'probe'", InferenceRejected),
    ("INVALID_ARGUMENT", "inference request batch-size must be <= 16 for 'probe'", InferenceRejected),
    ("INTERNAL", "Failed to process the request(s) for model 'probe_0_0', message: ValueError: no", InferenceRejected),
    ("INTERNAL", "Stub process 'probe_0_0' is not healthy.", EndpointDown),
    ("INTERNAL", "Received RST_STREAM with error code 2", InferenceUnavailable),
    ("INTERNAL", "CUDA out of memory", InferenceUnavailable),
    ("NOT_FOUND", "Request for unknown model: 'probe' is not found", InferenceUnavailable),
    ("UNAVAILABLE", "Exceeds maximum queue size", InferenceUnavailable),
    ("UNAVAILABLE", "failed to connect to all addresses", EndpointDown),
    ("DEADLINE_EXCEEDED", "Deadline Exceeded", InferenceTimedOut),
    ("CANCELLED", "Locally cancelled by application!", InferenceUnavailable),
    ("A_STATUS_OF_THE_FUTURE", "?", InferenceUnavailable),
]


@pytest.mark.parametrize(("status", "message", "kind"), SEEN)
def test_a_status_of_the_server_becomes_an_error_that_says_whether_to_try_again(
    status: str, message: str, kind: type[HeadraceError]
) -> None:
    original = of(status, message)
    error = inference_error(original, "probe at here:1")
    assert type(error) is kind
    assert error.can_retry == issubclass(kind, InferenceUnavailable)
    assert message in str(error)
    assert "probe at here:1" in str(error)
    assert error.__cause__ is original


def test_only_an_unknown_region_counts_as_a_missing_one() -> None:
    assert is_missing_region(of("NOT_FOUND", "Unable to find shared memory region: 'headrace-1'"))
    assert not is_missing_region(of("NOT_FOUND", "Request for unknown model: 'probe' is not found"))
    assert not is_missing_region(of("INTERNAL", "Unable to open shared memory region: '/headrace-1'"))


def test_a_full_queue_is_no_lost_connection() -> None:
    assert is_lost_connection(of("UNAVAILABLE", "Socket closed"))
    assert is_lost_connection(of("UNAVAILABLE", "failed to connect to all addresses; Connection refused"))
    assert not is_lost_connection(of("UNAVAILABLE", "Exceeds maximum queue size"))


@pytest.mark.parametrize(
    ("status", "remedy"),
    [("UNAVAILABLE", "start it"), ("UNIMPLEMENTED", "gRPC port"), ("NOT_FOUND", "does not serve probe")],
)
def test_a_failed_start_names_the_address_and_what_to_do(status: str, remedy: str) -> None:
    sentence = str(start_error(of(status, "because"), "here:1", "probe"))
    assert "here:1" in sentence
    assert remedy in sentence
    assert "because" in sentence
