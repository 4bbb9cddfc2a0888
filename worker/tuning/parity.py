"""The same frames decoded whole and scaled, through the worker's own decoder and transform, and what a model sees in both.

Encoded frames and a model's scores go in, pairs for `worker.tuning.agreement` come out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec
import numpy as np

from worker.decode import decode
from worker.frames import AnyArray, Float32Array, ImageFacts, Rejected, UInt8Array
from worker.ingest.validate import ImageLimits, inspect
from worker.preprocess.contract import Contract
from worker.preprocess.cpu import CpuTransform
from worker.tuning.agreement import Pair

# (n, *tensor shape) of the wire -> (n, classes) logits.
Score = Callable[[AnyArray], AnyArray]


def pairs(contract: Contract, values: Iterable[bytes], score: Score, rows: int) -> Iterator[Pair]:
    """A pair for each of the frames that a scaled decode would change; `rows` of them at a time are scored.

    Frames that are refused, are no JPEG or have no pixels to spare are passed over. Raises ValueError if the contract's
    filter allows no scaled decoding at all.
    """
    scaled = msgspec.structs.replace(contract, scaled_decode=True)
    found = ((value, facts) for value in values if (facts := _scalable(value, scaled)) is not None)
    transform = CpuTransform(contract)
    while chunk := list(itertools.islice(found, rows)):
        (whole_input, whole_grids), (scaled_input, scaled_grids) = (
            _prepared(transform, version, chunk)
            for version in (msgspec.structs.replace(contract, scaled_decode=False), scaled)
        )
        levels = np.abs(whole_grids.astype(np.int16) - scaled_grids).mean(axis=(1, 2, 3))
        whole, after = softmax(score(whole_input)), softmax(score(scaled_input))
        for row, level in enumerate(levels.tolist()):
            first = int(whole[row].argmax())
            yield Pair(level, first, int(after[row].argmax()), float(whole[row, first]))


def softmax(logits: AnyArray) -> Float32Array:
    """(n, classes) -> the same shape, each row summing to 1."""
    powers = np.exp(logits.astype(np.float32) - logits.max(axis=1, keepdims=True))
    probabilities: Float32Array = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def _scalable(value: bytes, contract: Contract) -> ImageFacts | None:
    try:
        facts = inspect(value, ImageLimits())
    except Rejected:
        return None
    return facts if facts.format == "jpeg" and contract.decode_target(*facts.upright_size) else None


def _prepared(
    transform: CpuTransform, contract: Contract, frames: Sequence[tuple[bytes, ImageFacts]]
) -> tuple[AnyArray, UInt8Array]:
    """Inputs of the wire, and the grids before normalisation."""
    inputs = np.empty((len(frames), *contract.tensor_shape), contract.dtype)
    grids = np.empty((len(frames), contract.height, contract.width, 3), np.uint8)
    for row, (value, facts) in enumerate(frames):
        pixels = decode(value, facts, contract.decode_target(*facts.upright_size)).pixels
        grids[row] = transform(pixels, inputs[row], facts.upright_size)
    return inputs, grids
