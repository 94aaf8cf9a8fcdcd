"""A Keras 2 model, walked call by call, becomes a Keras 3 model that computes the same."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfstruct.errors import ModelError, one_line
from tfstruct.keras_internals import keras2
from tfstruct.keras_internals.graph_nodes import operation_of
from tfstruct.legacy import layers, operators, tfmot

Range = tuple[float, float]
_OPERATOR_LAYERS = ("TFOpLambda", "SlicingOpLambda")


@dataclasses.dataclass
class Found:
    """What `to_keras3` found besides the model; see `tfstruct.legacy.Legacy`."""

    changes: list[str] = dataclasses.field(default_factory=list)
    masks: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    centroids: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    ranges: dict[str, Range] = dataclasses.field(default_factory=dict)
    weight_limits: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)


def to_keras3(model) -> tuple[keras.Model, Found]:
    """Rebuilds a `tf_keras` model as a Keras 3 model with the same names, structure and weights.

    Raises:
        ModelError: a subclassed model, or a layer or operator without a counterpart; the message names it.
    """
    builder = _Builder()
    return builder.model(model, ""), builder.found


class _Builder:
    """One rebuilding. Shared layers stay shared: a Keras 2 layer is made once, whatever calls it."""

    def __init__(self):
        self.found = Found()
        self.notes = layers.Notes(self._inner)
        self._made: dict[int, Any] = {}
        self._plain: dict[int, tfmot.Plain] = {}
        self._filled: set[int] = set()
        self._prefix = ""

    def model(self, model, prefix: str) -> keras.Model:
        """The Keras 3 model; `prefix` is the path of the model in which it is nested."""
        if id(model) not in self._made:
            outer, self._prefix = self._prefix, prefix
            lines = len(self.notes.lines)
            self._made[id(model)] = self._sequential(model) if _is_sequential(model) else self._functional(model)
            self._made[id(model)].trainable = model.trainable
            self._prefix = outer
            self.found.changes += self.notes.lines[lines:]
            del self.notes.lines[lines:]
        return self._made[id(model)]

    def _sequential(self, model) -> keras.Sequential:
        out = keras.Sequential(name=layers.keras3_name(model.name))
        out.add(_input(model.inputs[0]))
        for layer in model.layers:
            made = self._layer(layer)
            if made is not None:
                out.add(made)
        for layer in model.layers:
            self._fill(layer)
        previous = out.inputs[0].name
        for layer in model.layers:
            self._input_range(layer, previous)
            previous = self._name(layer)
        return out

    def _functional(self, model) -> keras.Model:
        if not keras2.is_functional(model):
            raise ModelError(
                f"The model {model.name!r} is a subclassed {type(model).__name__}, whose Python code Keras 3 cannot "
                "take over. Save it as a SavedModel (model.save('folder')) and give the folder, or write its class "
                "with Keras 3 and copy the weights."
            )
        tensors: dict[int, Any] = {}
        for tensor in model.inputs:
            tensors[id(tensor)] = _input(tensor)
        for node in keras2.nodes_in_order(model):
            if not node.is_input:
                self._call(node, tensors)
        inputs, outputs = (tf.nest.map_structure(lambda t: tensors[id(t)], s) for s in keras2.inputs_and_outputs(model))
        return keras.Model(_plain_structure(inputs), _plain_structure(outputs), name=layers.keras3_name(model.name))

    def _call(self, node, tensors: dict[int, Any]) -> None:
        """Repeats one call of a Keras 2 layer on Keras 3 tensors."""

        def swap(value):
            return tensors.get(id(value), value)

        args = list(_plain_structure(tf.nest.map_structure(swap, node.call_args)))
        kwargs = _plain_structure(tf.nest.map_structure(swap, dict(node.call_kwargs)))
        layer = node.layer
        if type(layer).__name__ in _OPERATOR_LAYERS:
            outputs = self._operator(layer, args, kwargs)
        else:
            made = self._layer(layer)
            if made is None:  # it only quantized
                outputs = args[0]
                self._input_range(layer, operation_of(args[0]).name)
            else:
                outputs = self._apply(layer, made, args, kwargs)
                self._fill(layer)
        flat, wanted = keras.tree.flatten(outputs), tf.nest.flatten(node.outputs)
        if type(layer).__name__ in _OPERATOR_LAYERS and len(wanted) == 1:
            flat = [outputs]  # a shape is a list of numbers here
        if len(flat) != len(wanted):
            raise ModelError(
                f"Layer {layer.name!r} gave {len(wanted)} outputs in Keras 2 and gives {len(flat)} in Keras 3."
            )
        tensors.update({id(old): new for old, new in zip(wanted, flat, strict=True)})

    def _apply(self, layer, made, args: list, kwargs: dict):
        kwargs = {k: v for k, v in kwargs.items() if v is not None}
        if not args:
            first = next(n for n in keras2.argument_names(layer) if n in kwargs)
            args = [kwargs.pop(first)]
        if isinstance(made, keras.layers.RNN | keras.layers.Bidirectional) and isinstance(args[0], list):
            # Keras 2 joins the input and the initial states.
            kwargs["initial_state"], args = args[0][1:], [args[0][0], *args[1:]]
        try:
            return made(*args, **kwargs)
        except Exception as error:
            reason = one_line(error)
            raise ModelError(f"Layer {layer.name!r} ({type(layer).__name__}) fails in Keras 3: {reason}") from error

    def _operator(self, layer, args, kwargs):
        if not operators.is_known(layer.symbol):
            raise ModelError(
                f"Layer {layer.name!r} is TensorFlow's function {layer.symbol!r}, which has no counterpart in Keras 3. "
                "Replace it by a Keras layer in tf_keras, or save the model as a SavedModel and give the folder."
            )
        try:
            outputs = operators.call(layer.symbol, layer.name, tuple(args), kwargs)
        except Exception as error:
            reason = one_line(error)
            raise ModelError(f"Operator {layer.name!r} ({layer.symbol}) fails as keras.ops: {reason}") from error
        self.found.changes.append(f"{self._prefix}{layer.name}: TensorFlow's {layer.symbol} became keras.ops")
        return outputs

    def _unwrapped(self, layer) -> tfmot.Plain:
        if id(layer) not in self._plain:
            self._plain[id(layer)] = tfmot.unwrap(layer)
        return self._plain[id(layer)]

    def _name(self, layer) -> str:
        plain = None if _is_model(layer) else self._unwrapped(layer)
        return layers.keras3_name(plain.layer.name if plain and plain.layer is not None else layer.name)

    def _layer(self, layer) -> keras.layers.Layer | None:
        """The Keras 3 layer; None for one that only quantizes."""
        if _is_model(layer):
            return self.model(layer, f"{self._prefix}{layer.name}/")
        plain = self._unwrapped(layer)
        if plain.layer is None:
            return None
        if _is_model(plain.layer):
            return self.model(plain.layer, f"{self._prefix}{plain.layer.name}/")
        if id(layer) not in self._made:
            name = layers.keras3_name(plain.layer.name)
            path = f"{self._prefix}{name}"
            if name != plain.layer.name:
                self.found.changes.append(f"{path}: renamed from {plain.layer.name!r}, as Keras 3 takes no slashes")
            self._made[id(layer)] = layers.convert(plain.layer, name, self.notes)
            self._made[id(layer)].trainable = layer.trainable
            self.found.changes += [f"{path}: {line}" for line in plain.lines]
            if plain.output:
                self.found.ranges[path] = plain.output
            if plain.before:
                self.found.ranges[f"{path}/pre_activation"] = plain.before
        return self._made[id(layer)]

    def _inner(self, layer):
        """A layer inside a wrapper such as Bidirectional; its weights come with the wrapper's."""
        return self.model(layer, f"{self._prefix}{layer.name}/") if _is_model(layer) else self._layer(layer)

    def _input_range(self, layer, producer: str) -> None:
        """A quantizer of the input gives the range of what it was called on."""
        if not _is_model(layer) and type(layer).__name__ == "QuantizeLayer":
            plain = self._unwrapped(layer)
            if plain.output:
                self.found.ranges[f"{self._prefix}{producer}"] = plain.output
                self.found.changes.append(f"{self._prefix}{producer}: {plain.lines[0]}, kept its trained range")

    def _fill(self, layer) -> None:
        """Copies the weights of a layer that has just been built."""
        made = self._layer(layer)
        if made is None or id(layer) in self._filled or isinstance(made, keras.Model):
            return
        self._filled.add(id(layer))
        weights = self._unwrapped(layer).weights
        for variable, weight in _aligned(made, weights):
            variable.assign(weight.value)
            if weight.range is not None and variable.name == "kernel":
                largest = np.maximum(-weight.range[0], weight.range[1]).ravel()
                self.found.weight_limits[f"{self._prefix}{made.name}/kernel"] = tuple(map(float, largest))
            if weight.mask is not None:
                self.found.masks[variable.path] = weight.mask
            if weight.centroids is not None:
                self.found.centroids[variable.path] = weight.centroids


