"""Triton's registry of regions in a GPU's memory: CUDA IPC handles go in, and from then on batches go by name.

The twin of `SystemRegistry` in `worker.infer.shared_memory`, which proves a region of either kind in the same way. Triton
opens the handle when it registers it, so another GPU, another IPC namespace or an offset in a pool are refused there.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

from worker.buffers import CudaRegion


class CudaRegistry:
    """By `client`, tritonclient's for gRPC. Raises what it raises."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def register(self, region: CudaRegion, timeout_s: float) -> None:
        """Give the server `region`, whose writer waits for its own stream before each request: Triton knows none of it."""
        handle = base64.b64encode(region.handle)
        self._client.register_cuda_shared_memory(
            region.name, handle, region.ordinal, region.byte_size, client_timeout=timeout_s
        )

    def unregister(self, name: str, timeout_s: float) -> None:
        """Take it back."""
        self._client.unregister_cuda_shared_memory(name, client_timeout=timeout_s)

    def names(self, timeout_s: float) -> Iterable[str]:
        """All that are registered, whoever's."""
        regions: Iterable[str] = self._client.get_cuda_shared_memory_status(client_timeout=timeout_s).regions
        return regions
