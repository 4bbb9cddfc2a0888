"""The served model as the worker sees it: engine, preprocessing contract, labels and head, checked against each other."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from worker.errors import ConfigurationError, DependencyError, HeadraceError, ModelError
from worker.frames import Answer, Prepared, TensorSpec
from worker.heads import ClassifyHead, DetectHead, EmbedHead, Head, Reading, load_labels
from worker.infer import Engine, TritonEngine
from worker.infer.facts import ModelFacts, facts_of_folder
from worker.infer.fleet import Fleet
from worker.infer.member import Observer
from worker.observe.health import Health
from worker.observe.metrics import Metrics
from worker.pipeline.endpoints import Endpoints
from worker.preprocess.contract import Contract
from worker.security import triton_arguments
from worker.settings import Settings

log = logging.getLogger(__name__)

INPUT_NAME = "image"
OUTPUTS = {head.task: head.output_names for head in (ClassifyHead, DetectHead, EmbedHead)}


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that is ready, with what belongs to it."""

    engine: Fleet
    contract: Contract
    head: Head

    def read(self, answer: Answer, prepared: Prepared) -> Reading:
        """What its answer to this batch says. Raises ModelError if the outputs are not what its task has."""
        return self.head(answer.outputs, [row.facts.upright_size for row in prepared.rows])


@dataclass(frozen=True, slots=True)
class ServedModels:
    """The primary, and the simpler model that answers while the primary can't."""

    primary: ServedModel
    fallback: ServedModel | None = None

    def of(self, served_by: str) -> ServedModel:
        """The model that answers with this `served_by`: its head and contract are those of the answer."""
        if served_by == "fallback" and self.fallback is not None:
            return self.fallback
        return self.primary

    def check_presence(self) -> None:
        """Raises DependencyError if neither of them answers since the start."""
        away = self.primary.engine.absence
        if away is not None and self.fallback is not None and (too := self.fallback.engine.absence) is not None:
            raise DependencyError(f"{away} And the fallback: {too}")

    def close(self) -> None:
        """Close the engines. May be called again."""
        self.primary.engine.close()
        if self.fallback is not None:
            self.fallback.engine.close()


def open_models(settings: Settings, metrics: Metrics, health: Health) -> ServedModels:
    """The primary and, where the settings name one, the fallback; one of the two may be out of reach. Raises as `open_model` does."""
    other = settings.fallback_as_primary
    names = settings.infer.endpoints
    if other is None:
        return ServedModels(open_model(settings, Endpoints(names, metrics, health)))
    primary = open_model(settings, Endpoints(names, metrics, None), may_be_away=True)
    try:
        fallback = open_model(other, Endpoints((), metrics, None), "fallback", may_be_away=True)
    except HeadraceError as error:
        primary.engine.close()
        raise type(error)(f"the fallback: {error}") from error
    models = ServedModels(primary, fallback)
    try:
        models.check_presence()
    except DependencyError:
        models.close()
        raise
    return models


def open_model(
    settings: Settings, observer: Observer | None = None, served_by: str = "primary", may_be_away: bool = False
) -> ServedModel:
    """Load contract and labels, connect the engine, check that they fit.

    Raises ConfigurationError for missing files, ModelError for a misfit, DependencyError when Triton is out of reach. If it
    `may_be_away`, the model's folder says what it will serve, and the engine begins without it.
    """
    directory = model_directory(settings)
    contract = Contract.load(directory / "preprocess.toml")
    prefix = "" if served_by == "primary" else f"{served_by}/"
    connects = {
        f"{prefix}{name}": partial(_engine, settings, name, directory, contract, served_by)
        for name in settings.infer.endpoints
    }
    if not connects:
        raise ConfigurationError("infer.url names no address; set it to host:port of Triton's gRPC")
    assumed = _assumed(settings, directory, contract) if may_be_away else None
    engine = Fleet(
        connects, settings.infer.deadline_ms / 1000, settings.batching.max_in_flight, observer or Observer(), assumed
    )
    try:
        _check(settings, directory, contract, engine)
        return ServedModel(engine, contract, _head(settings, directory, contract, engine))
    except BaseException:
        engine.close()
        raise


