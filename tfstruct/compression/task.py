"""What has to be done: the model, the data, the budget, and all that the steps of a strategy work with."""

import contextlib
import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Mapping
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from tfstruct.analyze import Costs
from tfstruct.arguments import require_count, require_number, require_one_of
from tfstruct.augment import Pipeline
from tfstruct.compression.budget import OF_THE_GRAPH, Budget, Limits
from tfstruct.compression.candidate import Candidate
from tfstruct.compression.data_sizes import of_data_sizes, open_inputs
from tfstruct.compression.dataset import Examples, Stream, open_data
from tfstruct.compression.folder import WorkingFolder
from tfstruct.compression.held_out import HeldOut, split
from tfstruct.compression.measuring import Measuring, run_file
from tfstruct.compression.objective import objective
from tfstruct.compression.progress import Progress, ProgressReporter
from tfstruct.compression.quality import quality
from tfstruct.convert import micro
from tfstruct.convert.converter import ConverterProcess
from tfstruct.convert.devices import device
from tfstruct.convert.draft import draft
from tfstruct.convert.latency import LatencyTable
from tfstruct.convert.recipe import Recipe
from tfstruct.convert.tflite_model import TFLiteModel
from tfstruct.errors import (
    ArgumentError,
    ArgumentTypeError,
    BudgetError,
    ConversionError,
    DataError,
    ModelError,
    RecipeError,
)
from tfstruct.graph import Graph, fingerprint, open_and_trace
from tfstruct.graph.keras_model import require_model
from tfstruct.graph.layer_tree import states_kept
from tfstruct.graph.opening import no_more_opening
from tfstruct.graph.sizes import fixed_batch
from tfstruct.keras_internals.tensorflow import lacks_threads
from tfstruct.precisions import CALIBRATORS
from tfstruct.samples import Preprocess
from tfstruct.samples.ports import Ports

