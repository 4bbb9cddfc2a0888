"""`headrace batch`: the same pipeline over files, folders, globs and videos; goes on where an earlier run stopped."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from worker.cli.draw import Drawings
from worker.cli.options import ConfigFile, Json, Sets, load
from worker.cli.output import progress, result, say
from worker.cli.signals import stop_on_signals
from worker.ingest.files import find, frames, total
from worker.observe import logs
from worker.observe.metrics import Metrics
from worker.publish.files import DEAD_LETTERS_SUFFIX, open_sink

EXIT_INTERRUPTED = 130


def batch(
    sources: Annotated[list[str], typer.Argument(metavar="SRC...", help="Images, videos, folders, globs.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Predictions: .jsonl, .ndjson, or .parquet (a folder).")],
    file: ConfigFile = None,
    draw: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write each predicted frame here with its boxes or best class.")
    ] = None,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Predict on files. Started again with the same --out it skips what has an outcome there."""
    settings = load(file, sets).settings
    logs.configure("warning" if settings.log.level == "info" else settings.log.level, settings.log.format)
    items = find(sources)
    expected = total(items)
    drawings = None if draw is None else Drawings(draw, items)
    stop = threading.Event()
    stop_on_signals(stop)
    with open_sink(out) as sink, progress(hidden=as_json) as bar:
        names = {item.name for item in items}  # the output may hold outcomes of other sources too
        skipped = sum(id_.rsplit("/", 2)[0] in names for id_ in sink.done)
        task = bar.add_task(out.name, total=expected, completed=skipped)
        from worker.pipeline.files import run_files  # its libraries take a second; a wrong path shall not wait

        summary = run_files(
            settings,
            frames(items, sink.done),
            sink,
            Metrics(settings.endpoints),
            lambda count: bar.advance(task, count),
            stop,
            drawings,
        )
    told: dict[str, Any] = {
        "out": str(out),
        "predictions": summary.predictions,
        "dead_letters": summary.dead_letters.total(),
        "dead_letters_by_reason": dict(summary.dead_letters),
        "skipped": skipped,
        "finished": summary.finished,
        "seconds": round(summary.seconds, 3),
        "frames_per_second": round(
            (summary.predictions + summary.dead_letters.total()) / max(summary.seconds, 1e-9), 1
        ),
    }
    if as_json:
        result(told)
    else:
        say(_sentence(told, out))
    if not summary.finished:
        raise typer.Exit(EXIT_INTERRUPTED)


def _sentence(told: dict[str, Any], out: Path) -> str:
    text = f"{told['predictions']} predictions in {out}, {told['seconds']:.1f} s ({told['frames_per_second']:.1f} frames/s)"
    if told["dead_letters"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in told["dead_letters_by_reason"].items())
        text += f"; {told['dead_letters']} dead letters ({reasons}) in {out.name}{DEAD_LETTERS_SUFFIX}"
    if told["skipped"]:
        text += f"; {told['skipped']} frames had an outcome already"
    if not told["finished"]:
        text += "; stopped before the end, the same command goes on from here"
    return text
