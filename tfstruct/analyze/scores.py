"""How important each unit of each group is, by one of several criteria."""

import dataclasses
from collections.abc import Callable

import numpy as np

from tfstruct.analyze import weight_criteria as by_weights
from tfstruct.analyze.inference import whole_batches
from tfstruct.analyze.losses import loss_function
from tfstruct.analyze.names import by_name
from tfstruct.errors import ArgumentError, DataError, ModelError
from tfstruct.graph import Graph, groups, open_and_trace
from tfstruct.graph.layer_tree import states_kept
from tfstruct.graph.sizes import fixed_batch
from tfstruct.reporting import OpenedReport, Sheet
from tfstruct.samples import Samples
from tfstruct.samples.for_model import samples_of

_LABELLED = ("gradient", "gradient_abs", "hessian")
DATA_CRITERIA = (*_LABELLED, "activation", "apoz", "entropy")
REDUCTIONS = ("sum", "mean", "max", "product")
NORMALIZATIONS = ("none", "mean", "max", "sum", "standard")


@dataclasses.dataclass(frozen=True)
class Importance(OpenedReport):
    """Scores of the units of a model; a larger score is a more important unit.

    Attributes:
        criterion: its name.
        groups: by name of the group (see `names.by_name`), one score for each of `Group.units`.
        by_unit: one score for each unit of the graph; infinite for unit 0, which never goes.
    """

    criterion: str
    groups: dict[str, np.ndarray]
    by_unit: np.ndarray = dataclasses.field(repr=False)

    def sheet(self) -> Sheet:
        columns = ("group", ("channels", ",d"), ("least", ".4g"), ("mean", ".4g"), ("most", ".4g"))
        rows = []
        for name, scores in self.groups.items():
            known = scores[np.isfinite(scores)]
            figures = (known.min(), known.mean(), known.max()) if known.size else (None,) * 3
            rows.append((name, len(scores), *figures))
        return Sheet(f"importance of channels by {self.criterion}", columns, rows)


def importance(
    model,
    criterion: str | Callable = "l2",
    data=None,
    *,
    loss=None,
    reduction: str = "sum",
    normalization: str = "none",
    missing: str = "raise",
    probes: int = 8,
    seed: int = 0,
    open_layers: str | bool = "auto",
) -> Importance:
    """Scores every unit (a channel with all that is coupled to it) of a model.

    Each weight that makes a unit, or carries it through a depthwise kernel, gives one score, a member; members are
    reduced to the unit's score, and scores normalized within each group. A unit behind several channels of one weight
    (the head of an attention layer, a channel before Flatten) gets their sum (`l1`, gradient, hessian, lamp's energy),
    root of squares (`l2`) or mean (all others).

    - `l1`, `l2`: norm of the kernel weights.
    - `geometric_median`: sum of distances to the layer's other filters, arXiv:1811.00250.
    - `lamp`: energy over the sum of the layer's energies that are not smaller, arXiv:2010.07611, by channel.
    - `sparsity`: 1 - share of weights within a thousandth of the layer's largest.
    - `bn_scale`: |gamma| of the batch norms, arXiv:1708.06519.
    - `gradient`: mean over samples of `(sum over members of w * dL/dw)^2`, arXiv:1906.10771; `gradient_abs`: of the
      absolute value. Members: kernels, biases, gamma, beta.
    - `hessian`: `1/2 sum of w^2 * H_ww`, H by Hutchinson's estimate with `probes` random signs. Can be negative.
    - `activation`, `apoz`, `entropy`: of the maker's output behind its batch norm and activation, and of the queries,
      keys and values inside Keras's attention layers: mean absolute value; 1 - share of zeros (arXiv:1607.03250);
      entropy of the samples' means (arXiv:1706.05791).
    - `random`: uniform in [0, 1), by `seed`.
    - a function `(slot, rows) -> scores`: `rows` of shape (channels, weights) are the kernel of `slot`
      (`tfstruct.graph.call.Slot`) with one row a channel; it returns one score a channel.

    Args:
        model: Sequential or functional; or an already traced `Graph`.
        criterion: one of the above.
        data: for the criteria that look at data, see `tfstruct.samples`.
        loss: for `gradient` and `hessian`; by default the one the model is compiled with.
        reduction: `"sum"`, `"mean"`, `"max"` or `"product"` over a unit's members.
        normalization: `"none"`; divided by the group's `"mean"`, `"max"` or `"sum"`; `"standard"`: mean 0, variance 1.
        missing: units of prunable groups that the criterion cannot see, such as those without batch norm for
            `bn_scale`: `"raise"`, or `"keep"`: their score is infinite.
        open_layers: `"auto"`: custom layers are opened first (`tfstruct.surgery.open_layers`); False: none is.

    Returns:
        `Importance`: a score for each channel of each group, and which go first.

    Raises:
        DataError: a criterion lacks data, labels or a loss.
        ModelError: the criterion cannot see a prunable group.

    Example:
        >>> scores = tfstruct.analyze.importance(model, "l1")
        >>> scores.groups["hidden"].shape
        (16,)
    """
    graph = model if isinstance(model, Graph) else open_and_trace(model, open_layers=open_layers)
    scores = unit_scores(
        graph, criterion, data=data, loss=loss, reduction=reduction, normalization=normalization, missing=missing,
        probes=probes, seed=seed,
    )  # fmt: skip
    name = criterion if isinstance(criterion, str) else getattr(criterion, "__name__", "custom")
    by_group = {group: scores[g.units] for group, g in by_name(graph).items()}
    return Importance(name, by_group, scores, opened=graph.opened, opaque=graph.opaque)