def model_directory(settings: Settings) -> Path:
    """The folder that holds the model's contract and labels. Raises ConfigurationError when there is none."""
    directory = Path(settings.model.directory).expanduser()
    if not settings.model.directory or not directory.is_dir():
        raise ConfigurationError(
            f"model.directory is {settings.model.directory!r}, which is no folder; name the served model's folder, the one "
            "with preprocess.toml and labels.txt (`python -m triton_models.build` prints where it makes them)"
        )
    return directory


def _head(settings: Settings, directory: Path, contract: Contract, engine: Engine) -> Head:
    model = settings.model
    if model.task == "embed":
        return EmbedHead()
    path = directory / "labels.txt"
    if model.task == "detect":
        return DetectHead(load_labels(path), placement(contract), model.min_score, model.max_overlap)
    (logits,) = engine.outputs
    return ClassifyHead(load_labels(path, logits.shape[-1]), model.top_k)


def placement(contract: Contract) -> Callable[[int, int], tuple[float, float, float, float]]:
    """For `DetectHead`: from points of the contract's input back to those of an upright image."""

    def place(width: int, height: int) -> tuple[float, float, float, float]:
        window = contract.window(width, height)
        source, shown = window.source, window.destination
        x_scale, y_scale = source.width / shown.width, source.height / shown.height
        return x_scale, y_scale, source.x - shown.x * x_scale, source.y - shown.y * y_scale

    return place


def _assumed(settings: Settings, directory: Path, contract: Contract) -> ModelFacts | None:
    """What the folder says Triton will serve; None if it holds no config.pbtxt, or one of something else."""
    if settings.infer.backend != "triton":
        return None
    try:
        text = (directory / "config.pbtxt").read_text(encoding="utf-8")
        facts = facts_of_folder(text, _input(contract), OUTPUTS[settings.model.task])
    except (OSError, UnicodeDecodeError, ModelError) as error:
        log.warning("%s does not tell what %s will serve: %s", directory, settings.model.name, error)
        return None
    if facts.identity.name != settings.model.name:
        log.warning("%s is of %s, not of %s", directory / "config.pbtxt", facts.identity.name, settings.model.name)
        return None
    return facts


def _input(contract: Contract) -> TensorSpec:
    return TensorSpec(INPUT_NAME, contract.dtype, contract.tensor_shape)


def _engine(settings: Settings, url: str, directory: Path, contract: Contract, served_by: str) -> Engine:
    spec = _input(contract)
    output_names = OUTPUTS[settings.model.task]
    if settings.infer.backend == "local":
        # Imported where it is used: onnxruntime takes 25 MB that a worker beside Triton doesn't need.
        from worker.infer.local import LocalEngine

        return LocalEngine(
            directory,
            input_spec=spec,
            output_names=output_names,
            served_by=served_by,
            threads=settings.infer.local_threads,
            runtime=settings.infer.local_runtime,
        )
    return TritonEngine(
        url,
        settings.model.name,
        settings.model.version,
        input_spec=spec,
        output_names=output_names,
        served_by=served_by,
        shared_memory=settings.infer.shared_memory,
        access=triton_arguments(settings.infer),
    )


def _check(settings: Settings, directory: Path, contract: Contract, engine: Engine) -> None:
    if engine.max_batch_size < settings.batching.max_batch_size:
        raise ModelError(
            f"{settings.model.name} takes batches of at most {engine.max_batch_size}, batching.max_batch_size is "
            f"{settings.batching.max_batch_size}; lower the setting or raise the model's max_batch_size"
        )
    if engine.preprocess_digest not in (None, contract.digest):
        log.warning(
            "the served %s was built with preprocessing contract %s, but %s is %s: rebuild the model after a change of its "
            "contract; predictions name the contract that was used here",
            settings.model.name,
            engine.preprocess_digest,
            directory / "preprocess.toml",
            contract.digest,
        )
