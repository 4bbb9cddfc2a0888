"""How often a graph in another precision gives the verdict of the float32 graph, with that share's interval.

Both run under onnxruntime on the same frames, the converted one by `precision_emulation`, so that it rounds where a GPU
rounds. What a GPU's kernels add by summing in another order is below that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from triton_models.build.precision import Batch
from triton_models.build.precision_emulation import emulated
from triton_models.build.triton_config import INPUT

Array = npt.NDArray[Any]
Verdicts = npt.NDArray[np.bool_]

CONFIDENT = 0.3  # score from which a box counts: the published network's own for drawing
SAME_PLACE = 0.5  # overlap from which two boxes are of one thing, as PASCAL VOC and COCO take it
_Z = 1.959964  # of a two-sided interval of 95 %
_DETECTION = ("boxes", "scores", "classes")


@dataclass(frozen=True, slots=True)
class Agreement:
    """`same` of `frames` frames got the same verdict; `low`..`high` is Wilson's 95 % interval of the share.

    The interval takes frames as independent. Those of one video are not: its true width is larger.
    """

    frames: int
    same: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """0..1."""
        return self.same / self.frames

    def __str__(self) -> str:
        return f"{self.share:.4f} ({self.low:.4f} to {self.high:.4f}) of {self.frames} frames"


def agreement(same: int, frames: int) -> Agreement:
    """With Wilson's score interval (Wilson 1927), which stays inside 0..1 and has a width at 0 and 1 too."""
    if not 0 <= same <= frames or frames < 1:
        raise ValueError(f"{same} of {frames} frames is no share")
    share, z2 = same / frames, _Z * _Z
    centre = (share + z2 / (2 * frames)) / (1 + z2 / frames)
    half = _Z / (1 + z2 / frames) * math.sqrt(share * (1 - share) / frames + z2 / (4 * frames * frames))
    # At 0 and 1 the end is the share itself, but for rounding.
    return Agreement(frames, same, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)))


def measured_agreement(reference: bytes, candidate: bytes, batches: Sequence[Batch], threads: int = 0) -> Agreement:
    """Of `candidate` with `reference`, both ONNX graphs of the same outputs. `threads` 0: all cores.

    Raises ValueError if the graph is neither a classifier (`logits`) nor a detector (`boxes`, `scores`, `classes`).
    """
    sessions = [_session(model, threads) for model in (reference, emulated(candidate))]
    names = [output.name for output in sessions[0].get_outputs()]
    same_verdicts, wanted = (same_classes, ["logits"]) if "logits" in names else (found_again, list(_DETECTION))
    if missing := set(wanted) - set(names):
        raise ValueError(f"the graph gives {', '.join(names)}; for a verdict it lacks {', '.join(sorted(missing))}")
    same = 0
    for batch in batches:
        expected, given = (session.run(wanted, {INPUT: batch}) for session in sessions)
        same += int(same_verdicts(expected, given).sum())
    return agreement(same, sum(map(len, batches)))


def same_classes(expected: Sequence[Array], given: Sequence[Array]) -> Verdicts:
    """Whether the best class is the same. Both hold one array of scores, (N, classes); (N,) comes out."""
    agree: Verdicts = expected[0].argmax(axis=1) == given[0].argmax(axis=1)
    return agree


def found_again(expected: Sequence[Array], given: Sequence[Array]) -> Verdicts:
    """Whether the most confident box of `expected` is among the confident ones of `given`, of its class and in its place.

    Both hold boxes (N, K, 4) as x0, y0, x1, y1, scores (N, K) and classes (N, K); (N,) comes out. A frame without a
    confident box agrees if `given` has none either.
    """
    rows = []
    for boxes, scores, classes, *others in zip(*expected, *given, strict=True):
        other_boxes, other_scores, other_classes = others
        confident, best = other_scores >= CONFIDENT, scores.argmax()
        if scores[best] < CONFIDENT:
            rows.append(not confident.any())
            continue
        candidates = other_boxes[confident & (other_classes == classes[best])]
        rows.append(bool((overlap(boxes[best], candidates) >= SAME_PLACE).any()))
    return np.array(rows)


def overlap(box: Array, boxes: Array) -> Array:
    """Intersection over union of (4,) with each of (M, 4); (M,), 0..1."""
    least, greatest = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    common = np.clip(greatest - least, 0, None).prod(axis=1)
    areas = (box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) - common
    shares: Array = common / np.maximum(areas, np.finfo(np.float32).tiny)
    return shares


def _session(model: bytes, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Pairs stay pairs: merged into integer kernels they round otherwise than the graph says.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
