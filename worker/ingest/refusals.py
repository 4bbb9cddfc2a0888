"""The two verdicts that every header reader can give, as exceptions to raise.

They know the stage and the reason, so that a reader states only what it saw and what the sender can do.
"""

from __future__ import annotations

from worker.frames import Reason, Rejected, Stage


def unsupported(detail: str) -> Rejected:
    """A format, or a kind of one, that is known but not decoded."""
    return Rejected(Reason.UNSUPPORTED_FORMAT, detail, Stage.VALIDATE)


def corrupt(detail: str) -> Rejected:
    """Bytes that the format's definition does not allow."""
    return Rejected(Reason.CORRUPT, detail, Stage.VALIDATE)
