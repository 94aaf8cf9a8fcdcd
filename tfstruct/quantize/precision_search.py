"""`mixed_precision`: chooses the bits of each layer so that a budget is met with the least error."""

import math
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np

from tfstruct import budgets
from tfstruct.analyze.costs import Costs
from tfstruct.analyze.inference import in_inference
from tfstruct.analyze.tflite_size import TENSOR
from tfstruct.arguments import checked_but
from tfstruct.errors import ArgumentError, ArgumentTypeError, BudgetError
from tfstruct.former_names import formerly
from tfstruct.graph import trace
from tfstruct.graph.opening import open_by_itself
from tfstruct.precisions import OF_FILES, PRECISIONS, TO_CHOOSE
from tfstruct.quantize.fused import Fused, fused
from tfstruct.quantize.layer_sensitivity import sensitivity
from tfstruct.quantize.precision_report import ChosenPrecision, PrecisionReport
from tfstruct.quantize.rounding_points import RoundingPoints
from tfstruct.quantize.scheme import Scheme
from tfstruct.quantize.sensitivity_report import QuantizationSensitivity
from tfstruct.samples.for_model import samples_of
from tfstruct.terminal import Progress, Verbose, shows_progress, silent

_BUDGETS = ("tflite_bytes", "latency_us")
# Costs are counted in so many steps up to the budget, rounded up.
_STEPS = 20_000
Latency = Callable[[keras.Model, Scheme], float]


