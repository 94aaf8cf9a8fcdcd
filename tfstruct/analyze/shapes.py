"""A model on inputs of a fixed shape."""

from collections.abc import Mapping

import keras

from tfstruct.errors import ModelError
from tfstruct.graph import trace
from tfstruct.graph.trace import Body, Graph


def on_input_shape(model: keras.Model, input_shape) -> keras.Model:
    """A new model of the same layers, called on inputs of this shape; its weights are freshly initialised.

    Nested models are entered, so that every tensor in them has a known shape too.

    Args:
        input_shape: of one sample, without the batch; for several inputs a dict by name, or a list in their order.

    Raises:
        ModelError: the shape does not fit the model.
    """
    graph = trace(model)
    shapes = _by_input(graph.body.functional, input_shape)
    inputs = [
        keras.Input(shape, dtype=x.dtype, name=x._keras_history.operation.name)
        for x, shape in zip(graph.body.functional.inputs, shapes, strict=True)
    ]
    try:
        outputs = _Copy(graph).run(graph.body, inputs)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ModelError(
            f"`{model.name}` does not take inputs of shape {input_shape}: {str(error).splitlines()[0]}"
        ) from error
    return keras.Model(inputs, outputs, name=model.name)


def _by_input(functional, given) -> list[tuple[int, ...]]:
    names = [x._keras_history.operation.name for x in functional.inputs]
    if isinstance(given, Mapping):
        if set(given) != set(names):
            raise ModelError(f"`input_shape` must name the inputs {names}. Received: {sorted(given)}.")
        given = [given[name] for name in names]
    elif len(names) == 1 and not (given and isinstance(given[0], list | tuple)):
        given = [given]
    if len(given) != len(names):
        raise ModelError(f"`input_shape` must give {len(names)} shapes, for {names}. Received: {given}.")
    for name, old, shape in zip(names, functional.inputs, given, strict=True):
        if not all(isinstance(n, int) and n > 0 for n in shape):
            raise ModelError(f"`input_shape` of {name} must be positive integers, no batch. Received: {shape}.")
        wanted = tuple(old.shape[1:])
        if len(shape) != len(wanted) or any(a not in (None, b) for a, b in zip(wanted, shape, strict=True)):
            raise ModelError(f"`input_shape` of {name} must fit {wanted}. Received: {tuple(shape)}.")
    return [tuple(shape) for shape in given]


class _Copy:
    def __init__(self, graph: Graph):
        self._graph = graph
        self._made: dict[int, object] = {}

    def run(self, body: Body, inputs):
        tensors = {id(x): y for x, y in zip(body.functional.inputs, inputs, strict=True)}
        for node, step in body.steps:
            args, kwargs = node.arguments.fill_in(tensors)
            if isinstance(step, Body):
                made = self._once(step.model, lambda step=step, node=node, t=tensors: self._nested(step, node, t))
                outputs = made([tensors[id(x)] for x in node.input_tensors])
            else:
                outputs = self._once(step.op, lambda op=step.op: _copy(op))(*args, **kwargs)
            tensors.update({id(x): y for x, y in zip(node.outputs, keras.tree.flatten(outputs), strict=True)})
        return [tensors[id(x)] for x in body.functional.outputs]

    def _nested(self, body: Body, node, tensors) -> keras.Model:
        inputs = [keras.Input(tensors[id(x)].shape[1:], dtype=x.dtype) for x in node.input_tensors]
        return keras.Model(inputs, self.run(self._graph.bodies[id(body.model)], inputs), name=body.model.name)

    def _once(self, op, make):
        if id(op) not in self._made:
            self._made[id(op)] = make()
        return self._made[id(op)]


def _copy(op):
    if isinstance(op, keras.layers.Lambda):
        return keras.layers.Lambda(op.function, op._output_shape, op.mask, op.arguments, name=op.name)
    return type(op).from_config(op.get_config())
