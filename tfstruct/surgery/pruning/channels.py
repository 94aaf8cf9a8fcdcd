"""`plan_channels` and `apply`: plans which channels go, and builds the smaller model."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np

from tfstruct.analyze.scores import unit_scores
from tfstruct.arguments import checked, checked_but
from tfstruct.errors import BudgetError, EmptyPlanError, PlanError
from tfstruct.graph import Graph, fingerprint, groups, open_and_trace, rebuild, trace
from tfstruct.reporting import carrying
from tfstruct.surgery.compiling import compile_like
from tfstruct.surgery.pruning.compiled import carry_compiled
from tfstruct.surgery.pruning.exact_widths import keep_for_widths
from tfstruct.surgery.pruning.plan import Plan, keep_of, units_of, widths_of_outputs
from tfstruct.surgery.pruning.planner import Options, Planner


@checked_but("budget", "threshold", "min_channels")
def plan_channels(
    model: keras.Model,
    budget: float | Mapping[str, float] | str | None = None,
    criterion: str | Callable = "l2",
    scope: str = "global",
    *,
    threshold: float | None = None,
    widths: Mapping[str, int] | None = None,
    round_to: int | Mapping[str, int] | None = None,
    min_channels: int | Mapping[str, int] = 1,
    max_ratio: float | Mapping[str, float] = 1.0,
    exclude: str | Sequence[str] = (),
    data=None,
    loss=None,
    reduction: str = "mean",
    normalization: str = "mean",
    latency: Callable[[keras.Model], float] | None = None,
    seed: int = 0,
    input_shape=None,
    outputs: Sequence[str] = (),
    open_layers: str | bool = "auto",
) -> Plan:
    """Decides which channels of a model go so that it meets a budget, by a threshold or by widths; builds nothing.

    The channels of every coupled group are ranked by importance. Steps, each one allowed width less in one group, are
    put in one order (`scope="global"`: by importance across groups; `"local"`: all groups lose the same share), and the
    shortest prefix that meets the whole budget is found by bisection on the virtual graph. So the budget is met, and
    one step fewer would not meet it. With a threshold all steps go whose channels, or their mean where several have to
    go together, are less important than it.

    Args:
        model: a Sequential or functional model.
        budget: a share in (0, 1): that share of the channels of every prunable group goes. Or a dict over `macs`,
            `params`, `tflite_bytes` (of the int8 file, an upper bound), `peak_memory` (bytes of int8 activations) and
            `latency_us`: up to 1 the fraction of the original that may stay, above 1 an absolute figure; all are met.
            The same as a text: `"macs=50%,params=400000"`.
        threshold: instead of a budget: importance in the units of `criterion`, `reduction` and `normalization`, for
            example from `tfstruct.analyze.choose_threshold` with the same three.
        widths: instead of both: path of a layer -> the number of its channels that stay, the most important ones;
            coupled layers follow, all others stay whole. The options from `scope` to `exclude` do not count then.
        criterion, data, loss, reduction, normalization, seed: of `tfstruct.analyze.importance`.
        scope: `"global"` or `"local"`.
        round_to: kept widths are multiples of it, for example 8; a dict by type of layer, `{"Conv2D": 8, "Dense": 4}`.
        min_channels: at least so many channels stay in a layer; a dict by layer.
        max_ratio: at most this share of a group goes; a dict by layer.
        exclude: name or names of layers whose channels stay; `*` and `?` match.
        input_shape: of one sample, for costs of models that leave sizes open, as in `tfstruct.profile`.
        latency: for `latency_us`: the microseconds of a model, for example `tfstruct.convert.measured_latency`.
        outputs: names of outputs (`model.output_names`) that may have fewer channels, such as the hidden size that a
            transformer hands out; the plan says which widths they get. All others keep theirs.
        open_layers: `"auto"`: custom layers are opened first (`tfstruct.surgery.open_layers`); False: none is.

    Returns:
        `Plan`: plain data, by layer which channels stay; `save` writes it as JSON.

    Raises:
        ModelError: the model has no graph, such as a subclassed one.
        BudgetError: the budget cannot be read, or not be met; the message says the least that is reachable. Not one of
            budget, threshold and widths; or it names a figure that cannot be counted.
        PlanError: an option that is out of range or names no layer; a width that a layer cannot have.
        EmptyPlanError: nothing can go, or the model meets the budget as it is; none below a threshold is a warning.

    Example:
        >>> plan = tfstruct.plan_channels(model, "macs=50%")
        >>> len(plan.keep["hidden"])
        8
    """
    _check_threshold(budget, threshold, widths)
    options = Options(budget, scope, round_to, min_channels, max_ratio, exclude, latency)
    graph = open_and_trace(model, input_shape, open_layers, resized=outputs)
    scores = unit_scores(
        graph, criterion, data=data, loss=loss, reduction=reduction, normalization=normalization, missing="keep",
        seed=seed,
    )  # fmt: skip
    planner = Planner(graph, groups(graph), options)
    if widths is not None:
        keep = keep_for_widths(graph, planner.groups, scores, widths)
        after = planner.figures(keep)
        if keep.all():
            raise EmptyPlanError(f"The plan removes nothing: `{graph.model.name}` has these widths as it is: {widths}.")
    else:
        keep, after = planner.choose(scores) if threshold is None else planner.below(scores, threshold)
        planner.require_some(keep)
    settings = {
        "budget": options.budget,
        "threshold": None if threshold is None else float(threshold),
        "widths": None if widths is None else {path: int(width) for path, width in widths.items()},
        "criterion": criterion if isinstance(criterion, str) else getattr(criterion, "__name__", repr(criterion)),
        "scope": scope, "round_to": round_to, "min_channels": min_channels, "max_ratio": max_ratio,
        "exclude": list(options.exclude), "reduction": reduction, "normalization": normalization, "seed": seed,
    }  # fmt: skip
    whole = {path: len(labels) for path, labels in graph.makes.items()}
    return Plan(
        fingerprint(graph.model), keep_of(graph, keep), whole, planner.before, after, settings, planner.whole,
        outputs=widths_of_outputs(graph, keep, outputs), opened=graph.opened, opaque=graph.opaque,
    )  # fmt: skip


@checked
def apply(model: keras.Model, plan: Plan, *, compiled: bool = False, open_layers: str | bool = "auto") -> keras.Model:
    """A new model without the channels that the plan gives up; the original is not touched.

    Weights are copied, names of inputs, outputs and layers are kept. The new model computes what the original computes
    with those channels at zero; layers that take statistics over channels (`explain` marks them) take them over those
    that stay.

    Args:
        model: the model that the plan was made for, or one of the same structure, such as a later checkpoint.
        plan: from `plan_channels`, or read from a file, or edited.
        compiled: whether the state of the optimizer comes along, its slots cut like their weights. Without it the new
            model is compiled like the original, with a fresh optimizer.
        open_layers: `"auto"`: where the plan was made with custom layers opened, they are opened, and stay so: in the
            new model they are nested models of known layers, which load without their code. False: none is.

    Returns:
        The new model; `.report` is the plan as it was applied.

    Raises:
        PlanError: the plan does not fit the model.
        ModelError: `compiled` with a model that is not, or with an optimizer whose slots cannot be cut.

    Example:
        >>> smaller = tfstruct.apply(model, tfstruct.plan_channels(model, 0.25))
        >>> smaller.get_layer("hidden").units
        12
    """
    if not isinstance(plan, Plan):
        raise PlanError(f"Expected a tfstruct.surgery.Plan. Received: {type(plan).__name__}.")
    graph = _graph_for(plan, model, open_layers)
    keep = units_of(graph, plan)
    smaller, pairs = rebuild(graph, keep)
    if compiled:
        carry_compiled(graph, keep, smaller, pairs)
    else:
        compile_like(smaller, graph.model)
    return carrying(smaller, copy.deepcopy(plan))  # which may be edited later


def _graph_for(plan: Plan, model: keras.Model, open_layers: str | bool) -> Graph:
    """The graph that the plan was made on: of the model as it is, or with its custom layers opened."""
    resized = tuple(plan.outputs)
    if not plan.opened:
        graph = trace(model, resized=resized)
        if plan.model == fingerprint(model) and plan.keep.keys() <= graph.makes.keys():
            return graph
    return open_and_trace(model, open_layers=open_layers, resized=resized)


def _check_threshold(budget, threshold, widths) -> None:
    if sum(one is None for one in (budget, threshold, widths)) != 2:
        raise BudgetError(
            f"Give `widths`, or either `budget` or `threshold`. Received: budget={budget!r}, threshold={threshold!r}, "
            f"widths={widths!r}."
        )
    number = isinstance(threshold, (int, float, np.number)) and not isinstance(threshold, bool)
    if threshold is not None and not (number and math.isfinite(threshold)):
        raise BudgetError(f"`threshold` must be a finite number. Received: {threshold!r}.")