@formerly(observer="calibrator")
@in_inference
@shows_progress
@checked_but("budget")
def mixed_precision(
    model: keras.Model,
    data,
    budget: Mapping[str, float] | str,
    precisions: Sequence[str] = TO_CHOOSE,
    *,
    latency: Latency | None = None,
    known: QuantizationSensitivity | None = None,
    calibrator: str = "minmax",
    batch_size: int = 32,
    progress: Progress = silent,
    verbose: Verbose = "auto",
    open_layers: str | bool = "auto",
) -> Scheme:
    """Returns a scheme with a precision for each layer that meets a budget and adds the least error to the outputs.

    `minimise sum over layers of n_l(p_l)` under `sum of c_l(p_l) <= budget`, a knapsack with one choice a layer, where
    n is the share of error power that `sensitivity` measured with layer l alone in precision p (errors of several
    layers are nearly independent, so their powers add up), and c its cost.

    Args:
        model: a model that can be traced.
        data: see `calibrate`; labels are left aside.
        budget: `{"tflite_bytes": ...}` or `{"latency_us": ...}`, or as a text `"tflite_bytes=70%"`: up to 1 the
            fraction of the int8 file's (int16x8, for the latency, where that is among the precisions), above 1 an
            absolute figure. The bytes are an upper bound.
        precisions: those allowed, of "int4", "int8" and "float32", or of "int16x8" and "float32": activations have one
            width.
        latency: for `latency_us`: the microseconds of a model under a scheme, such as
            `lambda m, s: measured_latency(m, recipe=Recipe(s.precision, layers=s.layers))`. It is asked once for each
            layer and precision, and once or a few times for the result.
        known: what `sensitivity` measured for these precisions, if it has been.
        calibrator, batch_size, progress: of `sensitivity`.
        verbose: what is shown while it works, see `tfstruct.compress`.
        open_layers: `"auto"` opens custom layers, so that layers inside have a precision of their own; `latency` gets
            the opened model. False: none.

    Returns:
        `Scheme`: for `calibrate`, `QuantizeAware` and `to_tflite`. Its `report` says what each layer adds and costs.

    Raises:
        BudgetError: a budget that cannot be read or not be met; the message says the least that is reachable.
        ArgumentError: precisions that do not go together.
        ArgumentTypeError: `known` is no result of `sensitivity`.

    Example:
        >>> scheme = tfstruct.quantize.mixed_precision(model, x, "tflite_bytes=100%")
        >>> scheme.precision
        'int8'
    """
    if known is not None and not isinstance(known, QuantizationSensitivity):
        raise ArgumentTypeError(f"`known` must be what `sensitivity` gave. Received: {known!r}.")
    name, value = _named(budget, latency)
    default = _default(precisions)
    opened = open_by_itself(model, open_layers)
    model = opened.model
    rounding_points = RoundingPoints(trace(model))
    layers = fused(rounding_points)
    quantized = tuple(p for p in precisions if p != "float32")
    if known is None:
        inputs = samples_of(model, data).in_memory().inputs
        known = sensitivity(
            model,
            (inputs,),
            quantized,
            calibrator=calibrator,
            batch_size=batch_size,
            progress=progress,
            open_layers=False,
        )
    choices = [_choices(layer, precisions, known) for layer in layers]

    def reported(scheme: Scheme, chosen: Sequence[str], whole: float, limit: float, reached: float) -> Scheme:
        rows = tuple(
            ChosenPrecision(layer.path, p, own[p], cost[p])
            for layer, p, own, cost in zip(layers, chosen, choices, costs, strict=True)
        )
        report = PrecisionReport(
            model.name, default, name, whole, limit, reached, rows, opened=opened.opened, opaque=opened.closed
        )
        object.__setattr__(scheme, "report", report)
        return scheme

    if name == "tflite_bytes":
        int8, rest, costs = _bytes(rounding_points, layers, choices)
        limit = budgets.absolute(name, value, int8)
        chosen = _chosen(limit, rest, choices, costs) or _refuse(name, limit, rest, costs)
        reached = rest + sum(cost[p] for cost, p in zip(costs, chosen, strict=True))
        return reported(_scheme(default, layers, chosen), chosen, int8, limit, reached)
    assert latency is not None  # `_named` refuses a budget of the latency without it
    base = Scheme(default)
    whole = latency(model, base)
    limit = budgets.absolute(name, value, whole)
    costs = []
    for done, (layer, own) in enumerate(zip(layers, choices, strict=True), 1):
        single = {precision: _scheme(default, [layer], [precision]) for precision in own}
        costs.append({p: 0.0 if scheme == base else latency(model, scheme) - whole for p, scheme in single.items()})
        progress("latency", done, len(layers))
    aim = limit
    while chosen := _chosen(aim, whole, choices, costs):
        found = _scheme(default, layers, chosen)
        measured = latency(model, found)
        if measured <= limit:
            return reported(found, chosen, whole, limit, measured)
        aim -= 1.1 * (measured - limit)  # layers alone promised more than they keep together
    return _refuse(name, limit, whole, costs)


def _named(budget, latency) -> tuple[str, float]:
    found = budgets.figures(budget, _BUDGETS)
    if len(found) != 1:
        raise BudgetError(f"`budget` must have one of {', '.join(_BUDGETS)}. Received: {budget!r}.")
    ((name, value),) = found.items()
    if name == "latency_us" and latency is None:
        raise BudgetError("A budget of `latency_us` needs `latency=`: a function (model, scheme) -> microseconds.")
    return name, value


def _default(precisions: Sequence[str]) -> str:
    allowed = [name for name in OF_FILES if name == "float32" or PRECISIONS[name].activation_bits]
    if not precisions or any(p not in allowed for p in precisions):
        raise ArgumentError(f"`precisions` must be some of {', '.join(allowed)}. Received: {precisions!r}.")
    widths = {PRECISIONS[name].activation_bits for name in precisions} - {None}
    if len(widths) > 1:
        raise ArgumentError(
            "All quantized layers have activations of one width: int16x8 goes with float32 alone. "
            f"Received: {precisions!r}."
        )
    if set(precisions) == {"float32"}:
        raise ArgumentError("`precisions` of float32 alone leave nothing to choose.")
    return "int16x8" if 16 in widths else "int8"


