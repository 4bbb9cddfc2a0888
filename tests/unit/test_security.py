"""Secrets stay out of sight, TLS and SASL settings fit each other, and a client gets the arguments that they mean."""

from __future__ import annotations

import json
import logging
from io import StringIO
from pathlib import Path
from typing import Any

import kafka.errors
import pytest
from cryptography.hazmat.primitives import serialization
from kafka import KafkaAdminClient
from rich.console import Console

from tests.rig.secured import Authority, Certificate
from worker import config
from worker.admission import denied, refused
from worker.cli.broker import Record
from worker.cli.output import printable
from worker.cli.tail import dead_letter_line
from worker.config import load
from worker.errors import ConfigurationError
from worker.observe.admin import AdminServer
from worker.observe.health import Health
from worker.observe.metrics import Metrics
from worker.security import is_exposed, kafka_arguments, protection_of_kafka, triton_arguments
from worker.settings import AdminSettings, InferSettings, KafkaSettings, Secret

PASSWORD = "correct-horse"
BY_PASSWORD = {"kafka.tls": True, "kafka.sasl_mechanism": "SCRAM-SHA-512", "kafka.sasl_username": "bob"}
IN_ENVIRONMENT = {"HEADRACE_KAFKA__SASL_PASSWORD": PASSWORD}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Certificate:
    return authority.issue("worker")


def kafka_settings(environment: dict[str, str] | None = None, **changed: Any) -> KafkaSettings:
    flags = {f"kafka.{key}": value for key, value in changed.items()}
    return load(environment=environment or {}, flags=flags).settings.kafka


def test_a_secret_shows_itself_only_when_it_is_revealed() -> None:
    secret = Secret(PASSWORD)
    shown = f"{secret} {secret!r} {[secret]} {secret.reveal()!r} { ({'sasl_plain_password': secret.reveal()}) }"
    assert PASSWORD not in shown
    assert secret.reveal() == PASSWORD
    assert (bool(secret), bool(Secret()), str(Secret())) == (True, False, "")


def test_a_password_comes_from_the_environment_and_config_show_prints_stars() -> None:
    settings = load(environment=IN_ENVIRONMENT, flags=BY_PASSWORD).settings
    assert kafka_arguments(settings.kafka)["sasl_plain_password"] == PASSWORD
    assert config.flat(settings)["kafka.sasl_password"] == "***"
    assert PASSWORD not in repr(settings)


def test_a_password_in_the_settings_file_is_refused_and_not_quoted(tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    file.write_text(f'[kafka]\nsasl_password = "{PASSWORD}"\n')
    with pytest.raises(
        ConfigurationError, match=r"kafka.sasl_password_file, or set HEADRACE_KAFKA__SASL_PASSWORD"
    ) as told:
        load(file)
    assert PASSWORD not in str(told.value)


def test_a_password_on_the_command_line_is_refused_and_not_quoted() -> None:
    with pytest.raises(ConfigurationError, match="every process list shows it") as told:
        load(flags={"kafka.sasl_password": PASSWORD})
    assert PASSWORD not in str(told.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kafka.bootstrap_servers", f"bob:{PASSWORD}@broker:9092"),
        ("kafka.bootstrap_servers", f"a:9092,bob:{PASSWORD}@broker:9092"),
        ("infer.url", f"grpc://bob:{PASSWORD}@triton:8001"),
    ],
)
def test_an_address_with_a_user_in_it_is_refused_and_not_quoted(key: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match="holds a user or password") as told:
        load(flags={key: value})
    assert PASSWORD not in str(told.value)


def test_the_schema_of_the_settings_file_lets_no_password_stand_in_it() -> None:
    schema = config.json_schema()
    assert schema["$defs"]["KafkaSettings"]["properties"]["sasl_password"]["maxLength"] == 0
    json.dumps(schema)


