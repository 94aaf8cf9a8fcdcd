"""`share_layers`: several layers become one that is used several times."""

from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np

from tfstruct.arguments import checked_but, require_one_of
from tfstruct.errors import ModelError, PlanError
from tfstruct.graph import Graph, open_and_trace, rewire, trace
from tfstruct.graph.configured import again
from tfstruct.graph.trace import functional_of
from tfstruct.patterns import check_open_layers
from tfstruct.reporting import Result
from tfstruct.surgery.edit_report import edited
from tfstruct.surgery.share.shareable import PlacedLayer, placed_layers, unlike

_HOW = ("mean", "first", "weighted")


@checked_but("groups", "weights")
def share_layers(
    model: keras.Model,
    groups: Sequence[Sequence[str]],
    how: str = "mean",
    weights: Sequence[float] | Sequence[Sequence[float]] | None = None,
    *,
    open_layers: str | bool = "auto",
) -> Result:
    """Makes one layer of each group, with the name of its first: `w = sum_i a_i w_i`, and gradients sum over the uses.

    a_i is 1 / n for `"mean"`, 1 for the first and 0 for the others with `"first"`, and `weights[i] / sum(weights)` for
    `"weighted"`; statistics of batch norms are averaged like weights. Parameters and saved files shrink, MACs do not.
    With blocks of a transformer this is ALBERT's sharing across layers (Sec. 3.1, arXiv:1909.11942).

    Args:
        model: a Sequential (whose successor is functional then) or functional model, also nested; not changed.
        groups: lists of names, at least two each: of layers, also composite ones such as MultiHeadAttention, or of
            whole nested models. In a nested model `block/dense`; all of a group lie in the same model, as Keras cannot
            load a file in which one layer is in several nested models.
        how: see above.
        weights: for `"weighted"`: a number for each member, the same for all groups, or a list for each group.
        open_layers: `"auto"`: custom layers are opened (`tfstruct.surgery.open_layers`) where a named layer is inside
            one; False: none is.

    Returns:
        `Result`. Where the weights of every group were equal, outputs are too, and that is checked. `details[first]`:
        `layers`, `parameters` before and after, `change` = sqrt(sum_i ||w_i - w||^2 / sum_i ||w_i||^2).

    Raises:
        PlanError: a group of unequal layers, of unknown or repeated names, or across nested models; an option that is
            out of range.
        ModelError: the model has no graph, or a layer cannot be called where another was.

    Example:
        >>> a, b = (keras.layers.Dense(8, name=name) for name in "ab")
        >>> twice = keras.Sequential([keras.Input((8,)), a, b])
        >>> shared = tfstruct.surgery.share_layers(twice, [["a", "b"]]).model
        >>> twice.count_params(), shared.count_params()
        (144, 72)
    """
    require_one_of("how", how, _HOW, error=PlanError)
    check_open_layers(open_layers)
    graph = trace(model)
    try:
        found = _units(graph, groups)
    except PlanError:
        graph = open_and_trace(model, open_layers=open_layers)
        found = _units(graph, groups)
    shares = _shares(found, how, weights)
    edits: dict[int, Callable] = {}
    details: dict[str, dict] = {}
    merged, changes, equal = [], [], True
    for group, share in zip(found, shares, strict=True):
        one = _clone(group[0])
        values = [_merged([unit.op.weights[i] for unit in group], share) for i in range(len(group[0].op.weights))]
        merged.append((group, one, values))
        edits |= {id(unit.op): _call(one, group) for unit in group}
        equal = equal and all(
            np.array_equal(_numpy(w), _numpy(first))
            for unit in group[1:]
            for w, first in zip(unit.op.weights, group[0].op.weights, strict=True)
        )
        first, size = group[0], group[0].parameters
        others = ", ".join(unit.path for unit in group[1:])
        counts = [len(group) * size, size]
        changes.append((first.path, f"also stands for {others}: parameters {counts[0]:,} -> {counts[1]:,}"))
        details[first.path] = {
            "layers": [unit.path for unit in group], "parameters": counts, "change": _change(group, values),
        }  # fmt: skip
    successor = rewire(graph, edits).model
    for group, one, values in merged:
        if len(one.weights) != len(values):
            raise ModelError(
                f"{group[0].path} ({type(one).__name__}) has {len(values)} weights, but {len(one.weights)} after it "
                "was made again from its configuration."
            )
        for variable, value in zip(one.weights, values, strict=True):
            variable.assign(value)
    return edited(graph, successor, changes, exact=equal, details=details)


