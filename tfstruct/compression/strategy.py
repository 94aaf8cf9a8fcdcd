"""What is done, in which order and how much of it: decided from the profile, the target and the budget."""

import functools
from collections.abc import Callable, Sequence

import keras

from tfstruct.analyze import Costs
from tfstruct.compression.channel_choice import Sizing, choose_channels
from tfstruct.compression.stage import Decision
from tfstruct.compression.steps.downsampling import DownsampleEarly
from tfstruct.compression.steps.dropping import DropBlocks
from tfstruct.compression.steps.factorizing import Factorize
from tfstruct.compression.steps.optimizing import Optimize
from tfstruct.compression.steps.pruning import PruneChannels
from tfstruct.compression.steps.quantizing import Quantize
from tfstruct.compression.steps.sharing import ShareLayers
from tfstruct.compression.steps.step import Step
from tfstruct.compression.task import Task
from tfstruct.errors import ModelError, PlanError
from tfstruct.graph import trace
from tfstruct.surgery import downsample_early, drop_blocks, factorize, residual_blocks, suggest_sharing

_IDLE = 0.02  # 1 - cosine of a block's output and its shortcut: it does next to nothing
_TRIED = 3  # blocks at a time
_ALIKE = 0.95  # cosine of two layers' weights
_LARGE = 0.15  # of all parameters: a layer worth a factorization
_ENERGY = 0.99
_WORTH = 0.6  # the share of its parameters that a factorized layer may have

Decided = tuple[tuple[Step, ...], tuple[Decision, ...]]
Sizes = Callable[[keras.Model], Sizing]


def decide(task: Task, given: Sequence[Step] | None = None, *, four_bits: bool = True) -> Decided:
    """The steps, in order, and why; their epochs are shared out later.

    First what costs nothing, then whole blocks and layers, then channels, and the rounding of the file last, as each of
    them changes what the next one has to work with.

    Args:
        given: the steps that the user asks for; what they leave open is filled in.
        four_bits: whether weights may have 4 bits, where nothing is given.
    """
    if given is not None:
        return _filled(task, given)
    steps: list[Step] = []
    decisions: list[Decision] = []

    def add(made: Decided) -> None:
        steps.extend(made[0])
        decisions.extend(made[1])

    sizes = functools.partial(choose_channels, task, four_bits=four_bits)
    sizing = sizes(task.model)
    add(_optimize(task))
    earlier, at_first = _earlier(task, sizing, sizes)
    blocks, sizing = _blocks(task, sizing, sizes)
    if at_first is not None:
        left = [f"{one.capacity:.0%} of MACs and parameters" for one in (at_first, sizing)]
        if at_first.capacity > sizing.capacity:
            blocks = _not("drop_blocks", f"downsampling early leaves more: {left[0]} against {left[1]}")
            sizing = at_first
        else:
            earlier = _not("downsample_early", f"dropping blocks leaves more: {left[1]} against {left[0]}")
    add(earlier)
    add(blocks)
    small = {*sizing.wanted, *({"tflite_bytes"} if sizing.precision.four_bits else ())}
    add(_sharing(task, small))
    add(_factors(task, small))
    add((sizing.steps, (sizing.decision,)))
    add(((sizing.precision.step,), (Decision("quantize", True, sizing.precision.step.reason),)))
    return tuple(steps), tuple(decisions)


def _filled(task: Task, given: Sequence[Step]) -> Decided:
    steps = []
    sizing = functools.cache(lambda: choose_channels(task, task.model))
    for step in given:
        if isinstance(step, PruneChannels) and step.budget is None:
            step = step.replace(budget=sizing().wanted)
        elif isinstance(step, Quantize) and step.precision is None and step.tflite_bytes is None:
            step = step.replace(tflite_bytes=sizing().precision.step.tflite_bytes)
        steps.append(step)
    return tuple(steps), tuple(Decision(step.kind, True, step.reason or "asked for") for step in steps)


def _optimize(task: Task) -> Decided:
    if task.settings.epochs:
        why = "layers and channels without effect go first; batch norms stay for training, the converter folds them"
        return (Optimize(reason=why),), (Decision("optimize", True, why),)
    why = "everything that computes the same without goes, batch norms are folded: nothing is trained afterwards"
    return (Optimize(fold=True, reason=why),), (Decision("optimize", True, why),)


def _not(kind: str, why: str) -> Decided:
    return (), (Decision(kind, False, why),)


def _earlier(task: Task, sizing: Sizing, sizes: Sizes) -> tuple[Decided, Sizing | None]:
    """Fewer positions in the first stage, where channels are not enough for what depends on positions; no `Sizing`
    where that is no way."""
    kind = DownsampleEarly.kind
    missed = {name for name, least in (sizing.least or {}).items() if least > sizing.wanted[name]}
    if not missed & {"macs", "latency_us", "peak_memory"}:
        return _not(kind, "channels are enough for what would get smaller by it"), None
    try:
        made = downsample_early(task.model)
    except PlanError as error:
        return _not(kind, str(error)), None
    found = sizes(made.model)
    if found.least is not None:
        return _not(kind, "channels are not enough with it either"), None
    layer, whence = made.details["layer"], ", ".join(made.details["moved_from"])
    why = f"channels alone do not meet the budget; with the strides of {whence} in {layer} they do"
    step = DownsampleEarly(layer=layer, reason=why)
    return ((step,), (Decision(kind, True, why),)), found