_SOME = 512  # samples for what looks at data besides training: importance, batch norm, calibration


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the work is done, as plain data.

    Attributes:
        epochs: of training, in all.
        batch_size: of training.
        learning_rate: the highest of Adam's; quantization-aware training takes less, see `steps.Quantize`.
        distillation: the share of the original's outputs in the loss, in [0, 1]; see `distillation_callbacks`.
        temperature: of these outputs.
        target: the device, see `tfstruct.check_target`.
        calibrator: of post-training quantization.
        seed: of everything that is drawn.

    Example:
        >>> tfstruct.compression.Settings(epochs=2).batch_size
        64
    """

    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 1e-3
    distillation: float = 0.5
    temperature: float = 3.0
    target: str = "mobile"
    calibrator: str = "percentile"
    seed: int = 0

    def __post_init__(self):
        for name, least in (("epochs", 0), ("batch_size", 1), ("seed", 0)):
            object.__setattr__(self, name, require_count(name, getattr(self, name), least, error=RecipeError))
        for name in ("learning_rate", "temperature"):
            object.__setattr__(self, name, require_number(name, getattr(self, name), above=0, error=RecipeError))
        share = require_number("distillation", self.distillation, least=0, most=1, error=RecipeError)
        object.__setattr__(self, "distillation", share)
        require_one_of("calibrator", self.calibrator, CALIBRATORS, error=RecipeError)
        device(self.target)


class Task(contextlib.AbstractContextManager):
    """A model to compress, with its data, opened and measured once; for one or many strategies.

        with Task(model, train, validation, "macs=50%", workdir="work") as task:
            made = carry_out(task, [steps.PruneChannels(budget={"macs": 0.5}), steps.Quantize()])

    Args: as in `compress`, and
        strategy: which the working folder is for.
        process: a converter process that is running already.
        alone: whether it has the working folder for itself; False for the workers of a search, whose parent has it.

    Attributes:
        model: the original, its custom layers opened, which nothing changes.
        graph: of it.
        train, validation: the data.
        held_out: samples that are neither trained on nor in `validation`, which decisions within a strategy are judged
            on; None where the training data is less than some 200 samples.
        aim: what is trained for.
        budget, limits: as asked, and in absolute figures.
        settings: how the work is done.
        options: the other arguments, for another process to open the same.
        warnings: what the user should know.
        folder: the working folder.
        measure: a model to its figures and file.
        recipe: what is common to all conversions.
        original, plain: the figures of the model as a float32 file, and of its int8 file by post-training quantization.
        plain_file: that file's bytes.

    Example:
        >>> from tfstruct.compression import Settings, Task
        >>> with Task(model, (x, y), (x, y), "macs=60%", settings=Settings(epochs=1), workdir="work") as task:
        ...     task.original.macs, task.limits.figures
        (160, {'macs': 96.0})
    """

    def __init__(
        self,
        model: keras.Model,
        train: Any,
        validation: Any,
        budget: Budget | Mapping[str, float] | str,
        *,
        settings: Settings = Settings(),
        loss: Any = None,
        metric: Any = None,
        greater_is_better: bool | None = None,
        labels: Any = None,
        preprocess: Preprocess = Preprocess(),  # noqa: B008 (frozen)
        augment: Pipeline | None = None,
        workdir: str | os.PathLike | None = None,
        progress: Callable[[Progress], None] | None = None,
        strategy: Any = "auto",
        process: ConverterProcess | None = None,
        open_layers: str | bool = "auto",
        alone: bool = True,
    ):
        _refuse_forked_process()
        _refuse_strategy()
        self.budget, self.settings, self.augment = Budget.of(budget), settings, augment
        _require_types(augment, progress)
        self.options = {
            "loss": loss, "metric": metric, "greater_is_better": greater_is_better, "augment": augment,
            "strategy": strategy, "open_layers": open_layers,
        }  # fmt: skip
        require_model(model)
        self.progress = ProgressReporter(progress)
        self.warnings = _own_training(model)
        if open_inputs(model):
            self.progress.stage("read data")
            train = open_data(train, Ports(model), labels=labels, preprocess=preprocess)
            model, warning = of_data_sizes(model, train)
            train.ports = Ports(model)
            self.warnings = (*self.warnings, warning)
        self.graph = open_and_trace(model, open_layers=open_layers)
        self.model = model = self.graph.model
        _refuse_fixed_batches(model)
        _refuse_unknown_figures(self.graph, self.budget)
        self.progress.stage("read data")
        ports = Ports(model)
        opened = functools.partial(open_data, ports=ports, labels=labels, preprocess=preprocess)
        self.open_data = opened
        given: Examples | Stream = opened(train)
        self.train, held_out, seen = split(given, settings.seed)
        self.validation = _whole(opened(validation))
        self.some = self.train.take(_SOME)
        self.aim = objective(self.graph, self.some.labels, loss)
        for data in (self.train if isinstance(self.train, Examples) else self.some, self.validation):
            self.aim.require_classes(data.labels, data.source)
        self.held_out = None if held_out is None else HeldOut(held_out, self.aim, model, seen)
        self.quality = quality(self.graph, self.validation, self.aim, metric, greater_is_better)
        self.folder = WorkingFolder.open(workdir, self._description(strategy), alone=alone)
        self._exits = contextlib.ExitStack()
        self._exits.callback(self.folder.close)
        self._exits.enter_context(states_kept(model))
        self._exits.enter_context(_without_retracing_warnings())
        try:
            self.process = process or self._exits.enter_context(ConverterProcess())
            with no_more_opening():
                self._measure_first()
        except BaseException:
            self._exits.close()
            raise

    def __enter__(self) -> Self:
        self._exits.enter_context(no_more_opening())  # the steps get what this task has opened, or has left closed
        return self

    def __exit__(self, *exc) -> None:
        self._exits.close()

    def _measure_first(self) -> None:
        settings, validation = self.settings, self.validation
        self.recipe = Recipe(calibrator=settings.calibrator, samples=_SOME)
        has_arena = device(settings.target).has_arena and micro.version() is not None
        arena = has_arena or self.budget.arena_bytes is not None
        table = None if self.budget.latency_table is None else LatencyTable.read(self.budget.latency_table)
        self.progress.stage("measure the original")
        outputs = self.model.predict(validation.x, batch_size=settings.batch_size, verbose=0)
        truth = outputs if validation.labels is None else validation.labels
        expected = keras.tree.flatten(outputs)
        classes = {"probabilities", "logits"}.issuperset(self.aim.kinds)
        first = Measuring(validation, truth, expected, self.quality, self.process, self.some, classes, table, arena)
        stored = self.folder.read("plain.json", _measured, list)
        if stored is None:
            self.plain, file = first("plain int8", self.model, self.recipe.replace(precision="int8"))
            self.plain_file = file.content
            second = dataclasses.replace(first, reference=self.plain_file, reference_us=_latency(self.plain))
            self.original, _ = second("original", self.model, self.recipe)
            file.save(self.folder.path / "plain.tflite")
            known = hashlib.sha256(self.plain_file).hexdigest()
            self.folder.write("plain.json", [self.plain.to_dict(), self.original.to_dict(), known])
        else:
            self.plain, self.original, known = stored
            self.plain_file = self.folder.content("plain.tflite", known)
        self.measure = dataclasses.replace(first, reference=self.plain_file, reference_us=_latency(self.plain))
        self.limits: Limits = self.budget.limits(self.original, self.plain)

    @property
    def some_inputs(self):
        """Some samples as the functions of `surgery` and `analyze` take them: to these a tuple would be (x, y)."""
        return list(self.some.x) if isinstance(self.some.x, tuple) else self.some.x

    @property
    def some_data(self):
        """The same, with labels if there are any."""
        return self.some_inputs if self.some.labels is None else (self.some_inputs, self.some.labels)

    def latency_of(self, model: keras.Model) -> float:
        """Microseconds of a Keras model's int8 file, for plans; nothing is calibrated."""
        content, layers = draft(model, process=self.process)
        return self.measure.latency(content, layers)

    def open_test(self, data: Any) -> Examples | Stream:
        """The test data, checked as far as that can be done before the end."""
        found = self.open_data(data)
        self._require_alike(found if isinstance(found, Examples) else found.take(1))
        return found

    def _require_alike(self, data: Examples) -> None:
        if (data.labels is None) != (self.validation.labels is None):
            raise DataError(f"{data.source}: expected labels in the test data as in the validation data.")
        self.aim.require_classes(data.labels, data.source)

    def tested(self, data: Examples | Stream, model: keras.Model, file: TFLiteModel) -> dict[str, float]:
        """The metric of the original, the plain int8 file and a model's file on other data."""
        data = _whole(data)
        self._require_alike(data)
        original = self.model.predict(data.x, batch_size=self.settings.batch_size, verbose=0)
        truth = original if data.labels is None else data.labels
        outputs = {
            "original": original,
            "plain": run_file(self.plain_file, self.model, data),
            "result": run_file(file.content, model, data),
        }
        return {name: self.quality.measure(truth, out) for name, out in outputs.items()}

    def _description(self, strategy) -> dict:
        """What makes two runs the same."""
        weights = hashlib.sha256()
        for weight in self.model.get_weights():
            weights.update(np.ascontiguousarray(weight).tobytes())
        steps = strategy if isinstance(strategy, str) else [step.to_dict() for step in strategy]
        return {
            "model": [fingerprint(self.model), weights.hexdigest()[:16]],
            "train": self.train.fingerprint(),
            "validation": self.validation.fingerprint(),
            "budget": self.budget.to_dict(),
            "settings": dataclasses.asdict(self.settings),
            "loss": keras.tree.map_structure(_named, self.aim.loss) if self.aim.loss is not None else None,
            "metric": self.quality.name,
            "augment": _augmentation(self.augment),
            "strategy": steps,
        }


