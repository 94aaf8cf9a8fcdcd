"""`shrink`: removes what has no effect on the outputs, and measures that they stay equal."""

import dataclasses

import keras
import numpy as np
from keras import layers

from tfstruct.arguments import checked
from tfstruct.errors import ModelError
from tfstruct.graph import Call, Graph, open_and_trace, rebuild, rewire, trace
from tfstruct.graph.contraction import Weights
from tfstruct.graph.wiring import Wiring
from tfstruct.reporting import OpenedReport, Result, Sheet
from tfstruct.reporting.tables import counted
from tfstruct.surgery.certificate import Difference, certify, difference
from tfstruct.surgery.compiling import compile_like
from tfstruct.surgery.lossless.branches import Branch, cut_branches
from tfstruct.surgery.lossless.constants import constants
from tfstruct.surgery.lossless.removable import Summed, contractions, removable


@dataclasses.dataclass(frozen=True)
class Fold:
    """Constant channels that were moved into a bias.

    Attributes:
        layer: that read them; `into`: what holds them now: `bias`, `new bias`, or `NAME's moving mean`.
        channels: how many.
    """

    layer: str
    into: str
    channels: int


@dataclasses.dataclass(frozen=True)
class ShrinkReport(OpenedReport):
    """What was removed from a model without effect on its outputs.

    Attributes:
        tolerance: weights up to it counted as zero; 0.0 is lossless.
        removed: by layer, the channels that went, numbered as in the original.
        kept: by layer that lost channels, those that stay.
        folded: constants that moved into biases, in the order of the steps.
        branches: residual branches that went, with their join.
        vanished: the layers that are no longer in the model.
        parameters: before and after.
        max_difference: between both models on random inputs.
    """

    tolerance: float
    removed: dict[str, tuple[int, ...]]
    kept: dict[str, tuple[int, ...]]
    folded: tuple[Fold, ...]
    branches: tuple[Branch, ...]
    vanished: tuple[str, ...]
    parameters: tuple[int, int]
    max_difference: Difference

    def _summary(self) -> str:
        before, after = self.parameters
        if not self.removed and not self.branches:
            return f"Nothing to shrink: {before:,} parameters. Largest difference {self.max_difference}."
        counts = (
            (sum(len(gone) for gone in self.removed.values()), "channel", "", "removed"),
            (len(self.branches), "branch", "branches", "cut"),
            (len(self.vanished), "layer", "", "gone"),
            (sum(fold.channels for fold in self.folded), "constant", "", "folded"),
        )
        parts = [f"{counted(n, one, several)} {what}" for n, one, several, what in counts if n]
        return (
            f"Parameters {before:,} -> {after:,}: {', '.join(parts)}. Largest difference on random inputs "
            f"{self.max_difference}."
        )

    def sheet(self) -> Sheet:
        rows: list[tuple[str, int | str, int | str, str]] = []
        for layer, gone in self.removed.items():
            stay = len(self.kept[layer])
            rows.append((layer, len(gone) + stay, stay, f"removed {_listed(gone)}"))
        for fold in self.folded:
            what = "a constant that it read is" if fold.channels == 1 else f"{fold.channels} constants that it read are"
            rows.append((fold.layer, "", "", f"{what} in its {fold.into}"))
        rows += [(branch.join, "", "", f"input {branch.index} {branch.why}") for branch in self.branches]
        notes = [f"no longer in the model: {', '.join(self.vanished)}"] if self.vanished else []
        columns = ("layer", ("channels before", ",d"), ("after", ",d"), "what was done")
        return Sheet(self._summary(), columns, rows, notes=notes)


@checked
def shrink(model: keras.Model, tolerance: float = 0.0, seed: int = 0, *, open_layers: str | bool = "auto") -> Result:
    """Removes what has no effect on the outputs, in inference, and measures that it has none.

    Channels that are constant whatever the input go: `b[o] <- b[o] + sum over taps t and channels c gone of
    k[t, c, o] * constant[c]` in the layer that reads them, where that is exact (dense layers and convolutions that do
    not reach over a border); zeros go everywhere. So do channels that are read with weights of zero only, and inputs
    of an Add that are zero, with the layers behind them. Repeated until nothing is left to do. Every layer keeps one
    channel; statistics over channels (layer normalization, softmax) keep all of theirs.

    Args:
        model: a Sequential or functional model, also nested; not changed.
        tolerance: weights with |w| <= tolerance, and constants as small, count as zero. Above 0.0 the result is not
            lossless, and `max_difference` tells by how much.
        seed: of the random inputs.
        open_layers: `"auto"`: custom layers are opened first (`tfstruct.surgery.open_layers`); False: none is.

    Returns:
        `Result`: `.model`, the smaller model, compiled like the original; `.report`, a `ShrinkReport` with the
        difference measured on random inputs.

    Raises:
        ModelError: the model's graph cannot be walked (a subclassed model), or `tolerance` is negative.
        TfstructError: at tolerance 0.0 the models differ by more than rounding explains; no model is handed out.

    Example:
        >>> kernel, bias = model.get_layer("hidden").get_weights()
        >>> kernel[:, :4] = 0.0  # four channels that are relu(0) = 0 whatever comes in
        >>> model.get_layer("hidden").set_weights([kernel, bias])
        >>> shrunk = tfstruct.shrink(model)
        >>> shrunk.model.get_layer("hidden").units
        12
        >>> np.allclose(model(x), shrunk.model(x), atol=1e-5)
        True
    """
    if not tolerance >= 0.0:
        raise ModelError(f"`tolerance` must be 0.0 or larger. Received: {tolerance}.")
    original = open_and_trace(model, open_layers=open_layers)
    work = shrunk(original, float(tolerance))
    # A model of its own, even where nothing goes.
    smaller = work.graph.model if work.changed else rewire(original, {}).model
    found = difference(original, smaller, seed)
    if not tolerance:
        certify(found, model.name)
    report = ShrinkReport(
        float(tolerance),
        {path: tuple(gone.tolist()) for path, gone in work.removed.items()},
        {path: tuple(work.kept[path].tolist()) for path in work.removed},
        tuple(work.folded),
        tuple(work.branches),
        work.vanished,
        (model.count_params(), smaller.count_params()),
        found,
        opened=original.opened,
        opaque=original.opaque,
    )
    compile_like(smaller, original.model)
    return Result(smaller, report)


