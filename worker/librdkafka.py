"""What the adapters of librdkafka (extra `fast`) share: its arguments for TLS and logins, and what its errors mean.

Both are told in terms of kafka-python. Its arguments are translated, so that secrets and certificates are read and checked
in one place; an error becomes kafka-python's for the same thing, so that `worker.admission` has the sentence for either.
"""

from __future__ import annotations

import base64
import binascii
import importlib.util
import json
import time
from typing import Any, Protocol

import kafka.errors

from worker import security
from worker.errors import ConfigurationError
from worker.settings import KafkaSettings

PACKAGE = "confluent_kafka"
_ARGUMENTS = {
    "security_protocol": "security.protocol",
    "ssl_cafile": "ssl.ca.location",
    "ssl_certfile": "ssl.certificate.location",
    "ssl_keyfile": "ssl.key.location",
    "sasl_mechanism": "sasl.mechanism",
    "sasl_plain_username": "sasl.username",
    "sasl_plain_password": "sasl.password",
}
# Its own errors that have a namesake; those of the broker have the protocol's numbers in both clients.
_OWN_ERRORS: dict[str, type[kafka.errors.KafkaError]] = {
    "_AUTHENTICATION": kafka.errors.SaslAuthenticationFailedError,
    "_FENCED": kafka.errors.ProducerFencedError,
    "_MSG_TIMED_OUT": kafka.errors.KafkaTimeoutError,
    "_TIMED_OUT": kafka.errors.KafkaTimeoutError,
    "_TRANSPORT": kafka.errors.KafkaConnectionError,
    "_ALL_BROKERS_DOWN": kafka.errors.KafkaConnectionError,
    "_RESOLVE": kafka.errors.KafkaConnectionError,
}
# librdkafka asks for a token anew after 80 % of the life it is told. Kubernetes renews the file minutes before its token
# ends, so a token is trusted no longer than this; one that has ended is asked for again and again.
TOKEN_TRUSTED_S = 60.0
TOKEN_RETRY_S = 1.0


class ClientError(Protocol):
    """confluent_kafka.KafkaError, which has no types without its package."""

    def code(self) -> int: ...
    def name(self) -> str: ...
    def str(self) -> str: ...


def require(settings: KafkaSettings) -> None:
    """Raises ConfigurationError where the client that is wanted is not installed."""
    if settings.client == "confluent" and importlib.util.find_spec(PACKAGE) is None:
        raise ConfigurationError(
            "kafka.client is confluent, and the package confluent-kafka is missing; install it with "
            "pip install 'headrace[fast]', or leave kafka.client at kafka-python"
        )


def arguments(settings: KafkaSettings) -> dict[str, Any]:
    """What every client of librdkafka is made with. Raises ConfigurationError as `security.kafka_arguments` does."""
    given = security.kafka_arguments(settings)
    made: dict[str, Any] = {
        "bootstrap.servers": settings.bootstrap_servers,
        "client.id": "headrace",
        "reconnect.backoff.max.ms": 1000,  # a restarted broker is found again within a second
        "allow.auto.create.topics": False,
        "log.connection.close": False,  # brokers close idle connections; nothing is wrong then
    }
    made |= {theirs: given[ours] for ours, theirs in _ARGUMENTS.items() if given.get(ours)}
    if provider := given.get("sasl_oauth_token_provider"):

        def token(_: str) -> tuple[str, float]:
            text = provider.token()
            return text, time.time() + trusted_s(text, time.time())

        made["oauth_cb"] = token
    return made


def trusted_s(token: str, now_s: float) -> float:
    """Seconds that a token may be used before its file is read again: to the end a JWT names, within the bounds above."""
    try:
        payload = token.split(".")[1]
        end_s = float(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"])
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error):
        return TOKEN_TRUSTED_S  # opaque to us
    return min(max(end_s - now_s, TOKEN_RETRY_S), TOKEN_TRUSTED_S)


def kafka_error(error: ClientError, topic: str | None = None) -> kafka.errors.KafkaError:
    """kafka-python's error for the same thing; `topic` is the one it is about, which a refused right is told with."""
    code, text = error.code(), error.str()
    if code < 0:
        return _OWN_ERRORS.get(error.name(), kafka.errors.KafkaError)(text)
    kind = kafka.errors.for_code(code)
    if issubclass(kind, kafka.errors.TopicAuthorizationFailedError):
        return kind({topic} if topic else set())
    return kind(text)
