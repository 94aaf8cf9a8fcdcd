"""How unimportant a channel has to be to go: a threshold chosen by cross-validation."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from numbers import Real

import keras
import numpy as np

from tfstruct.analyze.costs import Costs
from tfstruct.analyze.evaluation import predictor, scoring
from tfstruct.analyze.inference import in_inference
from tfstruct.analyze.masking import masked
from tfstruct.analyze.scores import DATA_CRITERIA, unit_scores
from tfstruct.arguments import is_count, is_number, require_count
from tfstruct.errors import ArgumentError, DataError, ModelError
from tfstruct.former_names import formerly
from tfstruct.graph import Graph, groups, open_and_trace
from tfstruct.graph.blocks import atoms
from tfstruct.graph.groups import last_units
from tfstruct.reporting import OpenedReport, Plotted, Sheet
from tfstruct.reporting.figures import GREEN, GREY, ORANGE
from tfstruct.samples.for_model import samples_of

ONE_STANDARD_ERROR = "one_standard_error"
_ROUNDING = 1e-6  # of the metric: what sums in float32 may be apart


@dataclasses.dataclass(frozen=True)
class ThresholdChoice(Plotted, OpenedReport):
    """A threshold of importance, and the curve that it was chosen from: one value a candidate, in rising order.

    `plot` draws the metric with its standard error, and what stays, by threshold.

    Attributes:
        model: its name.
        criterion, reduction, normalization: what importance is, see `importance`.
        metric: what was measured on the fold held out: `"loss"`, `"accuracy"` or the name of the user's function.
        greater_is_better: whether more of the metric is better.
        folds: how many.
        tolerance: as it was asked for.
        limit: how much worse than unmasked the mean may be, in units of the metric.
        threshold: channels with importance below it can go.
        thresholds: the candidates. Nothing lies below the first, so it is the unmasked model.
        mean, standard_error: of the metric over the folds.
        channels: the share that stays of the units of all prunable groups, by importance on all of the data.
        macs: likewise, of the multiply-accumulates; empty where the model leaves spatial sizes open.
    """

    model: str
    criterion: str
    reduction: str
    normalization: str
    metric: str
    greater_is_better: bool
    folds: int
    tolerance: float | str
    limit: float
    threshold: float
    thresholds: tuple[float, ...]
    mean: tuple[float, ...]
    standard_error: tuple[float, ...]
    channels: tuple[float, ...]
    macs: tuple[float, ...]

    @property
    def index(self) -> int:
        """The place of the threshold on the curve."""
        return self.thresholds.index(self.threshold)

    def sheet(self) -> Sheet:
        columns = (
            ("threshold", ".4g"), (f"{self.metric}, mean", ".4g"), ("standard error", ".2g"),
            ("channels that stay", ".1%"), ("MACs that stay", ".1%"), "",
        )  # fmt: skip
        rows = [
            (
                threshold, self.mean[i], self.standard_error[i], self.channels[i],
                self.macs[i] if self.macs else "?", "chosen" if i == self.index else "",
            )
            for i, threshold in enumerate(self.thresholds)
        ]  # fmt: skip
        return Sheet(self._summary(), columns, rows, marks={self.index: "strong"})

    def _summary(self) -> str:
        i = self.index
        macs = f" and {self.macs[i]:.1%} of the MACs" if self.macs else ""
        return (
            f"threshold {self.threshold:.4g} of {self.criterion}: {self.channels[i]:.1%} of the channels{macs} stay, "
            f"{self.metric} {self.mean[0]:.4g} -> {self.mean[i]:.4g} over {self.folds} folds"
        )

    def _size(self) -> tuple[float, float]:
        return 7, 4

    def _draw(self, axis) -> None:
        axis.errorbar(self.thresholds, self.mean, self.standard_error, marker="o", markersize=3, capsize=2)
        sign = -1 if self.greater_is_better else 1
        axis.axhline(self.mean[0] + sign * self.limit, linestyle=":", color=GREY, label="limit")
        axis.axvline(self.threshold, linestyle="--", color="black", label="chosen")
        axis.set_xlabel(f"threshold of importance ({self.criterion})")
        axis.set_ylabel(f"{self.metric}, mean of {self.folds} folds")
        share = axis.twinx()
        share.plot(self.thresholds, self.channels, color=ORANGE, label="channels")
        if self.macs:
            share.plot(self.thresholds, self.macs, color=GREEN, label="MACs")
        share.set_ylim(0, 1.05)
        share.spines["right"].set_visible(True)
        share.set_ylabel("share that stays")
        lines = [line for part in (axis, share) for line in zip(*part.get_legend_handles_labels(), strict=True)]
        axis.legend(*zip(*lines, strict=True), loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=4)
        axis.set_title(f"{self.model}: {self.metric} by threshold")


def _from_mode(mode) -> dict:
    if mode not in ("auto", "min", "max"):
        raise ArgumentError(f"`mode` must be 'auto', 'min' or 'max'. Received: {mode!r}.")
    return {} if mode == "auto" else {"greater_is_better": mode == "max"}


@formerly(mode=_from_mode)
@in_inference
def choose_threshold(
    model,
    data,
    labels=None,
    *,
    folds: int = 5,
    tolerance: float | str = 0.01,
    relative: bool = True,
    thresholds: int | Sequence[float] = 20,
    criterion: str | Callable = "l2",
    reduction: str = "mean",
    normalization: str = "mean",
    loss=None,
    metric: str | Callable = "loss",
    greater_is_better: bool | None = None,
    adapt: Callable | None = None,
    batch_size: int = 64,
    seed: int = 0,
    open_layers: str | bool = "auto",
) -> ThresholdChoice:
    """Chooses, by k-fold cross-validation, below which importance channels can go; removes nothing.

    The samples are shuffled and split into k folds. For each fold, importance is computed on the other folds (criteria
    that look at weights alone: once), the units with a score below a candidate threshold are masked, and the metric is
    measured on the fold. With `m(t)` the mean of the metric over the folds and `m0` that of the model as it is,

        t* = max {t : m(t) - m0 <= limit}

    (for a metric that is to be large: `m0 - m(t)`), where `limit` is

    - `tolerance * |m0|`, a relative increase; with `relative=False` it is `tolerance`, in units of the metric;
    - with `tolerance="one_standard_error"`: `m(t)` is within one standard error of the best mean, that error being the
      best candidate's, `s / sqrt(k)` with `s` its standard deviation over the folds (Breiman et al., Classification and
      Regression Trees, 1984, Sec. 3.4.3).

    The curve need not rise steadily: what it does below `t*` does not count. A millionth of `|m0|` more is no more: the
    order of sums, which the processor chooses, decides nothing.

    Units of groups that can be pruned go, those that the criterion cannot see stay, and of every layer and every slice
    of it the most important one stays. Where blocks have to stay equal, units go together, by the mean of their scores.
    Weights are put back afterwards, also after an error. `surgery.plan_channels(model, threshold=choice.threshold)`,
    with the same criterion (and data), plans the smaller model. Nothing is trained, so what fine-tuning would gain back
    is not counted. Give samples that the model was not trained on.

    Args:
        model: Sequential or functional.
        data, labels: samples with labels, see `tfstruct.samples`.
        folds: k, from 2 to the number of samples.
        tolerance, relative: see above.
        thresholds: how many candidates, spread evenly over the shares of units that go by importance on all of the
            data; or the candidates. The smallest score of all takes the place of candidates that are not above it:
            nothing lies below it.
        criterion, reduction, normalization: of `importance`. Without a normalization one threshold means different
            things in wide and narrow layers.
        loss: for `metric="loss"` and criteria that need one; by default the one the model is compiled with.
        metric: `"loss"`, `"accuracy"` (share of samples whose largest output, or output beyond 0.5, is right), or a
            function (labels, outputs) -> float over the samples of a fold.
        greater_is_better: of a function as metric, which needs it; known of the loss and of accuracy.
        adapt: a function (model, samples) called on every masked model, with the samples of the other folds, before it
            is measured, such as `tfstruct.surgery.recalibrate_batch_norm`: masking shifts what batch norms see, and
            few channels of a network with batch norm can go without it. What it changes is put back.
        seed: of the split, and of criteria that draw random numbers.
        open_layers: `"auto"`: custom layers are opened first (`tfstruct.surgery.open_layers`); False: none is.

    Returns:
        `ThresholdChoice`: the threshold, and the quality at each one that was tried.

    Raises:
        ArgumentError: an option out of range.
        DataError: data without labels, that do not fit, or fewer samples than folds; a metric of the unmasked model
            that is not finite.
        ModelError: a model without a graph, such as a subclassed one, or without a channel that can go.

    Example:
        >>> choice = tfstruct.analyze.choose_threshold(model, x, y, folds=2, thresholds=3, tolerance=1.0)
        >>> plan = tfstruct.surgery.plan_channels(model, threshold=choice.threshold)
        >>> len(plan.keep["hidden"]) < 16
        True
    """
    _check(folds, tolerance, thresholds, metric, greater_is_better)
    if adapt is not None and not callable(adapt):
        raise ArgumentError(f"`adapt` must be a function (model, samples). Received: {adapt!r}.")
    graph = open_and_trace(model, open_layers=open_layers)
    if not any(group.prunable for group in groups(graph)):
        raise ModelError(f"`{graph.model.name}` has no prunable group. explain(model) says why.")
    samples = samples_of(model, data, labels, need="choose_threshold needs labels")
    found = samples.in_memory()
    x, y, count = found.inputs, found.labels, found.size
    if count < folds:
        raise DataError(f"Expected at least one sample for each of {folds} folds. Received: {count} samples.")
    name, score = scoring(graph, y, loss, metric)
    outputs = predictor(graph, x, batch_size)
    if greater_is_better is None:
        greater_is_better = name == "accuracy"
    splits = [np.sort(s) for s in np.array_split(np.random.default_rng(seed).permutation(count), folds)]
    others = [np.sort(np.concatenate(splits[:i] + splits[i + 1 :])) for i in range(folds)]

    def sets(rows):
        scores = unit_scores(
            graph, criterion, data=_rows((x, y), rows), loss=loss, reduction=reduction, normalization=normalization,
            missing="keep", seed=seed,
        )  # fmt: skip
        return _sets(graph, scores)

    whole = sets(slice(None))
    if not whole:
        raise ModelError(f"No channel of `{graph.model.name}` can go by the criterion {criterion}. Take another one.")
    by_fold = [sets(rows) for rows in others] if criterion in DATA_CRITERIA else [whole] * folds
    floor = min(value for found in [whole, *by_fold] for value, _ in found)
    candidates = [floor, *(t for t in _candidates(thresholds, whole) if t > floor)]
    # A mask that several folds or thresholds share is put on once.
    wanted: dict[bytes, list[tuple[int, int]]] = {}
    for i, found in enumerate(by_fold):
        for j, threshold in enumerate(candidates):
            wanted.setdefault(_keep(graph, found, threshold).tobytes(), []).append((i, j))
    values = np.zeros((folds, len(candidates)))
    for mask, places in wanted.items():
        with masked(graph, np.frombuffer(mask, bool)):
            for i in dict.fromkeys(i for i, _ in places):
                with _adapted(model, None if all(mask) else adapt, samples.ports.arranged(x), others[i]):
                    value = score(_rows(y, splits[i]), outputs(splits[i]))
                values[i, [k for j, k in places if j == i]] = value
    mean, error = values.mean(axis=0), values.std(axis=0, ddof=1) / math.sqrt(folds)
    if not math.isfinite(mean[0]):
        raise DataError(f"The {name} of the unmasked model is {mean[0]} on these data. Check them and the model.")
    worse = (mean - mean[0]) * (-1 if greater_is_better else 1)
    limit = _limit(tolerance, relative, worse, mean, error)
    chosen = int(np.flatnonzero(worse <= limit + _ROUNDING * abs(mean[0]))[-1])
    stays = [_keep(graph, whole, t) for t in candidates]
    prunable = np.concatenate([group.units for group in groups(graph) if group.prunable])
    return ThresholdChoice(
        model=model.name,
        criterion=criterion if isinstance(criterion, str) else getattr(criterion, "__name__", "custom"),
        reduction=reduction,
        normalization=normalization,
        metric=name,
        greater_is_better=greater_is_better,
        folds=folds,
        tolerance=tolerance if tolerance == ONE_STANDARD_ERROR else float(tolerance),
        limit=limit,
        threshold=candidates[chosen],
        thresholds=tuple(candidates),
        mean=tuple(mean.tolist()),
        standard_error=tuple(error.tolist()),
        channels=tuple(float(keep[prunable].mean()) for keep in stays),
        macs=_macs(graph, stays),
        opened=graph.opened,
        opaque=graph.opaque,
    )


def _check(folds, tolerance, thresholds, metric, greater_is_better) -> None:
    require_count("folds", folds, least=2)
    if tolerance != ONE_STANDARD_ERROR and not (is_number(tolerance) and 0 <= tolerance < math.inf):
        raise ArgumentError(
            f"`tolerance` must be a finite number of at least 0, or {ONE_STANDARD_ERROR!r}. Received: {tolerance!r}."
        )
    if is_count(thresholds, 0):
        fits = thresholds > 0
    else:
        fits = isinstance(thresholds, Sequence | np.ndarray) and len(thresholds) > 0
        fits = fits and all(isinstance(t, Real) and math.isfinite(t) for t in thresholds)
    if not fits:
        raise ArgumentError(f"`thresholds` must be a positive integer, or finite numbers. Received: {thresholds!r}.")
    if not isinstance(greater_is_better, bool | None):
        raise ArgumentError(f"`greater_is_better` must be True, False or None. Received: {greater_is_better!r}.")
    if callable(metric) and greater_is_better is None:
        raise ArgumentError("A function as `metric` needs greater_is_better=True or greater_is_better=False.")
    if not callable(metric) and metric not in ("loss", "accuracy"):
        raise ArgumentError(f"`metric` must be 'loss', 'accuracy' or a function. Received: {metric!r}.")


def _rows(values, rows):
    return keras.tree.map_structure(lambda a: a[rows], values)


@contextlib.contextmanager
def _adapted(model, adapt, x, rows):
    """While it is open, the weights are what `adapt` made of them."""
    if adapt is None:
        yield
        return
    before = [(weight, weight.numpy()) for weight in model.weights]
    try:
        adapt(model, _rows(x, rows))
        yield
    finally:
        for weight, value in before:
            weight.assign(value)


def _sets(graph: Graph, scores: np.ndarray) -> list[tuple[float, list[int]]]:
    """The sets of units that can go, each with its score, the least important first."""
    held = last_units(graph, scores)
    found = []
    for group in groups(graph):
        free = np.array([u for u in group.free.tolist() if u not in held], int)
        found += [(float(np.mean(scores[atom])), atom) for atom in atoms(free, group.blocks, scores)]
    return sorted((value, atom) for value, atom in found if math.isfinite(value))


def _keep(graph: Graph, found, threshold: float) -> np.ndarray:
    keep = np.ones(graph.units.count, bool)
    for value, atom in found:
        if value < threshold:
            keep[atom] = False
    return keep


def _candidates(thresholds, found) -> list[float]:
    if not isinstance(thresholds, int):
        return sorted({float(t) for t in thresholds})
    values = [value for value, _ in found]
    places = np.unique(np.round(np.arange(1, thresholds + 1) / (thresholds + 1) * len(values)).astype(int))
    # Halfway between the last that goes and the first that stays.
    return sorted({(values[i - 1] + values[i]) / 2 for i in places.tolist() if 0 < i < len(values)})


def _limit(tolerance, relative: bool, worse, mean, error) -> float:
    if tolerance == ONE_STANDARD_ERROR:
        best = int(np.nanargmin(worse))
        return float(worse[best] + error[best])
    return float(tolerance * abs(mean[0]) if relative else tolerance)


def _macs(graph: Graph, stays: list[np.ndarray]) -> tuple[float, ...]:
    costs = Costs(graph, ("macs",))
    try:
        whole = costs()["macs"]
    except ModelError:  # sizes are open
        return ()
    return tuple(costs(keep)["macs"] / whole for keep in stays)
