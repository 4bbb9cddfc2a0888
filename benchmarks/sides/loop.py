"""The loop people write: poll, cv2.imdecode, resize, a synchronous Triton call, send. One process of it.

Written with the clients' defaults, as it stands in tutorials, but correct: the same preprocessing contract as the
worker's, every frame answered. `batch` 1 calls the model for each frame; more gathers that many first.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import tritonclient.grpc as triton
from kafka import KafkaConsumer, KafkaProducer
from PIL import Image

from benchmarks.sides.child import specification
from worker.frames import Float32Array, UInt8Array

TOP = 5
WRITTEN_FOR = ("shorter_side_crop", "bilinear_antialias", "rgb", "nhwc", "uint8")
GATHER_MS = 100


class LoopSpec(msgspec.Struct, frozen=True):
    """What one process of the loop is told."""

    bootstrap_servers: str
    frames_topic: str
    predictions_topic: str
    group: str
    triton_url: str
    model: str
    model_folder: str
    batch: int


def main() -> None:
    """Runs until it is killed; the harness counts its predictions."""
    spec = specification(LoopSpec)
    servers = spec.bootstrap_servers.split(",")
    contract = tomllib.loads((Path(spec.model_folder) / "preprocess.toml").read_text())
    labels = (Path(spec.model_folder) / "labels.txt").read_text().splitlines()
    consumer = KafkaConsumer(
        spec.frames_topic, bootstrap_servers=servers, group_id=spec.group, auto_offset_reset="earliest"
    )
    producer = KafkaProducer(bootstrap_servers=servers, value_serializer=lambda value: json.dumps(value).encode())
    client = triton.InferenceServerClient(spec.triton_url)
    waiting: list[Any] = []
    while True:
        polled = consumer.poll(timeout_ms=GATHER_MS, max_records=spec.batch - len(waiting))
        waiting += [record for records in polled.values() for record in records]
        if (len(waiting) < spec.batch and polled) or not waiting:
            continue
        images = np.stack([prepared(record.value, contract) for record in waiting])
        for record, scores in zip(waiting, infer(client, spec.model, images), strict=True):
            source = f"{record.topic}/{record.partition}/{record.offset}"
            producer.send(spec.predictions_topic, {"id": source, "classes": top(scores, labels)}, key=record.key)
        waiting = []


def prepared(value: bytes, contract: dict[str, Any]) -> UInt8Array:
    """An encoded frame as the contract of the shipped models has it: (height, width, 3) uint8 RGB.

    The middle of the picture, `crop_fraction` of its shorter side, resized with an antialiasing bilinear filter.
    OpenCV has no such filter, so this takes Pillow's, which is also what torchvision does to an image. Raises ValueError
    for a contract that asks for something else: a loop like this is written for one model.
    """
    asked = tuple(contract[key] for key in ("resize", "filter", "colour", "layout", "wire_dtype"))
    if asked != WRITTEN_FOR:
        raise ValueError(f"the loop prepares frames for {WRITTEN_FOR}, the model's contract asks for {asked}")
    picture = cv2.imdecode(np.frombuffer(value, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    height, width = picture.shape[:2]
    side = round(min(height, width) * contract["crop_fraction"])
    top, left = (height - side) // 2, (width - side) // 2
    middle = cv2.cvtColor(picture[top : top + side, left : left + side], cv2.COLOR_BGR2RGB)
    size = (contract["width"], contract["height"])
    return np.asarray(Image.fromarray(middle).resize(size, Image.Resampling.BILINEAR))


def infer(client: Any, model: str, images: UInt8Array) -> Float32Array:
    """(N, H, W, 3) uint8 -> (N, classes) logits, by one synchronous gRPC call."""
    tensor = triton.InferInput("image", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images)
    answer = client.infer(model, [tensor], outputs=[triton.InferRequestedOutput("logits")])
    logits: Float32Array = answer.as_numpy("logits")
    return logits


def top(logits: Float32Array, labels: list[str]) -> list[dict[str, Any]]:
    """The best classes with their probabilities."""
    scores = np.exp(logits - logits.max())
    scores /= scores.sum()
    best = np.argsort(scores)[::-1][:TOP]
    return [{"index": int(index), "label": labels[index], "score": round(float(scores[index]), 4)} for index in best]


if __name__ == "__main__":
    main()