def _aligned(made: keras.layers.Layer, weights: list[tfmot.Weight]):
    """Pairs of a Keras 3 variable and the Keras 2 weight it takes: by name and shape, in order."""
    left = list(weights)
    for variable in made.weights:
        fits = [w for w in left if tuple(w.value.shape) == tuple(variable.shape)]

        def same(weight, variable=variable):
            ends = weight.name.split("/"), variable.path.split("/")
            return sum(1 for n in (1, 2) if ends[0][-n:] == ends[1][-n:])

        if not fits:
            shapes = [f"{w.name} {tuple(w.value.shape)}" for w in left]
            raise ModelError(
                f"No weight for {variable.path!r} of shape {tuple(variable.shape)} of layer {made.name!r}. "
                f"The Keras 2 layer has left: {shapes}."
            )
        best = max(fits, key=same)  # the first of equals
        left = [w for w in left if w is not best]
        yield variable, best
    surplus = [w.name for w in left if w.value.dtype.kind == "f"]
    if surplus and made.weights:
        raise ModelError(f"Layer {made.name!r} has no place for the Keras 2 weights {surplus}.")


def _is_model(layer) -> bool:
    import tf_keras

    return isinstance(layer, tf_keras.Model)


def _is_sequential(model) -> bool:
    import tf_keras

    if not isinstance(model, tf_keras.Sequential):
        return False
    if not keras2.is_built_sequential(model):
        raise ModelError(
            f"The model {model.name!r} does not know the shape of its input yet. Call it once on a batch of data, or "
            "model.build(shape), before."
        )
    return True


def _input(tensor):
    layer = keras2.layer_of(tensor)
    if getattr(layer, "ragged", False):
        raise ModelError(f"Input {layer.name!r} is ragged. Expected dense inputs: pad them.")
    return keras.Input(
        batch_shape=tuple(tensor.shape),
        dtype=tensor.dtype.name,
        sparse=bool(getattr(layer, "sparse", False)),
        name=layers.keras3_name(layer.name),
    )


def _plain_structure(value):
    """Keras 2 tracks the lists and dicts it is given; here they are plain ones again."""
    if isinstance(value, Mapping):
        return {k: _plain_structure(v) for k, v in value.items()}
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(_plain_structure(v) for v in value)
    if isinstance(value, list):
        return [_plain_structure(v) for v in value]
    return value
