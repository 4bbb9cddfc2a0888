"""The servers that runs share: a Kafka of one node, one of three, and a Triton, each started when it is first asked for.

Workers reach the single broker and the Triton through proxies, so that both can be cut off or come back as another
process under the same address. Everybody else (senders, audits) goes straight to the broker.
"""

from __future__ import annotations

import functools
import json
import shutil
import signal
import tempfile
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from tests.rig.kafka_server import KafkaServer
from tests.rig.proxy import TcpProxy
from worker.embedded.triton import TritonServer

MODEL = "actor"
_MODELS = Path(__file__).parent / "models"
# A transaction past its timeout is ended at the next look, by default up to 10 s later.
_BROKER = {"transaction.abort.timed.out.transaction.cleanup.interval.ms": "500"}
_LOAD_S = 60.0
_STUB = "triton_python_backend_stub"


class Stage:
    """Leaving the context ends all servers."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @functools.cached_property
    def kafka(self) -> KafkaServer:
        """One node behind a proxy."""
        return self._stack.enter_context(KafkaServer.start(proxied=True, overrides=_BROKER))

    @functools.cached_property
    def cluster(self) -> KafkaServer:
        """Three nodes: a leader can change."""
        return self._stack.enter_context(KafkaServer.start(nodes=3, overrides=_BROKER))

    @functools.cached_property
    def triton(self) -> Inference:
        """The usual endpoint."""
        return self._stack.enter_context(Inference())

    @functools.cached_property
    def second(self) -> Inference:
        """Another endpoint, or the fallback."""
        return self._stack.enter_context(Inference())

    def tend(self) -> int:
        """Start again what died of itself, as a supervisor would; how many."""
        tritons = (self.__dict__.get(name) for name in ("triton", "second"))
        return sum(triton.tend() for triton in tritons if triton)

    def end_cluster(self) -> None:
        """Three brokers take half of a small machine: they go as soon as nobody needs them."""
        if "cluster" in self.__dict__:
            self.cluster.stop()
            del self.cluster


class Inference:
    """A Triton with the model `actor` and a repository of its own, under one address whatever becomes of its process."""

    def __init__(self) -> None:
        self.repository = Path(tempfile.mkdtemp(prefix="headrace-faults-"))
        shutil.copytree(_MODELS, self.repository, dirs_exist_ok=True)
        self.mood("")
        self._server = self._start()
        self._proxy = TcpProxy(_port(self._server.grpc_url))

    def __enter__(self) -> Inference:
        return self

    def __exit__(self, *_: object) -> None:
        self._proxy.close()
        self._server.stop()
        shutil.rmtree(self.repository, ignore_errors=True)

    @property
    def url(self) -> str:
        """What a worker is told."""
        return self._proxy.address

    @property
    def model(self) -> Path:
        """The folder of the served model."""
        return self.repository / MODEL

    def mood(self, text: str) -> None:
        """See `models/actor/1/model.py`."""
        partial = self.repository / "mood.new"
        partial.write_text(text, encoding="utf-8")
        partial.replace(self.repository / "mood")

    def kill(self) -> None:
        """SIGKILL, the models' processes too."""
        self._wanted = False
        self._server.process.stop(grace_s=0)
        self._server.stop()  # removes what it left in /dev/shm

    def restart(self) -> None:
        """As another process, under the same address."""
        self.kill()
        self._server = self._start()
        self._proxy.target_port = _port(self._server.grpc_url)

    def tend(self) -> bool:
        """Whether it had died without being killed, and was started again: seen once when it woke, its stub first."""
        died = self._wanted and self._server.process.exit_code is not None
        if died:
            self.restart()
        return died

    def hang(self) -> None:
        self._server.process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        self._server.process.send_signal(signal.SIGCONT)

    def kill_stubs(self) -> int:
        """SIGKILL the processes that run the models, and leave the server; how many there were."""
        stubs = [child for child in psutil.Process(self._server.pid).children() if child.name().startswith(_STUB[:15])]
        for stub in stubs:
            stub.kill()
        return len(stubs)

    def serve(self, version: int) -> None:
        """This version of the model and no other, from now on: it is loaded before the one before goes."""
        if version != 1:
            shutil.copytree(self.model / "1", self.model / str(version), dirs_exist_ok=True)
        policy = json.dumps({"parameters": {"config": json.dumps(self._config(version))}}).encode()
        order = f"http://{self._server.http_url}/v2/repository/models/{MODEL}/load"
        with urllib.request.urlopen(urllib.request.Request(order, data=policy), timeout=_LOAD_S):
            pass

    def requests(self) -> int:
        """How many the server has been asked for, by its own count; none are forgotten until it ends."""
        about = f"http://{self._server.http_url}/v2/models/{MODEL}/stats"
        with urllib.request.urlopen(about, timeout=_LOAD_S) as answer:
            versions = json.load(answer)["model_stats"]
        return sum(int(of["inference_stats"][kind]["count"]) for of in versions for kind in ("success", "fail"))

    def _config(self, version: int) -> dict[str, Any]:
        about = f"http://{self._server.http_url}/v2/models/{MODEL}/config"
        with urllib.request.urlopen(about, timeout=_LOAD_S) as answer:
            config: dict[str, Any] = json.load(answer)
        return config | {"version_policy": {"specific": {"versions": [version]}}}

    def _start(self) -> TritonServer:
        self._wanted = True
        return TritonServer.start(self.repository, models=[MODEL])


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])
