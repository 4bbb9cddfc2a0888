"""The consumer as the pipeline sees it; `worker.ingest.kafka` and `worker.ingest.confluent` are the two there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from worker.frames import SourcePartition
from worker.ingest.partitions import Chunk, Skipped, Unreadable


class Consumer(Protocol):
    """The group member. Called from the poll thread alone, but for `membership`."""

    @property
    def generation(self) -> int:
        """The group's generation as this member knows it; -1 outside the group."""

    def membership(self) -> Any:
        """Who we are, with `generation_id` and `member_id`: what a transaction's offsets carry. From any thread."""

    @property
    def assignment(self) -> frozenset[SourcePartition]:
        """Partitions this member owns now."""

    def begin(self, source: SourcePartition) -> tuple[int, Skipped | None] | None:
        """Fix where a new partition starts, and let it flow. Returns the offset and what of it was skipped.

        None: the broker does not answer now, or the partition was taken away meanwhile; ask again while it is assigned.
        """

    def poll(self, max_frames: int, timeout_s: float) -> tuple[list[Chunk], list[Skipped], list[Unreadable]]:
        """Frames that arrived, offsets found to be gone, partitions found to be unreadable.

        Raises DependencyError for what no retry of this client can mend.
        """

    def pause(self, sources: Iterable[SourcePartition]) -> None:
        """Stop fetching; polling goes on."""

    def resume(self, sources: Iterable[SourcePartition]) -> None:
        """Fetch again, but for partitions stopped at an unreadable record."""

    def seek(self, source: SourcePartition, offset: int) -> None:
        """The next frame of this partition is the one at `offset`."""

    def position(self, source: SourcePartition) -> int | None:
        """Offset of the next fetch; it moves over markers and compacted records too. None: not known now."""

    def commit(self, offsets: dict[SourcePartition, int], done: Callable[[Exception | None], None]) -> None:
        """Send a commit, one at a time; `done` hears its end from a later poll, with the error if it failed."""

    def commit_now(self, offsets: dict[SourcePartition, int], timeout_s: float) -> None:
        """Commit and wait. Raises DependencyError."""

    def lags(self, fresh: bool) -> dict[SourcePartition, int]:
        """Records between position and end. `fresh` asks the broker (while paused no fetch brings the news)."""

    def close(self) -> None:
        """Leave the group; nothing is committed here."""
