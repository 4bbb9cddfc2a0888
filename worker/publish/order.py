"""Puts batches back into the order in which they were taken. Pure."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Reorder(Generic[T]):
    """Batches are answered in any order; they leave by number, without gaps."""

    def __init__(self) -> None:
        self._next = 0
        self._waiting: dict[int, T] = {}

    def push(self, number: int, batch: T) -> list[T]:
        """Take one in; returns those that may leave now, in order. Each number comes once."""
        if number < self._next or number in self._waiting:
            raise ValueError(f"batch {number} came twice")
        self._waiting[number] = batch
        ready = []
        while self._next in self._waiting:
            ready.append(self._waiting.pop(self._next))
            self._next += 1
        return ready

    def __len__(self) -> int:
        return len(self._waiting)
