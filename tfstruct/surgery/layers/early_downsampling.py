"""`downsample_early`: moves strides to an earlier layer, so that the layers between work on fewer positions."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence

import keras
from keras import layers

from tfstruct.arguments import checked
from tfstruct.errors import ModelError, PlanError
from tfstruct.graph import Call, Graph, in_order, open_and_trace, rewire
from tfstruct.graph.call import Kept
from tfstruct.graph.cpu_kernels import unequal
from tfstruct.graph.opening.parts import values_read
from tfstruct.graph.operation_traits import layers_with, traits_of
from tfstruct.graph.wiring import Wiring
from tfstruct.keras_internals.graph_nodes import calls_of
from tfstruct.reporting import Result
from tfstruct.surgery.edit_report import edited
from tfstruct.surgery.layers.places import Places, shown
from tfstruct.surgery.layers.redundant import POOLS

_CONVOLUTIONS = layers_with("conv", "depthwise", "separable")


@checked
def downsample_early(
    model: keras.Model, layer: str | keras.layers.Layer | None = None, *, open_layers: str | bool = "auto"
) -> Result:
    """Moves the strides of later layers to an earlier convolution (early downsampling, Sec. 4 of arXiv:1606.02147).

    On every way from `layer` on, the first layer with strides s gets strides 1, and `layer` gets s; what is between
    works on 1 / s of the positions along each axis, with the same weights. From there on all shapes are as before. So
    MACs, activations and times of an early stage go down by s^2 for images, and no parameter goes.

    A pooling whose windows do not overlap is taken out rather than given strides 1; zero padding in front of a strided
    layer becomes that layer's padding `same`. Global pooling takes what comes.

    The new model is another function: kernels between see twice as much of the image. A few epochs bring most of the
    accuracy back, after `recalibrate_batch_norm` even fewer. It is worth most where the first stage, at full
    resolution, takes a large part of the time.

    Args:
        model: a Sequential or functional model, also nested; not changed.
        layer: the convolution (also depthwise or separable) that downsamples from now on, by name, path or object; by
            default the first one where it is possible.
        open_layers: `"auto"`: custom layers are opened first (`tfstruct.surgery.open_layers`); False: none is.

    Returns:
        `Result`; `details`: `layer`, `strides`, and `moved_from`, the layers that had them.

    Raises:
        ModelError: the model has no such layer, or its graph cannot be walked.
        PlanError: `layer` is no convolution, has strides or is called several times; nothing behind it downsamples;
            what is between needs all positions, such as Flatten, or is joined with what comes from elsewhere at full
            resolution; `layer` is depthwise or separable, and the strides differ by axis.

    Example:
        >>> edited = tfstruct.surgery.downsample_early(convnet, "stem")
        >>> edited.model.get_layer("stem").strides
        (2, 2)
    """
    wiring = Wiring(open_and_trace(model, open_layers=open_layers))
    if layer is not None:
        return _made(_planned(wiring, Places(wiring.graph).find(layer).op), wiring.graph)
    first = None
    for call in wiring.graph.calls:
        if isinstance(call.op, _CONVOLUTIONS):
            try:
                return _made(_planned(wiring, call.op), wiring.graph)
            except PlanError as error:
                first = first or error
    raise PlanError(f"No convolution of `{model.name}` can downsample earlier. {first or 'There is none.'}")


@dataclasses.dataclass
class _Plan:
    """Which layer gets strides, and which layers lose theirs.

    Attributes:
        layer: where the strides go.
        strides: which.
        ends: the calls that lose theirs.
        gone: zero padding in front of these.
    """

    layer: Call
    strides: tuple[int, ...] | None = None
    ends: list[Call] = dataclasses.field(default_factory=list)
    gone: list[Call] = dataclasses.field(default_factory=list)


def _planned(wiring: Wiring, op) -> _Plan:
    calls = wiring.calls.get(id(op), [])
    name = calls[0].path if calls else op.name
    if not isinstance(op, _CONVOLUTIONS):
        raise PlanError(f"{name} is a {type(op).__name__}. Expected a convolution, which can have strides.")
    if len(calls) > 1:
        raise PlanError(f"{name} is called {len(calls)} times, so strides would act in each place.")
    if not _ones(op.strides):
        raise PlanError(f"{name} has strides {tuple(op.strides)} already. Name a convolution with strides 1.")
    if not _ones(op.dilation_rate):
        raise PlanError(f"{name} is dilated, and strides do not go with that. Name another layer.")
    plan, walk = _Plan(calls[0]), _Walk(wiring, calls[0])
    for call in wiring.graph.calls:
        walk.visit(call, plan)
    if plan.strides is None:
        raise PlanError(f"Behind {name} nothing downsamples, so there are no strides to move.")
    why = unequal(op, plan.strides)
    if why:
        raise PlanError(f"{name} cannot have the strides of {plan.ends[0].path}: {why}. Name another layer.")
    for call in (*plan.ends, *plan.gone):
        others = [one for one in wiring.calls[id(call.op)] if one not in plan.ends and one not in plan.gone]
        if others:
            raise PlanError(f"{call.path}, which would lose its strides, is called elsewhere too.")
    return plan


class _Walk:
    """Follows the tensors behind a layer that would have fewer positions."""

    def __init__(self, wiring: Wiring, start: Call):
        self._wiring, self._start = wiring, start
        (made,) = start.outputs
        first = start.op.data_format == "channels_first"
        self._axes = tuple(range(2, made.rank)) if first else tuple(range(1, made.rank - 1))
        self._space = self._positions(made)
        self._low = {made.key}
        self._padded: set[int] = set()
        self._hand_out(start)

    def _positions(self, tensor) -> tuple[int | None, ...]:
        return tuple(tensor.shape[axis] for axis in self._axes)

    def visit(self, call: Call, plan: _Plan) -> None:
        """Visits one call; calls are visited in order of execution."""
        inputs = [x for x in values_read(call) if x.key in self._low or x.key in self._padded]
        if not inputs or self._ends_in_one_place(call):
            return
        if _strided(call.op):
            self._stride(call, tuple(call.op.strides), inputs[0], plan)
        elif traits_of(call.op).pads and isinstance(call.op, layers.Layer) and self._pads(call):
            plan.gone.append(call)
            self._padded.add(call.outputs[0].key)
        else:
            self._pass(call)

    def _stride(self, call: Call, strides: tuple[int, ...], given, plan: _Plan) -> None:
        if plan.strides not in (None, strides):
            raise PlanError(
                f"{call.path} has strides {strides}, other layers behind {self._start.path} {plan.strides}: they "
                "cannot move to one layer."
            )
        sizes, reached = self._space, self._positions(call.outputs[0])
        known = given.key in self._padded or call.op.padding != "valid" or _whole(call.op, strides)
        halved = tuple(None if n is None else math.ceil(n / s) for n, s in zip(sizes, strides, strict=True))
        if not known or halved != reached:
            raise PlanError(
                f"{call.path} makes {reached} positions of {sizes}, which strides {strides} in {self._start.path} and "
                "1 here would not."
            )
        plan.strides = strides
        plan.ends.append(call)

    def _pads(self, call: Call) -> bool:
        """Whether a zero padding belongs to layers with strides only."""
        (made,) = call.outputs
        readers = self._wiring.readers.get(made.key, [])
        return bool(readers) and all(_strided(c.op) for c in readers) and made.key not in self._wiring.outputs

    def _pass(self, call: Call) -> None:
        """Checks an operation that keeps the number of positions."""
        if any(x.key in self._padded for x in call.inputs):
            raise PlanError(f"{call.path} reads padded values that {self._start.path} would make fewer of.")
        for x in call.inputs:
            if x.key in self._low or x.rank <= self._axes[-1] or set(self._positions(x)) == {1}:
                continue
            raise PlanError(
                f"{call.path} joins what {self._start.path} makes with values at full resolution from elsewhere. Name "
                "a layer before both."
            )
        for x in call.outputs:
            if x.rank <= self._axes[-1] or self._positions(x) != self._space:
                raise PlanError(
                    f"{call.path} ({type(call.op).__name__}) makes {shown(x.shape)} of {shown(call.input.shape)}: it "
                    f"needs all positions that {self._start.path} makes."
                )
            self._low.add(x.key)
        self._hand_out(call)

    def _hand_out(self, call: Call) -> None:
        if any(x.key in self._wiring.outputs for x in call.outputs):
            raise PlanError(f"{call.path} makes an output of the model, whose shape would change.")

    def _ends_in_one_place(self, call: Call) -> bool:
        traits = traits_of(call.op)
        if traits.over == "axes" and traits.reduces in ("mean", "max"):
            axes = call.op.axis if isinstance(call.op.axis, (tuple, list)) else (call.op.axis,)
            return set(self._axes) <= {a % call.input.rank for a in axes if a is not None}
        return traits.over == "positions"


def _strided(op) -> bool:
    return isinstance(op, (_CONVOLUTIONS, POOLS)) and not _ones(op.strides)


def _whole(op, strides: tuple[int, ...]) -> bool:
    """Whether windows without padding tile the input, or are single positions."""
    window = op.kernel_size if hasattr(op, "kernel_size") else op.pool_size
    return all(n in (1, s) for n, s in zip(window, strides, strict=True))


def _ones(values) -> bool:
    return {*(values if isinstance(values, (tuple, list)) else (values,))} == {1}


def _made(plan: _Plan, graph: Graph) -> Result:
    strides = plan.strides
    assert strides is not None  # `_planned` refuses a plan without
    edits, changes = {}, [(plan.layer.path, f"strides 1 -> {strides}")]
    configured: list[tuple[Call, dict]] = [(plan.layer, {"strides": strides})]
    for call in plan.gone:
        edits[id(call.op)] = _passes
        changes.append((call.path, "zero padding taken out"))
    for call in plan.ends:
        if isinstance(call.op, POOLS) and tuple(call.op.pool_size) == strides:
            edits[id(call.op)] = _passes
            changes.append((call.path, f"pooling of {strides} taken out"))
        else:
            padding = "same" if call.op.padding == "valid" else call.op.padding
            configured.append((call, {"strides": (1,) * len(strides), "padding": padding}))
            changes.append((call.path, f"strides {strides} -> 1"))
    try:
        with _configured(configured):
            made = rewire(graph, edits)
    except (ValueError, ModelError) as error:
        raise PlanError(
            f"What is behind {plan.layer.path} cannot work on fewer positions: {str(error).splitlines()[0]}"
        ) from error
    for call in plan.ends:
        after = made.made.get(id(call.op))
        shape = call.shapes[0] if after is None else tuple(calls_of(after)[-1].outputs[0].shape)
        if shape != call.shapes[0]:  # something between, such as Resizing, makes one size of all
            raise PlanError(f"{call.path} would make {shown(shape)} instead of {shown(call.shapes[0])}.")
    details = {
        "layer": plan.layer.path, "strides": list(strides), "moved_from": [call.path for call in plan.ends]
    }  # fmt: skip
    return edited(graph, made.model, changes, exact=False, details=details)


def _always(value) -> Callable[[Kept], object]:
    return lambda kept: value


@contextlib.contextmanager
def _configured(calls: Sequence[tuple[Call, dict]]):
    """Context manager: configurations of operations are edited and restored afterwards, for the next layer that is
    tried."""
    edited_names = [(call, (name,)) for call, values in calls for name in values]
    for call, values in calls:
        for name, value in values.items():
            call.edits[(name,)] = _always(value)
    try:
        yield
    finally:
        for call, name in edited_names:
            del call.edits[name]


def _passes(step, run, *args, **kwargs):
    (x,) = in_order(args, kwargs)
    # A nested model needs something to do, an output its name.
    return keras.layers.Identity(name=step.op.name, dtype=x.dtype)(x)
