"""How the worker shows itself to Kafka and Triton: TLS, its certificate, its login.

Settings become the arguments of every client here, and nowhere else. Secrets are read from their files only now, on the
way to the client, and no sentence quotes them.
"""

from __future__ import annotations

import ipaddress
import ssl
import time
from pathlib import Path
from typing import Any

import kafka.errors
from kafka.net.sasl.oauth import AbstractTokenProvider

from worker.errors import ConfigurationError
from worker.kafka_network import mend_network
from worker.settings import InferSettings, KafkaSettings, Secret, Settings

TOKEN_MISSING_S = 60.0  # a file that is written anew is back within a moment
_TOKEN = "OAUTHBEARER"  # noqa: S105  the mechanism's name


def check(settings: Settings) -> None:
    """Whether the settings of TLS and SASL fit each other; no file is read. Raises ConfigurationError."""
    broker = settings.kafka
    _check_tls("kafka", broker)
    _check_tls("infer", settings.infer)
    mechanism = broker.sasl_mechanism
    takes_password = mechanism not in ("", _TOKEN)
    for name, fits in {
        "sasl_username": takes_password,
        "sasl_password": takes_password,
        "sasl_password_file": takes_password,
        "sasl_token_file": mechanism == _TOKEN,
    }.items():
        if getattr(broker, name) and not fits:
            belongs = f"belongs to {_TOKEN}" if name == "sasl_token_file" else "belongs to PLAIN and SCRAM"
            raise ConfigurationError(f"kafka.{name} {belongs}, and kafka.sasl_mechanism is {mechanism!r}")
    if takes_password and not broker.sasl_username:
        raise ConfigurationError(f"kafka.sasl_mechanism {mechanism} needs kafka.sasl_username")
    if takes_password and bool(broker.sasl_password) == bool(broker.sasl_password_file):
        raise ConfigurationError(
            f"kafka.sasl_mechanism {mechanism} needs one of kafka.sasl_password_file and HEADRACE_KAFKA__SASL_PASSWORD"
        )
    if mechanism == _TOKEN and not broker.sasl_token_file:
        raise ConfigurationError(f"kafka.sasl_mechanism {mechanism} needs kafka.sasl_token_file")
    if mechanism and not broker.tls and not broker.sasl_without_tls:
        raise ConfigurationError(
            f"kafka.sasl_mechanism {mechanism} without kafka.tls would log in where others can listen; "
            "set kafka.tls = true, or kafka.sasl_without_tls = true if the network is yours alone"
        )


def kafka_arguments(settings: KafkaSettings) -> dict[str, Any]:
    """What every Kafka client is made with: where the brokers are, TLS and SASL.

    Raises ConfigurationError for a file that can't be read or does not hold what it should.
    """
    mend_network()
    mechanism = settings.sasl_mechanism
    arguments: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers.split(","),
        "security_protocol": ("SASL_" if mechanism else "") + ("SSL" if settings.tls else "PLAINTEXT"),
    }
    if settings.tls:
        _check_certificates("kafka", settings)
        arguments |= {
            "ssl_cafile": settings.tls_ca_file or None,
            "ssl_certfile": settings.tls_certificate_file or None,
            "ssl_keyfile": settings.tls_key_file or None,
        }
    if mechanism == _TOKEN:
        token_file = Path(settings.sasl_token_file)
        _secret("kafka.sasl_token_file", token_file)  # a missing file is the user's to mend, before the broker is asked
        provider = _TokenFile(token_file)
        arguments |= {"sasl_mechanism": mechanism, "sasl_oauth_token_provider": provider}
    elif mechanism:
        password = settings.sasl_password or _secret("kafka.sasl_password_file", Path(settings.sasl_password_file))
        arguments |= {
            "sasl_mechanism": mechanism,
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": password.reveal(),
        }
    return arguments


def triton_arguments(settings: InferSettings) -> dict[str, Any]:
    """What tritonclient's gRPC client is made with. Raises ConfigurationError."""
    if not settings.tls:
        return {}
    _check_certificates("infer", settings)
    return {
        "ssl": True,
        "root_certificates": settings.tls_ca_file or None,
        "private_key": settings.tls_key_file or None,
        "certificate_chain": settings.tls_certificate_file or None,
    }


