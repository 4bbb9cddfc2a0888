"""Output tensors to what a prediction says: classes, detections or an embedding."""

from __future__ import annotations

from worker.heads.classify import Classified, ClassifyHead, load_labels
from worker.heads.detect import Detected, DetectHead
from worker.heads.embed import Embedded, EmbedHead
from worker.heads.head import Head, Reading

__all__ = [
    "Classified",
    "ClassifyHead",
    "DetectHead",
    "Detected",
    "EmbedHead",
    "Embedded",
    "Head",
    "Reading",
    "load_labels",
]
