"""An opened layer as a nested model, and the plain data by which its class can be made again."""

import dataclasses
import json
from typing import Any

import keras

from tfstruct.errors import ArgumentError, ArgumentTypeError, first_line
from tfstruct.graph.layer_tree import layer_paths
from tfstruct.keras_internals.graph_nodes import mask_of, set_mask
from tfstruct.keras_internals.layer_parts import own_weights

Spec = tuple[tuple[int | None, ...], str]


@dataclasses.dataclass(frozen=True)
class Origin:
    """Which layer an opened one was, as plain data; `kind` is its class, where this process opened it.

    Attributes:
        class_name, registered_name: of its class.
        config: its configuration as Keras writes it, as JSON.
        arguments: `[args, kwargs]` of its call as JSON; `{"input": i}` stands for input i of the nested model.
        inputs: shape and dtype of each input of the nested model.
        masks: (input, the input that is its mask), where Keras hangs masks on what comes in.
        results: by output of the nested model: which tensor of what the layer returns it is, and whether it is not
            that but its mask.
        weights: by weight of the layer: the path of its owner in the nested model and its number there.
        names, shapes: of the weights.
        unknown: why the layer cannot be made again; empty where it may be.
    """

    class_name: str
    registered_name: str
    config: str = "{}"
    arguments: str = "[[], {}]"
    inputs: tuple[Spec, ...] = ()
    masks: tuple[tuple[int, int], ...] = ()
    results: tuple[tuple[int, bool], ...] = ()
    weights: tuple[tuple[str, int], ...] = ()
    names: tuple[str, ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()
    unknown: str = ""
    kind: type | None = dataclasses.field(default=None, compare=False)

    def as_json(self) -> str:
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "kind"}
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str) -> "Origin":
        """Of a file's text; it is data and stays so.

        Raises:
            ValueError: it says something else.
        """
        found = json.loads(text)
        if not isinstance(found, dict) or not found.keys() <= {f.name for f in dataclasses.fields(cls)} - {"kind"}:
            raise ArgumentError("`origin` says something else than where an opened layer comes from.")
        return cls(**{key: _as_tuples(value) for key, value in found.items()})


def _as_tuples(value):
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


@keras.saving.register_keras_serializable("tfstruct")
class Opened(keras.Model):
    """What an opened layer computes, as a functional model; masks are inputs and outputs of it.

    Attributes:
        origin: which layer it was.
    """

    origin: Origin | None = None

    @property
    def supports_masking(self) -> bool:
        return True

    @supports_masking.setter
    def supports_masking(self, value) -> None:
        """Keras sets it when a model is made, and warns without it where tensors carry masks."""

    def compute_mask(self, inputs, previous_mask=None):
        return None

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "origin": None if self.origin is None else self.origin.as_json()}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        origin = config.pop("origin", None)
        made = super().from_config(config, custom_objects)
        made.origin = None if origin is None else Origin.from_json(origin)
        return made


def carry_origin(old, new) -> None:
    """A copy of an opened layer comes from the same layer."""
    if isinstance(old, Opened) and isinstance(new, Opened):
        new.origin = old.origin


def origin_of(recording, model: Opened, live: list[int], shared: set[int]) -> Origin:
    """Of a layer whose call was recorded and became a model.

    Args:
        live: which of the recorded inputs the model takes, in its order.
        shared: ids of weights that other models read too.
    """
    layer = recording.layer
    kind = type(layer)
    unmade = Origin(kind.__name__, keras.saving.get_registered_name(kind), kind=kind)
    if isinstance(layer, keras.layers.Lambda):
        return dataclasses.replace(unmade, unknown="its configuration is code")
    try:
        config = json.dumps(keras.saving.serialize_keras_object(layer)["config"])
    except Exception as error:  # a user's code may raise anything
        said = first_line(error)
        return dataclasses.replace(unmade, unknown=f"its configuration cannot be told ({said[:160]})")
    numbers = {id(recording.inputs[i]): n for n, i in enumerate(live)}
    args, kwargs = recording.arguments
    kwargs = {
        key: value
        for key, value in kwargs.items()
        if key != "training" and not (key.endswith("mask") and id(value) not in numbers)
    }
    try:
        arguments = json.dumps(keras.tree.map_structure(lambda x: _as_data(x, numbers), [list(args), kwargs]))
    except TypeError as error:
        return dataclasses.replace(unmade, unknown=str(error))
    places, problem = _places(layer, model, shared)
    flat = [x for x in keras.tree.flatten(recording.outputs) if x is not None]
    results = []
    for result in recording.results:
        number = next((i for i, x in enumerate(flat) if x is result), None)
        if number is None:
            number = next(i for i, x in enumerate(flat) if recording.masks.get(id(x)) is result)
            results.append((number, True))
        else:
            results.append((number, False))
    return dataclasses.replace(
        unmade,
        config=config,
        arguments=arguments,
        inputs=tuple((tuple(x.shape), str(x.dtype)) for x in model.inputs),
        masks=tuple((numbers[a], numbers[b]) for a, b in recording.given_masks if a in numbers and b in numbers),
        results=tuple(results),
        weights=tuple(places),
        names=tuple(w.path for w in layer.weights),
        shapes=tuple(tuple(w.shape) for w in layer.weights),
        unknown=problem,
    )


def _as_data(x, numbers: dict[int, int]):
    if isinstance(x, keras.KerasTensor):
        if id(x) not in numbers:
            raise ArgumentTypeError("it is called with a tensor that nothing reads")
        return {"input": numbers[id(x)]}
    if x is None or isinstance(x, (bool, int, float, str)):
        return x
    raise ArgumentTypeError(f"it is called with a {type(x).__name__} beside its tensors")


def _places(layer, model, shared: set[int]) -> tuple[list[tuple[str, int]], str]:
    """Where the weights of a layer are in a model, and why one is not there."""
    found = {
        id(weight): (path, number)
        for path, op in layer_paths(model).items()
        if isinstance(op, keras.layers.Layer)
        for number, weight in enumerate(own_weights(op))
    }
    missing = [w for w in layer.weights if id(w) not in found]
    if missing:
        why = "other layers read too" if id(missing[0]) in shared else "its call does not read"
        return [], f"it has a weight that {why} ({missing[0].path})"
    return [found[id(w)] for w in layer.weights], ""


def weights_of(model: keras.Model, origin: Origin) -> list[keras.Variable] | None:
    """The weights of an opened layer in the order of the layer's own; None where the model was changed since."""
    ops = layer_paths(model)
    found = []
    for path, number in origin.weights:
        own = own_weights(ops[path]) if isinstance(ops.get(path), keras.layers.Layer) else []
        if number >= len(own):
            return None
        found.append(own[number])
    return found


def called_again(layer: keras.layers.Layer, origin: Origin, tensors: list) -> list:
    """A layer of the class called as the opened one was: the outputs of the nested model, in their order."""
    for i, mask in origin.masks:
        if mask_of(tensors[i]) is None:
            set_mask(tensors[i], tensors[mask])

    def filled(x):
        if isinstance(x, dict):
            return tensors[x["input"]] if set(x) == {"input"} else {key: filled(value) for key, value in x.items()}
        return [filled(value) for value in x] if isinstance(x, list) else x

    args, kwargs = filled(json.loads(origin.arguments))
    outputs = [x for x in keras.tree.flatten(layer(*args, **kwargs)) if x is not None]
    return [mask_of(outputs[i]) if is_mask else outputs[i] for i, is_mask in origin.results]
