"""A model once more."""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from tfstruct.errors import ModelError, first_line
from tfstruct.files import TemporaryFolder
from tfstruct.graph.configured import functions_known
from tfstruct.graph.keras_model import require_model
from tfstruct.graph.layer_tree import layer_paths
from tfstruct.graph.new_shapes import any_initializer
from tfstruct.graph.opening.origin import carry_origin
from tfstruct.graph.rules.noise import is_training_only, note_training_only
from tfstruct.graph.sizes import Shape
from tfstruct.keras_internals.graph_nodes import Functional, operation_of


def copied(model: keras.Model, shapes: Sequence[Shape] | None = None) -> keras.Model:
    """The same layers and weights in a model of its own, not compiled; names, nested models, shared layers as they are.

    Args:
        shapes: of the inputs of the copy, batch and all, in their order; by default those of the model's own.

    Raises:
        ModelError: a subclassed model whose configuration does not make it again; layers that do not take these shapes.
    """
    return _copied(model, shapes)


def untrained(model: keras.Model) -> tuple[keras.Model, tuple[str, ...]]:
    """The same layers in a model of its own, whose trainable weights are what their initializers make.

    Returns:
        The model, and the paths of trainable weights that kept their values: kernels and tables for which the
        initializer makes a single value, as zeros and arrays of another shape do, from which nothing may be learned.

    Raises:
        ModelError: as `copied`.
    """
    kept: list[str] = []

    def start(copy: keras.Model) -> None:
        for old, new in zip(model.weights, copy.weights, strict=True):
            made = keras.ops.convert_to_numpy(new)
            one_value = old.trainable and made.ndim > 1 and made.size > 1 and (made == made.flat[0]).all()
            if one_value:
                kept.append(old.path)
            if one_value or not old.trainable:
                new.assign(old)

    return _copied(model, None, start), tuple(kept)


def _copied(
    model: keras.Model, shapes: Sequence[Shape] | None, start: Callable[[keras.Model], None] | None = None
) -> keras.Model:
    """The layers in a model of their own, with the same weights, or with those of their initializers and what `start`
    makes of them."""
    require_model(model)
    functional = bool(getattr(model, "inputs", None))
    nested = functional and any(isinstance(layer, keras.Model) for layer in model.layers)
    options = {"recursive": True} if nested else {}
    if isinstance(model, Functional):  # else inputs without a name are called by the number of the tensor
        options["input_tensors"] = _inputs_again(model.input, shapes)
    elif functional and shapes is not None:  # Sequential
        options["input_tensors"] = _inputs_again(model.inputs, shapes)

    def clone() -> keras.Model:
        with any_initializer() as building:
            if start is not None:
                copy = keras.models.clone_model(model, **options)
                start(copy)
                return copy
            with building.every_weight_assigned_later():
                copy = keras.models.clone_model(model, **options)
        copy.set_weights([tf.convert_to_tensor(w.value) for w in model.weights])  # they share memory until one changes
        return copy

    return made_again(model, clone, "be copied")


def made_again(model: keras.Model, make: Callable[[], keras.Model], what: str) -> keras.Model:
    """A model that `make` builds from the configuration and the weights of another, with what these do not tell: what
    `adapt` taught its preprocessing layers.

    Args:
        model: the other one.
        make: builds the new one.
        what: that cannot be done where `make` fails, such as "be copied".

    Raises:
        ModelError: the configuration does not make the model again.
    """
    try:
        with functions_known(model):
            made = make()
    except Exception as error:  # a user's class may raise anything
        reason = first_line(error)
        raise ModelError(
            f"{model.name!r} cannot {what}: `get_config` and `from_config` do not make it again, built as it is. "
            f"({reason})"
        ) from error
    layers = layer_paths(made)
    for path, old in layer_paths(model).items():
        if path in layers:
            carry_adapted(old, layers[path])
    return made


def _inputs_again(structure, shapes: Sequence[Shape] | None):
    flat = keras.tree.flatten(structure)
    again = [
        keras.layers.InputLayer(**operation_of(x).get_config() | {"batch_shape": shape}).output
        for x, shape in zip(flat, [x.shape for x in flat] if shapes is None else shapes, strict=True)
    ]
    return keras.tree.pack_sequence_as(structure, again)


def carry_adapted(old: keras.Operation, new: keras.Operation) -> None:
    """What the configuration and weights of a layer do not tell: what `adapt` taught it, what was seen of it."""
    carry_origin(old, new)
    if isinstance(old, keras.layers.Layer) and is_training_only(old) and not is_training_only(new):
        note_training_only(new)
    if hasattr(old, "save_assets") and hasattr(new, "load_assets"):
        with TemporaryFolder("layer") as folder:
            old.save_assets(folder)
            new.load_assets(folder)
    elif isinstance(new, keras.layers.Normalization):
        # It computes with constants that it makes from its weights.
        new.finalize_state()
