"""The verdicts of the decode stage, as exceptions to raise.

They know the stage and the reason, so that a decoder states only what it saw and what the sender can do.
"""

from __future__ import annotations

from worker.frames import Reason, Rejected, Stage


def truncated(detail: str) -> Rejected:
    """The value ends before the picture does."""
    return Rejected(Reason.TRUNCATED, detail, Stage.DECODE)


def corrupt(detail: str) -> Rejected:
    """Bytes that the format's definition does not allow, or that contradict its own header or checksums."""
    return Rejected(Reason.CORRUPT, detail, Stage.DECODE)


def unsupported(detail: str) -> Rejected:
    """A sound picture of a kind that is not decoded here."""
    return Rejected(Reason.UNSUPPORTED_FORMAT, detail, Stage.DECODE)
