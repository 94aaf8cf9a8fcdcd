"""`remove_redundant`: removes layers that do nothing in inference, and measures that outputs stay equal."""

import keras
from keras import layers

from tfstruct.arguments import checked
from tfstruct.graph import Call, Graph, in_order, open_and_trace, rewire
from tfstruct.graph.operation_traits import classes_that, traits_of
from tfstruct.keras_internals.graph_nodes import mask_of, operation_of
from tfstruct.keras_internals.operation_types import operation
from tfstruct.reporting import Result
from tfstruct.surgery.layers.places import Place, Places, Visit
from tfstruct.surgery.layers.value_ranges import ANY, Range, rectifier, value_ranges
from tfstruct.surgery.merge.passes import Pass, finished, repeated

POOLS = classes_that(lambda traits: traits.over == "window")
_MOVING = [kind for kind in classes_that(lambda t: t.moves in ("view", "order")) if issubclass(kind, layers.Layer)]


@checked
def remove_redundant(model: keras.Model, *, keep_dropout: bool = False, open_layers: str | bool = "auto") -> Result:
    """Takes out the layers that do nothing in inference, until none is left; the outputs stay equal.

    - Identity, `Activation("linear")`, casts to the same type, merges of one input, padding and cropping by zero,
      pooling and upsampling by one, `Rescaling(1, 0)`, reshapes to the same shape.
    - Rectifiers of what is never negative: `relu(relu(x)) = relu(x)`, `relu6(relu6(x))`, `relu(softmax(x))`, also with
      pooling, joins and reshapes in between.
    - All but the last of consecutive Reshape and Flatten; two Permute that cancel.
    - Dropout and noise, which do nothing in inference; in training they do. A layer called with `training=True` stays.
    - Wrappers of `tfstruct.layers`, and any layer with a method `inference_layer`, become the layer that it returns.

    A layer that makes an output of the model stays, as the output is named after it; so does one that decides about the
    mask or the precision of what follows.

    Args:
        model: a Sequential or functional model, also nested; not changed.
        keep_dropout: leave dropout and noise in, for a model that shall train on.
        open_layers: `"auto"`: custom layers are opened first (`tfstruct.surgery.open_layers`); False: none is.

    Returns:
        `Result`: `.model`, what went, and the difference measured on random inputs.

    Raises:
        ModelError: the model's graph cannot be walked (a subclassed model).
        TfstructError: the models differ by more than rounding explains; no model is handed out.

    Example:
        >>> padded = keras.Sequential([keras.Input((8,)), keras.layers.Dropout(0.5), model])
        >>> edited = tfstruct.surgery.remove_redundant(padded)
        >>> len(padded.layers), len(edited.model.layers)
        (2, 1)
    """
    graph = open_and_trace(model, open_layers=open_layers)
    return finished(graph, repeated(graph, lambda one: remove_once(one, keep_dropout)))


def remove_once(graph: Graph, keep_dropout: bool = False) -> Pass:
    """Takes out every layer that does nothing where it stands."""
    found = _Redundant(graph, keep_dropout)
    made = rewire(graph, found.edits).model if found.edits else None
    return Pass(made if found.changes else None, found.changes, found.skipped)


