"""Weights at zero, more and more of them while a model trains."""

import math
import warnings
from collections.abc import Callable
from typing import ClassVar

import keras
import numpy as np

from tfstruct import masks
from tfstruct.arguments import checked, require_count, require_number, require_one_of
from tfstruct.callbacks import saved_state
from tfstruct.callbacks.compressor import Compressor
from tfstruct.callbacks.constraints import Masked, Moving, require_held
from tfstruct.callbacks.gradients import MeanGradients
from tfstruct.callbacks.sparsity_report import SparseWeight, SparsityReport
from tfstruct.callbacks.weight_scores import CRITERIA, WeightScores
from tfstruct.errors import ArgumentError, DataError, ModelError
from tfstruct.graph.frozen import frozen_note, frozen_weights, without_frozen
from tfstruct.graph.kernels import Kernel, Which, kernels, lent
from tfstruct.samples.for_model import readable_again
from tfstruct.schedules.ratios import ConstantRatio, RatioSchedule


@checked
class Prune(Compressor):
    """Sets the least important weights to zero and keeps them there, in `fit` or in a loop of one's own.

    At a step t when masks are due, w <- m * w, where the mask m keeps of each kernel (or of all as one) the
    k = max(round(n * (1 - s(t))), 1) of its n units that score highest, among equals the first; s is the schedule. In
    between, the mask is the weight's constraint, so the optimizer applies it within its own step. No layer is wrapped,
    and the saved model is plain Keras.

    All replicas have the same masks: in `fit` and by hand under `MirroredStrategy`, by hand under
    `MultiWorkerMirroredStrategy`, where `fit` of Keras 3.15 fails by itself. With `steps_per_execution` masks are
    chosen at the first step that is seen after they are due.

    The logs get `sparsity`, at the end of an epoch also `sparsity/<weight>` for each weight: in the History, and in
    `TensorBoard` or `CSVLogger` if they stand after this callback in the list.

        model.fit(x, y, callbacks=[Prune(PolynomialRatio(0.0, 0.8, begin=0, end=1000))])

    Scores of a weight w with gradient g of the loss:

    - `magnitude`: |w|.
    - `movement`: the sum of (w_t - w_(t-1)) * w_(t-1) over the steps: high where weights grow (arXiv:2005.07683).
    - `gradient`: |g|; `snip`: |g * w| (Eq. 6, arXiv:1810.02340), both of the mean loss over `data`.
    - `random`: a fixed random number.
    - a callable: `criterion(variable) -> array` shaped like the weight.

    Args:
        schedule: the ratio by step, of `tfstruct.schedules`; a number in [0, 1) holds from the start. None for an N:M
            pattern: N/M from the start.
        pattern: what goes as one: "element"; "block" with `block=(rows, columns)` of the matrix (taps * inputs,
            outputs); "row" (what reads one input channel); "filter" (what makes one output channel); or N:M such as
            "2:4", N zeros in every M along the input channels.
        scope: "layer": each kernel has the ratio; "global": all kernels together have.
        criterion: see above.
        layers: which layers, see `kernels`; None for all dense, convolution, embedding, recurrent, attention and
            EinsumDense kernels.
        frequency: steps from one choice of masks to the next, counted from the schedule's begin; at its end they are
            chosen in any case.
        block: the size of a block.
        depthwise: whether depthwise kernels are pruned too.
        frozen: whether kernels that do not train (`trainable = False`) are pruned too; else they are left alone, and
            the report says which. One that is unfrozen between two `fit`s takes part in the second.
        data, loss: labelled samples for "gradient", "snip" and `regrow`; without `loss` the compiled one.
        regrow: the share of the kept weights that gives way each time masks are chosen, to those zeros with the largest
            |g|, which start from zero (RigL, arXiv:1911.11134). It falls by a cosine to zero at the schedule's end.
            Without it a weight that is zero stays zero.
        seed: of the random criterion.

    Example:
        >>> pruner = tfstruct.callbacks.Prune(0.75, frequency=1)
        >>> history = model.fit(x, y, epochs=2, verbose=0, callbacks=[pruner])
        >>> kernel = model.get_layer("hidden").kernel.numpy()
        >>> float((kernel == 0).mean())
        0.75

        In a loop of one's own:

        >>> pruner = tfstruct.callbacks.Prune(0.75).attach(model)
        >>> for _ in range(2):
        ...     loss = model.train_on_batch(x, y)
        ...     pruner.step()
        >>> report = pruner.finish()
        >>> report.sparsity >= 0.75
        True
    """

    _blank: ClassVar[dict[str, object]] = {"_kernels": [], "_masked": [], "_gradients": None}

    def __init__(
        self,
        schedule: RatioSchedule | float | None = None,
        pattern: str = "element",
        scope: str = "layer",
        criterion: str | Callable = "magnitude",
        *,
        layers: Which = None,
        frequency: int = 100,
        block: tuple[int, int] | None = None,
        depthwise: bool = False,
        frozen: bool = False,
        data=None,
        loss=None,
        regrow: float = 0.0,
        seed: int = 0,
    ):
        super().__init__()
        self.pattern = masks.Pattern.parse(pattern, block)
        self.schedule = _schedule(schedule, self.pattern)
        require_one_of("scope", scope, ("layer", "global"))
        if scope == "global" and self.pattern.kind == "n:m":
            raise ArgumentError("N:M holds in every run of M weights: it goes with scope='layer' only.")
        if not callable(criterion) and criterion not in CRITERIA:
            raise ArgumentError(
                f"`criterion` must be one of {', '.join(CRITERIA)}, or a function. Received: {criterion!r}."
            )
        frequency = require_count("frequency", frequency)
        regrow = require_number("regrow", regrow, least=0, below=1)
        if regrow and self.pattern.kind == "n:m":
            raise ArgumentError("`regrow` works with free patterns, not with N:M.")
        if regrow and self.schedule.end <= self.schedule.begin:
            raise ArgumentError("`regrow` needs a schedule with an end, such as ConstantRatio(0.8, begin=0, end=5000).")
        if criterion == "movement" and self.schedule(0) > 0:
            raise ArgumentError(
                "Criterion 'movement' knows nothing before the first step: give a schedule that begins later, such as "
                f"PolynomialRatio(0.0, {self.schedule.final:.4g}, begin=100, end=1000)."
            )
        if data is None and (regrow or criterion in ("gradient", "snip")):
            what = "`regrow`" if regrow else f"Criterion {criterion!r}"
            raise DataError(f"{what} needs gradients: give data=(x, y), some hundred samples of the training data.")
        self.scope, self.criterion, self.frequency = scope, criterion, frequency
        self.layers, self.depthwise, self.frozen = layers, depthwise, frozen
        self.regrow, self.seed = float(regrow), seed
        self._data, self._loss = data, loss
        self._kernels: list[Kernel] = []
        self._masked: list[Masked] = []
        self._saved: dict[str, np.ndarray] = {}  # masks by kernel, for a second `fit`
        self._gradients: MeanGradients | None = None
        self._last = -1
        self._sparsity = 0.0
        self._tested = False
        self._observed = False
        self._history: list[tuple[int, float, float]] = []
        self._skipped: list[tuple[str, str]] = []
        self._notes: list[str] = []
        self._settings = saved_state.described({
            "schedule": self.schedule, "pattern": self.pattern, "scope": scope, "criterion": criterion,
            "layers": layers, "frequency": frequency, "depthwise": depthwise, "frozen": frozen, "regrow": regrow,
            "seed": seed,
        })  # fmt: skip

    def masks(self) -> dict[str, np.ndarray]:
        """The boolean mask of each kernel by name, true where a weight stays; only while attached."""
        return {k.name: m.stays().copy() for k, m in zip(self._kernels, self._masked, strict=True)}

    def observe(self, logs: dict) -> None:
        self._observed = True
        self.schedule.observe(logs, self.steps)

    def _warn_of_schedule(self) -> None:
        """Says at the start what this `fit` cannot reach."""
        if self.schedule.final == 0:
            warnings.warn(f"{self.schedule!r} prunes nothing: the ratio at its end is 0.", stacklevel=2)
        steps, epochs = self.params.get("steps"), self.params.get("epochs")
        if not steps or not epochs or type(self.schedule).observe is not RatioSchedule.observe:
            return  # not known, or as the validation will have it
        last = self.steps + steps * epochs
        reached = self.schedule(last) if self.schedule.end else self.schedule.final
        if reached < 0.9 * self.schedule.final:
            warnings.warn(
                f"The schedule ends at step {self.schedule.end:,}, but this `fit` ends at step {last:,}: the ratio "
                f"will be {reached:.3g}, not {self.schedule.final:.3g}. Give one with end={last}, or more epochs "
                "(a second `fit` with this callback goes on from there).",
                stacklevel=2,
            )

    def _begin(self, model: keras.Model) -> None:
        self._skipped, self._notes, self._tested = [], [], False
        found = kernels(model, self.layers, self.depthwise)
        left: list[tuple[str, str]] = []
        if not self.frozen:
            found, left = without_frozen(model, found)
        elif self.criterion == "movement" and frozen_weights(model) & {id(kernel.variable) for kernel in found}:
            raise ModelError("Frozen weights do not move: criterion 'movement' does not go with frozen=True.")
        self._kernels = self._fitting(found, model)
        self._skipped += left
        self._notes += frozen_note(left, "kernels")
        if self._data is not None:
            self._data = readable_again(model, self._data)
            self._gradients = MeanGradients(model, [k.variable for k in self._kernels], self._data, self._loss)
        make = Moving if self.criterion == "movement" else Masked
        self._masked = []
        for kernel in self._kernels:
            self._masked.append(make(kernel.variable, type(self).__name__))
        if self._stored is not None:
            return  # the weights are those of a later step, which the stored masks belong to
        if self._saved:  # a second `fit`
            names = [kernel.name for kernel in self._kernels]
            if not self._saved.keys() & set(names):  # a copy of the callback, on a model with other names
                self._saved = dict(zip(names, self._saved.values(), strict=True))
            for name, masked in zip(names, self._masked, strict=True):
                if name in self._saved:
                    masked.set(self._saved[name])
            if self._last >= 0 and not self._saved.keys() >= set(names):  # some were unfrozen since
                self._choose(self.steps)
        elif self.schedule.begin == 0:
            self._choose(0)

    def _fitting(self, found: list[Kernel], model: keras.Model) -> list[Kernel]:
        bad = []
        for kernel in found:
            why = self.pattern.misfit(kernel.shape)
            if self.pattern.kind == "n:m" and not kernel.sums:
                why = "it looks up rows and sums over nothing"
            if why:
                bad.append((kernel, why))
        # Where the user has named the layers, or blocks that do not divide, silence would break the promise.
        if bad and (self.layers is not None or self.pattern.kind == "block"):
            raise ModelError(
                f"Pattern {self.pattern} does not fit {'; '.join(f'{k.name}: {why}' for k, why in bad[:6])}. "
                "Name the layers that shall be pruned in `layers`, or take another pattern."
            )
        self._skipped = [(kernel.name, why) for kernel, why in bad]
        fitting = [kernel for kernel in found if kernel not in [k for k, _ in bad]]
        if not fitting:
            raise ModelError(f"Pattern {self.pattern} fits no kernel of `{model.name}`.")
        return fitting

    def _advance(self, before: int, now: int) -> None:
        if not self._tested and self._sparsity:
            self._tested = True
            require_held(self._masked)
        if self._due(before, now):
            self._choose(now)

    def _due(self, before: int, now: int) -> bool:
        begin, end = self.schedule.begin, self.schedule.end
        if now < begin or (self._last >= end and now > end):
            return False
        periods = [max(step - begin, -1) // self.frequency for step in (before, now)]
        return periods[0] != periods[1] or before < end <= now

    def _choose(self, step: int) -> None:
        """New masks for this step, applied at once."""
        ratio = self.schedule(step)
        gradients = None if self._gradients is None else self._gradients()
        scores = WeightScores(self.criterion, self.seed, self._kernels, self._masked, gradients).all()
        share = self.regrow * self._fading(step)
        stay = masks.chosen(scores, ratio + (1 - ratio) * share, self.pattern, self.scope == "global")
        if share:
            assert gradients is not None  # `regrow` is refused without data
            grown = [np.abs(k.view(g)) for k, g in zip(self._kernels, gradients, strict=True)]
            first = [np.where(m, np.inf, g) for m, g in zip(stay, grown, strict=True)]
            stay = masks.chosen(first, ratio, self.pattern, self.scope == "global")
        for kernel, masked, mask in zip(self._kernels, self._masked, stay, strict=True):
            masked.set(kernel.unview(mask))
        self._last, self._sparsity = step, self._share_of_zeros()
        self._history.append((step, float(ratio), self._sparsity))

    def _fading(self, step: int) -> float:
        if not self.regrow or step >= self.schedule.end:
            return 0.0
        span = self.schedule.end - self.schedule.begin
        return (1 + math.cos(math.pi * (step - self.schedule.begin) / span)) / 2

    def _share_of_zeros(self) -> float:
        masks_now = [lent(masked.mask) for masked in self._masked]
        return 1 - sum(np.count_nonzero(mask) for mask in masks_now) / sum(mask.size for mask in masks_now)

    def _log(self, logs: dict | None) -> None:
        if logs is not None:
            logs["sparsity"] = self._sparsity

    def on_epoch_end(self, epoch, logs=None) -> None:
        self._log(logs)
        if logs is not None:
            logs.update({f"sparsity/{name}": float(1 - mask.mean()) for name, mask in self.masks().items()})

    def on_train_begin(self, logs=None) -> None:
        super().on_train_begin(logs)
        self._warn_of_schedule()
        history, noted = self.model.history, self.model.history.on_epoch_end

        def on_epoch_end(epoch, logs=None):
            noted(epoch, logs)
            for name in self.masks():  # the progress bar comes next, and has no room for every layer
                logs.pop(f"sparsity/{name}", None)

        history.on_epoch_end = on_epoch_end

    def _end(self, model: keras.Model) -> SparsityReport:
        back = [masked for masked in self._masked if not masked.holds()]
        if back:
            self._notes.append(
                f"Pruned weights of {len(back)} kernels were put back at the end of training (EarlyStopping, moving "
                "averages or set_weights): the masks were applied again."
            )
        for masked in back:
            masked.apply()
        reached = self._history[-1][1] if self._history else 0.0
        if reached < self.schedule.final:
            self._notes.append(
                f"Training ended at step {self.steps}, before the schedule did (step {self.schedule.end}): the ratio "
                f"is {reached:.4g}, not {self.schedule.final:.4g}. A second fit with this callback goes on from here."
            )
        if type(self.schedule).observe is not RatioSchedule.observe and not self._observed:
            self._notes.append("No validation was seen, so the schedule could not slow: give `validation_data`.")
        rows = []
        for kernel, masked in zip(self._kernels, self._masked, strict=True):
            mask = lent(masked.mask)
            rows.append(SparseWeight(kernel.name, mask.shape, mask.size, mask.size - int(np.count_nonzero(mask))))
        self._saved |= self.masks()
        self._let_go()
        criterion = (
            self.criterion
            if isinstance(self.criterion, str)
            else getattr(self.criterion, "__name__", repr(self.criterion))
        )
        return SparsityReport(
            str(self.pattern), criterion, self.scope, self.schedule.final, tuple(rows), tuple(self._skipped),
            tuple(self._history), tuple(self._notes),
        )  # fmt: skip

    def _let_go(self) -> None:
        for masked in self._masked:
            masked.remove()

    def _belongs(self, state: dict[str, np.ndarray]) -> bool:
        self._require_alike(state)
        return all(masked.zero_outside(state[f"mask_{i}"]) for i, masked in enumerate(self._masked))

    def _state(self) -> dict[str, np.ndarray]:
        state = {f"schedule_{name}": np.asarray(value) for name, value in self.schedule.state().items()}
        state["last"] = np.asarray(self._last)
        state["history"] = np.asarray(self._history, float).reshape(-1, 3)
        for i, masked in enumerate(self._masked):
            state[f"mask_{i}"] = masked.stays().copy()
            if isinstance(masked, Moving):
                state[f"score_{i}"], state[f"last_{i}"] = masked.score.numpy(), masked.last.numpy()
        return state

    def _require_alike(self, state: dict[str, np.ndarray]) -> None:
        shapes = [tuple(state.get(f"mask_{i}", np.zeros(0)).shape) for i in range(len(self._masked))]
        if shapes != [tuple(m.variable.shape) for m in self._masked] or f"mask_{len(self._masked)}" in state:
            raise ModelError("The file was written while other weights were pruned. Give the same `layers` as then.")

    def _restore(self, state: dict[str, np.ndarray]) -> None:
        self._require_alike(state)
        start = "schedule_"
        self.schedule.restore({k.removeprefix(start): v for k, v in state.items() if k.startswith(start)})
        self._last = int(state["last"])
        self._history = [(int(step), float(ratio), float(share)) for step, ratio, share in state["history"]]
        for i, masked in enumerate(self._masked):
            masked.set(state[f"mask_{i}"] != 0)
            if isinstance(masked, Moving):
                masked.score.assign(state[f"score_{i}"])
                masked.last.assign(state[f"last_{i}"])
        self._sparsity = self._share_of_zeros()


def _schedule(schedule, pattern: masks.Pattern) -> RatioSchedule:
    if schedule is None:
        if pattern.ratio is None:
            raise ArgumentError("`schedule` is missing: give a ratio such as 0.5, or one of tfstruct.schedules.")
        schedule = pattern.ratio
    if isinstance(schedule, (int, float)) and not isinstance(schedule, bool):
        schedule = ConstantRatio(schedule)
    if not isinstance(schedule, RatioSchedule):
        raise ArgumentError(
            f"`schedule` must be a number in [0, 1) or a RatioSchedule such as PolynomialRatio. Received: {schedule!r}."
        )
    if pattern.ratio is not None and abs(schedule.final - pattern.ratio) > 1e-9:
        raise ArgumentError(
            f"Pattern {pattern} sets {pattern.n} of {pattern.m} weights to zero, so the schedule must end at "
            f"{pattern.ratio:.4g}. Received: {schedule.final:.4g}."
        )
    return schedule