def unit_scores(
    graph: Graph,
    criterion: str | Callable = "l2",
    *,
    data=None,
    loss=None,
    reduction: str = "sum",
    normalization: str = "none",
    missing: str = "raise",
    probes: int = 8,
    seed: int = 0,
) -> np.ndarray:
    """The scores of `importance` for a traced graph, unit by unit.

    Args:
        graph: of `tfstruct.graph.trace` or `open_and_trace`.
        criterion, data, loss, reduction, normalization, missing, probes, seed: as in `importance`.

    Returns:
        An array of shape (units.count,): the score of each unit; infinite for unit 0, which stands for what is fixed.

    Raises:
        ArgumentError: an option that is not known.
        DataError: the criterion needs data, or a loss, and has none.
        ModelError: the criterion cannot see a prunable group.

    Example:
        >>> graph = tfstruct.graph.trace(model)
        >>> tfstruct.analyze.unit_scores(graph, "l1").shape == (graph.units.count,)
        True
    """
    _check("criterion", criterion, criteria(), "or a function")
    if data is None and isinstance(criterion, str) and criterion in DATA_CRITERIA:
        given = "(x, y)" if criterion in _LABELLED else "x"
        raise DataError(f"The criterion {criterion} looks at data. Expected data={given}. Received: None.")
    _check("reduction", reduction, REDUCTIONS)
    _check("normalization", normalization, NORMALIZATIONS)
    _check("missing", missing, ("raise", "keep"))
    if not isinstance(probes, int) or probes < 1:
        raise ArgumentError(f"`probes` must be a positive integer. Received: {probes!r}.")
    with states_kept(graph.model):
        scores = _scores(graph, criterion, data, loss, reduction, probes, seed)
    scores[0] = np.inf
    _missing(graph, criterion, scores, missing)
    return _normalize(graph, scores, normalization)


def criteria() -> tuple[str, ...]:
    """The names that `importance` knows."""
    return (*by_weights.BY_KERNEL, "bn_scale", *DATA_CRITERIA, "random")


def _scores(graph: Graph, criterion, data, loss, reduction: str, probes: int, seed: int) -> np.ndarray:
    if criterion == "random":
        return np.random.default_rng(seed).random(graph.units.count)
    if criterion in ("gradient", "gradient_abs"):
        return _gradient(graph, criterion, data, loss, reduction)
    members = [
        _by_unit(graph, labels, values, how)
        for labels, values, how in _members(graph, criterion, data, loss, probes, seed)
    ]
    if criterion == "lamp":
        members = [(units, by_weights.lamp(energy)) for units, energy in members]
    return _reduce(members, reduction, graph.units.count)


def _check(what: str, value, known, more: str = "") -> None:
    if not (isinstance(value, str) and value in known) and not (more and callable(value)):
        raise ArgumentError(f"`{what}` must be one of {', '.join(known)} {more}".rstrip() + f". Received: {value!r}.")


