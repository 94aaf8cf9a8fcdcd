"""`factorize`: kernels of dense layers and convolutions as products of smaller ones."""

import math
from collections.abc import Callable, Iterable, Mapping

import keras
import numpy as np
from keras import layers as keras_layers

from tfstruct.analyze.costs import Costs
from tfstruct.arguments import checked_but, require_one_of
from tfstruct.errors import PlanError
from tfstruct.graph import Call, Graph, open_and_trace, rewire
from tfstruct.graph.operation_traits import layers_with
from tfstruct.patterns import matches
from tfstruct.reporting import Result
from tfstruct.surgery.edit_report import edited
from tfstruct.surgery.factor.factor_layers import build, misplaced
from tfstruct.surgery.factor.factors import Rank
from tfstruct.surgery.factor.methods import METHODS, factors_of
from tfstruct.surgery.factor.rank_budget import Option, choose
from tfstruct.surgery.factor.targets import Target, by_path, kernel_of, unusable


@checked_but("layers", "rank")
def factorize(
    model: keras.Model,
    layers: str | Iterable[str] | Callable | None = None,
    *,
    rank: int | tuple[int, int] | Mapping[str, int | tuple[int, int]] | None = None,
    energy: float | None = None,
    macs: float | None = None,
    method: str = "svd",
    input_shape=None,
    open_layers: str | bool = "auto",
) -> Result:
    """Replaces kernels by products of smaller ones: `W' = U V`, with bias and activation behind the last factor.

    - `"svd"`: all taps to r channels, then 1 x 1; a dense layer as two. The best W' of its rank.
    - `"spatial"`: kh x 1 to r channels, then 1 x kw (arXiv:1405.3866). Best of its rank.
    - `"depthwise"`: depthwise with r as multiplier, then 1 x 1; best of its rank.
    - `"tucker"`: 1 x 1 to r_in, kh x kw to r_out, 1 x 1 (Tucker-2 by HOSVD and its iteration, arXiv:1511.06530).
    - `"cp"`: 1 x 1 to r, depthwise kh x 1, depthwise 1 x kw, 1 x 1 (arXiv:1412.6553), by alternating least squares,
      which may stop short of the best; needs tensorly (`pip install "tfstruct[cp]"`).

    Strides that differ by axis, which TensorFlow's CPU kernels refuse of depthwise layers, go to the layer behind them.
    A kernel of one tap (dense, 1 x 1) is a matrix: svd, tucker and cp are the same there, the others have no use. The
    last factor keeps the layer's name, the others are called `name_u` and so on; a shared layer's factors are shared.

    Args:
        model: a Sequential or functional model, also nested; not changed.
        layers: names (`block/conv` in a nested model, `block` for all in it; `*` and `?` match), or a function from a
            layer to whether it is meant; by default every dense layer and convolution.
        rank: of all layers, at most that of each kernel; or by layer name. Tucker takes (r_in, r_out) too.
        energy: in (0, 1]: the smallest rank with ||W - W'||_F^2 <= (1 - energy) ||W||_F^2, measured on the factors in
            the weights' dtype (at 1.0 up to its rounding). For tucker the cheapest pair of ranks whose HOSVD bound
            holds it, for cp the smallest rank at which the least squares got there.
        macs: in (0, 1]: the share of the model's multiply-accumulates that may stay. Ranks go down where that costs
            the smallest relative error for each MAC saved, until the budget is met.
        method: see above.
        input_shape: of one sample, for `macs` of models that leave sizes open, as in `tfstruct.profile`.
        open_layers: `"auto"`: custom layers are opened first (`tfstruct.surgery.open_layers`); False: none is.

    A layer whose factors would not have fewer parameters is left alone, and so are grouped convolutions and all other
    layers; `.skipped` says why.

    Returns:
        `Result`; `details[layer]`: `method`, `rank`, `error` = ||W - W'||_F / ||W||_F, `parameters` and `macs` (before
        and after; MACs in all calls, None where sizes are open).

    Raises:
        PlanError: an option is out of range, or names no layer.
        BudgetError: `macs` is less than rank 1 leaves; `.least` says how much that is.
        ModelError: the model has no graph, or `macs` and it leaves sizes open.
        ImportError: `"cp"` without tensorly.

    Example:
        >>> edited = tfstruct.surgery.factorize(model, ["hidden"], rank=2)
        >>> edited.model.count_params() < model.count_params()
        True
    """
    _check(rank, energy, macs, method)
    graph = open_and_trace(model, input_shape, open_layers)
    if isinstance(rank, Mapping):
        layers = list(rank) if layers is None else layers
        rank = _ranks(graph, rank)
    chosen, skipped = _chosen(graph, layers)
    targets: list[Target] = []
    for path, calls in chosen.items():
        factors = factors_of(kernel_of(calls[0].op), method)
        if isinstance(factors, str):
            skipped[path] = factors
        elif why := misplaced(calls, factors.stages(factors.full)):
            skipped[path] = why
        else:
            targets.append(Target(path, calls, factors))
    if macs is not None:
        ranks = _by_budget(graph, targets, macs, skipped)
    elif energy is not None:
        ranks = {t.path: found for t in targets if (found := _by_energy(t, energy, skipped)) is not None}
    else:
        ranks = {t.path: found for t in targets if (found := _by_rank(t, rank, skipped)) is not None}
    return _made(graph, {t.path: t for t in targets}, ranks, skipped)