def _blocks(task: Task, sizing: Sizing, sizes: Sizes) -> tuple[Decided, Sizing]:
    """Blocks that do nothing, and as many more as it takes where channels are not enough: of those that change least
    for what they cost, the one without which most of the network stays."""
    free = [block.join for block in residual_blocks(task.model) if not block.obstacle]
    if not sizing.wanted or not free:
        why = "there is no residual block that could go" if sizing.wanted else "the budget does not ask for it"
        return ((), (Decision("drop_blocks", False, why),)), sizing
    importance = drop_blocks(task.model, task.some_data, count=1).details["importance"]
    order = sorted(importance, key=importance.get)

    def sized(gone: Sequence[str]) -> Sizing:
        return sizes(drop_blocks(task.model, blocks=gone).model)

    idle = [join for join in order if importance[join] < _IDLE]
    gone = list(idle)
    if gone:
        sizing = sized(gone)
    ranked = [join for join in order if join not in gone]
    if sizing.least is not None:
        worth = _saved(task, ranked, sizing)
        ranked.sort(key=lambda join: importance[join] / worth[join])
    while sizing.least is not None and ranked:
        tried = {join: sized([*gone, join]) for join in ranked[:_TRIED]}
        best = max(tried, key=lambda join: tried[join].capacity)  # 0 for those that do not meet the budget
        gone, sizing = [*gone, best], tried[best]
        ranked.remove(best)
    if not gone:
        why = f"the least important, {order[0]}, changes what passes it by {importance[order[0]]:.3f} (1 - cosine)"
        return ((), (Decision("drop_blocks", False, why),)), sizing
    named = ", ".join(f"{join} ({importance[join]:.3f})" for join in gone)
    why = f"these change least of what passes them (1 - cosine): {named}"
    if gone != idle:
        why = f"channels alone do not meet the budget; these change least for what they cost (1 - cosine): {named}"
    step = DropBlocks(blocks=tuple(gone), reason=why, optional=gone == idle)
    return ((step,), (Decision("drop_blocks", True, why),)), sizing


def _saved(task: Task, joins: Sequence[str], sizing: Sizing) -> dict[str, float]:
    """By block, the share that goes with it of what channels cannot meet, at most of one figure; multiply-accumulates
    stand for times."""
    missed = [name for name, least in (sizing.least or {}).items() if least > sizing.wanted[name]]
    names = tuple({"macs" if name == "latency_us" else name for name in missed or sizing.wanted})
    whole = Costs(task.graph, names)()

    def share(join: str) -> float:
        left = Costs(trace(drop_blocks(task.model, blocks=[join]).model), names)()
        return max(1 - left[name] / whole[name] for name in names)

    return {join: max(share(join), 1e-9) for join in joins}


def _sharing(task: Task, wanted: set[str]) -> Decided:
    if not {"params", "tflite_bytes"} & wanted:
        why = "sharing saves parameters only, which the budget does not ask for"
        return (), (Decision("share_layers", False, why),)
    found = suggest_sharing(task.model, threshold=_ALIKE)
    if not found.groups:
        return (), (Decision("share_layers", False, str(found)),)
    step = ShareLayers(groups=found.groups, reason=str(found).splitlines()[0], optional=True)
    return (step,), (Decision("share_layers", True, str(found)),)


def _factors(task: Task, wanted: set[str]) -> Decided:
    """Large layers of low rank."""
    if not {"params", "tflite_bytes", "macs"} & wanted:
        return (), (Decision("factorize", False, "the budget asks for nothing that a low rank would save"),)
    layers = [
        layer for layer in task.model._flatten_layers(include_self=False, recursive=True)
        if hasattr(layer, "kernel") and layer.count_params() >= _LARGE * task.model.count_params()
    ]  # fmt: skip
    try:
        made = factorize(task.model, lambda layer: layer in layers, energy=_ENERGY) if layers else None
    except ModelError as error:
        return (), (Decision("factorize", False, str(error)),)
    details = {} if made is None else made.details
    low = {path: d for path, d in details.items() if d["parameters"][1] <= _WORTH * d["parameters"][0]}
    if not low:
        why = f"no layer with {_LARGE:.0%} of the parameters has {_ENERGY:.0%} of its energy in a low rank"
        return (), (Decision("factorize", False, why),)
    why = "; ".join(f"{path} has {_ENERGY:.0%} of its energy in rank {d['rank']}" for path, d in low.items())
    step = Factorize(layers=tuple(low), energy=_ENERGY, reason=why, optional=True)
    return (step,), (Decision("factorize", True, why),)
