"""`headrace engine`: build a TensorRT engine from a served model, and check one against this machine.

The frames it is measured on go through the worker's own validation, decoding and preprocessing, so that INT8's scales and
the agreement are those of what will be served.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from triton_models.build.engine import EngineOptions, build_engine, check_engine
from triton_models.build.engine.fit import Server
from triton_models.build.engine.manifest import Hardware
from triton_models.build.folders import BuildError, data_dir
from triton_models.build.triton_config import Precision
from worker.cli.options import Json
from worker.cli.output import end_with, result, say
from worker.errors import ConfigurationError, ModelError
from worker.frames import AnyArray, Rejected
from worker.ingest.files import find, frames

# Of frames as the model takes them: 200 KB each for the shipped classifiers, and a minute of both graphs on two cores.
MOST_FRAMES = 1000
_ROWS = 16

app = typer.Typer(help="TensorRT engines: build one for a GPU's Triton, check one.", no_args_is_help=True)

Model = Annotated[Path, typer.Argument(metavar="DIR", exists=True, file_okay=False, help="The model's folder.")]
Python = Annotated[
    Path, typer.Option("--python", metavar="FILE", help="Python of an environment with the server's TensorRT.")
]


@app.command()
def build(
    model: Model,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Model repository of the GPU's Triton.")],
    tensorrt: Annotated[str, typer.Option(metavar="VERSION", help="The server's TensorRT, such as 11.4.0.")],
    cuda: Annotated[str, typer.Option(metavar="MAJOR", help="The server's CUDA major version, such as 12.")],
    python: Python = Path("python3"),
    precision: Annotated[Precision, typer.Option(help="Of the graph that the plan is built from.")] = Precision.FP16,
    sources: Annotated[
        list[str] | None,
        typer.Option(
            "--frames", metavar="SRC", help="Images, videos, folders, globs to measure on; may be given again."
        ),
    ] = None,
    max_batch_size: Annotated[int, typer.Option(min=1, max=1024, help="Greatest batch of the engine.")] = 64,
    instances: Annotated[int, typer.Option(min=1, max=16, help="Instances on the GPU.")] = 2,
    hardware: Annotated[Hardware, typer.Option(help="GPUs that it shall run on.")] = Hardware.THIS,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Load in later versions of the same TensorRT major, too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Convert a served model, measure what that changes, build its plan and write the folder that Triton loads."""
    try:
        server = Server(tensorrt, cuda)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    options = EngineOptions(server, precision, hardware, version_compatible, max_batch_size, instances)
    batches = list(model_inputs(sources or (), model / "preprocess.toml"))
    cache = data_dir() / "engines" / f"timing-{tensorrt}.cache"
    try:
        manifest = build_engine(model, out, options, python, batches, cache, say)
    except BuildError as error:
        raise ModelError(str(error)) from error
    told: dict[str, Any] = {"folder": str(out / manifest.name), **manifest.parameters()}
    if as_json:
        result(told)
    else:
        sys.stdout.write("".join(f"{key:20} {value}\n" for key, value in told.items()))


@app.command()
def check(model: Model, python: Python = Path("python3"), as_json: Json = False) -> None:
    """Say whether an engine is whole and loads with this TensorRT on this GPU; exit 2 with the reasons if not."""
    try:
        manifest, machine, reasons = check_engine(model, python)
    except BuildError as error:
        raise ModelError(str(error)) from error
    where = f"TensorRT {machine.tensorrt} on {machine.device or 'no GPU'}"
    if as_json:
        result({"ok": not reasons, "engine": manifest.parameters(), "reasons": reasons})
    elif not reasons:
        sys.stdout.write(f"ok: {manifest.name} in {manifest.precision} loads with {where}\n")
    if reasons:
        end_with(ModelError(f"{manifest.name} can't be served with {where}: " + "; ".join(reasons)))


def model_inputs(sources: Sequence[str], contract_file: Path) -> Iterator[AnyArray]:
    """Batches (N, *input shape) of at most MOST_FRAMES frames, spread evenly over `sources`, as the contract prepares them.
    Frames that a worker would refuse are left out.

    Raises ConfigurationError for a source that is missing, and if no frame is left.
    """
    if not sources:
        return
    # Imported where they are used: the other commands start without them.
    import numpy as np

    from worker.decode import decode
    from worker.ingest.validate import ImageLimits, inspect
    from worker.preprocess import Contract, CpuTransform

    items, contract = find(sources), Contract.load(contract_file)
    step = max(1, -(-sum(item.frames or 1 for item in items) // MOST_FRAMES))
    transform, limits = CpuTransform(contract), ImageLimits()
    batch = np.empty((_ROWS, *contract.tensor_shape), contract.dtype)
    rows = given = 0
    for number, frame in enumerate(frames(items)):
        if number % step:
            continue
        try:
            facts = inspect(frame.value, limits)
            image = decode(frame.value or b"", facts, contract.decode_target(*facts.upright_size))
        except Rejected:
            continue
        transform(image.pixels, batch[rows], facts.upright_size)
        rows, given = rows + 1, given + 1
        if rows == _ROWS:
            yield batch.copy()
            rows = 0
    if rows:
        yield batch[:rows].copy()
    if not given:
        raise ConfigurationError(f"{', '.join(sources)}: no frame there can be decoded")
