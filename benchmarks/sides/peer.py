"""What a peer does with a frame, whatever framework carries it: bytes -> the contract's pixels -> scores -> a record.

Written once for all of them, with OpenCV, Pillow and tritonclient, as the users of those frameworks would write it well.
Runs in the project's environment and in that of the peers, so it imports nothing that only one of them has.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
from PIL import Image

from worker.frames import Float32Array, UInt8Array

TOP = 5
WRITTEN_FOR = ("shorter_side_crop", "rgb", "nhwc", "uint8")
FILTERS = ("bilinear_antialias", "bilinear")
# For the frameworks on librdkafka: by default it waits a second before it fetches again once its queue was full, which
# starves whoever empties the queue in less.
LIBRDKAFKA = {"fetch.queue.backoff.ms": 2}


class PeerSpec(msgspec.Struct, frozen=True):
    """What one process of a peer is told. `batch` is the number of frames a call of the model takes at most."""

    bootstrap_servers: str
    frames_topic: str
    predictions_topic: str
    group: str
    triton_url: str
    model: str
    model_folder: str
    batch: int


class Task:
    """The model's contract and labels, read once. Its methods may be called from any number of threads."""

    def __init__(self, model_folder: str) -> None:
        self._contract = tomllib.loads((Path(model_folder) / "preprocess.toml").read_text())
        self._labels = (Path(model_folder) / "labels.txt").read_text().splitlines()

    def prepared(self, value: bytes) -> UInt8Array:
        """An encoded frame as the model takes it: (height, width, 3) uint8 RGB. See `prepared`."""
        return prepared(value, self._contract)

    def record(self, topic: str, partition: int, offset: int, logits: Float32Array) -> dict[str, Any]:
        """The prediction for the frame at that place."""
        return {"id": f"{topic}/{partition}/{offset}", "classes": top(logits, self._labels)}

    def encoded(self, topic: str, partition: int, offset: int, logits: Float32Array) -> bytes:
        """`record` as JSON."""
        return json.dumps(self.record(topic, partition, offset, logits)).encode()


def prepared(value: bytes, contract: dict[str, Any]) -> UInt8Array:
    """An encoded frame as the contract of the shipped models has it: (height, width, 3) uint8 RGB.

    The middle of the picture, `crop_fraction` of its shorter side, resized. OpenCV has no antialiasing bilinear filter, so
    for that one it takes Pillow's, which is also what torchvision does to an image. Raises ValueError for a contract
    that asks for something else: code like this is written for one model.
    """
    asked = tuple(contract[key] for key in ("resize", "colour", "layout", "wire_dtype"))
    if asked != WRITTEN_FOR or contract["filter"] not in FILTERS:
        written = f"{WRITTEN_FOR} with one of {FILTERS}"
        raise ValueError(f"peers prepare frames for {written}, the contract asks for {asked}, {contract['filter']}")
    picture = cv2.imdecode(np.frombuffer(value, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    height, width = picture.shape[:2]
    side = round(min(height, width) * contract["crop_fraction"])
    top, left = (height - side) // 2, (width - side) // 2
    middle = picture[top : top + side, left : left + side]
    size = (contract["width"], contract["height"])
    if contract["filter"] == "bilinear":
        small: UInt8Array = cv2.cvtColor(cv2.resize(middle, size, interpolation=cv2.INTER_LINEAR), cv2.COLOR_BGR2RGB)
        return small
    rgb = cv2.cvtColor(middle, cv2.COLOR_BGR2RGB)
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BILINEAR))


def request(client_module: Any, images: UInt8Array) -> dict[str, Any]:
    """Arguments of one call of the model: (N, H, W, 3) uint8 in, logits out. `client_module`: tritonclient.grpc or its aio."""
    tensor = client_module.InferInput("image", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images)
    return {"inputs": [tensor], "outputs": [client_module.InferRequestedOutput("logits")]}


def infer(client_module: Any, client: Any, model: str, images: UInt8Array) -> Float32Array:
    """(N, H, W, 3) uint8 -> (N, classes) logits, by one synchronous gRPC call."""
    logits: Float32Array = client.infer(model, **request(client_module, images)).as_numpy("logits")
    return logits


def top(logits: Float32Array, labels: list[str]) -> list[dict[str, Any]]:
    """The best classes with their probabilities."""
    scores = np.exp(logits - logits.max())
    scores /= scores.sum()
    best = np.argsort(scores)[::-1][:TOP]
    return [{"index": int(index), "label": labels[index], "score": round(float(scores[index]), 4)} for index in best]