def _members(graph, criterion, data, loss, probes, seed):
    if callable(criterion) or criterion in by_weights.BY_KERNEL:
        how = "mean" if callable(criterion) else by_weights.BY_KERNEL[criterion][1]
        return [(*member, how) for member in by_weights.kernel_members(graph, criterion)]
    if criterion == "bn_scale":
        return [(*member, "mean") for member in by_weights.bn_scale_members(graph)]
    from tfstruct.analyze import data_criteria

    if criterion == "hessian":
        samples, loss = _labelled(graph, criterion, data, loss)
        found = samples.in_memory()
        x, y = whole_batches(graph.model, found.inputs, found.labels)
        return [(*member, "sum") for member in data_criteria.hessian_members(graph, x, y, loss, probes, seed)]
    samples = samples_of(graph.model, data)
    return [(*member, "mean") for member in data_criteria.activation_members(graph, criterion, samples)]


def _labelled(graph, criterion, data, loss) -> tuple[Samples, Callable]:
    loss = loss_function(graph.model, loss, f"The criterion {criterion}")
    return samples_of(graph.model, data, need=f"The criterion {criterion} needs labels"), loss


def _gradient(graph, criterion, data, loss, reduction) -> np.ndarray:
    from tfstruct.analyze import data_criteria

    if (fixed_batch(graph.model) or 1) != 1:
        raise ModelError(
            f"The criterion {criterion} looks at samples one by one, and `{graph.model.name}` fixes its batch at "
            f"{fixed_batch(graph.model)}. Take another criterion, such as hessian or activation, or build the model "
            "with a batch of 1."
        )
    samples, loss = _labelled(graph, criterion, data, loss)
    total, count = np.zeros(graph.units.count), 0
    for members in data_criteria.gradient_members(graph, samples, loss):
        vectors = [_by_unit(graph, labels, values, "sum") for labels, values in members]
        if reduction in ("max", "product"):
            vectors = [(units, np.abs(values)) for units, values in vectors]
        effect = _reduce(vectors, reduction, graph.units.count)
        total += np.abs(effect) if criterion == "gradient_abs" else effect**2
        count += 1
    return total / count


def _by_unit(graph: Graph, labels, values, how: str) -> tuple[np.ndarray, np.ndarray]:
    """The units that a member holds channels of, and its score of each."""
    parts = graph.units.parts[labels]
    unit, value = parts.ravel(), np.repeat(values, parts.shape[1])
    units, place = np.unique(unit[unit > 0], return_inverse=True)
    value = value[unit > 0]
    total: np.ndarray = np.bincount(place, value**2 if how == "root" else value, len(units))
    if how == "mean":
        total = total / np.bincount(place, minlength=len(units))
    return units, np.sqrt(total) if how == "root" else total


def _reduce(members: list[tuple[np.ndarray, np.ndarray]], reduction: str, count: int) -> np.ndarray:
    total = np.full(count, {"max": -np.inf, "product": 1.0}.get(reduction, 0.0))
    held = np.zeros(count, int)
    joined = {"max": np.maximum, "product": np.multiply}.get(reduction, np.add)
    for units, values in members:
        held[units] += 1
        total[units] = joined(total[units], values)
    if reduction == "mean":
        total = total / np.maximum(held, 1)
    return np.where(held > 0, total, np.nan)


def _missing(graph, criterion, scores, missing) -> None:
    unseen = np.isnan(scores)
    if unseen.any() and missing == "raise":
        names = [g.name for g in groups(graph) if unseen[g.free].any()]
        if names:
            raise ModelError(
                f"The criterion {criterion} cannot see the channels of {', '.join(names[:8])}"
                f"{f' and {len(names) - 8} more' if len(names) > 8 else ''}. Use missing='keep' to leave them as they "
                "are, or another criterion."
            )
    scores[unseen] = np.inf


def _normalize(graph, scores, normalization) -> np.ndarray:
    if normalization == "none":
        return scores
    known = np.flatnonzero(np.isfinite(scores))
    known = known[np.argsort(graph.units.bundle[known], kind="stable")]
    starts = np.flatnonzero(np.diff(graph.units.bundle[known])) + 1
    for own in np.split(known, starts) if len(known) else ():
        values = scores[own]
        if normalization == "standard":
            spread = values.std()
            scores[own] = (values - values.mean()) / (spread if spread > 0 else 1)
        else:
            by = getattr(values, normalization)()
            scores[own] = values / (by if by != 0 else 1)
    return scores
