"""The whole way over librdkafka (`kafka.client = "confluent"`); `make test-clients` runs every file that starts a worker so.

The tests are those of the default client, taken from their own files: what a worker promises does not depend on its client.
"""

from __future__ import annotations

import pytest

from tests.integration.test_way import (  # noqa: F401
    test_every_frame_has_one_prediction_in_order_and_its_range_has_statistics,
)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every worker that a test starts inherits it."""
    monkeypatch.setenv("HEADRACE_KAFKA__CLIENT", "confluent")
