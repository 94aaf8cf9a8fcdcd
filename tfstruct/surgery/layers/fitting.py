"""Checks whether a new layer fits a place in a model, on a copy, so that the layer itself is not built."""

import inspect

import keras
from keras import layers

from tfstruct.errors import ModelError
from tfstruct.graph import in_order
from tfstruct.graph.configured import again
from tfstruct.keras_internals.graph_nodes import calls_of
from tfstruct.keras_internals.layer_parts import same_lambda
from tfstruct.surgery.layers.places import Place, Places, Visit, replaced, shown

_SIZE = 61  # stands for an unknown size: odd and prime, so that strides and padding show


def check_new(layer, places: Places, bodies, freed: str | None = None) -> None:
    """Checks that the new layer is a layer, is not part of a model yet, and has a free name.

    Args:
        bodies: the (nested) models that get it.
        freed: the name of the layer that goes.
    """
    if not isinstance(layer, layers.Layer):
        given = f"the class {layer.__name__}" if isinstance(layer, type) else type(layer).__name__
        raise ModelError(f"Expected a Keras layer. Received: {given}.")
    if calls_of(layer):
        raise ModelError(
            f"The new layer {layer.name} is already used in a model. Give a layer of its own, such as "
            f"{type(layer).__name__}.from_config(layer.get_config()) under a new name."
        )
    taken = set().union(*(places.names(body) for body in bodies)) - {freed}
    if layer.name in taken:
        raise ModelError(
            f"The model has a layer called {layer.name} already. Give the new {type(layer).__name__} another name."
        )


def check_insertion(layer, x: keras.KerasTensor, what: str) -> None:
    """Checks that the new layer keeps the shape of a tensor."""
    _check(layer, (x,), {}, [x], what)
    if None in x.shape[1:]:
        _check_sizes(layer, (x,), {}, [_closed(x.shape)], what)


def check_replacement(layer, place: Place, visit: Visit) -> None:
    """Checks that the new layer, called like the one it replaces, makes tensors of the same shapes."""
    args, what = visit.node.arguments.args, f"in place of {place.path}"
    kwargs = understood(layer, visit.node.arguments.kwargs)
    _check(layer, args, kwargs, visit.outputs, what)
    if any(None in x.shape[1:] for x in visit.node.arguments.keras_tensors):
        try:
            made = _called(place.op, args, visit.node.arguments.kwargs, True)[1]
        except Exception:
            return  # the size was made up
        _check_sizes(layer, args, kwargs, [tuple(x.shape) for x in made], what)


def understood(layer, kwargs: dict) -> dict:
    """A call's keyword arguments, without those that are neutral (such as `mask=None`) and that the new layer does not
    take."""
    taken = inspect.signature(layer.call).parameters
    if any(p.kind is p.VAR_KEYWORD for p in taken.values()):
        return kwargs
    return {key: value for key, value in kwargs.items() if value is not None or key in taken}


def _check(layer, args, kwargs, expected: list, what: str) -> None:
    """
    Raises:
        ModelError: the layer cannot be called so, makes other shapes or numbers of another kind, or was built for
            other inputs.
    """
    came, name = _came(args, kwargs), f"{layer.name} ({type(layer).__name__})"
    try:
        copy, made = _called(layer, args, kwargs, False)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"{name} cannot be called on inputs of shape {came} {what}: {str(error).splitlines()[0]}"
        ) from error
    _compare(name, came, [tuple(x.shape) for x in made], [tuple(x.shape) for x in expected], what)
    if [kind_of(x) for x in made] != [kind_of(x) for x in expected]:
        raise ModelError(f"{name} makes {made[0].dtype}, where {expected[0].dtype} is expected {what}.")
    _check_weights(layer, copy, came)


def _check_sizes(layer, args, kwargs, expected: list[tuple], what: str) -> None:
    """Repeats the check on a fixed size if the model leaves sizes open, where strides do not show in the shapes."""
    try:
        made = _called(layer, args, kwargs, True)[1]
    except Exception:
        return  # the size was made up
    name = f"{layer.name} ({type(layer).__name__})"
    _compare(name, _came(args, kwargs, True), [tuple(x.shape) for x in made], expected, what)


def _compare(name: str, came: str, made: list[tuple], expected: list[tuple], what: str) -> None:
    if made != expected:
        raise ModelError(
            f"{name} turns inputs of shape {came} into {_listed(made)}, where {_listed(expected)} is expected {what}."
        )


def changes_size(place: Place, visit: Visit) -> tuple[tuple, tuple] | None:
    """Input and output shape of a layer that keeps the shape only while sizes are open, tried on a fixed size; or
    None."""
    first = visit.inputs[0]
    if None not in first.shape[1:] or len(visit.inputs) > 1:
        return None
    try:
        _, (tried,) = _called(place.op, visit.node.arguments.args, visit.node.arguments.kwargs, True)
    except Exception:
        return None
    return None if tuple(tried.shape) == _closed(first.shape) else (_closed(first.shape), tuple(tried.shape))


def _called(layer, args, kwargs, known: bool) -> tuple[object, list]:
    """Calls a copy of the layer on symbolic tensors of the same shapes that belong to no model."""

    def fresh(x):
        return layers.Input(batch_shape=_closed(x.shape) if known else x.shape, dtype=x.dtype)

    args, kwargs = replaced(fresh, args, kwargs)
    copy = same_lambda(layer) if isinstance(layer, layers.Lambda) else again(layer)
    return copy, keras.tree.flatten(copy(*args, **kwargs))


def _check_weights(layer, copy, came: str) -> None:
    """Checks that a layer that is built already has the weight shapes that these inputs need."""
    if not layer.built or not layer.weights:
        return
    has, needs = ([tuple(w.shape) for w in one.weights] for one in (layer, copy))
    if has != needs:
        raise ModelError(
            f"The new layer {layer.name} was built for other inputs: its weights have the shapes {has}, where inputs "
            f"of shape {came} need {needs}. Give one that is not built, or built for these."
        )


def _came(args, kwargs, known: bool = False) -> str:
    return _listed([_closed(x.shape) if known else x.shape for x in in_order(args, kwargs)])


def _closed(shape) -> tuple:
    return (shape[0], *(_SIZE if n is None else n for n in shape[1:]))


def kind_of(x: keras.KerasTensor) -> str:
    """Kind of numbers in a tensor. Floats of all precisions are one kind, as layers cast between them."""
    return "float" if "float" in x.dtype else x.dtype


def _listed(shapes) -> str:
    texts = [shown(shape) for shape in shapes]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
