"""Logits to the k best classes with their probabilities, for a whole batch in a few array operations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worker.errors import ModelError
from worker.frames import AnyArray, Float32Array
from worker.heads.head import BoolArray, IndexArray, Sizes, matrix
from worker.records import ClassScore

# Scores travel as JSON text: float32 is not known more closely than this.
SCORE_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Classified:
    """(n, k) each, best first: class indices and softmax scores; of a failed row they mean nothing. `failed` is (n,)."""

    indices: IndexArray
    scores: Float32Array
    failed: BoolArray
    labels: tuple[str, ...]

    @property
    def top(self) -> tuple[IndexArray, Float32Array]:
        """Index and score of each row's best class, (n,) each."""
        return self.indices[:, 0], self.scores[:, 0]

    def fields(self, row: int) -> dict[str, Any]:
        """`classes`, best first, scores rounded to SCORE_DIGITS."""
        pairs = zip(self.indices[row].tolist(), self.scores[row].tolist(), strict=True)
        labels = self.labels
        classes = [
            ClassScore(index=index, label=labels[index], score=round(score, SCORE_DIGITS)) for index, score in pairs
        ]
        return {"classes": classes}


class ClassifyHead:
    """For models with an output `logits` (rows, classes), one label a class."""

    task = "classify"
    output_names = ("logits",)

    def __init__(self, labels: tuple[str, ...], top_k: int) -> None:
        """`top_k` of at least 1; more than there are labels gives all of them."""
        self._labels = labels
        self._k = min(top_k, len(labels))

    def __call__(self, outputs: Mapping[str, AnyArray], _sizes: Sizes = (), /) -> Classified:
        """Softmax over all classes, then the k best. Equal logits among the k come in order of their index."""
        logits = matrix(outputs, "logits", len(self._labels)).astype(np.float32, copy=False)
        peak = logits.max(axis=1, keepdims=True)
        # The maximum of a row with a NaN is NaN. A class at -inf is impossible, which is a legitimate answer.
        failed = ~np.isfinite(peak[:, 0])
        if failed.any():
            logits = np.where(failed[:, None], np.float32(0), logits)
            peak = np.where(failed[:, None], np.float32(0), peak)
        # Chosen by the logits: subtracting the peak makes small ones that differ equal.
        best = np.argpartition(logits, -self._k, axis=1)[:, -self._k :]
        best.sort(axis=1)
        values = np.take_along_axis(logits, best, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        total = np.exp(logits - peak).sum(axis=1, keepdims=True)  # no overflow: the largest is exp(0)
        scores = np.exp(np.take_along_axis(values, order, axis=1) - peak) / total
        return Classified(np.take_along_axis(best, order, axis=1), scores, failed, self._labels)


def load_labels(path: Path, classes: int | None = None) -> tuple[str, ...]:
    """`labels.txt`: one label a line, UTF-8, in the order of the model's classes; `classes` where their number is known.

    Raises ModelError.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ModelError(f"can't read the labels {path}: {error.strerror}; this task needs one label a line") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} is not UTF-8 text: {error}") from error
    labels = tuple(line.strip() for line in lines)
    if "" in labels:
        raise ModelError(f"{path}: line {labels.index('') + 1} is empty; every class needs a label")
    if classes is not None and len(labels) != classes:
        raise ModelError(f"{path} has {len(labels)} labels, but the model's output `logits` has {classes} classes")
    return labels
