"""Certificates, users and rights for a broker or a Triton that does not let everybody in.

`Authority` signs certificates, made on the spot. `broker_properties` are the lines of a broker whose listeners TLS and
SASL know clients by certificate, password and token; `Rights` gives and takes what a user may do there.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import time
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = datetime.timedelta(days=1)
_ANSWER_S = 30.0
_LOGIN = "org.apache.kafka.common.security"


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM files; `chain` is the certificate followed by its authority's."""

    chain: Path
    key: Path


class Authority:
    """Signs certificates for this machine; `file` is what those who trust it are given."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        self._certificate = self._sign(self._name, self._key.public_key(), x509.BasicConstraints(True, 0))
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(_pem(self._certificate))

    def issue(self, name: str, host: str = "127.0.0.1") -> Certificate:
        """For a client called `name`, or a server at the address `host`."""
        key = ec.generate_private_key(ec.SECP256R1())
        host_name = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))])
        signed = self._sign(_name(name), key.public_key(), x509.BasicConstraints(False, None), host_name)
        made = Certificate(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        made.chain.write_bytes(_pem(signed) + _pem(self._certificate))
        made.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return made

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *extensions: x509.ExtensionType
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY)
            .not_valid_after(now + _DAY)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(self._key, hashes.SHA256())


def broker_properties(authority: Authority, broker: Certificate, plain_users: dict[str, str]) -> dict[str, str]:
    """Lines of server.properties. The plain listener is the harness's own: whoever comes there may do everything."""
    users = " ".join(f'user_{name}="{password}"' for name, password in plain_users.items())
    login = "listener.name.sasl.{}.sasl.jaas.config"
    return {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.certificate.chain": _one_line(broker.chain),
        "ssl.keystore.key": _one_line(broker.key),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.certificates": _one_line(authority.file),
        "listener.name.tls.ssl.client.auth": "required",
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
        login.format("plain"): f"{_LOGIN}.plain.PlainLoginModule required {users};",
        login.format("scram-sha-256"): f"{_LOGIN}.scram.ScramLoginModule required;",
        login.format("scram-sha-512"): f"{_LOGIN}.scram.ScramLoginModule required;",
        # Without a key to check them by, the broker takes tokens that nobody signed: for tests only.
        login.format(
            "oauthbearer"
        ): f'{_LOGIN}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";',
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }


def token(subject: str, lifetime_s: int = 3600) -> str:
    """A JSON web token that nobody signed."""
    now = int(time.time())
    claims = {"sub": subject, "iat": now - 1, "exp": now + lifetime_s}
    parts = (json.dumps(part).encode() for part in ({"alg": "none"}, claims))
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts) + "."


class Rights:
    """What users may do, changed through the plain listener."""

    def __init__(self, bootstrap_servers: str) -> None:
        self._admin = AdminClient({"bootstrap.servers": bootstrap_servers})

    def add_scram_user(self, name: str, password: str) -> None:
        for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
            credential = UserScramCredentialUpsertion(name, ScramCredentialInfo(mechanism, 4096), password.encode())
            for future in self._admin.alter_user_scram_credentials([credential]).values():
                future.result(_ANSWER_S)

    def allow(self, principal: str, kind: ResourceType, name: str, *operations: AclOperation) -> None:
        wanted = [
            AclBinding(kind, name, ResourcePatternType.LITERAL, principal, "*", operation, AclPermissionType.ALLOW)
            for operation in operations
        ]
        for future in self._admin.create_acls(wanted).values():
            future.result(_ANSWER_S)

    def take(self, principal: str, kind: ResourceType, name: str, operation: AclOperation) -> None:
        which = AclBindingFilter(
            kind, name, ResourcePatternType.LITERAL, principal, "*", operation, AclPermissionType.ALLOW
        )
        for future in self._admin.delete_acls([which]).values():
            assert future.result(_ANSWER_S), "there was no such right"


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _one_line(file: Path) -> str:
    """As a properties file holds several lines in one value."""
    return file.read_text().replace("\n", "\\n")
