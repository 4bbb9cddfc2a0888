"""Whether the broker lets us in, and what its no means.

The client's errors become sentences here: a login refused, a certificate nobody vouches for, a right that is missing are
NotAllowed, since no retry mends them; the rest is a broker that does not answer.
"""

from __future__ import annotations

import re
import time

import kafka.errors
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

from worker.errors import DependencyError, NotAllowed
from worker.security import kafka_arguments, protection_of_kafka
from worker.settings import KafkaSettings

_FIRST_CONTACT_S = 5.0  # with all brokers of the list together; a login takes 10 ms, and 100 more to be refused
# What OpenSSL says, and what to do; the first that fits. Other failures of a handshake may be a broker that goes down.
_TLS_REMEDIES = (
    ("mismatch", "kafka.bootstrap_servers must call the server by a name that its certificate carries"),
    ("CERTIFICATE_VERIFY_FAILED", "kafka.tls_ca_file must hold the authority that signed the server's certificate"),
    ("WRONG_VERSION_NUMBER", "this port does not speak TLS: name the one that does, or set kafka.tls = false"),
    ("ALERT", "the server refuses this worker's certificate: see kafka.tls_certificate_file"),
)


def first_contact(settings: KafkaSettings) -> Exception | None:
    """Connect and log in once, where there is something to refuse. Raises NotAllowed if a broker refuses us, or we it.

    The client itself tries again and again in its constructor, and then says only that nobody answered: many a
    directory locks an account for that. Returns the last error if no broker let us in.
    """
    if not settings.tls and not settings.sasl_mechanism:
        return None
    net = NetworkSelector()
    manager = KafkaConnectionManager(net, **kafka_arguments(settings))
    error: Exception | None = None
    give_up = time.monotonic() + _FIRST_CONTACT_S
    try:
        for broker in manager.cluster.bootstrap_brokers():
            left_ms = max(0, int(1000 * (give_up - time.monotonic())))
            connection = manager.get_connection(
                broker.node_id, timeout_ms=left_ms, pop_on_close=False, refresh_metadata_on_err=False
            )
            net.poll(timeout_ms=left_ms, future=connection.init_future)
            error = connection.init_future.exception
            if connection.init_future.is_done and error is None:
                return None
            if error is not None and (refusal := refused(settings, error)):
                raise refusal from error
    finally:
        manager.close()
        net.close()
    return error


def refused(settings: KafkaSettings, error: BaseException) -> NotAllowed | None:
    """The sentence for a client's error that no retry mends: login, TLS, or a right that is missing; else None."""
    servers, who = settings.bootstrap_servers, settings.sasl_username or "this worker"
    match error:
        case kafka.errors.UnsupportedSaslMechanismError():
            return NotAllowed(
                f"the broker at {servers} does not offer SASL {settings.sasl_mechanism}: {_told(error)}; "
                "set kafka.sasl_mechanism to one that its listener has"
            )
        case kafka.errors.IllegalSaslStateError():
            return NotAllowed(
                f"the broker at {servers} takes no login on this port; name its SASL listener in "
                "kafka.bootstrap_servers, or leave kafka.sasl_mechanism empty"
            )
        case kafka.errors.SaslAuthenticationFailedError():
            source = "kafka.sasl_token_file" if settings.sasl_mechanism == "OAUTHBEARER" else "user name and password"
            return NotAllowed(
                f"the broker at {servers} refuses the login of {who} by SASL {settings.sasl_mechanism}: {_told(error)}; "
                f"check {source}"
            )
        case kafka.errors.KafkaConnectionError():
            sentence = _tls_failure(str(error))
            return NotAllowed(f"TLS with the broker at {servers} fails: {sentence}") if sentence else None
    return None


def denied(
    error: BaseException | None, operation: str, group_id: str = "", transactional_id: str = ""
) -> NotAllowed | None:
    """The sentence for a right that is missing, `operation` being what was tried on a topic; None for other errors."""
    if error is None:
        return None
    match error:
        case kafka.errors.TopicAuthorizationFailedError():
            named = error.args[0] if error.args else None  # the client gives one name or a set of them
            names = [named] if isinstance(named, str) else sorted(named or ())
            right = f"{operation} on topic {', '.join(names) or '(the broker does not say which)'}"
        case kafka.errors.GroupAuthorizationFailedError():
            right = f"Read on group {group_id}"
        case kafka.errors.TransactionalIdAuthorizationFailedError():
            right = f"Write on transactional id {transactional_id}"
        case kafka.errors.ClusterAuthorizationFailedError():
            right = "IdempotentWrite on the cluster"
        case _:  # the client wraps what it met before, as a cause or as an argument
            within = (error.__cause__, *(each for each in error.args if isinstance(each, BaseException)))
            found = (denied(each, operation, group_id, transactional_id) for each in within)
            return next(filter(None, found), None)
    return NotAllowed(f"not authorised: the broker wants {right} for this client; grant it, see docs/security.md")


def unreachable(settings: KafkaSettings, error: Exception) -> DependencyError:
    """Why no client could be made: a refusal if it is one, else that nobody answers."""
    try:
        seen = first_contact(settings) or error
    except NotAllowed as refusal:
        return refusal
    return DependencyError(
        f"no Kafka broker answers at {settings.bootstrap_servers} ({_told(seen)}; "
        f"{protection_of_kafka(settings)}); start it, or set kafka.bootstrap_servers, kafka.tls and kafka.sasl_mechanism "
        "as its listener wants them"
    )


def _told(error: BaseException) -> str:
    """What a client's error says without its number and without its class's name, once or twice, before it."""
    return re.sub(r"^(\[Error \d+\] |\w+Error: )+", "", str(error)) or type(error).__name__


def _tls_failure(text: str) -> str | None:
    for sign, remedy in _TLS_REMEDIES:
        if "SSL" in text and sign in text:
            reason = re.sub(r"^.*?\[SSL: \w+\] |\s*\(_ssl\.c:\d+\).*$", "", text)
            return f"{reason}; {remedy}"
    return None
