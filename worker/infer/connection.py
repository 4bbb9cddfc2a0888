"""One model at one Triton: the channel, and the questions whose answer is waited for.

Everything here may block, but for `send`. tritonclient's exceptions pass through `infer` and `send`'s callback, because
the engine decides by them; from the questions asked at start they come as DependencyError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from worker.errors import DependencyError, ModelError
from worker.frames import AnyArray, TensorSpec
from worker.infer.errors import start_error
from worker.infer.facts import ModelFacts, read_facts
from worker.infer.shared_memory import ASK_TIMEOUT_S, Region, is_same_host

WARM_UP_S = 120.0  # a first inference may load kernels or build caches
_CHANNEL = [
    # Whether and where a batch is tried again is the fleet's to decide: it knows the other endpoints, the budget, the slot.
    ("grpc.enable_retries", 0),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # gRPC's own pause between reconnects grows to 120 s: a restarted server would wait that long for its frames.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]
# Another host can vanish without a word; on this host a ping unanswered by a stopped server would end RPCs that it
# still executes. Two pings at most without data between: servers hang up on more.
_KEEPALIVE = [
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 2),
]


class Connection:
    """`model`, version `version` ("" for the server's choice), at `url`; `expected` is what is sent to it.

    `access` are tritonclient's arguments for TLS; empty: plain text.
    """

    def __init__(
        self,
        url: str,
        model: str,
        version: str,
        expected: TensorSpec,
        output_names: Sequence[str],
        access: Mapping[str, Any],
    ) -> None:
        self.url = url
        self.model = model
        self.endpoint = f"{model} at {url}"
        self.same_host = is_same_host(url)
        self.client = triton.InferenceServerClient(
            url, channel_args=_CHANNEL if self.same_host else _CHANNEL + _KEEPALIVE, **access
        )
        self._version = version
        self._expected = expected
        self._output_names = tuple(output_names)
        self._requested = [triton.InferRequestedOutput(name) for name in output_names]
        self._datatype = np_to_triton_dtype(expected.dtype)

    def close(self) -> None:
        """End the channel; RPCs on their way end with CANCELLED."""
        self.client.close()

    def live(self) -> bool:
        """Whether the server answers."""
        try:
            return bool(self.client.is_server_live(client_timeout=ASK_TIMEOUT_S))
        except InferenceServerException:
            return False

    def ready(self) -> bool:
        """Whether the server says that the model is ready (it says so of a model whose process was killed, too)."""
        try:
            return bool(self.client.is_model_ready(self.model, self._version, client_timeout=ASK_TIMEOUT_S))
        except InferenceServerException:
            return False

    def check_ready(self) -> None:
        """Raises DependencyError, with what the server has instead, unless the model is ready."""
        try:
            if self.client.is_model_ready(self.model, self._version, client_timeout=ASK_TIMEOUT_S):
                return
            served = self.client.get_model_repository_index(client_timeout=ASK_TIMEOUT_S).models
        except InferenceServerException as error:
            raise start_error(error, self.url, self.model) from error
        ready = sorted({f"{model.name} {model.version}" for model in served if model.state == "READY"})
        wanted = f"{self.model} {self._version}".strip()
        raise DependencyError(
            f"Triton at {self.url} does not serve {wanted}; it serves {', '.join(ready) or 'nothing'}. "
            "Set model.name and model.version, or look into Triton's log why it is not ready."
        )

    def facts(self, version: str = "") -> ModelFacts:
        """What the server says of `version`. Raises DependencyError, and ModelError if it isn't what we expect."""
        version = version or self._version
        try:
            metadata = self.client.get_model_metadata(self.model, version, client_timeout=ASK_TIMEOUT_S)
            config = self.client.get_model_config(self.model, version, client_timeout=ASK_TIMEOUT_S).config
        except InferenceServerException as error:
            raise start_error(error, self.url, self.model) from error
        return read_facts(metadata, config, version, self._expected, self._output_names)

    def infer(self, batch: AnyArray, region: Region | None, outputs: Sequence[TensorSpec]) -> dict[str, AnyArray]:
        """One batch, waited for. Raises InferenceServerException, ModelError."""
        result = self.client.infer(
            self.model,
            [self._input(batch, region)],
            model_version=self._version,
            outputs=self._requested,
            client_timeout=WARM_UP_S,
        )
        return self.read(result, outputs, len(batch))

    def send(
        self, batch: AnyArray, region: Region | None, timeout_s: float, received: Callable[[Any, Any], None]
    ) -> None:
        """Start inference of `batch`, by name if `region` holds it. `received(result, error)` runs on gRPC's thread.

        Raises InferenceServerException or ValueError if it can't be started; `received` is not called then.
        """
        self.client.async_infer(
            self.model,
            [self._input(batch, region)],
            received,
            model_version=self._version,
            outputs=self._requested,
            client_timeout=timeout_s,
        )

    def read(self, result: Any, specs: Sequence[TensorSpec], rows: int) -> dict[str, AnyArray]:
        """The response's tensors, each (rows, ...), read-only views of it. Raises ModelError if one is not."""
        outputs: dict[str, AnyArray] = {}
        for spec in specs:
            try:
                array = result.as_numpy(spec.name)
            except ValueError as error:  # fewer bytes than the shape says
                raise ModelError(
                    f"{self.endpoint} gave {spec.name} without its content. Triton's python backend does that when its "
                    "stub runs with numpy 2: install numpy<2 in the server's environment."
                ) from error
            if array is None or len(array) != rows or array.dtype != spec.dtype:
                seen = "nothing" if array is None else f"{array.dtype} of shape {array.shape}"
                raise ModelError(
                    f"{self.endpoint} gave {seen} as {spec.name} for {rows} frames; expected {spec.dtype}, {rows} rows."
                )
            outputs[spec.name] = array
        return outputs

    def _input(self, batch: AnyArray, region: Region | None) -> Any:
        tensor = triton.InferInput(self._expected.name, list(batch.shape), self._datatype)
        if region is None:
            return tensor.set_data_from_numpy(batch)
        return tensor.set_shared_memory(region.name, batch.nbytes)