@pytest.mark.parametrize(
    ("flags", "environment", "sentence"),
    [
        ({"kafka.tls_ca_file": "ca.pem"}, {}, "set kafka.tls = true"),
        ({"infer.tls_ca_file": "ca.pem"}, {}, "set infer.tls = true"),
        ({"kafka.tls": True, "kafka.tls_key_file": "k"}, {}, "kafka.tls_certificate_file and .* go together"),
        ({"infer.tls": True, "infer.tls_certificate_file": "c"}, {}, "infer.tls_certificate_file and .* go together"),
        (BY_PASSWORD | {"kafka.tls": False}, IN_ENVIRONMENT, "log in where others can listen"),
        (BY_PASSWORD | {"kafka.sasl_username": ""}, IN_ENVIRONMENT, "needs kafka.sasl_username"),
        (BY_PASSWORD, {}, "needs one of kafka.sasl_password_file and HEADRACE_KAFKA__SASL_PASSWORD"),
        (BY_PASSWORD | {"kafka.sasl_password_file": "p"}, IN_ENVIRONMENT, "needs one of"),
        (BY_PASSWORD | {"kafka.sasl_token_file": "t"}, IN_ENVIRONMENT, "belongs to OAUTHBEARER"),
        ({"kafka.tls": True, "kafka.sasl_mechanism": "OAUTHBEARER"}, {}, "needs kafka.sasl_token_file"),
        ({"kafka.tls": True, "kafka.sasl_mechanism": "OAUTHBEARER"}, IN_ENVIRONMENT, "belongs to PLAIN and SCRAM"),
        ({"kafka.sasl_username": "bob"}, {}, "kafka.sasl_mechanism is ''"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(
    flags: dict[str, Any], environment: dict[str, str], sentence: str
) -> None:
    with pytest.raises(ConfigurationError, match=sentence) as told:
        load(environment=environment, flags=flags)
    assert PASSWORD not in str(told.value)


def test_a_login_without_tls_is_let_pass_where_it_is_asked_for() -> None:
    settings = load(
        environment=IN_ENVIRONMENT, flags=BY_PASSWORD | {"kafka.tls": False, "kafka.sasl_without_tls": True}
    )
    assert kafka_arguments(settings.settings.kafka)["security_protocol"] == "SASL_PLAINTEXT"


def test_without_security_settings_a_client_speaks_plain_text() -> None:
    assert kafka_arguments(KafkaSettings()) == {
        "bootstrap_servers": ["localhost:9092"],
        "security_protocol": "PLAINTEXT",
    }
    assert triton_arguments(InferSettings()) == {}


def test_tls_and_a_certificate_reach_both_clients(authority: Authority, certificate: Certificate) -> None:
    files: dict[str, Any] = {
        "tls": True,
        "tls_ca_file": str(authority.file),
        "tls_certificate_file": str(certificate.chain),
        "tls_key_file": str(certificate.key),
    }
    arguments = kafka_arguments(kafka_settings(**files))
    assert arguments["security_protocol"] == "SSL"
    assert [arguments[f"ssl_{name}"] for name in ("cafile", "certfile", "keyfile")] == list(files.values())[1:]
    triton = triton_arguments(load(flags={f"infer.{key}": value for key, value in files.items()}).settings.infer)
    assert triton == {
        "ssl": True,
        "root_certificates": str(authority.file),
        "private_key": str(certificate.key),
        "certificate_chain": str(certificate.chain),
    }


def test_a_certificate_with_another_ones_key_is_refused_before_a_broker_is_asked(
    authority: Authority, certificate: Certificate
) -> None:
    other = authority.issue("other")
    settings = kafka_settings(tls=True, tls_certificate_file=str(certificate.chain), tls_key_file=str(other.key))
    with pytest.raises(ConfigurationError, match="KEY_VALUES_MISMATCH"):
        kafka_arguments(settings)


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(
    certificate: Certificate, tmp_path: Path
) -> None:
    key = serialization.load_pem_private_key(certificate.key.read_bytes(), password=None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(PASSWORD.encode()),
        )
    )
    settings = kafka_settings(tls=True, tls_certificate_file=str(certificate.chain), tls_key_file=str(locked))
    with pytest.raises(ConfigurationError, match="passphrase is not supported"):
        kafka_arguments(settings)


def test_files_that_are_missing_or_hold_something_else_are_named(tmp_path: Path) -> None:
    rubbish = tmp_path / "rubbish"
    rubbish.write_text("no certificate")
    with pytest.raises(ConfigurationError, match=r"kafka\.tls_ca_file = .*missing: No such file"):
        kafka_arguments(kafka_settings(tls=True, tls_ca_file=str(tmp_path / "missing")))
    with pytest.raises(ConfigurationError, match=r"infer\.tls_ca_file = .*rubbish"):
        triton_arguments(InferSettings(tls=True, tls_ca_file=str(rubbish)))


def test_a_password_file_counts_without_its_line_break_and_an_empty_or_missing_one_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "password"

    def read() -> Any:
        flags = BY_PASSWORD | {"kafka.sasl_password_file": str(file)}
        return kafka_arguments(load(flags=flags).settings.kafka)["sasl_plain_password"]

    with pytest.raises(ConfigurationError, match="can't be read: No such file"):
        read()
    file.write_text("\n")
    with pytest.raises(ConfigurationError, match="is empty"):
        read()
    file.write_bytes(b"\xff" + PASSWORD.encode())
    with pytest.raises(ConfigurationError, match="is no UTF-8 text") as told:
        read()
    assert PASSWORD not in str(told.value)
    file.write_text(f" {PASSWORD} \r\n")
    assert read() == f" {PASSWORD} "


def test_a_token_is_read_from_its_file_for_each_login(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    provider = kafka_arguments(
        kafka_settings(tls=True, sasl_mechanism="OAUTHBEARER", sasl_token_file=str(file))
    )["sasl_oauth_token_provider"]  # fmt: skip
    assert provider.token() == "first"
    file.write_text("second\n")
    assert provider.token() == "second"


def test_the_client_dumps_its_settings_into_its_log_without_the_password(caplog: pytest.LogCaptureFixture) -> None:
    settings = load(
        environment=IN_ENVIRONMENT, flags=BY_PASSWORD | {"kafka.bootstrap_servers": "127.0.0.1:1"}
    ).settings.kafka
    with caplog.at_level(logging.DEBUG, "kafka"), pytest.raises(kafka.errors.KafkaTimeoutError):
        KafkaAdminClient(**kafka_arguments(settings), bootstrap_timeout_ms=10)
    assert "sasl_plain_password" in caplog.text
    assert PASSWORD not in caplog.text


def test_plain_text_is_exposed_unless_it_stays_on_this_machine() -> None:
    plain = KafkaSettings()
    assert not is_exposed(plain, "localhost:9092,127.0.0.1:9092,[::1]:9092")
    assert is_exposed(plain, "localhost:9092,broker:9092")
    assert not is_exposed(KafkaSettings(tls=True), "broker:9092")


def test_doctor_says_who_is_logged_in_and_how() -> None:
    login = load(environment=IN_ENVIRONMENT, flags=BY_PASSWORD).settings.kafka
    assert protection_of_kafka(KafkaSettings()) == "not encrypted, not logged in"
    assert protection_of_kafka(login) == "encrypted, logged in as bob by SCRAM-SHA-512"


@pytest.mark.parametrize(
    ("error", "right"),
    [
        (kafka.errors.TopicAuthorizationFailedError("predictions"), "Write on topic predictions"),
        (kafka.errors.TopicAuthorizationFailedError({"b", "a"}), "Write on topic a, b"),
        (kafka.errors.GroupAuthorizationFailedError("g"), "Read on group headrace"),
        (kafka.errors.TransactionalIdAuthorizationFailedError(), "Write on transactional id headrace.one"),
        (kafka.errors.ClusterAuthorizationFailedError(), "IdempotentWrite on the cluster"),
        (kafka.errors.KafkaError("aborted", kafka.errors.TopicAuthorizationFailedError("p")), "Write on topic p"),
    ],
)
def test_a_missing_right_is_named_also_where_the_client_wraps_it(error: Exception, right: str) -> None:
    assert f"the broker wants {right} for this client" in str(denied(error, "Write", "headrace", "headrace.one"))


@pytest.mark.parametrize("error", [None, kafka.errors.KafkaTimeoutError(), ValueError("x"), OSError()])
def test_an_outage_is_no_missing_right(error: Exception | None) -> None:
    assert denied(error, "Write") is None


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            "Handshake failed: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get local issuer "
            "certificate (_ssl.c:1006)",
            "fails: certificate verify failed: unable to get local issuer certificate; kafka.tls_ca_file must hold",
        ),
        (
            "Handshake failed: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: IP address mismatch, certificate "
            "is not valid for '10.0.0.1'. (_ssl.c:1006)",
            "by a name that its certificate carries",
        ),
        ("Handshake failed: [SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)", "does not speak TLS"),
    ],
)
def test_a_failed_handshake_says_what_to_do(error: str, sentence: str) -> None:
    assert sentence in str(refused(KafkaSettings(tls=True), kafka.errors.KafkaConnectionError(error)))


@pytest.mark.parametrize("error", ["socket disconnected", "Handshake failed: [SSL: UNEXPECTED_EOF_WHILE_READING] EOF"])
def test_a_broker_that_hangs_up_is_no_refusal(error: str) -> None:
    assert refused(KafkaSettings(tls=True), kafka.errors.KafkaConnectionError(error)) is None


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_an_admin_port_that_others_can_reach_is_a_warning(
    host: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with AdminServer(AdminSettings(host=host, port=0), Metrics(()), Health()):
        pass
    assert ("without a login" in caplog.text) is warned


def test_what_a_sender_wrote_can_not_steer_the_terminal_of_who_reads_it() -> None:
    name = "cam\x1b[2J\x1b]0;owned\x07\r\n\x9b31m"
    record = Record("frames.dlq", 0, 0, 0, name.encode(), b"", {"dlq-detail": name.encode()}, ())
    console = Console(file=StringIO(), force_terminal=False)
    console.print(printable(dead_letter_line(record)), soft_wrap=True)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert not any(character < " " or "\x7f" <= character < "\xa0" for character in shown.rstrip("\n"))
    assert "cam\u241b[2J" in shown
