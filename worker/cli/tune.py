"""`headrace tune`: the arrangement of threads, processes and batches that suits this machine and model, found by measuring.

The real worker runs over real frames, many times and briefly, between an embedded broker and the model's own server or
engine. Questions are asked one after the other, the answers to each run in turn in the same minutes; then the winner runs
against the defaults. What was chosen is written as a settings file, with the figures and reasons in it.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from triton_models.build import BuildError, Serving, build_repository, data_dir, read_manifests
from worker.cli.options import ConfigFile, Json, Sets, load
from worker.cli.output import result, say, stderr_console, stdout_console
from worker.cli.tune_report import Answered, Tuned, settings_text, show
from worker.cli.tune_runs import Runs
from worker.embedded.assets import demo_images, demo_video
from worker.embedded.triton import TritonServer, unsupported_reason
from worker.errors import ConfigurationError, DependencyError
from worker.ingest.files import as_jpeg, find, frames
from worker.settings import Settings
from worker.tuning.agreement import agreement
from worker.tuning.arrangements import QUESTIONS, Arrangement, Ground, Question, question
from worker.tuning.choosing import Measured, choose, describe, worth_another_run

MODEL = "efficientnet_lite2"
MOST_PICTURES = 200  # different ones; they come again in turn
FIRST_FRAMES = 256  # their rate tells how many frames a run of the wanted length takes
LEAST_FRAMES = 128  # some batches in every process
CONFIRMATION = "the defaults against what was found"


def tune(
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="[SRC]...", help="Pictures like yours; by default the demo's.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the settings go.")] = Path("headrace.tuned.toml"),
    file: ConfigFile = None,
    sets: Sets = None,
    model: Annotated[str, typer.Option(help="A shipped model, where the settings name none.")] = MODEL,
    seconds: Annotated[float, typer.Option(min=0.2, help="Length of a run, about.")] = 5.0,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each arrangement.")] = 3,
    as_json: Json = False,
) -> None:
    """Measure which threads, processes and batches suit this machine, and write the settings that say so."""
    settings = load(file, sets).settings
    console = stderr_console()
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("runs"),
        TimeElapsedColumn(),
        console=console,
        disable=as_json or not console.is_terminal,
    )
    with ExitStack() as stack:
        stack.enter_context(bar)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-tune-")))
        start_triton: Callable[[int], TritonServer] | None = None
        if not settings.model.directory:
            settings, start_triton = _shipped(settings, model)
        pictures = _pictures(sources or ())
        runs = Runs(settings, folder, stack, start_triton)
        instances = Serving().instances if start_triton else 0
        tuned = _ground(runs, settings, pictures, instances)
        _search(runs, tuned, pictures, bar, seconds, rounds)
    out.write_text(settings_text(tuned), encoding="utf-8")
    if as_json:
        result({"out": str(out), **tuned.fields()})
    else:
        show(stdout_console(), tuned, out)


def _search(runs: Runs, tuned: Tuned, pictures: Sequence[bytes], bar: Progress, seconds: float, rounds: int) -> None:
    incumbent = tuned.ground.start
    task = bar.add_task("how fast it is at all", total=1)
    runs.fill(pictures, FIRST_FRAMES)
    first = runs.run(incumbent)
    bar.advance(task)
    tuned.frames = runs.fill(pictures, max(LEAST_FRAMES, int(first.frames_per_second * seconds)))
    for name in QUESTIONS:
        asked = question(name, incumbent, tuned.ground)
        incumbent = ask(runs.run, tuned, asked, bar, rounds)
    if incumbent != tuned.ground.start:
        ask(runs.run, tuned, Question(CONFIRMATION, (tuned.ground.start, incumbent)), bar, rounds)


def ask(
    run: Callable[[Arrangement], Measured], tuned: Tuned, asked: Question, bar: Progress, rounds: int
) -> Arrangement:
    """Run the candidates in turn, without those that are beaten beyond hope; what was found goes to `tuned`."""
    results: dict[Arrangement, list[Measured]] = {each: [] for each in asked.candidates}
    if len(results) == 1:
        return asked.candidates[0]
    task = bar.add_task(asked.name, total=rounds * len(results))
    left = list(results)
    for number in range(rounds):
        # The first moves from round to round, so that none always follows the same neighbour.
        for each in left[number % len(left) :] + left[: number % len(left)]:
            bar.update(task, description=f"{asked.name}: {describe(each)}")
            results[each].append(run(each))
            bar.advance(task)
        kept = worth_another_run(results)
        bar.update(task, total=bar.tasks[task].completed + len(kept) * (rounds - number - 1), description=asked.name)
        left = kept
    choice = choose(results)
    tuned.answered.append(Answered(asked.name, results, choice))
    return choice.arrangement


def _shipped(settings: Settings, model: str) -> tuple[Settings, Callable[[int], TritonServer] | None]:
    """Settings for a shipped model, and who starts a Triton with so many instances of it; None where none can run."""
    data = data_dir()
    reason = unsupported_reason()

    def repository(serving: Serving | None = None) -> Path:
        try:
            return build_repository(data, serving=serving)
        except BuildError as error:
            raise DependencyError(str(error)) from error

    folder = repository() / model
    if not folder.is_dir():
        raise ConfigurationError(f"{model!r} is no shipped model; there are {', '.join(read_manifests(folder.parent))}")
    replace = msgspec.structs.replace
    settings = replace(
        settings,
        model=replace(settings.model, name=model, directory=str(folder)),
        infer=replace(settings.infer, backend="local" if reason else "triton"),
    )
    if reason:
        say(f"Triton can't run here, the local engine takes its place: {reason}")
        return settings, None
    return settings, lambda instances: TritonServer.start(repository(Serving(instances=instances)), [model], data)


def _pictures(sources: Sequence[str]) -> list[bytes]:
    """Up to MOST_PICTURES encoded frames of the sources, or the demo's photos and its street video."""
    if not sources:
        data = data_dir()
        sources = [*(str(image.path) for image in demo_images(data)), str(demo_video(data))]
    found = itertools.islice(frames(find(sources), encode=as_jpeg), MOST_PICTURES)
    return [frame.value for frame in found if frame.value]


def _ground(runs: Runs, settings: Settings, pictures: Sequence[bytes], instances: int) -> Tuned:
    """What may be varied, by the model's own limit, and how scaled decoding fares on these pictures.

    `instances` is how many a Triton of ours has by default, 0 if it is none of ours. Scaled decoding is not judged where
    the task has no classes or the contract's filter allows none of it.
    """
    # Their libraries take a second to load; `--help` and a wrong flag shall not wait.
    from worker.tuning.parity import pairs
    from worker.tuning.scoring import opened

    cores = len(os.sched_getaffinity(0))
    engines = max(1, cores // 2) if settings.infer.backend == "local" else instances
    with opened(runs.served_by(engines)) as scorer:
        contract = scorer.contract
        is_judged = settings.model.task == "classify" and contract.filter == "bilinear_antialias"
        agreed = agreement(pairs(contract, pictures, scorer.score, scorer.rows)) if is_judged else None
        return Tuned(settings, Ground(cores, engines, scorer.max_batch), agreed, contract.scaled_decode)
