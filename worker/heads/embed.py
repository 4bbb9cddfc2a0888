"""The model's embedding as it is: no arithmetic but the check that its numbers are numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from worker.frames import AnyArray, Float32Array
from worker.heads.head import BoolArray, Sizes, matrix

# Half the text of a full float64 repr. The components of common embeddings are 0.01 to 10.
EMBEDDING_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Embedded:
    """`vectors` (n, d); `failed` (n,)."""

    vectors: Float32Array
    failed: BoolArray

    @property
    def top(self) -> None:
        """An embedding has no classes."""
        return

    def fields(self, row: int) -> dict[str, Any]:
        """`embedding`: d numbers rounded to EMBEDDING_DIGITS decimals."""
        return {"embedding": self.vectors[row].astype(np.float64).round(EMBEDDING_DIGITS).tolist()}


class EmbedHead:
    """For models with an output `embedding` (rows, d)."""

    task = "embed"
    output_names = ("embedding",)

    def __call__(self, outputs: Mapping[str, AnyArray], _sizes: Sizes = (), /) -> Embedded:
        """Raises ModelError if the output is missing or no matrix."""
        vectors = matrix(outputs, "embedding").astype(np.float32, copy=False)
        failed = np.logical_not(np.isfinite(vectors).all(axis=1))
        return Embedded(vectors, failed)
