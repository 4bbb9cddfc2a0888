"""A sender that goes on in the background at a steady rate until it is told to end."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping

from tests.acceptance.corpus import Frame, paced, small
from tests.rig.audit import produce_frames
from tests.rig.outcomes import SentFrame
from tests.rig.topics import Topics


class Feed:
    """Sends small frames of `keys` cameras, `per_s` a second. Leaving the context ends it.

    `partition_of` and `settings` as `produce_frames` takes them.
    """

    def __init__(
        self,
        topics: Topics,
        per_s: float,
        keys: int = 31,
        partition_of: Callable[[int], int] | None = None,
        settings: Mapping[str, str | int] | None = None,
    ) -> None:
        self._ending = threading.Event()
        self._least = 0
        self._sent: list[SentFrame] | None = None
        self._error: BaseException | None = None
        frames = self._until_told(paced(small(10**9, keys), per_s))

        def send() -> None:
            try:
                self._sent = produce_frames(topics.bootstrap_servers, topics.frames, frames, partition_of, settings)
            except BaseException as error:  # told to whoever asks for the result
                self._error = error

        self._thread = threading.Thread(target=send, name="feed", daemon=True)
        self._thread.start()

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def end(self, at_least: int = 0) -> list[SentFrame]:
        """What was sent, once it is acknowledged; first goes on until `at_least` frames are out. Raises what the sender met."""
        self._least = at_least
        self._ending.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._sent is not None
        return self._sent

    def _until_told(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        for number in itertools.count():
            if self._ending.is_set() and number >= self._least:
                return
            yield next(frames)
