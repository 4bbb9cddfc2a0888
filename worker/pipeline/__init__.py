"""Wires the stages: the only place that knows them all.

Five roles in one process: the poll thread (`intake`), decode threads that each fill a whole batch (`filling`), the
engine's threads that hand answers on (`inferring`), one publisher that puts batches back in order (`publishing`), and the
clients' own I/O threads.
"""

from worker.pipeline.stream import run_stream

__all__ = ["run_stream"]
