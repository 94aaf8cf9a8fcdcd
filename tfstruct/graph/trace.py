"""From a Keras model to its graph of channels."""

import dataclasses
import functools
import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from tfstruct.errors import ModelError, PlanError
from tfstruct.graph.call import Call, Channels, Slot
from tfstruct.graph.keras_model import require_model, subclassed
from tfstruct.graph.labels import Labels, Units
from tfstruct.graph.layer_tree import layer_paths
from tfstruct.graph.plain_weights import check_plain
from tfstruct.graph.rules import apply_rule
from tfstruct.graph.shuffle import find as find_shuffle
from tfstruct.graph.sizes import Shape, input_shapes, output_shapes
from tfstruct.keras_internals.graph_nodes import Functional, Node, functional_inside, inputs_and_masks, nodes_in_order
from tfstruct.keras_internals.layer_parts import own_weights

OWN_OUTPUT = "the model's own output"  # why its channels stay


@dataclasses.dataclass
class Body:
    """A functional model walked once: its nodes in order of execution, each with its call, or the nested body."""

    model: keras.Model
    functional: Functional
    path: str
    inputs: list[Channels]
    steps: list[tuple[Node, "Call | Body"]]


@dataclasses.dataclass(frozen=True)
class Walked:
    """A model, or one that a layer of it holds, as calls on labelled channels.

    Attributes:
        body: the model itself; nested ones hang below it.
        bodies: by id of a (nested) model, its first walk.
        calls: every call in order of execution, those of nested models in their place.
    """

    model: keras.Model
    body: Body
    bodies: dict[int, Body]
    calls: tuple[Call, ...]
    outputs: tuple[Channels, ...]

    @functools.cached_property
    def slots(self) -> list[Slot]:
        return [slot for call in self.calls for slot in call.slots]

    @functools.cached_property
    def slot_of(self) -> dict[int, Slot]:
        """By id of a weight, its slot; those without channels have none."""
        return {id(slot.variable): slot for slot in self.slots}


@dataclasses.dataclass(frozen=True)
class Graph(Walked):
    """A model seen as calls, tensors and labelled channels.

    Attributes:
        body: the model itself; nested ones hang below it.
        bodies: by id of a (nested) model, its first walk.
        calls: every call in order of execution, those of nested models in their place.
        units: what can go; see `Units`.
        opened: paths of the custom layers that were opened before the walk, and are nested models.
        opaque: path of a custom layer that stayed closed -> why.
    """

    units: Units
    opened: tuple[str, ...] = ()
    opaque: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def output_names(self) -> list[str]:
        """The names of the model's outputs, as Keras calls them."""
        return _names_of_outputs(self.body.functional)

    @functools.cached_property
    def makes(self) -> dict[str, np.ndarray]:
        """The labels of the channels that each layer makes, by its path."""
        found: dict[str, np.ndarray] = {}
        for call in self.calls:
            found.update(call.makes)
        return found


def functional_of(model) -> Functional | None:
    """The functional graph inside a model, or None where a `call` method of its own hides it."""
    if isinstance(model, keras.Sequential):
        return functional_inside(model) if type(model).call is keras.Sequential.call else None
    if isinstance(model, Functional) and type(model).call is Functional.call:
        return model
    return None


def fingerprint(model) -> str:
    """A hash of a model's structure: paths and classes of its layers and operations, and shapes of their weights.

    Args:
        model: a built model.

    Returns:
        16 hexadecimal digits, equal for models of equal names and shapes, whatever their weights, so for a model and
        what is loaded from its file.

    Example:
        >>> tfstruct.graph.fingerprint(model) == tfstruct.graph.fingerprint(keras.models.clone_model(model))
        True
    """
    # Not the paths of weights, nor the names of inputs: Keras gives others to a model that is loaded.
    said = sorted(
        (path, type(op).__name__, [tuple(w.shape) for w in own_weights(op)] if hasattr(op, "weights") else [])
        for path, op in layer_paths(model).items()
    )
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def trace(
    model: keras.Model,
    input_shape=None,
    *,
    resized: Sequence[str] = (),
    rows: bool = False,
    opaque: Mapping[str, str] | None = None,
) -> Graph:
    """Walks a Sequential or functional model and labels the channels of every tensor in it.

    Args:
        input_shape: of one sample, for models that leave sizes open; a dict by name or a list for several inputs. In a
            nested model that leaves sizes open, those of its call are taken.
        resized: names of outputs (`model.output_names`) whose channels may go too.
        rows: whether the rows of tables that ids are looked up in count as channels; see `Call.lookups`.
        opaque: path of a layer -> why it cannot be opened, for the reasons why channels stay.

    Returns:
        `Graph`: every call, with a label for each channel of its tensors.

    Raises:
        ModelError: the model is not built, or has a `call` of its own (a subclassed model), so that there is no graph;
            layers have LoRA weights or are quantized by Keras; or the input shape does not fit.

    Example:
        >>> graph = tfstruct.graph.trace(convnet)
        >>> [call.path for call in graph.calls][:2]
        ['stem', 'branch']
    """
    require_model(model)
    functional = functional_of(model)
    if functional is None:
        if isinstance(model, keras.Sequential):
            raise ModelError(
                f"`{model.name}` is a Sequential model that has not been built. Give it a keras.Input, or call "
                "model.build(input_shape), first."
            )
        raise subclassed(model)
    check_plain(model)
    _check_outputs(model, resized)
    opaque = dict(opaque or {})
    walk = _Walk(functional, rows, opaque)
    inputs = [walk.channels(shape, (None,) * len(shape)) for shape in input_shapes(functional, input_shape)]
    body, outputs = walk.body(model, functional, "", inputs)
    for name, tensor in zip(_names_of_outputs(functional), outputs, strict=True):
        for labels in tensor.axes:
            if labels is not None and name not in resized:
                walk.labels.freeze(labels, OWN_OUTPUT)
    return Graph(model, body, walk.bodies, tuple(walk.calls), tuple(outputs), walk.labels.resolve(), (), opaque)