def _units(graph: Graph, groups) -> list[list[PlacedLayer]]:
    listed = list(groups) if isinstance(groups, (list, tuple)) else []
    if not listed or any(isinstance(group, str) or not isinstance(group, (list, tuple)) for group in listed):
        raise PlanError(f'`groups` must be lists of names, such as [["a", "b"], ["c", "d"]]. Received: {groups!r}.')
    everything = placed_layers(graph)
    found: list[list[PlacedLayer]] = []
    taken: dict[int, PlacedLayer] = {}
    for group in listed:
        if len(group) < 2:
            raise PlanError(f"Each of `groups` must name at least two layers. Received: {list(group)!r}.")
        own = [_named(everything, name, graph.model.name) for name in group]
        for unit in own:
            if id(unit.op) in taken:
                raise PlanError(f"`groups` names `{unit.path}` twice. Give each layer once.")
            taken[id(unit.op)] = unit
            if unit.where != own[0].where:
                raise PlanError(
                    f"`{own[0].path}` and `{unit.path}` are in different nested models, and Keras cannot load a file "
                    "in which one layer is in several. Share the nested models, or layers of the same one."
                )
            reason = unlike(own[0], unit)
            if reason:
                raise PlanError(f"Layers of a group must be of equal type, configuration and shape: {reason}.")
            if not unit.op.weights:
                raise PlanError(f"`{unit.path}` ({type(unit.op).__name__}) has no weights to share. Leave it out.")
        found.append(own)
    for inner in taken.values():
        for outer in taken.values():
            if inner.where.startswith(f"{outer.path}/"):
                raise PlanError(
                    f"`{inner.path}` is inside `{outer.path}`, which is shared too. Share them in two steps."
                )
    return found


def _named(everything: dict[str, PlacedLayer], name, model: str) -> PlacedLayer:
    if name in everything:
        return everything[name]
    same = [unit for unit in everything.values() if unit.op.name == name]
    if len(same) == 1:
        return same[0]
    if same:
        raise PlanError(f"`{name}` may be any of {', '.join(u.path for u in same)}. Give the name with its models.")
    raise PlanError(
        f"`groups` names {name!r}, but `{model}` has no such layer. It has: {', '.join(list(everything)[:20])}"
        f"{', ...' if len(everything) > 20 else ''}."
    )


def _shares(groups: list[list[PlacedLayer]], how: str, weights) -> list[np.ndarray]:
    if (weights is not None) != (how == "weighted"):
        raise PlanError(f'`weights` go with how="weighted", and it needs them. Received: {how!r}, weights={weights!r}.')
    if how == "mean":
        return [np.full(len(group), 1 / len(group)) for group in groups]
    if how == "first":
        return [np.eye(len(group))[0] for group in groups]
    if isinstance(weights, (str, Mapping)) or not isinstance(weights, (list, tuple, np.ndarray)):
        raise PlanError(f"`weights` must be a list of numbers, or one for each group. Received: {weights!r}.")
    by_group = len(weights) and not isinstance(weights[0], (int, float, np.number))
    given = list(weights) if by_group else [weights] * len(groups)
    if len(given) != len(groups):
        raise PlanError(f"`weights` must have an entry for each of {len(groups)} groups. Received: {len(given)}.")
    shares = []
    for group, own in zip(groups, given, strict=True):
        try:
            values = np.asarray(own, float)
        except (TypeError, ValueError):
            values = np.full(1, np.nan)
        if values.shape != (len(group),) or not np.isfinite(values).all() or (values < 0).any() or not values.any():
            raise PlanError(
                f"`weights` of `{group[0].path}` must be {len(group)} numbers >= 0, not all 0. Received: {own!r}."
            )
        shares.append(values / values.sum())
    return shares


def _clone(unit: PlacedLayer):
    """A copy of a layer or model; its weights are set once it has been called."""
    if isinstance(unit.op, keras.Model) and functional_of(unit.op) is not None:
        return rewire(trace(unit.op), {}).model
    made = again(unit.op, path=unit.path)
    made.trainable = unit.op.trainable
    return made


def _call(one, group: list[PlacedLayer]):
    def run(step, _, *args, **kwargs):
        try:
            return one(*args, **kwargs)
        except ValueError as error:
            raise ModelError(
                f"`{group[0].path}` cannot be called where one of {', '.join(u.path for u in group[1:])} was: "
                f"{str(error).splitlines()[0]}"
            ) from error

    return run


def _numpy(variable) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable)


def _merged(variables, share: np.ndarray) -> np.ndarray:
    first = _numpy(variables[0])
    if "float" not in keras.backend.standardize_dtype(variables[0].dtype) or all(
        np.array_equal(first, _numpy(w)) for w in variables[1:]
    ):
        return first  # as it is, without rounding
    return sum(a * _numpy(w).astype(np.float64) for a, w in zip(share, variables, strict=True) if a).astype(first.dtype)


def _change(group: list[PlacedLayer], values: list[np.ndarray]) -> float:
    gone = whole = 0.0
    for i, value in enumerate(values):
        for unit in group:
            w = _numpy(unit.op.weights[i]).astype(np.float64)
            gone, whole = gone + float(((w - value) ** 2).sum()), whole + float((w**2).sum())
    return float(np.sqrt(gone / whole)) if whole else 0.0
