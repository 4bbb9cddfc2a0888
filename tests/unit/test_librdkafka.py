"""What the worker's second client is told and what it tells, in the terms of the first; no broker."""

from __future__ import annotations

import base64
import importlib.util
import json
import struct
import time
from pathlib import Path
from typing import Any

import confluent_kafka
import kafka.errors
import pytest
from confluent_kafka import KafkaError
from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner import murmur2

from worker import admission, librdkafka
from worker.config import load
from worker.errors import ConfigurationError, DependencyError
from worker.ingest.confluent_client import Membership, read_membership
from worker.settings import KafkaSettings


def settings(**values: Any) -> KafkaSettings:
    return load(flags={f"kafka.{key}": value for key, value in values.items()}).settings.kafka


def jwt(**claims: Any) -> str:
    part = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{part}."


def test_a_login_by_password_is_told_with_its_mechanism_and_nothing_is_told_that_is_not_set(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("swordfish\n")
    login = {"sasl_mechanism": "SCRAM-SHA-512", "sasl_username": "bob", "sasl_without_tls": True}
    made = librdkafka.arguments(settings(**login, sasl_password_file=str(tmp_path / "password")))
    assert made["security.protocol"] == "SASL_PLAINTEXT"
    assert (made["sasl.mechanism"], made["sasl.username"], made["sasl.password"]) == (
        "SCRAM-SHA-512", "bob", "swordfish",
    )  # fmt: skip
    assert "swordfish" not in repr(made)
    assert not [key for key in made if key.startswith("ssl.")]
    confluent_kafka.Producer(made)  # it knows every key


def test_a_token_is_read_from_its_file_each_time_it_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(jwt(exp=time.time() + 30))
    made = librdkafka.arguments(
        settings(sasl_mechanism="OAUTHBEARER", sasl_token_file=str(file), sasl_without_tls=True)
    )
    text, end_s = made["oauth_cb"]("")
    assert text == file.read_text()
    assert 25 < end_s - time.time() <= 30
    file.write_text("another")
    assert made["oauth_cb"]("")[0] == "another"


@pytest.mark.parametrize(
    ("token", "expected_s"),
    [
        (jwt(exp=1030), 30),
        (jwt(exp=9000), librdkafka.TOKEN_TRUSTED_S),
        (jwt(exp=900), librdkafka.TOKEN_RETRY_S),
        (jwt(sub="x"), librdkafka.TOKEN_TRUSTED_S),
        ("opaque", librdkafka.TOKEN_TRUSTED_S),
        ("a.&&&.c", librdkafka.TOKEN_TRUSTED_S),
        ("a.bnVsbA.c", librdkafka.TOKEN_TRUSTED_S),
    ],
)
def test_a_token_is_trusted_to_its_end_and_never_for_long(token: str, expected_s: float) -> None:
    assert librdkafka.trusted_s(token, 1000.0) == expected_s


def test_a_right_that_is_missing_is_the_same_sentence_as_with_the_other_client() -> None:
    ours = librdkafka.kafka_error(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED), "frames")
    told = admission.denied(ours, "Read")
    assert told is not None
    assert "the broker wants Read on topic frames" in str(told)
    group = librdkafka.kafka_error(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED))
    assert "Read on group crew" in str(admission.denied(group, "Read", "crew"))
    login = librdkafka.kafka_error(KafkaError(KafkaError._AUTHENTICATION, "no such user"))
    assert "refuses the login" in str(
        admission.refused(settings(sasl_mechanism="PLAIN", sasl_username="x", sasl_password_file="y", tls=True), login)
    )


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (KafkaError.PRODUCER_FENCED, kafka.errors.ProducerFencedError),
        (KafkaError.INVALID_PRODUCER_EPOCH, kafka.errors.InvalidProducerEpochError),
        (KafkaError._FENCED, kafka.errors.ProducerFencedError),
        (KafkaError._MSG_TIMED_OUT, kafka.errors.KafkaTimeoutError),
        (KafkaError._PURGE_QUEUE, kafka.errors.KafkaError),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, kafka.errors.UnknownTopicOrPartitionError),
    ],
)
def test_an_error_is_the_other_clients_for_the_same_thing(code: int, expected: type[Exception]) -> None:
    assert type(librdkafka.kafka_error(KafkaError(code))) is expected


@given(st.binary(min_size=1), st.integers(1, 1000))
def test_a_key_goes_to_the_same_partition_with_either_client(key: bytes, partitions: int) -> None:
    # What "murmur2_random" means: the hash of Java's client without its sign, modulo the partitions.
    assert confluent_kafka.murmur2(key, partitions) == (murmur2(key) & 0x7FFFFFFF) % partitions


def test_the_clients_own_form_of_the_membership_is_read() -> None:
    raw = b"CGMDv2:" + struct.pack("=i", 7) + b"crew\0member-1\0\x01"
    assert read_membership(raw) == Membership(7, "member-1", raw)
    outside = confluent_kafka.Consumer({"bootstrap.servers": "localhost:1", "group.id": "crew", "log_level": 0})
    assert read_membership(outside.consumer_group_metadata()).generation_id == -1
    outside.close()
    with pytest.raises(DependencyError, match=r"kafka\.client = kafka-python"):
        read_membership(b"CGMDv9:...")


def test_the_client_without_its_package_is_a_matter_of_configuration_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    librdkafka.require(settings(client="confluent"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    librdkafka.require(settings(client="kafka-python"))
    with pytest.raises(ConfigurationError, match=r"pip install 'headrace\[fast\]'") as told:
        librdkafka.require(settings(client="confluent"))
    assert told.value.exit_code == 2


def test_a_client_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"kafka\.client"):
        settings(client="librdkafka")
