"""What every head has in common: it turns a whole batch of output tensors into what the predictions say, at once.

A head is chosen by the model's task. The pipeline calls it with an answer's outputs, dead-letters the rows in `failed`,
puts the `fields` of the others into their predictions and gives `top` to the statistics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from worker.errors import ModelError
from worker.frames import AnyArray, Float32Array

BoolArray = npt.NDArray[np.bool_]
IndexArray = npt.NDArray[np.intp]
# (width, height) of each row's image, upright, in pixels.
Sizes = Sequence[tuple[int, int]]


class Reading(Protocol):
    """What a head made of a batch of n rows."""

    @property
    def failed(self) -> BoolArray:
        """(n,): True where the model's numbers are no numbers (NaN, infinity): such a row has no prediction."""

    @property
    def top(self) -> tuple[IndexArray, Float32Array] | None:
        """Index and score of each row's best class, (n,) each; -1 and 0 where it has none; None if the task has no classes."""

    def fields(self, row: int) -> dict[str, Any]:
        """The task's fields of `worker.records.Prediction` for a row that has not failed."""


class Head(Protocol):
    """Callable from any thread."""

    @property
    def task(self) -> str:
        """As predictions name it."""

    @property
    def output_names(self) -> tuple[str, ...]:
        """The tensors to ask the model for."""

    def __call__(self, outputs: Mapping[str, AnyArray], sizes: Sizes, /) -> Reading:
        """`sizes` are for tasks that speak of places in the image. Raises ModelError if the outputs are not the head's."""


def matrix(outputs: Mapping[str, AnyArray], name: str, columns: int | None = None) -> AnyArray:
    """The output `name`, which has to be (rows, columns). Raises ModelError that names what came instead."""
    if name not in outputs:
        raise ModelError(f"the model gave no output `{name}`, only {', '.join(sorted(outputs)) or 'nothing'}")
    array = outputs[name]
    if array.ndim != 2 or (columns is not None and array.shape[1] != columns):
        expected = f"(rows, {'any' if columns is None else columns})"
        raise ModelError(f"the model's output `{name}` has shape {array.shape}; expected {expected}")
    return array
