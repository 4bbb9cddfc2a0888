"""Every error Headrace raises, sorted by whose fault it is.

Vendor exceptions are mapped to these once, at the adapter that meets them. The message says what was seen, what was
expected and what to do; the class says whose fault it is, whether a retry can help, and which exit code a command ends with.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class Fault(StrEnum):
    """Who has to act."""

    SENDER = "sender"
    MODEL = "model"
    INFRASTRUCTURE = "infrastructure"
    OURS = "ours"
    USER = "user"


class HeadraceError(Exception):
    """Base of all errors of the project; never raised itself."""

    fault: ClassVar[Fault] = Fault.OURS
    can_retry: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1


class ConfigurationError(HeadraceError):
    """A setting, an argument or a file the user names is wrong."""

    fault = Fault.USER
    exit_code = 2


class ModelError(ConfigurationError):
    """The model and its contract, or the model and the worker, do not fit each other."""

    fault = Fault.MODEL


class DependencyError(HeadraceError):
    """Something the worker stands on (broker, topic, Triton) is missing or out of reach."""

    fault = Fault.INFRASTRUCTURE
    can_retry = True
    exit_code = 3


class NotAllowed(DependencyError):
    """The broker or server answers and refuses us: login, certificate, or a right that is missing. No retry mends that."""

    fault = Fault.USER
    can_retry = False


class InferenceUnavailable(DependencyError):
    """The endpoint did not answer, was too busy, or missed the deadline: the same batch may succeed later."""


class InferenceTimedOut(InferenceUnavailable):
    """The endpoint did not answer within the deadline; it may still be at it."""


class EndpointDown(InferenceUnavailable):
    """Nothing answers there, or the model's process is gone: no batch can succeed until that changes."""


class NoEndpoint(InferenceUnavailable):
    """No endpoint takes batches now, so this one was not sent."""


class GpuMemoryFull(DependencyError):
    """An allocation on the GPU, or of page-locked memory, failed: the same work in smaller parts may succeed."""


class GpuLost(DependencyError):
    """The CUDA context is dead, and with it all that was on the GPU: only a new process gets another one."""

    can_retry = False


class InferenceRejected(HeadraceError):
    """The endpoint answered, and refused this batch: the same batch will be refused again."""

    fault = Fault.MODEL


class PublishFailed(DependencyError):
    """The broker did not acknowledge a record; its partitions go back to their committed offsets."""


class Fenced(DependencyError):
    """The broker has given our transactional id to another producer: nothing of ours counts any more."""

    can_retry = False


class FramesLost(HeadraceError):
    """Something was lost or refused that should not have been."""

    exit_code = 4


class TooManyRefusals(HeadraceError):
    """The model refuses so many frames that it can't be their fault: the worker stops before it sets more of them apart."""

    fault = Fault.MODEL
    exit_code = 4