def protection_of_kafka(settings: KafkaSettings) -> str:
    """`encrypted, logged in as worker by SCRAM-SHA-512`, for people."""
    mechanism = settings.sasl_mechanism
    if mechanism == _TOKEN:
        who = f"logged in by a token ({_TOKEN})"
    elif mechanism:
        who = f"logged in as {settings.sasl_username} by {mechanism}"
    else:
        who = _certificate_shown(settings)
    return f"{_encrypted(settings)}, {who}"


def protection_of_triton(settings: InferSettings) -> str:
    """`encrypted, client certificate`, for people."""
    return f"{_encrypted(settings)}, {_certificate_shown(settings)}"


def is_exposed(settings: KafkaSettings | InferSettings, addresses: str) -> bool:
    """Whether plain text leaves this machine: no TLS, and one of `host:port,…` is not loopback."""
    hosts = [address.strip().rpartition(":")[0] for address in addresses.split(",")]
    return not settings.tls and not all(map(is_loopback, hosts))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it; a name other than localhost counts as a foreign one."""
    host = host.strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _encrypted(settings: KafkaSettings | InferSettings) -> str:
    return "encrypted" if settings.tls else "not encrypted"


def _certificate_shown(settings: KafkaSettings | InferSettings) -> str:
    return "logged in by certificate" if settings.tls_certificate_file else "not logged in"


def _check_tls(section: str, settings: KafkaSettings | InferSettings) -> None:
    for name in ("tls_ca_file", "tls_certificate_file", "tls_key_file"):
        if getattr(settings, name) and not settings.tls:
            raise ConfigurationError(f"{section}.{name} is set and {section}.tls is not; set {section}.tls = true")
    if bool(settings.tls_certificate_file) != bool(settings.tls_key_file):
        raise ConfigurationError(
            f"{section}.tls_certificate_file and {section}.tls_key_file go together; one is missing"
        )


def _check_certificates(section: str, settings: KafkaSettings | InferSettings) -> None:
    """Read them once as the clients will, to say what is wrong: the clients try a bad file again and again."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    where = f"{section}.tls_ca_file = {settings.tls_ca_file}"
    try:
        if settings.tls_ca_file:
            context.load_verify_locations(settings.tls_ca_file)
        if settings.tls_certificate_file:
            where = (
                f"{section}.tls_certificate_file = {settings.tls_certificate_file} "
                f"with {section}.tls_key_file = {settings.tls_key_file}"
            )
            context.load_cert_chain(settings.tls_certificate_file, settings.tls_key_file, password=_no_password)
    except ssl.SSLError as error:
        raise ConfigurationError(f"{where}: {error.reason or 'no PEM certificate or key in it'}") from error
    except OSError as error:
        raise ConfigurationError(f"{where}: {error.strerror}") from error


def _no_password() -> str:
    raise ConfigurationError(
        "a private key with a passphrase is not supported; take the passphrase off the file's copy"
    )


def _secret(setting: str, path: Path) -> Secret:
    """What a file holds, without the line break that editors put at its end."""
    try:
        text = path.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise ConfigurationError(f"{setting} = {path} can't be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigurationError(f"{setting} = {path} is no UTF-8 text") from None  # its error quotes the bytes
    if not text:
        raise ConfigurationError(f"{setting} = {path} is empty")
    return Secret(text)


class _TokenFile(AbstractTokenProvider):  # type: ignore[misc]
    """Asked by the client for each login and each renewal that the broker wants."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._missing_since = float("inf")

    def token(self) -> str:
        try:
            token = _secret("kafka.sasl_token_file", self._path).reveal().strip()
        except ConfigurationError as error:
            now = time.monotonic()
            self._missing_since = min(self._missing_since, now)
            if now - self._missing_since > TOKEN_MISSING_S:
                raise kafka.errors.SaslAuthenticationFailedError(str(error)) from error
            raise kafka.errors.KafkaConnectionError(str(error)) from error  # the client tries again after one of these
        self._missing_since = float("inf")
        return token
