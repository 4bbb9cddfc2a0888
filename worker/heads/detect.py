"""Candidate boxes to detections: the best of those that overlap in each class, in pixels of the upright source image.

The model gives K candidates a row in pixels of its input; a whole batch is thresholded, suppressed and mapped back in a few
array operations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from worker.errors import ModelError
from worker.frames import AnyArray, Float32Array
from worker.heads.classify import SCORE_DIGITS
from worker.heads.head import BoolArray, IndexArray, Sizes
from worker.records import Detection

BOX_DIGITS = 2  # no detector places a side to a hundredth of a pixel
NO_CLASS = -1  # index in `top` of a frame without a detection

Float64Array = npt.NDArray[np.float64]
# (width, height) of an upright image -> (x scale, y scale, x origin, y origin): what the input shows at (x, y) is the
# image's point (x scale * x + x origin, y scale * y + y origin).
Placement = Callable[[int, int], tuple[float, float, float, float]]


@dataclass(frozen=True, slots=True)
class Detected:
    """(n, m) candidates, best first; of those that are not `kept` the rest means nothing. `boxes` (n, m, 4) as in records."""

    kept: BoolArray
    indices: IndexArray
    scores: Float64Array
    boxes: Float64Array
    failed: BoolArray
    labels: tuple[str, ...]

    @property
    def top(self) -> tuple[IndexArray, Float32Array]:
        """Index and score of each row's best detection, (n,) each; NO_CLASS and 0 for a row without one."""
        if not self.kept.shape[1]:
            return np.full(len(self.kept), NO_CLASS, np.intp), np.zeros(len(self.kept), np.float32)
        first = self.kept.argmax(axis=1)[:, None]
        found = np.take_along_axis(self.kept, first, axis=1)[:, 0]
        index = np.where(found, np.take_along_axis(self.indices, first, axis=1)[:, 0], NO_CLASS)
        score = np.where(found, np.take_along_axis(self.scores, first, axis=1)[:, 0], 0)
        return index, score.astype(np.float32)

    def fields(self, row: int) -> dict[str, Any]:
        """`detections`, best first; scores rounded to SCORE_DIGITS, sides to BOX_DIGITS."""
        kept = self.kept[row]
        parts = (self.indices[row, kept], self.scores[row, kept], self.boxes[row, kept].round(BOX_DIGITS))
        found = zip(*(part.tolist() for part in parts), strict=True)
        labels = self.labels
        detections = [
            Detection(index=index, label=labels[index], score=round(score, SCORE_DIGITS), box=tuple(box))
            for index, score, box in found
        ]
        return {"detections": detections}


class DetectHead:
    """For models with outputs `boxes` (rows, K, 4: x0, y0, x1, y1 in pixels of the input), `scores` and `classes` (rows, K)."""

    task = "detect"
    output_names = ("boxes", "scores", "classes")

    def __init__(self, labels: tuple[str, ...], placement: Placement, min_score: float, max_overlap: float) -> None:
        """Of two boxes of a class whose intersection over union is above `max_overlap` the better one stays."""
        self._labels = labels
        self._placement = placement
        self._min_score = min_score
        self._max_overlap = max_overlap

    def __call__(self, outputs: Mapping[str, AnyArray], sizes: Sizes, /) -> Detected:
        """Equal scores come in the model's order. Sides are cut at the image's edge, and what lies outside is dropped."""
        given, heat, classes = _checked(outputs, len(sizes))
        failed = np.logical_not(np.isfinite(given).all(axis=(1, 2)) & np.isfinite(heat).all(axis=1))
        heat = np.where(failed[:, None], np.float32(-np.inf), heat)
        heat = np.where(heat >= np.float32(self._min_score), heat, np.float32(-np.inf))
        # The candidates that reach the score stand first: few of a hundred, so what follows is done for few.
        count = int((heat > -np.inf).sum(axis=1).max(initial=0))
        order = np.argsort(-heat, axis=1, kind="stable")[:, :count]
        scores = np.take_along_axis(heat, order, axis=1).astype(np.float64)
        indices = np.take_along_axis(classes, order, axis=1).astype(np.intp)
        possible = scores > -np.inf
        boxes = np.take_along_axis(given, order[:, :, None], axis=1).astype(np.float64)
        boxes[~possible] = 0
        self._check(indices[possible])
        mapped = self._mapped(boxes, sizes)
        possible &= (mapped[:, :, 2:] > mapped[:, :, :2]).all(axis=2)
        kept = _suppressed(boxes, indices, possible, self._max_overlap)
        return Detected(kept, indices, scores, mapped, failed, self._labels)

    def _check(self, indices: IndexArray) -> None:
        if indices.size and not 0 <= indices.min() <= indices.max() < len(self._labels):
            raise ModelError(
                f"the model's output `classes` holds {indices.min()} to {indices.max()}, but there are "
                f"{len(self._labels)} labels; every class needs one"
            )

    def _mapped(self, boxes: Float64Array, sizes: Sizes) -> Float64Array:
        """(n, m, 4) in pixels of the upright images, inside them."""
        places = {size: self._placement(*size) for size in set(sizes)}  # a camera's frames are of one size
        place = np.array([places[size] for size in sizes]).reshape(-1, 1, 4)
        limit = np.array(sizes, np.float64).reshape(-1, 1, 2)
        mapped = boxes * np.tile(place[:, :, :2], 2) + np.tile(place[:, :, 2:], 2)
        inside: Float64Array = mapped.clip(0, np.tile(limit, 2))
        return inside


def _suppressed(boxes: Float64Array, indices: IndexArray, possible: BoolArray, max_overlap: float) -> BoolArray:
    """(n, m): `possible` less those that a better kept one of their class overlaps too much. Candidates are best first."""
    area = (boxes[:, :, 2:] - boxes[:, :, :2]).prod(axis=2)
    first, second = boxes[:, :, None], boxes[:, None]
    common = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    shared = common.clip(min=0).prod(axis=3)
    # Multiplied out: boxes without area divide nothing by nothing.
    overlaps = shared > max_overlap * (area[:, :, None] + area[:, None] - shared)
    rivals = overlaps & (indices[:, :, None] == indices[:, None])
    kept = possible.copy()
    for better in range(kept.shape[1] - 1):
        kept[:, better + 1 :] &= ~(rivals[:, better, better + 1 :] & kept[:, better, None])
    return kept


def _checked(outputs: Mapping[str, AnyArray], rows: int) -> tuple[Float32Array, Float32Array, AnyArray]:
    """The three outputs, if their shapes belong together. Raises ModelError that names what came instead."""
    try:
        boxes, scores, classes = (outputs[name] for name in DetectHead.output_names)
    except KeyError as error:
        given = ", ".join(sorted(outputs)) or "nothing"
        raise ModelError(f"the model gave no output `{error.args[0]}`, only {given}") from None
    if scores.ndim != 2 or len(scores) != rows or classes.shape != scores.shape or boxes.shape != (*scores.shape, 4):
        raise ModelError(
            f"the model's outputs have the shapes boxes {boxes.shape}, scores {scores.shape}, classes {classes.shape}; "
            f"expected ({rows}, K, 4), ({rows}, K) and ({rows}, K)"
        )
    return boxes.astype(np.float32, copy=False), scores.astype(np.float32, copy=False), classes
