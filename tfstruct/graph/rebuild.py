"""A graph and what stays of it as a new Keras model, weights copied."""

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from tfstruct.errors import ModelError
from tfstruct.graph.call import Call, Kept, Slot
from tfstruct.graph.configured import again
from tfstruct.graph.copying import carry_adapted
from tfstruct.graph.new_shapes import Building, any_initializer, drop_unfitting, for_new_shapes
from tfstruct.graph.opening.origin import carry_origin
from tfstruct.graph.trace import Body, Graph, Walked, tensors_in
from tfstruct.keras_internals.graph_nodes import (
    Functional,
    Node,
    copied_operation,
    inputs_and_masks,
    is_made_like_functional,
    made_by,
    operation_of,
)
from tfstruct.keras_internals.layer_parts import assign_past_scopes, same_lambda

Edit = Callable[..., object]


def kept_by(graph: Graph, keep: np.ndarray) -> Kept:
    """From labels to the positions that stay, where whole units go.

    Args:
        graph: from `trace`.
        keep: boolean, by unit: shape (units.count,).

    Returns:
        A function: the labels of an axis, shape (channels,), to the positions of those that stay, in order.

    Example:
        >>> graph = tfstruct.graph.trace(model)
        >>> keep = np.ones(graph.units.count, bool)
        >>> labels = graph.calls[0].outputs[0].axes[-1]
        >>> keep[labels[2:]] = False
        >>> tfstruct.graph.kept_by(graph, keep)(labels)
        array([0, 1])
    """
    stays = graph.units.kept(keep)
    return lambda labels: np.flatnonzero(stays[labels])


def rebuild(graph: Graph, keep: np.ndarray | Kept) -> tuple[keras.Model, dict[int, tuple[keras.Variable, Slot | None]]]:
    """A new model of the kept units; the original is not touched.

    Args:
        graph: from `trace`.
        keep: boolean, by unit; or a function from labels to the positions that stay, in which copies are repeated.

    Returns:
        The model, uncompiled, and by id of each weight of the original: the new weight, and how it was cut.

    Example:
        >>> graph = tfstruct.graph.trace(model)
        >>> keep = np.ones(graph.units.count, bool)
        >>> keep[graph.calls[0].outputs[0].axes[-1][4:]] = False
        >>> smaller, _ = tfstruct.graph.rebuild(graph, keep)
        >>> smaller.get_layer("hidden").units
        4
    """
    work = _Rebuild(graph, keep if callable(keep) else kept_by(graph, keep))
    with any_initializer() as work.building:
        model = work.model(graph.body)
    return model, work.copy_weights()


def remade(graph: Walked, kept: Kept) -> keras.Model:
    """A new model of what stays of one that a layer holds; its weights are copied with the layer's."""
    return _Rebuild(graph, kept).model(graph.body)


@dataclasses.dataclass(frozen=True)
class Rewired:
    """A model made by `rewire`.

    Attributes:
        model: the new model, uncompiled.
        weights: by id of a weight of the original, its copy, and None.
        made: by id of an operation (or nested model) of the original, its successor; those that an edit did not run
            have none.
    """

    model: keras.Model
    weights: dict[int, tuple[keras.Variable, Slot | None]]
    made: dict[int, keras.Operation]


def rewire(graph: Graph, edits: Mapping[int, Edit], assigned: Iterable[keras.layers.Layer] = ()) -> Rewired:
    """A new model in which some operations are run in another way; everything else is copied, weights too.

    What no longer reaches an output vanishes. Edits of configurations go into `call.edits` of the graph, as surgery on
    channels does it.

    Args:
        graph: from `trace`.
        edits: by id of an operation or nested model of the original: `edit(step, run, *args, **kwargs) -> outputs`,
            called for each of its calls in their order, on the new model's symbolic tensors. `run(*args, **kwargs)`
            calls the successor. For example, `lambda step, run, x: x` deletes a layer, and
            `lambda step, run, x: layer(run(x))` puts another behind it.
        assigned: layers of the edits whose weights the caller assigns afterwards: their initializers need not run.

    Returns:
        `Rewired`: the new model, uncompiled, and what became of weights and operations.

    Example:
        >>> without = {id(convnet.get_layer("relu")): lambda step, run, x: x}
        >>> made = tfstruct.graph.rewire(tfstruct.graph.trace(convnet), without)
        >>> any(layer.name == "relu" for layer in made.model.layers)
        False
    """
    work = _Rebuild(graph, kept_by(graph, np.ones(graph.units.count, bool)), edits)
    with any_initializer() as work.building:
        for layer in assigned:
            work.building.assigned_later(layer)
        model = work.model(graph.body)
    weights = work.copy_weights()
    return Rewired(model, weights, {key: new for key, (_, new) in work._made.items()})


