"""The files sink: predictions as lines of JSON or as Parquet, dead letters as JSON lines beside them.

Each batch's outcomes are handed to the operating system before `write` returns; what an earlier run left is read when a
sink is opened, so that a batch goes on where it stopped. JSON lines cut off at a crash are removed. Parquet is a folder
of part files, each put in place whole: a crash repeats the frames of the unfinished part.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

import msgspec

from worker.errors import ConfigurationError
from worker.frames import Frame, Rejection
from worker.records import encode

# A part is some megabytes at five classes a frame: few files for a million frames, a minute's work to repeat on a CPU.
PART_ROWS = 10_000
DEAD_LETTERS_SUFFIX = ".dlq.jsonl"
JSONL_SUFFIXES = frozenset({".jsonl", ".ndjson"})
_READ_BYTES = 1024 * 1024
_LINE_START = b'{"id":"'  # of every line that this module writes
_KEPT_COLUMNS = ("id", "model", "preprocess")


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A line of `<out>.dlq.jsonl`; `path` and `frame` (number in its file) find the input again."""

    id: str
    reason: str
    detail: str
    stage: str
    path: str
    frame: int


class FilesSink(Protocol):
    """Where the outcomes of files go. `done` holds the ids of all frames that have an outcome already."""

    done: set[str]

    def write(self, predictions: Sequence[bytes], dead_letters: Iterable[tuple[Frame, Rejection]]) -> None:
        """Keep a batch's outcomes; predictions are values of prediction records (JSON).

        Raises ConfigurationError if another model made what is there already.
        """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def close(self) -> None:
        """Put the last outcomes in place."""


class _Seen(msgspec.Struct):
    """What of a line or row tells whether work is done, and by what."""

    id: str
    model: _SeenModel | None = None
    preprocess: str = ""


class _SeenModel(msgspec.Struct):
    name: str
    digest: str


def open_sink(out: Path) -> FilesSink:
    """The sink for a name: `.jsonl` or `.ndjson`, or `.parquet`. Raises ConfigurationError for others."""
    suffix = out.suffix.lower()
    if suffix not in JSONL_SUFFIXES and suffix != ".parquet":
        raise ConfigurationError(f"{out}: the name of the output must end with .jsonl, .ndjson or .parquet")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return ParquetSink(out) if suffix == ".parquet" else JsonlSink(out)
    except OSError as error:
        raise ConfigurationError(f"{out} can't be written: {error.strerror}; name another output") from error


class _Base:
    """What both sinks share: the dead letters, the ids, the guard against a mixture of models."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.done: set[str] = set()
        self._made_by: tuple[str, str, str] | None = None
        self._dead_letters = _Lines(out.with_name(out.name + DEAD_LETTERS_SUFFIX))
        self._recall(self._dead_letters)

    def _recall(self, lines: _Lines) -> None:
        for line in lines.whole():
            try:
                self._remember(_seen_decoder.decode(line))
            except msgspec.DecodeError as error:
                raise _not_ours(lines.path, str(error)) from error
        lines.cut_torn()

    def _remember(self, seen: _Seen) -> None:
        self.done.add(seen.id)
        if seen.model is not None:
            self._made_by = (seen.model.name, seen.model.digest, seen.preprocess)

    def _check(self, predictions: Sequence[bytes]) -> None:
        before = self._made_by
        for prediction in predictions[:1]:  # one model answers a batch
            self._remember(_seen_decoder.decode(prediction))
        if before is not None and before != self._made_by:
            raise ConfigurationError(
                f"{self.out} holds predictions of {' '.join(before)}, now it would be {' '.join(self._made_by or ())}; "
                f"name another output, or remove this one to start anew"
            )

    def _write_dead_letters(self, dead_letters: Iterable[tuple[Frame, Rejection]]) -> None:
        self._dead_letters.append(
            encode(
                DeadLetter(
                    id=frame.id,
                    reason=rejection.reason,
                    detail=rejection.detail,
                    stage=rejection.stage,
                    path=frame.source.topic,
                    frame=frame.offset,
                )
            )
            for frame, rejection in dead_letters
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Put the last outcomes in place; may be called again."""
        self._dead_letters.close()


class JsonlSink(_Base):
    """One prediction a line, as its record has it. Raises ConfigurationError if `out` is no such file."""

    def __init__(self, out: Path) -> None:
        super().__init__(out)
        self._predictions = _Lines(out)
        self._recall(self._predictions)

    def write(self, predictions: Sequence[bytes], dead_letters: Iterable[tuple[Frame, Rejection]]) -> None:
        """Append a batch's outcomes and hand them to the operating system."""
        self._check(predictions)
        self._predictions.append(predictions)
        self._write_dead_letters(dead_letters)

    def close(self) -> None:
        """Close both files; may be called again."""
        self._predictions.close()
        super().close()