def _check(rank, energy, macs, method) -> None:
    require_one_of("method", method, METHODS, error=PlanError)
    given = {"rank": rank, "energy": energy, "macs": macs}
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1:
        raise PlanError(f"Give one of `rank`, `energy` and `macs`. Received: {', '.join(names) or 'none of them'}.")
    for name in ("energy", "macs"):
        value = given[name]
        if value is None:
            continue
        number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
        if not number or not 0 < value <= 1:
            raise PlanError(f"`{name}` must be in (0, 1]. Received: {value!r}.")
    for value in rank.values() if isinstance(rank, Mapping) else () if rank is None else (rank,):
        parts = value if isinstance(value, (tuple, list)) else (value,)
        if isinstance(value, (tuple, list)) and (method != "tucker" or len(value) != 2):
            raise PlanError(f"`rank` must be an integer; (r_in, r_out) only for tucker. Received: {value!r}.")
        if not all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n > 0 for n in parts):
            raise PlanError(f"`rank` must be an integer above 0. Received: {value!r}.")


def _named(graph: Graph, everything: dict[str, list[Call]], option: str, pattern) -> list[str]:
    """Paths that a name or pattern matches; the name of a nested model matches everything inside it."""
    if not isinstance(pattern, str):
        raise PlanError(f"`{option}` must be names, or a function of a layer. Received: {pattern!r}.")
    paths = {call.path: path for path, own in everything.items() for call in own}
    found = [path for path in paths if matches(pattern, path)]
    if not found:
        raise PlanError(
            f"`{option}` names `{pattern}`, but `{graph.model.name}` has no such layer. It has: "
            f"{', '.join(list(paths)[:20])}{', ...' if len(paths) > 20 else ''}."
        )
    return list(dict.fromkeys(paths[path] for path in found))


def _chosen(graph: Graph, layers) -> tuple[dict[str, list[Call]], dict[str, str]]:
    """The selected layers that can be factorized, with their calls; and the others with the reason."""
    everything = by_path(graph)
    if layers is None:
        kernels = layers_with("dense", "conv", "einsum")
        meant = [path for path, own in everything.items() if isinstance(own[0].op, kernels)]
    elif callable(layers):
        meant = [
            path for path, own in everything.items() if isinstance(own[0].op, keras_layers.Layer) and layers(own[0].op)
        ]
    else:
        patterns = tuple(layers) if isinstance(layers, Iterable) and not isinstance(layers, str) else (layers,)
        meant = [path for pattern in patterns for path in _named(graph, everything, "layers", pattern)]
    usable, skipped = {}, {}
    for path in dict.fromkeys(meant):
        why = unusable(everything[path][0])
        if why:
            skipped[path] = why
        else:
            usable[path] = everything[path]
    return usable, skipped


def _fewer(target: Target, rank: Rank, skipped: dict[str, str]) -> bool:
    """Whether the factors have fewer parameters; if not, records it as skipped."""
    before, after = target.size(), target.size(rank)
    if after >= before:
        shown = rank[0] if len(rank) == 1 else rank
        skipped[target.path] = f"rank {shown} would not save parameters: {before:,} -> {after:,}"
    return after < before


def _ranks(graph: Graph, rank: Mapping) -> dict:
    """Ranks by path: an exact name before a pattern, and patterns in their order."""
    everything = by_path(graph)
    found: dict = {}
    for pattern in sorted(rank, key=lambda name: name not in everything):
        for path in _named(graph, everything, "rank", pattern):
            found.setdefault(path, rank[pattern])
    return found