def excerpt(
    graph: Graph,
    body: Body,
    steps: Sequence[tuple[Node, "Call | Body"]],
    inputs: Sequence[keras.KerasTensor],
    outputs: Sequence[keras.KerasTensor],
) -> keras.Model:
    """A new model of some steps of a (nested) model, from tensors to tensors; weights are copied. Its layers have the
    paths that they have in the whole.

    Args:
        graph: from `trace`.
        body: whose steps they are.
        steps: in order; all that lie between `inputs` and `outputs`.
        inputs, outputs: tensors of that body.
    """
    work = _Rebuild(graph, kept_by(graph, np.ones(graph.units.count, bool)))
    with any_initializer() as work.building:
        given = [keras.layers.InputLayer(batch_shape=x.shape, dtype=x.dtype).output for x in inputs]
        tensors = {id(x): new for x, new in zip(inputs, given, strict=True)}
        for node, step in steps:
            work.again(node, step, tensors)
        names = [graph.model.name, *body.path.split("/")[:-1]]
        model = keras.Model(_untied(given), _untied([tensors[id(x)] for x in outputs]), name=names.pop())
        for name in reversed(names):
            given = [keras.layers.InputLayer(batch_shape=x.shape, dtype=x.dtype).output for x in inputs]
            model = keras.Model(_untied(given), model(_untied(given)), name=name)
    work.copy_weights()
    return model


def _untied(tensors: list):
    return tensors[0] if len(tensors) == 1 else tensors


def in_order(args, kwargs) -> list[keras.KerasTensor]:
    """The tensors among a call's arguments, in the order of `node.arguments.keras_tensors`.

    Args:
        args, kwargs: of the call, with tensors in any structure.

    Returns:
        A list of `keras.KerasTensor`.

    Example:
        >>> graph = tfstruct.graph.trace(convnet)
        >>> given = next(call for call in graph.calls if call.path == "sum").node.arguments
        >>> [x.shape for x in tfstruct.graph.in_order(given.args, given.kwargs)]
        [(None, 12, 12, 8), (None, 12, 12, 8)]
    """
    return tensors_in((args, kwargs))