@dataclasses.dataclass
class Shrunk:
    """What is left of a graph when everything without effect is gone, and what has been done to it.

    Attributes:
        original, graph: before and after; the same where nothing was removed.
        kept: by path of a layer, the channels of the original that stay.
        folded, branches: as in the report.
    """

    original: Graph
    graph: Graph
    kept: dict[str, np.ndarray]
    folded: list[Fold] = dataclasses.field(default_factory=list)
    branches: list[Branch] = dataclasses.field(default_factory=list)

    @property
    def changed(self) -> bool:
        return self.graph is not self.original

    @property
    def removed(self) -> dict[str, np.ndarray]:
        """By path of a layer that lost channels and is still there, those that went."""
        makes, left = self.original.makes, self.graph.makes
        lost = (path for path, stay in self.kept.items() if len(stay) < len(makes[path]) and path in left)
        return {path: np.setdiff1d(np.arange(len(makes[path])), self.kept[path]) for path in lost}

    @property
    def vanished(self) -> tuple[str, ...]:
        """The layers that are no longer there."""
        left = {call.path for call in self.graph.calls}
        return tuple(dict.fromkeys(call.path for call in self.original.calls if call.path not in left))


def shrunk(graph: Graph, tolerance: float = 0.0) -> Shrunk:
    """Removes what has no effect until nothing is left that has none; nothing is measured."""
    read = Weights(tolerance)
    work = Shrunk(graph, graph, {path: np.arange(len(labels)) for path, labels in graph.makes.items()})
    while True:
        graph = work.graph
        values = constants(graph, read)
        goes = removable(graph, values, read)
        cut = cut_branches(graph, values)
        if not goes.any() and not cut:
            left = {call.path for call in graph.calls}
            work.folded = [fold for fold in work.folded if fold.layer in left]
            return work
        work.folded += _fold(graph, values, goes)
        work.branches += cut
        stays = graph.units.kept(~goes)
        work.kept = {path: work.kept[path][stays[labels]] for path, labels in graph.makes.items() if path in work.kept}
        work.graph = trace(rebuild(graph, ~goes)[0], opaque=graph.opaque)


def _fold(graph: Graph, values: dict[int, np.ndarray], goes: np.ndarray) -> list[Fold]:
    """Records, for the calls that read removed constants, what is added to which weight."""
    if not goes.any():
        return []
    stays, wiring = graph.units.kept(~goes), Wiring(graph)
    folds = []
    # The constants themselves are folded with the weights as they are.
    for summed in contractions(graph, values, Weights()):
        gone = ~stays[summed.view.labels] & ~np.isnan(summed.x) & (summed.x != 0)
        if not gone.any():
            continue
        added = summed.view.summed(np.where(gone, summed.x, np.nan), Weights())
        if added.any():
            into = _put(wiring, summed, added)
            folds.append(Fold(summed.calls[0].path, into, int(gone.reshape(-1, summed.view.repeat).any(1).sum())))
    return folds


def _put(wiring: Wiring, summed: Summed, added: np.ndarray) -> str:
    layer, made = summed.calls[0].op, summed.view.call.outputs[0].axes[summed.view.out_axis]

    def by_channel(kept, sign=1.0):
        return sign * (added if made is None else added[kept(made)])

    norm = _normalized_next(wiring, summed) if layer.bias is None else None
    if norm is not None:
        norm.offset("moving_mean", lambda kept: by_channel(kept, -1.0))
        return f"{norm.path}'s moving mean"
    for call in summed.calls:
        call.offset("bias", by_channel)
        if layer.bias is None:
            call.set("use_bias", lambda kept: True)
    return "bias" if layer.bias is not None else "new bias"


def _normalized_next(wiring: Wiring, summed: Summed) -> Call | None:
    """The batch norm that alone reads the contraction's output, and whose moving mean can absorb the constant; or
    None."""
    (call, *others), layer = summed.calls, summed.calls[0].op
    tensor = call.outputs[0]
    if others or layer.activation not in (None, keras.activations.linear):
        return None
    readers = wiring.readers.get(tensor.key, [])
    if tensor.key in wiring.outputs or len(readers) != 1 or type(readers[0].op) is not layers.BatchNormalization:
        return None
    norm = readers[0]
    alone = len(wiring.calls[id(norm.op)]) == 1
    return norm if alone and norm.op.axis % tensor.rank == summed.view.out_axis else None


def _listed(numbers: tuple[int, ...]) -> str:
    """Channel numbers as ranges: 0-3, 7."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and runs[-1][1] == n - 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