class ParquetSink(_Base):
    """A folder `out` of `part-00000.parquet` ..., which every Parquet reader takes as one table.

    Columns and nested fields have the names of the record; times are UTC timestamps.
    """

    def __init__(self, out: Path) -> None:
        import pyarrow.parquet as pq  # 40 MB of memory that only this sink needs

        if out.is_file():
            raise ConfigurationError(f"{out} is a file; Parquet output is a folder of part files: name another output")
        out.mkdir(parents=True, exist_ok=True)
        super().__init__(out)
        self._rows: list[bytes] = []
        for unfinished in out.glob("*.tmp"):
            unfinished.unlink()
        parts = sorted(out.glob("part-*.parquet"))
        self._next_part = 1 + max((int(part.stem.removeprefix("part-")) for part in parts), default=-1)
        for part in parts:
            for batch in pq.ParquetFile(part).iter_batches(columns=list(_KEPT_COLUMNS)):
                for row in batch.to_pylist():
                    self._remember(msgspec.convert(row, _Seen))

    def write(self, predictions: Sequence[bytes], dead_letters: Iterable[tuple[Frame, Rejection]]) -> None:
        """Keep a batch's outcomes; predictions are on disk once their part is full, or the sink is closed."""
        self._check(predictions)
        self._rows += predictions
        self._write_dead_letters(dead_letters)
        if len(self._rows) >= PART_ROWS:
            self._write_part()

    def close(self) -> None:
        """Write the last part; may be called again."""
        self._write_part()
        super().close()

    def _write_part(self) -> None:
        if not self._rows:
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pylist([_row(prediction) for prediction in self._rows], schema=_schema())
        name = f"part-{self._next_part:05d}.parquet"
        temporary = self.out / f"{name}.tmp"
        pq.write_table(table, temporary, compression="zstd")
        temporary.rename(self.out / name)
        self._rows.clear()
        self._next_part += 1


class _Lines:
    """A file of lines that is only appended to, after `cut_torn` has removed a line that a crash cut off."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] = path.open("a+b")

    def whole(self) -> Iterator[bytes]:
        self._file.seek(0)
        for line in self._file:
            if line.endswith(b"\n"):
                yield line

    def cut_torn(self) -> None:
        """Raises ConfigurationError, and cuts nothing, if the end looks like nothing we wrote."""
        end = self._file.seek(0, os.SEEK_END)
        keep = _end_of_last_line(self._file, end)
        self._file.seek(keep)
        if not _LINE_START.startswith(self._file.read(len(_LINE_START))):
            raise _not_ours(self.path, "its last line has no end")
        self._file.truncate(keep)

    def append(self, lines: Iterable[bytes]) -> None:
        block = b"".join(line + b"\n" for line in lines)
        if block:
            self._file.write(block)
            self._file.flush()

    def close(self) -> None:
        self._file.close()


def _end_of_last_line(file: IO[bytes], end: int) -> int:
    while end > 0:
        start = max(0, end - _READ_BYTES)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _not_ours(path: Path, why: str) -> ConfigurationError:
    return ConfigurationError(f"{path} is not an output of headrace ({why}); name another output")


def _row(prediction: bytes) -> dict[str, object]:
    row: dict[str, object] = msgspec.json.decode(prediction)
    for name in ("captured_at", "predicted_at"):
        row[name] = datetime.fromisoformat(str(row[name]))
    return row


def _schema() -> Any:
    import pyarrow as pa

    text, integer, real = pa.string(), pa.int64(), pa.float32()
    moment = pa.timestamp("us", tz="UTC")

    def struct(**fields: Any) -> Any:
        return pa.struct(list(fields.items()))

    model = dict.fromkeys(("name", "version", "digest", "runtime", "precision", "served_by", "engine_digest"), text)
    return pa.schema(
        {
            "id": text,
            "frame_id": text,
            "stream": text,
            "source": struct(topic=text, partition=pa.int32(), offset=integer),
            "captured_at": moment,
            "captured_at_source": text,
            "predicted_at": moment,
            "image": struct(format=text, width=pa.int32(), height=pa.int32(), decoder=text),
            "model": struct(**model),
            "preprocess": text,
            "task": text,
            "timings_ms": struct(queued=real, decode=real, batch=real, infer=real),
            "classes": pa.list_(struct(index=pa.int32(), label=text, score=real)),
            "detections": pa.list_(struct(index=pa.int32(), label=text, score=real, box=pa.list_(real, 4))),
            "embedding": pa.list_(real),
        }
    )


_seen_decoder = msgspec.json.Decoder(_Seen)