class _Redundant:
    """Edits of one graph. Each passes on a tensor of equal value, so all can be applied at once."""

    def __init__(self, graph: Graph, keep_dropout: bool):
        self.changes: list[tuple[str, str]] = []
        self.skipped: list[tuple[str, str]] = []
        self.edits = {}
        # By id of a tensor made by a reshape (or a permutation): it, what that reshaped, the layer and its dims.
        self._moved: dict[int, tuple] = {}
        ranges = value_ranges(graph)
        moving = []  # edits that change nothing where there is one only
        for key, place in Places(graph).all.items():
            if hasattr(place.op, "inference_layer"):
                self._wrapper(key, place, keep_dropout)
                continue
            whys = {id(visit.step): _why(place, visit, ranges, keep_dropout) for visit in place.visits}
            by_node: dict[int, list] = {}
            for visit in place.visits:
                by_node.setdefault(id(visit.node), []).append(whys[id(visit.step)])
            goes = {id(v.step): None not in by_node[id(v.node)] and whys[id(v.step)] for v in place.visits}
            if any(goes.values()):
                if any(visit.last and goes[id(visit.step)] for visit in place.visits):
                    self.skipped.append((place.path, "makes an output of the model, which is named after it"))
                self.edits[key] = self._without(place, goes)
            elif len(by_node) == 1 and type(place.op) in _MOVING:
                moving.append(key)
                self.edits[key] = self._permuted(place) if type(place.op) is layers.Permute else self._reshaped(place)
        if len(self.edits) == len(moving) == 1:
            self.edits.clear()

    def _wrapper(self, key: int, place: Place, keep_dropout: bool) -> None:
        """The layer that a wrapper says it is in inference."""
        if getattr(place.op, "active_in_inference", False):
            self.skipped.append((place.path, "draws in inference; tfstruct.layers.finalize makes it a plain dropout"))
        elif any(isinstance(v.step, Call) and v.step.argument("training") for v in place.visits):
            self.skipped.append((place.path, "is called with training=True"))
        elif not keep_dropout:
            made = place.op.inference_layer()
            self._note(place, f"{place.kind}: {type(made).__name__} in inference")
            self.edits[key] = lambda step, run, *args, **kwargs: made(*args, **kwargs)

    def _without(self, place: Place, goes: dict):
        ends = {id(visit.step): _ends(visit) for visit in place.visits}

        def edit(step, run, *args, **kwargs):
            (x, *_) = in_order(args, kwargs)
            if not goes[id(step)] or _named(ends[id(step)], x):
                return run(*args, **kwargs)
            self._note(place, f"{place.kind}: {goes[id(step)]}")
            return x

        return edit

    def _reshaped(self, place: Place):
        visit = place.visits[0]
        wanted, ends = tuple(visit.outputs[0].shape), _ends(visit)

        def edit(step, run, *args, **kwargs):
            (x,) = in_order(args, kwargs)
            _, source, before = self._moved.get(id(x), (x, x, None))
            if before is None or before.kind == "Permute" or not _plain(place.op) or None in source.shape[1:]:
                made = run(*args, **kwargs)
                if _plain(place.op):
                    self._moved[id(made)] = (made, x, place)
                return made
            self._note(place, f"{place.kind} reads what {before.path} reshaped")
            if tuple(source.shape) == wanted and not _named(ends, source):
                return source
            made = run(source)
            self._moved[id(made)] = (made, source, before)
            return made

        return edit

    def _permuted(self, place: Place):
        ends = _ends(place.visits[0])

        def edit(step, run, *args, **kwargs):
            (x,) = in_order(args, kwargs)
            _, source, before = self._moved.get(id(x), (x, x, None))
            if before is not None and before.kind == "Permute" and not _named(ends, source):
                first, second = (0, *before.op.dims), (0, *place.op.dims)
                if [first[i] for i in second] == list(range(len(first))):
                    self._note(place, f"Permute takes back {before.path}")
                    return source
            made = run(*args, **kwargs)
            self._moved[id(made)] = (made, x, place)
            return made

        return edit

    def _note(self, place: Place, what: str) -> None:
        if (place.path, what) not in self.changes:
            self.changes.append((place.path, what))


def _ends(visit: Visit) -> tuple[bool, bool]:
    """Whether the call makes an output of the whole model, and of the (nested) model that it is in."""
    return visit.last, any(x is y for x in visit.outputs for y in visit.body.functional.outputs)


def _named(ends: tuple[bool, bool], x: keras.KerasTensor) -> bool:
    """Whether `x` cannot replace the result: output names are kept, and a nested model keeps at least one layer."""
    whole, nested = ends
    return whole or (nested and isinstance(operation_of(x), layers.InputLayer))


def _plain(op) -> bool:
    """Whether a reshape keeps the order of the entries."""
    return type(op) is layers.Reshape or op.data_format != "channels_first"


def _why(place: Place, visit: Visit, ranges: dict[int, Range], keep_dropout: bool) -> str | None:
    """Reason this call is an identity, or None."""
    step = visit.step
    if not isinstance(step, Call) or len(visit.inputs) != 1 or len(visit.outputs) != 1:
        return None
    (came,), (made,) = visit.inputs, visit.outputs
    masked = [mask_of(x) is not None for x in (came, made)]
    alike = tuple(came.shape) == tuple(made.shape) and came.dtype == made.dtype and masked[0] == masked[1]
    if not alike or getattr(place.op, "activity_regularizer", None) is not None:
        return None
    return _by_configuration(place.op, step, came, keep_dropout) or _rectified(place.op, step, ranges)


def _by_configuration(op, call: Call, x: keras.KerasTensor, keep_dropout: bool) -> str | None:
    kind, traits = type(op), traits_of(op)
    if traits.training_only:
        amount = getattr(op, "stddev" if isinstance(op, layers.GaussianNoise) else "rate", True)
        if call.argument("training") or (keep_dropout and amount):
            return None
        return "in training only" if amount else "of zero"
    if traits.idle:
        return traits.idle
    if traits.joins and isinstance(op, layers.Layer):
        return "of one input" if len(call.node.arguments.keras_tensors) == 1 else None
    if traits.operator == "CAST":
        return "to the same type"
    if kind in (layers.Reshape, layers.Flatten, operation("Reshape")):
        sizes = x.shape if kind is operation("Reshape") else x.shape[1:]
        return "to the same shape" if list(sizes).count(None) <= 1 else None
    if kind in (layers.Permute, operation("Transpose")):
        order = (0, *op.dims) if kind is layers.Permute else op.axes
        return "in the same order" if order is not None and list(order) == list(range(len(x.shape))) else None
    return None


def _rectified(op, call: Call, ranges: dict[int, Range]) -> str | None:
    passed = rectifier(op)
    if passed is None:
        return None
    low, high = ranges.get(call.input.key, ANY)
    if low < passed[0] or high > passed[1]:
        return None
    return f"its input lies in [{low:g}, {high:g}]"