def _choices(layer: Fused, precisions: Sequence[str], known: QuantizationSensitivity) -> dict[str, float]:
    """Precision -> error; a layer without a 4-bit kernel has int8 in its place."""
    measured = {row.precision: row.noise for row in known.rows if row.layer == layer.path}
    found = {}
    for precision in precisions:
        own = precision if layer.takes(precision) else "int8"
        found[own] = 0.0 if own == "float32" else measured[own]
    return found


def _bytes(
    rounding_points: RoundingPoints, layers: Sequence[Fused], choices
) -> tuple[float, float, list[dict[str, float]]]:
    """Upper bounds in bytes: of the int8 file, of its part that no choice changes, and of each layer by precision."""
    by_call = Costs(rounding_points.graph, ("tflite_bytes",)).by_call()["tflite_bytes"]
    whole, costs, rest = float(by_call.sum()), [], float(by_call.sum())
    for layer, own in zip(layers, choices, strict=True):
        int8 = float(by_call[list(layer.rows)].sum())
        weights = [w for op in layer.ops for w in getattr(op, "weights", ())]
        kernels = [int(np.prod(w.shape)) for w in weights if len(w.shape) > 1]
        inputs = sum(len(rounding_points.graph.calls[row].inputs) for row in layer.rows)
        more = {}
        for precision in map(PRECISIONS.__getitem__, own):
            if precision.weight_bits is None:
                change = 3 * sum(kernels) + TENSOR * (inputs + 1)  # with what turns integers into floats and back
            elif precision.weight_bits == 4:
                change = -sum(n // 2 for n in kernels)
            else:  # biases of 64 bits beside activations of 16
                change = 4 * sum(w.shape[-1] for w in weights) if precision.activation_bits == 16 else 0
            more[precision.name] = int8 + float(change)
        costs.append(more)
        rest -= int8
    return whole, rest, costs


def _refuse(name: str, limit: float, rest: float, costs):
    least = rest + sum(min(cost.values()) for cost in costs)
    raise BudgetError(f"`{name}` of {limit:,.0f} cannot be met with these precisions: the least is {least:,.0f}.")


def _chosen(limit: float, rest: float, choices, costs) -> list[str] | None:
    """One precision for each layer: least error with costs of at most `limit`, of which `rest` are fixed; None if there
    is none."""
    finest = [min(own, key=own.get) for own in choices]
    if rest + sum(cost[p] for cost, p in zip(costs, finest, strict=True)) <= limit:
        return finest
    least = [min(cost.values()) for cost in costs]
    spare = limit - rest - sum(least)
    if spare < 0:
        return None
    unit = max(spare / _STEPS, 1e-9)
    spent = [
        {p: min(math.ceil((cost[p] - low) / unit - 1e-6), _STEPS + 1) for p in own}
        for own, cost, low in zip(choices, costs, least, strict=True)
    ]
    best, picks = np.zeros(_STEPS + 1), []  # by the steps that may be spent: the least error of the layers so far
    for own, steps in zip(choices, spent, strict=True):
        ways = [np.append(np.full(steps[p], np.inf), best)[: _STEPS + 1] + error for p, error in own.items()]
        picks.append(np.argmin(ways, axis=0))
        best = np.min(ways, axis=0)
    left, found = _STEPS, []
    for own, steps, pick in zip(choices[::-1], spent[::-1], picks[::-1], strict=True):
        found.append(list(own)[pick[left]])
        left -= steps[found[-1]]
    return found[::-1]


def _scheme(default: str, layers: Sequence[Fused], chosen: Sequence[str]) -> Scheme:
    wanted: dict[str, str] = {}
    for layer, precision in zip(layers, chosen, strict=True):
        # What is fused behind a kernel of 4 bits has 8 all the same.
        wanted.update(dict.fromkeys(layer.paths if precision == "float32" else layer.paths[:1], precision))
    scheme = Scheme(default, layers={path: p for path, p in wanted.items() if p != default})
    # A name also matches layers of that name in nested models.
    return Scheme(default, layers={**scheme.layers, **{k: p for k, p in wanted.items() if scheme.precision_of(k) != p}})