def _names_of_outputs(functional: Functional) -> list[str]:
    return list(functional.output_names)


def _check_outputs(model: keras.Model, resized: Sequence[str]) -> None:
    names = _names_of_outputs(functional_of(model))
    unknown = [name for name in resized if name not in names]
    if isinstance(resized, str) or unknown:
        raise PlanError(
            f"Expected names of outputs of `{model.name}` whose width may change, of {names}. Received: {resized!r}."
        )


class _Walk:
    def __init__(self, functional, rows: bool, opaque: Mapping[str, str]):
        self.labels = Labels(rows)
        self._called_again = _called_again(functional)
        self._opaque = opaque
        self.calls: list[Call] = []
        self.bodies: dict[int, Body] = {}
        self._shared: dict = {}
        self._first: dict[int, Call] = {}
        self._tensors = 0
        self._moved: set[int] = set()  # keys of tensors in which the axis of the samples is not the first

    def channels(self, shape, axes, per_sample: float = 1.0) -> Channels:
        self._tensors += 1
        return Channels(tuple(shape), tuple(axes), self._tensors, per_sample)

    def body(self, model, functional, prefix, inputs):
        known: dict[int, Channels] = {id(x): c for x, c in zip(functional.inputs, inputs, strict=True)}
        body = Body(model, functional, prefix, list(inputs), [])
        first = self.bodies.setdefault(id(model), body)
        if first is not body:
            self._tie(first.inputs, inputs, f"{prefix.rstrip('/')} is called on tensors of other shapes too")
        readers = _readers(functional)
        inside_shuffle: set[int] = set()
        for node in nodes_in_order(functional):
            if not node.operation or node.is_input or any(id(x) not in known for x in node.input_tensors):
                continue
            shuffle = find_shuffle(node, readers, self._called_again)
            if shuffle is not None:
                node, parts = shuffle
                inside_shuffle.update(id(x) for part in parts for x in part.outputs)
            elif id(node.outputs[0]) in inside_shuffle:
                continue
            arrived = [known[id(x)] for x in node.arguments.keras_tensors]
            op = node.operation
            inner = functional_of(op) if isinstance(op, keras.Model) else None
            if inner is not None and _plain_call(node, inner):
                given, masks = inputs_and_masks(node.input_tensors, inner)
                for mask in masks:
                    for labels in known[id(mask)].axes:
                        if labels is not None:
                            self.labels.freeze(labels, f"{prefix}{op.name} takes it as a mask")
                step, outputs = self.body(op, inner, f"{prefix}{op.name}/", [known[id(x)] for x in given])
            else:
                step = self._call(op, f"{prefix}{op.name}", node, arrived)
                outputs = step.outputs
            body.steps.append((node, step))
            known.update({id(x): c for x, c in zip(node.outputs, outputs, strict=True)})
        return body, [known[id(x)] for x in functional.outputs]

    def _call(self, op, path, node, inputs):
        shapes = output_shapes(op, path, node, [x.shape for x in inputs])
        one = self._of_one_sample(op, path, node, inputs)
        if one is not None:
            inputs = [dataclasses.replace(x, shape=_for_one_sample(x)) for x in inputs]
            shapes = [(before[:1] + after[1:]) for before, after in zip(shapes, one, strict=True)]
        call = Call(op, path, node, inputs, shapes, self.labels, self._shared)
        if one is not None:
            call.per_sample = _entries(one[0])
        call.enter = lambda model, name, inputs: self._entered(model, f"{path}/{name}/", inputs)
        axes = apply_rule(call, self._opaque.get(path, ""))
        call.outputs = tuple(
            self.channels(shape, a, _per_sample(call, shape) if one is None else _entries(one[i]))
            for i, (shape, a) in enumerate(zip(call.shapes, axes, strict=True))
        )
        if one is not None:
            self._moved |= {
                tensor.key for tensor, x in zip(call.outputs, node.outputs, strict=True) if None in x.shape[1:]
            }
        first = self._first.setdefault(id(op), call)
        if first is not call and not call.independent and (first.edits or call.edits or first.slots):
            # One configuration has to serve every call.
            reason = f"{path} is called on tensors of other shapes too"
            self._tie(first.inputs, inputs, reason)
            self._tie(first.outputs, call.outputs, reason)
        self.calls.append(call)
        return call

    def _of_one_sample(self, op, path, node, inputs) -> list[Shape] | None:
        """The shapes that a call makes of one sample, where the axis of the samples comes or goes to another place, as
        in `ops.matmul(images, ops.transpose(texts))`; else None."""
        if not any(None in x.shape[1:] for x in node.outputs) and not any(x.key in self._moved for x in inputs):
            return None
        if any(None in x.shape[1:] or math.isnan(x.per_sample) for x in inputs):
            return None  # other sizes are open
        try:
            return output_shapes(op, path, node, [_for_one_sample(x) for x in inputs])
        except ModelError:
            return None

    def _entered(self, model, prefix, inputs) -> Walked:
        """What a layer holds, on the labels of the whole."""
        functional = functional_of(model)
        walk = _Walk(functional, self.labels.rows, self._opaque)
        walk.labels, walk._shared = self.labels, self._shared
        body, outputs = walk.body(model, functional, prefix, inputs)
        return Walked(model, body, walk.bodies, tuple(walk.calls), tuple(outputs))

    def _tie(self, before, now, reason):
        for a, b in zip(before, now, strict=False):
            for x, y in zip(a.axes, b.axes, strict=False):
                if x is not None and y is not None and len(x) == len(y):
                    self.labels.unite(x, y)
                else:
                    for labels in (x, y):
                        if labels is not None:
                            self.labels.freeze(labels, reason)


