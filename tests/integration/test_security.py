"""A broker and a Triton that do not let everybody in: who is let in and how, what a refusal says, and that no secret shows."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka.admin import AclOperation, ResourceType

from tests.integration.watching import eventually, send_small
from tests.rig.audit import wait_until_done
from tests.rig.kafka import MakeTopics, unavailable
from tests.rig.kafka_server import KafkaServer
from tests.rig.secured import Authority, Rights, broker_properties, token
from tests.rig.topics import Topics
from tests.rig.worker import WorkerProcess, to_toml
from worker import topics as broker_topics
from worker.cli.broker import Reader, Sender
from worker.config import load
from worker.embedded.triton import TritonServer
from worker.errors import DependencyError, NotAllowed
from worker.frames import TensorSpec
from worker.infer import TritonEngine
from worker.publish.messages import Message
from worker.security import triton_arguments
from worker.settings import KafkaSettings

LIVENESS_S = 60.0
SECRET = "correct-horse-battery-staple"
WRONG = "hunter2-hunter2-hunter2"
TOKEN_S = 3
RECORDS = 7  # one a second: more than two tokens last
WORKER = "User:bob"


@dataclass(frozen=True, slots=True)
class Guarded:
    """A broker with a plain listener for the test itself, one with TLS and certificates, one with TLS and logins."""

    server: KafkaServer
    rights: Rights
    folder: Path

    def file(self, name: str) -> str:
        return str(self.folder / name)

    def secret_file(self, text: str) -> str:
        path = self.folder / f"secret-{len(list(self.folder.iterdir()))}"
        path.write_text(text + "\n")
        return str(path)

    @property
    def by_certificate(self) -> dict[str, Any]:
        return {
            "bootstrap_servers": self.server.tls_bootstrap_servers,
            "tls": True,
            "tls_ca_file": self.file("authority.pem"),
            "tls_certificate_file": self.file("worker.pem"),
            "tls_key_file": self.file("worker.key"),
        }

    def by_password(self, mechanism: str, user: str, password: str) -> dict[str, Any]:
        return {
            "bootstrap_servers": self.server.sasl_bootstrap_servers,
            "tls": True,
            "tls_ca_file": self.file("authority.pem"),
            "sasl_mechanism": mechanism,
            "sasl_username": user,
            "sasl_password_file": self.secret_file(password),
        }

    def by_token(self, text: str) -> dict[str, Any]:
        login = self.by_password("OAUTHBEARER", "", text)
        return {key: value for key, value in login.items() if key not in ("sasl_username", "sasl_password_file")} | {
            "sasl_token_file": login["sasl_password_file"]
        }


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("secured")
    authority, stranger = Authority(folder), Authority(folder, "other-authority")
    authority.issue("worker")
    stranger.issue("stranger")
    properties = broker_properties(authority, authority.issue("broker"), {"alice": SECRET})
    try:
        server = KafkaServer.start(overrides=properties, secured=True)
    except DependencyError as error:
        unavailable(error)
    with server:
        rights = Rights(server.bootstrap_servers)
        rights.add_scram_user("bob", SECRET)
        yield Guarded(server, rights, folder)


pytestmark = pytest.mark.kafka


def kafka_settings(values: Mapping[str, Any]) -> KafkaSettings:
    return load(flags={f"kafka.{key}": value for key, value in values.items()}).settings.kafka


def allow_a_worker(guarded: Guarded, made: Topics, principal: str = WORKER) -> None:
    """The rights that docs/security.md lists, and no other."""
    allow = guarded.rights.allow
    allow(principal, ResourceType.TOPIC, made.frames, AclOperation.READ, AclOperation.DESCRIBE_CONFIGS)
    for name in (made.predictions, made.dlq, made.stats):
        allow(principal, ResourceType.TOPIC, name, AclOperation.WRITE, AclOperation.DESCRIBE_CONFIGS)
    allow(principal, ResourceType.GROUP, made.group, AclOperation.READ)
    allow(principal, ResourceType.TRANSACTIONAL_ID, f"{made.group}.one", AclOperation.WRITE)


def worker_tree(
    made: Topics, login: Mapping[str, Any], repository: Path, mode: str = "at_least_once"
) -> dict[str, Any]:
    return {
        "kafka": {"group_id": made.group, "session_timeout_ms": 6000, **login},
        "topics": made.settings["topics"],
        "model": {"name": "null", "directory": str(repository / "null")},
        "infer": {"backend": "local"},
        "delivery": {"mode": mode, "transactional_id": f"{made.group}.one"},
        "log": {"level": "debug"},
    }


Login = Callable[[Guarded], dict[str, Any]]

LOGINS: dict[str, tuple[str, Login]] = {
    "certificate": ("User:CN=worker", lambda g: g.by_certificate),
    "SCRAM-SHA-256": ("User:bob", lambda g: g.by_password("SCRAM-SHA-256", "bob", SECRET)),
    "SCRAM-SHA-512": ("User:bob", lambda g: g.by_password("SCRAM-SHA-512", "bob", SECRET)),
    "PLAIN": ("User:alice", lambda g: g.by_password("PLAIN", "alice", SECRET)),
    "token": ("User:carol", lambda g: g.by_token(token("carol"))),
}


@pytest.mark.parametrize("way", LOGINS)
def test_a_client_is_let_in_as_who_it_is_and_sees_what_it_may(guarded: Guarded, topics: MakeTopics, way: str) -> None:
    principal, login = LOGINS[way]
    made = topics(1, broker=guarded.server)
    settings = kafka_settings(login(guarded))
    with pytest.raises(NotAllowed, match=f"topic {made.frames}; grant DESCRIBE"):
        broker_topics.describe(settings, [made.frames])
    guarded.rights.allow(principal, ResourceType.TOPIC, made.frames, AclOperation.DESCRIBE)
    eventually(lambda: _sees(settings, made.frames), "the right is known to the broker")


def _sees(settings: KafkaSettings, topic: str) -> bool:
    try:
        return topic in broker_topics.describe(settings, [topic]).topics
    except NotAllowed:
        return False


REFUSALS: dict[str, tuple[Login, str]] = {
    "a wrong password": (
        lambda g: g.by_password("SCRAM-SHA-512", "bob", WRONG),
        "refuses the login of bob by SASL SCRAM-SHA-512",
    ),
    "a wrong password, PLAIN": (
        lambda g: g.by_password("PLAIN", "alice", WRONG),
        "refuses the login of alice by SASL PLAIN",
    ),
    "a token that is none": (lambda g: g.by_token(WRONG), "refuses the login .* check kafka.sasl_token_file"),
    "a login where none is taken": (
        lambda g: (
            g.by_password("PLAIN", "alice", WRONG)
            | {k: v for k, v in g.by_certificate.items() if k.startswith(("boot", "tls_c", "tls_k"))}
        ),
        "takes no login on this port",
    ),
    "no certificate": (
        lambda g: {k: v for k, v in g.by_certificate.items() if k not in ("tls_certificate_file", "tls_key_file")},
        "refuses this worker's certificate",
    ),
    "a stranger's certificate": (
        lambda g: (
            g.by_certificate | {"tls_certificate_file": g.file("stranger.pem"), "tls_key_file": g.file("stranger.key")}
        ),
        "refuses this worker's certificate",
    ),
    "a broker that nobody vouches for": (
        lambda g: g.by_certificate | {"tls_ca_file": g.file("other-authority.pem")},
        "kafka.tls_ca_file must hold the authority",
    ),
    "a broker under another name": (
        lambda g: (
            g.by_certificate | {"bootstrap_servers": g.server.tls_bootstrap_servers.replace("127.0.0.1", "localhost")}
        ),
        "by a name that its certificate carries",
    ),
}


@pytest.mark.parametrize("why", REFUSALS)
def test_a_refusal_is_one_sentence_at_once_without_the_secret(guarded: Guarded, why: str) -> None:
    login, sentence = REFUSALS[why]
    started = time.monotonic()
    with pytest.raises(NotAllowed, match=sentence) as refused:
        broker_topics.describe(kafka_settings(login(guarded)), ["frames"])
    assert WRONG not in repr(refused.getrepr(showlocals=True, chain=True).reprcrash) + str(refused.value)
    assert time.monotonic() - started < 10, "it was tried again and again"


def test_no_command_shows_the_password_or_token(guarded: Guarded, tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    login = guarded.by_password("SCRAM-SHA-512", "bob", WRONG)
    del login["sasl_password_file"]
    file.write_text(to_toml({"kafka": login, "infer": {"backend": "local"}, "log": {"level": "debug"}}))
    environment = {**os.environ, "HEADRACE_KAFKA__SASL_PASSWORD": WRONG}
    commands = [["config", "show"], ["doctor", "--json"], ["run"]]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "worker.cli", *command, "-c", str(file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for command in commands
    ]
    told = "".join(process.communicate(timeout=LIVENESS_S)[0] for process in running)
    assert WRONG not in told
    assert 'kafka.sasl_password = "***"' in told
    assert told.count("refuses the login of bob") == 2
    assert [process.returncode for process in running] == [0, 3, 3]


@pytest.mark.parametrize(
    ("mode", "operations"),
    [("at_least_once", [AclOperation.WRITE, AclOperation.READ]), ("exactly_once", [AclOperation.WRITE])],
)
def test_a_right_that_is_taken_away_ends_the_worker_with_its_name_and_loses_nothing(
    guarded: Guarded, topics: MakeTopics, served_repository: Path, mode: str, operations: list[AclOperation]
) -> None:
    made = topics(2, broker=guarded.server)
    allow_a_worker(guarded, made)
    tree = worker_tree(made, guarded.by_password("SCRAM-SHA-512", "bob", SECRET), served_repository, mode)
    sent = send_small(made, 50)
    for operation in operations:
        topic = made.predictions if operation is AclOperation.WRITE else made.frames
        with WorkerProcess(tree) as worker:
            wait_until_done(made, sent, LIVENESS_S, check=worker.check_alive)
            guarded.rights.take(WORKER, ResourceType.TOPIC, topic, operation)
            sent += send_small(made, 50)
            assert worker.wait(LIVENESS_S) == 3
            assert f"the broker wants {operation.name.capitalize()} on topic {topic}" in worker.log.splitlines()[-1]
            assert SECRET not in worker.log
            assert "Traceback" not in worker.log
        guarded.rights.allow(WORKER, ResourceType.TOPIC, topic, operation)
    with WorkerProcess(tree) as worker:
        found = wait_until_done(made, sent, LIVENESS_S, check=worker.check_alive)
    assert (found.lost, found.out_of_order) == (0, 0)


def test_a_token_that_is_renewed_in_its_file_outlives_the_first_one(guarded: Guarded, topics: MakeTopics) -> None:
    made = topics(1, broker=guarded.server)
    for operation in (AclOperation.READ, AclOperation.WRITE):
        guarded.rights.allow("User:dave", ResourceType.TOPIC, made.predictions, operation)
    login = guarded.by_token(token("dave", TOKEN_S))
    settings = load(flags={f"kafka.{key}": value for key, value in login.items()}).settings
    with (
        Reader(settings, [made.predictions], from_beginning=True) as reader,
        Sender(settings, 10**6, lambda: None) as sender,
    ):
        for number in range(RECORDS):
            Path(login["sasl_token_file"]).write_text(token("dave", TOKEN_S))
            sender.send(Message(made.predictions, b"cam", b"%d" % number, []))
            sender.drain()
            time.sleep(1)
        read: list[bytes | None] = []
        deadline = time.monotonic() + LIVENESS_S
        while len(read) < RECORDS and time.monotonic() < deadline:
            read += [record.value for record in reader.poll(1.0)]
    assert read == [b"%d" % number for number in range(RECORDS)]


@pytest.mark.triton
def test_triton_is_spoken_to_over_tls_with_a_certificate_on_both_sides(served_repository: Path, tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "other-authority")
    server_side, ours = authority.issue("triton"), authority.issue("worker")
    wanted = [
        "--grpc-use-ssl=true",
        "--grpc-use-ssl-mutual=true",
        f"--grpc-server-cert={server_side.chain}",
        f"--grpc-server-key={server_side.key}",
        f"--grpc-root-cert={authority.file}",
    ]
    values = {
        "tls": True,
        "tls_ca_file": str(authority.file),
        "tls_certificate_file": str(ours.chain),
        "tls_key_file": str(ours.key),
    }
    spec = TensorSpec("image", np.dtype(np.uint8), (260, 260, 3))
    with TritonServer.start(served_repository, ["null"], arguments=wanted) as server:

        def engine(**changed: Any) -> TritonEngine:
            settings = load(flags={f"infer.{key}": value for key, value in (values | changed).items()}).settings.infer
            return TritonEngine(
                server.grpc_url, "null", input_spec=spec, output_names=("logits",), access=triton_arguments(settings)
            )

        engine().close()
        for refused in (
            {"tls": False, "tls_ca_file": "", "tls_certificate_file": "", "tls_key_file": ""},
            {"tls_certificate_file": "", "tls_key_file": ""},
            {"tls_ca_file": str(stranger.file)},
        ):
            with pytest.raises(DependencyError, match=r"can't be reached.*infer\.tls as it wants"):
                engine(**refused)