class _Rebuild:
    def __init__(self, graph: Walked, kept: Kept, edits: Mapping[int, Edit] | None = None):
        self._graph, self._kept, self._edits = graph, _remembered(kept), edits or {}
        self.building: Building | None = None
        self._made: dict[int, tuple[keras.Operation, keras.Operation]] = {}  # id of an operation -> (it, its successor)

    def model(self, body: Body, given: Sequence[keras.KerasTensor] = ()) -> keras.Model:
        """A body as a model; one with a single input takes the sizes of what is `given` to it, which an edit may have
        changed."""
        functional = body.functional
        tensors = {}
        for old, channels in zip(functional.inputs, body.inputs, strict=True):
            shape = [n if x is None else len(self._kept(x)) for n, x in zip(channels.shape, channels.axes, strict=True)]
            if len(given) == len(functional.inputs) == 1:
                shape = [None if n is None else size for n, size in zip(old.shape, given[0].shape, strict=True)]
            first = old.shape[0] if channels.axes[0] is None else shape[0]  # a weight that is handed on has no batch
            config = {**operation_of(old).get_config(), "batch_shape": (first, *shape[1:])}
            tensors[id(old)] = keras.layers.InputLayer(**config).output
        for node, step in body.steps:
            self.again(node, step, tensors)
        outputs = keras.tree.map_structure(lambda x: tensors[id(x)], functional.output)
        inputs = keras.tree.map_structure(lambda x: tensors[id(x)], functional.input)
        return self._assemble(body, inputs, outputs)

    def again(self, node, step: "Call | Body", tensors) -> None:
        args, kwargs = node.arguments.fill_in(tensors)
        edit = self._edits.get(id(node.operation))
        if edit is None:
            outputs = self._run(step, *args, **kwargs)
        else:
            outputs = edit(step, lambda *a, **k: self._run(step, *a, **k), *args, **kwargs)
        tensors.update({id(x): y for x, y in zip(node.outputs, keras.tree.flatten(outputs), strict=True)})

    def _run(self, step: "Call | Body", *args, **kwargs):
        if isinstance(step, Body):
            body = self._graph.bodies[id(step.model)]
            given, _ = inputs_and_masks(in_order(args, kwargs), body.functional)
            return self._successor(step.model, lambda: self.model(body, given))(*args, **kwargs)
        if step.rewrite is not None and (rewritten := step.rewrite(self._kept, *args, **kwargs)) is not None:
            return rewritten
        made = self._successor(step.op, lambda: self.operation(step))
        given = list(args)
        for key, edit in step.argument_edits.items():
            if isinstance(key, str):
                kwargs[key] = edit(self._kept)
            else:
                given[key] = edit(self._kept)
        if self.building is None:
            return made(*given, **kwargs)
        with self.building.every_weight_assigned_later():  # by `copy_weights`
            return made(*given, **kwargs)

    def _successor(self, op, make):
        if id(op) not in self._made:
            self._made[id(op)] = (op, make())
        return self._made[id(op)][1]

    def operation(self, call: Call):
        """A new operation of the same type and name, its configuration edited."""
        op = call.op
        edits = {path: edit(self._kept) for path, edit in call.edits.items()}
        if isinstance(op, keras.layers.Lambda):
            # Its configuration would carry code; the function is already here.
            return same_lambda(op, name=op.name, dtype=op.dtype_policy)

        def changed(config):
            for edited, value in edits.items():
                config = _with(config, edited, value)
            return for_new_shapes(config) if self._cuts(op) else config

        try:
            made = again(op, changed, call.path)
        except ModelError as error:
            if isinstance(error.__cause__, NotImplementedError) and not isinstance(op, keras.layers.Layer):
                return _copied(op, edits)
            raise
        if isinstance(op, keras.layers.Layer):
            made.trainable = op.trainable
        return made

    def _cuts(self, op) -> bool:
        """Whether one of its weights gets another shape."""
        slots = [self._graph.slot_of.get(id(w)) for w in getattr(op, "weights", ())]
        ties = [tie for slot in slots if slot is not None for tie in slot.tied()]
        return any(len(self._kept(labels)) != len(labels) for _, _, labels in ties)

    def _assemble(self, body: Body, inputs, outputs) -> keras.Model:
        model = body.model
        if isinstance(model, keras.Sequential):
            chain = _chain(keras.tree.flatten(outputs)[0])
            # A Sequential model with a layer used twice loads from its file with one use.
            once = len({id(layer) for layer in chain}) == len(chain)
            if once and all(isinstance(layer, keras.layers.Layer) for layer in chain):
                made = keras.Sequential(chain, name=model.name)
                made.trainable = model.trainable
                return made
        kind = type(model)
        if kind is Functional or isinstance(model, keras.Sequential):
            kind = keras.Model
        elif not is_made_like_functional(kind):
            warnings.warn(
                f"`{model.name}` is a {kind.__name__}, whose constructor takes more than inputs and outputs: the new "
                "model is a plain keras.Model, without its own methods such as train_step.",
                stacklevel=2,
            )
            kind = keras.Model
        made = kind(inputs, outputs, name=model.name)
        made.trainable = model.trainable
        carry_origin(model, made)
        return made

    def copy_weights(self) -> dict[int, tuple[keras.Variable, Slot | None]]:
        offsets = {id(call.op): call.offsets for call in self._graph.calls if call.offsets}
        pairs: dict[int, tuple[keras.Variable, Slot | None]] = {}
        for old, new in self._made.values():
            if not isinstance(old, keras.layers.Layer) or id(old) in self._graph.bodies:
                continue
            added = offsets.get(id(old), {})
            gained = [getattr(new, name) for name in added if getattr(old, name) is None]
            copied = [w for w in new.weights if not any(w is g for g in gained)]
            if len(old.weights) != len(copied):
                raise ModelError(
                    f"{old.name} ({type(old).__name__}) has {len(old.weights)} weights, but {len(copied)} after "
                    "it was made again from its configuration."
                )
            for before, after in zip(old.weights, copied, strict=True):
                slot = self._graph.slot_of.get(id(before))
                value = tf.convert_to_tensor(before.value)  # both share its memory until one of them changes
                if slot is not None and not slot.stays(self._kept):
                    value = slot.take(np.asarray(value), self._kept)
                assign_past_scopes(after, value)
                if tuple(after.shape) != tuple(before.shape):
                    drop_unfitting(new, after)
                pairs[id(before)] = (after, slot)
            for variable in gained:
                variable.assign(np.zeros(variable.shape))
            for name, value in added.items():
                getattr(new, name).assign_add(value(self._kept))
            carry_adapted(old, new)
        return pairs


def _remembered(kept: Kept) -> Kept:
    """The same function, which looks at each array of labels once."""
    known: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def places(labels: np.ndarray) -> np.ndarray:
        if id(labels) not in known:
            known[id(labels)] = labels, kept(labels)  # the array is held, so that its id stays its own
        return known[id(labels)][1]

    return places


def _chain(x) -> list[keras.Operation]:
    """The operations of a chain, from the input layer to the one that made `x`."""
    operations = []
    while True:
        op, node, _ = made_by(x)
        operations.append(op)
        if not node.input_tensors:
            return operations[::-1]
        (x,) = node.input_tensors


def _copied(op, edits):
    """An operation whose arguments are no plain values, such as a shape of NumPy integers, has no configuration."""
    made = copied_operation(op)
    for (name,), value in edits.items():
        setattr(made, name, value)
    return made


def _with(config, path: tuple[str | int, ...], value):
    """A configuration with another value at the end of a path of keys."""
    key, *rest = path
    made = config.copy()
    made[key] = _with(config[key], tuple(rest), value) if rest else value
    return made