def _for_one_sample(tensor: Channels) -> Shape:
    first = tuple(round(tensor.per_sample) if n is None else n for n in tensor.shape[:1])
    return first + tensor.shape[1:]


def _entries(shape: Shape) -> float:
    """Entries of the first axis of a tensor for one sample."""
    return float(shape[0] or 1) if shape else 1.0


def _per_sample(call: Call, shape: tuple[int | None, ...]) -> float:
    """Entries of the batch axis of a result for one sample: a reshape may fold other axes into it, or unfold them."""
    if not call.folds or not shape or not call.input.shape:
        return call.per_sample
    (batch, *before), (folded, *after) = call.input.shape, shape
    if batch is not None and folded is not None:
        return call.per_sample * folded / batch
    if batch is not None or folded is not None:
        return call.per_sample
    if before.count(None) != after.count(None):
        return math.nan
    known = [math.prod(n for n in sizes if n is not None) for sizes in (before, after)]
    return call.per_sample * known[0] / known[1] if all(known) else call.per_sample


def tensors_in(structure) -> list[keras.KerasTensor]:
    """The tensors in a structure, in the order of `node.arguments.keras_tensors`."""
    return [x for x in keras.tree.flatten(structure) if isinstance(x, keras.KerasTensor)]


def _called_again(functional) -> set[int]:
    """Ids of the operations that a model, with the models in it, calls several times; other models may do so too."""
    counts: Counter[int] = Counter()
    waiting, seen = [functional], set()
    while waiting:
        inside = waiting.pop()
        if id(inside) in seen:
            continue
        seen.add(id(inside))
        for node in nodes_in_order(inside):
            if node.operation is not None and not node.is_input:
                counts[id(node.operation)] += 1
                if isinstance(node.operation, keras.Model) and (inner := functional_of(node.operation)) is not None:
                    waiting.append(inner)
    return {key for key, count in counts.items() if count > 1}


def _readers(functional) -> dict[int, list]:
    """By id of a tensor, the nodes that read it, and None for an output of the model."""
    readers: dict[int, list] = {}
    for node in nodes_in_order(functional):
        for x in node.input_tensors:
            readers.setdefault(id(x), []).append(node)
    for x in functional.outputs:
        readers.setdefault(id(x), []).append(None)
    return readers


def _plain_call(node, inner) -> bool:
    """A nested model called on tensors alone: one for each of its inputs, and the masks that Keras hangs on them."""
    given = {name: x for name, x in node.arguments.kwargs.items() if name != "mask"}
    return len(tensors_in((node.arguments.args, given))) == len(inner.inputs)
