"""What was said of layers and models, kept on the objects; and models on the same layers."""

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras

from tfstruct.errors import ArgumentTypeError, MissingPackageError, ModelError
from tfstruct.graph.keras_model import require_model
from tfstruct.keras_internals.graph_nodes import Functional
from tfstruct.keras_internals.layer_parts import all_layers
from tfstruct.quantize import Twin

_MARKS = "_tfstruct_tfmot"


def mark(one, name: str, value: Any):
    """Notes something on a layer or model; returns it."""
    marks = {**vars(one).get(_MARKS, {}), name: value}
    # Not through Keras, which would look for layers in them.
    object.__setattr__(one, _MARKS, marks)
    return one


def marked(one, name: str) -> Any:
    """What was noted on it; None if nothing was."""
    return vars(one).get(_MARKS, {}).get(name)


def marked_layers(model: keras.Model, name: str) -> Iterator[tuple[keras.layers.Layer, Any]]:
    """The layers inside of a model that something was noted on, with that."""
    for layer in all_layers(model):
        if layer is not model and marked(layer, name) is not None:
            yield layer, marked(layer, name)


def on_same_layers(model: keras.Model) -> keras.Model:
    """A model of its own on the layers and weights of this one; not compiled, nothing noted on it."""
    if isinstance(model, keras.Sequential):
        made = keras.Sequential(model.layers, name=model.name)
        if model.built and not made.built:
            made.build(model.input_shape)
        return made
    _require_graph(model)
    return keras.Model(model.input, model.output, name=model.name)


def _require_graph(model: keras.Model) -> None:
    if isinstance(model, Twin):
        raise ModelError(
            f"`{model.name}` computes as its 8-bit file already. Train it, or give the model in it, which is its "
            "attribute `model`."
        )
    if not isinstance(model, keras.Sequential | Functional):
        raise ModelError(
            f"`{model.name}` is a subclassed model. Expected a Sequential or functional one: make it one by "
            "tfstruct.surgery.open_layers(model, inputs=shape).model, or give its layers one by one."
        )


class Summaries(keras.callbacks.TensorBoard):
    """`keras.callbacks.TensorBoard` for models that are compressed.

    Raises:
        MissingPackageError: TensorBoard is not installed.
    """

    def __init__(self, log_dir: str = "logs", update_freq: str = "epoch", **kwargs):
        if importlib.util.find_spec("tensorboard") is None:
            raise MissingPackageError("Summaries need TensorBoard, which is not installed: pip install tensorboard.")
        super().__init__(log_dir=log_dir, update_freq=update_freq, **kwargs)


def each(given, of_layer: Callable, of_model: Callable):
    """The same for a model, a layer, or a list of layers."""
    if isinstance(given, list):
        return [each(one, of_layer, of_model) for one in given]
    if isinstance(given, keras.Model):
        return of_model(given)
    if isinstance(given, keras.layers.Layer):
        return of_layer(given)
    return require_model(given, "a Keras 3 model or layer")  # which it is not


def refuse_wrapper(function: str, given: Mapping[str, Any]) -> None:
    """Refuses what TFMOT hands to the wrapper of a layer.

    Raises:
        ArgumentTypeError: something is given; with what to write instead.
    """
    instead = {
        "input_shape": "begin the model with keras.Input(shape)",
        "batch_input_shape": "begin the model with keras.Input(batch_shape=shape)",
        "name": "name the layer itself",
    }
    for name in given:
        raise ArgumentTypeError(
            f"{function} takes no `{name}`: "
            + (f"layers are not wrapped here; {instead[name]}." if name in instead else f"see help({function}).")
        )


def absent(names: dict[str, str], module: str) -> Callable:
    """`__getattr__` of a module: for TFMOT's names that are not here, what to do instead."""

    def find(name: str):
        if name in names:
            raise AttributeError(f"{module}.{name} is not here. {names[name]}")
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return find