def _by_rank(target: Target, rank, skipped) -> Rank | None:
    if isinstance(rank, Mapping) and target.path not in rank:
        raise PlanError(f"`rank` has no entry for `{target.path}`, which `layers` names.")
    given, full = rank[target.path] if isinstance(rank, Mapping) else rank, target.factors.full
    wanted = tuple(given) if isinstance(given, (tuple, list)) else (given,) * len(full)
    if len(wanted) > len(full):  # a pair of Tucker's for a matrix
        wanted = (min(wanted),)
    found = tuple(int(min(r, most)) for r, most in zip(wanted, full, strict=True))
    return found if _fewer(target, found, skipped) else None


def _by_energy(target: Target, energy: float, skipped) -> Rank | None:
    allowed = _allowed(target, energy)
    found = target.factors.smallest(allowed)
    if found is None:
        skipped[target.path] = f"no rank that saves parameters holds {energy:g} of its energy"
        return None
    while _fewer(target, found, skipped):
        if _measured(target, found) ** 2 * target.factors.norm2 <= allowed:
            return found
        found = target.factors.larger(found)
        if found is None:
            skipped[target.path] = f"no rank holds {energy:g} of its energy in {target.layer.kernel.dtype}"
            return None
    return None


def _allowed(target: Target, energy: float) -> float:
    steps = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float64": 2.0**-40}
    step = steps.get(keras.backend.standardize_dtype(target.layer.kernel.dtype), 2.0**-23)
    return (max(1.0 - energy, 0.0) + (8 * step) ** 2) * target.factors.norm2


def _stored(target: Target, rank: Rank) -> list[np.ndarray]:
    """The factors in the precision in which the layers store them."""
    dtype = target.layer.kernel.dtype
    return [keras.ops.convert_to_numpy(keras.ops.cast(kernel, dtype)) for kernel in target.factors.kernels(rank)]


def _measured(target: Target, rank: Rank) -> float:
    wide = [k if k.dtype in (np.float32, np.float64) else k.astype(np.float32) for k in _stored(target, rank)]
    return target.factors.relative_error(wide)


def _by_budget(graph: Graph, targets: list[Target], share: float, skipped) -> dict[str, Rank]:
    total = Costs(graph, ("macs",))()["macs"]
    options = []
    for target in targets:
        before, size, norm2 = target.macs(), target.size(), target.factors.norm2 or 1.0
        own = [Option(None, before, 0.0)]
        for rank in target.factors.ranks():
            after = target.macs(rank)
            if after < before and target.size(rank) < size:
                own.append(Option(rank, after, target.factors.error2(rank) / norm2))
        options.append(own)
        if len(own) == 1:
            skipped[target.path] = "no rank saves parameters and MACs"
    rest = total - sum(own[0].macs for own in options)
    chosen = choose(options, share * total, rest, graph.model.name)
    for target, option, own in zip(targets, chosen, options, strict=True):
        if option.rank is None and len(own) > 1:
            skipped[target.path] = "the budget is met without it"
    return {t.path: option.rank for t, option in zip(targets, chosen, strict=True) if option.rank is not None}


def _made(graph: Graph, targets: dict[str, Target], ranks: dict[str, Rank], skipped) -> Result:
    taken: dict[str, set[str]] = {}  # by the path of the nested model
    for call in graph.calls:
        taken.setdefault(call.path.rpartition("/")[0], set()).add(call.op.name)

    def namer(path: str):
        names = taken[path.rpartition("/")[0]]

        def named(wanted: str) -> str:
            name, number = wanted, 2
            while name in names:
                name, number = f"{wanted}{number}", number + 1
            names.add(name)
            return name

        return named

    edits, changes, details = {}, [], {}
    for path, rank in ranks.items():
        target = targets[path]
        stages, kernels = target.factors.stages(rank), target.factors.kernels(rank)
        run = build(target.layer, stages, kernels, namer(path))
        edits[id(target.layer)] = lambda step, _, *args, run=run, **kwargs: run(args[0] if args else kwargs["inputs"])
        kind = type(target.factors).__name__.lower()
        before, after, error = target.size(), target.size(rank), _measured(target, rank)
        counts = (target.macs(), target.macs(rank))
        details[path] = {
            "method": kind,
            "rank": list(rank),
            "error": error,
            "parameters": [before, after],
            "macs": None if math.isnan(counts[0]) else [round(n) for n in counts],
        }
        lost = "" if target.layer.kernel_constraint is None else "; its kernel constraint is gone"
        shown = rank[0] if len(rank) == 1 else f"{rank[0]}, {rank[1]}"
        what = f"{kind} of rank {shown}: parameters {before:,} -> {after:,}, error {error:.3g}{lost}"
        changes.append((path, what))
    model = rewire(graph, edits).model
    return edited(graph, model, changes, list(skipped.items()), exact=False, details=details)
