"""What the pipeline knows of inference: an `Engine` takes a filled slot and a deadline, and gives an answer or an error.

The pipeline attaches its slot pool once, then submits batches; each comes back through its own callback, exactly once,
from a thread of the engine's. Triton and the local engine stand behind this one face.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from worker.buffers import Slot, SlotPool
from worker.errors import HeadraceError, ModelError
from worker.frames import Answer, ModelIdentity, TensorSpec

Done = Callable[[Answer | HeadraceError], None]


class Served(Protocol):
    """What one has to know of a model before it is asked."""

    @property
    def identity(self) -> ModelIdentity:
        """The model that serves now; an `Answer` carries the identity of the one that made it."""
        ...

    @property
    def preprocess_digest(self) -> str | None:
        """Hash of the preprocessing contract the model was made with, where the model tells it."""
        ...

    @property
    def input(self) -> TensorSpec:
        """The one input."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs an `Answer` holds."""
        ...

    @property
    def max_batch_size(self) -> int:
        """Most rows of one submission."""
        ...


class Engine(Served, Protocol):
    """Runs one model. All methods but `close` may be called from any thread."""

    def attach(self, pool: SlotPool) -> None:
        """Make ready for slots of `pool`, some of which may be in use elsewhere; runs the model a few times. Called once,
        before `submit`.

        Raises ModelError if the slots do not fit the model, DependencyError if the model can't be reached.
        """
        ...

    def submit(self, slot: Slot, rows: int, deadline: float, done: Done) -> None:
        """Infer the first `rows` rows of `slot`, which the caller holds until `done` is called.

        Returns at once. `done` is called exactly once, from another thread, at `deadline` (monotonic seconds) at the
        latest; it must be cheap, because it runs on the thread that receives all answers. The engine takes a hold of
        its own and keeps it, after the deadline too, until nothing reads the slot for this submission any more.
        """
        ...

    def close(self) -> None:
        """Answer what is outstanding with InferenceUnavailable and leave the server as it was. Slots stay the pool's."""
        ...


def check_fit(pool: SlotPool, spec: TensorSpec, max_batch_size: int, model: str) -> None:
    """Raises ModelError if a slot of `pool` is no batch of `spec`; a dimension of -1 takes any size."""
    if pool.rows > max_batch_size:
        raise ModelError(
            f"{model} takes at most {max_batch_size} frames in a batch, but batching.max_batch_size is {pool.rows}: "
            f"set it to {max_batch_size} or less."
        )
    if pool.dtype != spec.dtype or not shapes_agree(spec.shape, pool.shape):
        raise ModelError(
            f"{model} takes {spec.dtype} of shape {spec.shape}, but the slots hold {pool.dtype} of shape {pool.shape}: "
            "the preprocessing contract in use belongs to another model."
        )


def shapes_agree(model: tuple[int, ...], given: tuple[int, ...]) -> bool:
    """Whether `given` is an instance of the model's shape, in which -1 stands for any size."""
    return len(model) == len(given) and all(m in (-1, g) for m, g in zip(model, given, strict=True))