def _refuse_forked_process() -> None:
    if lacks_threads():
        raise ConversionError(
            "This process was forked from one in which TensorFlow had started, whose threads it lacks: training would "
            'wait for ever. Start it by multiprocessing.get_context("spawn"), or fork before the first model is made.'
        )


def _refuse_strategy() -> None:
    if tf.distribute.has_strategy():
        raise ArgumentError(
            f"This is called in the scope of a {type(tf.distribute.get_strategy()).__name__}, but models are "
            "compressed on one device. Leave the scope first (`with strategy.scope(): ...` ends before the call): "
            "models that were made in it are taken."
        )


def _require_types(augment, progress) -> None:
    if augment is not None and not isinstance(augment, Pipeline):
        raise ArgumentTypeError(f"`augment` must be a tfstruct.augment.Pipeline or None. Received: {augment!r}.")
    if progress is not None and not callable(progress):
        raise ArgumentTypeError(f"`progress` must be a function of a Progress, or None. Received: {progress!r}.")


@contextlib.contextmanager
def _without_retracing_warnings():
    """Every model is traced anew: TensorFlow takes that for a mistake."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(level)


def _named(function) -> str | None:
    """What a loss or a function is, as far as a name can say."""
    if function is None or isinstance(function, str):
        return function
    config = function.get_config() if hasattr(function, "get_config") else ""
    return f"{getattr(function, '__qualname__', type(function).__qualname__)} {config}".strip()


def _augmentation(augment: Pipeline | None) -> list | None:
    """What a pipeline does, as far as names can say."""
    if augment is None:
        return None
    return [*map(_named, augment.changes), str(augment.mix), augment.value_range, augment.input, augment.seed]


def _own_training(model: keras.Model) -> tuple[str, ...]:
    """A warning where a class of the user's trains in its own way: the models made from it are plain ones."""
    methods = [
        name for name in ("train_step", "compute_loss") if getattr(type(model), name) is not getattr(keras.Model, name)
    ]
    if not methods:
        return ()
    return (
        f"{type(model).__name__} has a {' and a '.join(methods)} of its own, which the smaller models do not: they are "
        "trained by `fit` with the loss.",
    )


def _whole(data: Examples | Stream) -> Examples:
    return data if isinstance(data, Examples) else data.take(None)


def _measured(stored: list) -> tuple[Candidate, Candidate, str | None]:
    """The figures of the plain int8 file and of the original; that file's checksum, which the first folders lack."""
    plain, original, known = stored if len(stored) != 2 else (*stored, None)
    if known is not None and not isinstance(known, str):
        raise ArgumentTypeError(f"the checksum is {known!r}")
    return Candidate.from_dict(plain), Candidate.from_dict(original), known


def _latency(candidate: Candidate) -> float:
    assert candidate.latency_us is not None  # `Measuring` measures it
    return candidate.latency_us


def _refuse_unknown_figures(graph: Graph, budget: Budget) -> None:
    names = [name for name in OF_THE_GRAPH if name in budget.figures]
    try:
        Costs(graph, names)()
    except ModelError as error:
        raise BudgetError(str(error)) from error


def _refuse_fixed_batches(model: keras.Model) -> None:
    batch = fixed_batch(model)
    if batch is not None:
        raise ModelError(
            f"`{model.name}` is stateful and fixes its batch at {batch}, but compress trains and compares on samples "
            "that do not depend on each other. Build it again with stateful=False on inputs of an open batch, give it "
            "the same weights, and compress that."
        )
