"""`tfmot.sparsity.keras`: weights at zero while a model trains, over `tfstruct.callbacks.Prune`."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import keras

from tfstruct.arguments import is_count, named_as, require_count
from tfstruct.callbacks import Prune
from tfstruct.errors import ArgumentError, ModelError
from tfstruct.schedules import ConstantRatio, PolynomialRatio, RatioSchedule
from tfstruct.tfmot import marked as marks

_MARK = "pruning"
_NAMES = {"initial": "initial_sparsity", "final": "final_sparsity", "begin": "begin_step", "end": "end_step"}
PruningSchedule = RatioSchedule
__getattr__ = marks.absent(
    {
        "PrunableLayer": "tfstruct opens custom layers by itself: tfstruct.callbacks.Prune(layers=...) takes them.",
        "PruningPolicy": "Choose layers by clone_model(clone_function=...), or by Prune(layers=predicate).",
        "PruneForLatencyOnXNNPack": "Prune 1x1 convolutions by Prune(layers=lambda layer: ...), or channels, which any "
        "kernel gains from: tfstruct.callbacks.PruneChannels.",
    },
    "tfmot.sparsity.keras",
)


@keras.saving.register_keras_serializable(package="tfstruct.tfmot")
class ConstantSparsity(ConstantRatio):
    """`tfstruct.schedules.ConstantRatio` by TFMOT's arguments.

    Args:
        target_sparsity: the share at zero, in [0, 1).
        begin_step: the first step at which it is.
        end_step: the last one at which masks may change; -1: no end.
        frequency: steps from one choice of masks to the next.

    Raises:
        ArgumentError: an argument out of its range.
    """

    def __init__(self, target_sparsity: float, begin_step: int, end_step: int = -1, frequency: int = 100):
        end = None if end_step in (-1, begin_step) else end_step
        with named_as(ratio="target_sparsity", begin="begin_step", end="end_step"):
            super().__init__(target_sparsity, begin_step, end)
        require_count("frequency", frequency)
        self.frequency, self._end_step = frequency, end_step

    def get_config(self) -> dict:
        return {
            "target_sparsity": self.final, "begin_step": self.begin, "end_step": self._end_step,
            "frequency": self.frequency,
        }  # fmt: skip


@keras.saving.register_keras_serializable(package="tfstruct.tfmot")
class PolynomialDecay(PolynomialRatio):
    """`tfstruct.schedules.PolynomialRatio` by TFMOT's arguments.

    Args:
        initial_sparsity, final_sparsity: the share at zero at both ends, in [0, 1).
        begin_step, end_step: these.
        power: of the polynomial.
        frequency: steps from one choice of masks to the next.

    Raises:
        ArgumentError: an argument out of its range.
    """

    def __init__(
        self, initial_sparsity: float, final_sparsity: float, begin_step: int, end_step: int, power: float = 3,
        frequency: int = 100,
    ):  # fmt: skip
        with named_as(**_NAMES):
            super().__init__(initial_sparsity, final_sparsity, begin_step, end_step, power)
        require_count("frequency", frequency)
        self.frequency = frequency

    def get_config(self) -> dict:
        own = super().get_config()
        return {_NAMES.get(name, name): value for name, value in own.items()} | {"frequency": self.frequency}


@dataclasses.dataclass(frozen=True)
class _Pruning:
    schedule: RatioSchedule
    pattern: str
    block: tuple[int, int] | None

    def pruner(self, layers=None) -> Prune:
        frequency = getattr(self.schedule, "frequency", 100)
        return Prune(self.schedule, self.pattern, layers=layers, frequency=frequency, block=self.block)


def prune_low_magnitude(
    to_prune,
    pruning_schedule: RatioSchedule | None = None,
    block_size: Sequence[int] = (1, 1),
    block_pooling_type: str = "AVG",
    pruning_policy=None,
    sparsity_m_by_n: tuple[int, int] | None = None,
    **wrapper,
):
    """Marks a model, a layer or a list of layers to be pruned by `UpdatePruningStep`.

    Args:
        to_prune: these, of Keras 3.
        pruning_schedule: `ConstantSparsity` (by default 0.5 from the start), `PolynomialDecay`, or any of
            `tfstruct.schedules`.
        block_size: rows and columns of the matrix that go as one.
        block_pooling_type: "AVG".
        pruning_policy: an object with `allow_pruning(layer) -> bool`.
        sparsity_m_by_n: (2, 4): two of any four weights along the input channels.
        **wrapper: what TFMOT hands to its wrapper, such as `input_shape`: there is none here, so it is refused.

    Returns:
        A model of its own on the same layers; a layer as it is, marked.

    Raises:
        ArgumentError: another `block_pooling_type`; blocks together with an N:M pattern; no pairs of numbers.
        ArgumentTypeError: an argument of a wrapper, with what to write instead.
    """
    marks.refuse_wrapper("prune_low_magnitude", wrapper)
    _require_pair("block_size", block_size, (1, 4))
    if sparsity_m_by_n is not None:
        _require_pair("sparsity_m_by_n", sparsity_m_by_n, (2, 4))
    if pruning_policy is not None and not callable(getattr(pruning_policy, "allow_pruning", None)):
        raise ArgumentError(
            f"`pruning_policy` must be an object with `allow_pruning(layer) -> bool`. Received: {pruning_policy!r}."
        )
    if block_pooling_type != "AVG":
        raise ArgumentError(f"Blocks are scored by their mean, 'AVG'. Received: {block_pooling_type!r}.")
    block = None if tuple(block_size) == (1, 1) else (int(block_size[0]), int(block_size[1]))
    if block and sparsity_m_by_n:
        raise ArgumentError("`block_size` and `sparsity_m_by_n` contradict each other: give one of them.")
    pattern = "{}:{}".format(*sparsity_m_by_n) if sparsity_m_by_n else "block" if block else "element"
    schedule = ConstantSparsity(0.5, 0) if pruning_schedule is None else pruning_schedule
    if sparsity_m_by_n and pruning_schedule is None:
        schedule = ConstantSparsity(sparsity_m_by_n[0] / sparsity_m_by_n[1], 0)
    pruning = _Pruning(schedule, pattern, block)
    pruning.pruner()  # checks it

    def of_model(model: keras.Model) -> keras.Model:
        made = marks.on_same_layers(model)
        if pruning_policy is None:
            return marks.mark(made, _MARK, pruning)
        for layer in made.layers:
            if pruning_policy.allow_pruning(layer):
                marks.mark(layer, _MARK, pruning)
        return made

    return marks.each(to_prune, lambda layer: marks.mark(layer, _MARK, pruning), of_model)


def _require_pair(name: str, value, example: tuple[int, int]) -> None:
    if not (isinstance(value, Sequence) and len(value) == 2 and all(map(is_count, value))):
        raise ArgumentError(f"`{name}` must be two whole numbers, such as {example}. Received: {value!r}.")


def _pruners(model: keras.Model) -> list[Prune]:
    """What prunes a model, the same objects in a second training."""
    found = marks.marked(model, "pruners")
    if found is not None:
        return found
    whole, pruners = marks.marked(model, _MARK), []
    if whole is not None:
        pruners = [whole.pruner()]
    else:
        alike: dict[int, tuple[_Pruning, list]] = {}
        for layer, pruning in marks.marked_layers(model, _MARK):
            alike.setdefault(id(pruning.schedule), (pruning, []))[1].append(layer)
        pruners = [pruning.pruner(layers) for pruning, layers in alike.values()]
    marks.mark(model, "pruners", pruners)
    return pruners


class UpdatePruningStep(keras.callbacks.Callback):
    """Prunes what `prune_low_magnitude` has marked: in `fit`, or by hand as in TFMOT's guide.

    By hand: `set_model`, `on_train_begin()`, then `on_train_batch_begin(batch)` before each step, and `on_epoch_end` at
    the end of each epoch.
    """

    def __init__(self):
        super().__init__()
        self._pruners: list[Prune] = []
        self._open = False

    @property
    def _is_fit(self) -> bool:
        return bool(self.params)

    def set_params(self, params) -> None:
        super().set_params(params)
        for pruner in self._pruners:
            pruner.set_params(params)

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        self._pruners = _pruners(model)
        if not self._pruners:
            raise ModelError(
                f"`{model.name}` has nothing to prune. Make it by tfmot.sparsity.keras.prune_low_magnitude(model)."
            )
        for pruner in self._pruners:
            pruner.set_params(self.params)
            pruner.set_model(model)

    def on_train_begin(self, logs=None) -> None:
        for pruner in self._pruners:
            if self._is_fit:
                pruner.on_train_begin(logs)
            elif pruner._attached is None:
                pruner.attach(self.model)

    def on_epoch_begin(self, epoch, logs=None) -> None:
        for pruner in self._pruners if self._is_fit else ():
            pruner.on_epoch_begin(epoch, logs)

    def on_train_batch_begin(self, batch, logs=None) -> None:
        if self._is_fit:
            for pruner in self._pruners:
                pruner.on_train_batch_begin(batch, logs)
        else:
            self._step_ended()
            self._open = True

    def on_train_batch_end(self, batch, logs=None) -> None:
        for pruner in self._pruners if self._is_fit else ():
            pruner.on_train_batch_end(batch, logs)

    def on_test_end(self, logs=None) -> None:
        for pruner in self._pruners:
            pruner.on_test_end(logs)

    def on_epoch_end(self, batch, logs=None) -> None:
        for pruner in self._pruners if self._is_fit else ():
            pruner.on_epoch_end(batch, logs)
        self._step_ended()

    def _step_ended(self) -> None:
        """By hand a step has ended where the next one, or the epoch's end, begins."""
        if self._open and not self._is_fit:
            for pruner in self._pruners:
                pruner.step()
        self._open = False


class PruningSummaries(marks.Summaries):
    """`keras.callbacks.TensorBoard`; put behind `UpdatePruningStep` it writes the sparsity too."""


def strip_pruning(model: keras.Model) -> keras.Model:
    """A plain model on the same layers, whose pruned weights are zero.

    Raises:
        ModelError: the model was marked, but `UpdatePruningStep` never ran.
    """
    pruners = marks.marked(model, "pruners") or []
    waiting = marks.marked(model, _MARK) is not None or any(marks.marked_layers(model, _MARK))
    if waiting and not any(pruner.steps for pruner in pruners):
        raise ModelError(
            f"`{model.name}` was marked by prune_low_magnitude, but nothing is pruned: give "
            "callbacks=[tfmot.sparsity.keras.UpdatePruningStep()] to `fit`."
        )
    for pruner in pruners:
        if pruner._attached is not None:
            pruner.finish()
    return marks.on_same_layers(model)


@contextlib.contextmanager
def prune_scope() -> Iterator[None]:
    """For `load_model`, as in TFMOT: files are plain Keras here, and load without it."""
    yield
