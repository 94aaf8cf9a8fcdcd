"""Sizes that a model leaves open: named, filled in, and followed through its calls."""

from collections.abc import Iterator, Mapping, Sequence

import keras

from tfstruct.arguments import is_count
from tfstruct.errors import ModelError, first_line
from tfstruct.graph.layer_tree import layer_paths
from tfstruct.keras_internals.graph_nodes import names_of, operation_of

Shape = tuple[int | None, ...]


_OF_A_RECIPE = "input_shapes={{{name!r}: {shape}}} (--input-shape {name}={sizes})"


def open_input(name: str, shape: Sequence[int | None], remedy: str = _OF_A_RECIPE) -> str:
    """What is said of an input that leaves sizes open, and how to fix them, as a sentence without its full stop.

    Args:
        shape: of one sample, without the batch.
        remedy: what to give; `{name}`, `{shape}` and `{sizes}` in it stand for the input and an example of its shape.
    """
    places = [str(i) for i, n in enumerate(shape) if n is None]
    which = f"dimension {places[0]}" if len(places) == 1 else f"dimensions {', '.join(places[:-1])} and {places[-1]}"
    shown = ", ".join("None" if n is None else str(n) for n in shape) + ("," if len(shape) == 1 else "")
    sizes = [f"D{i}" if n is None else str(n) for i, n in enumerate(shape)]
    wanted = f"({', '.join(sizes)}{',' if len(shape) == 1 else ''})"
    said = remedy.format(name=name, shape=wanted, sizes=",".join(sizes))
    return f"The input {name!r} leaves {which} of its samples ({shown}) open: give {said}"


# The way that is open everywhere: a model around the model.
BY_A_CALL = "x = keras.Input(shape); model = keras.Model(x, model(x))"


def input_shapes(functional, given) -> list[Shape]:
    """The shapes of a model's inputs, batch and all, with the sizes that are given in place of the open ones.

    Args:
        given: of one sample, without the batch; for several inputs a dict by name, or a list in their order. None
            leaves all as it is.

    Raises:
        ModelError: the shapes do not fit the model.
    """
    inputs = functional.inputs
    names = names_of(inputs)
    if given is None:
        return [tuple(x.shape) for x in inputs]
    if isinstance(given, Mapping):
        if set(given) != set(names):
            raise ModelError(f"`input_shape` must name the inputs {names}. Received: {sorted(given)}.")
        given = [given[name] for name in names]
    elif isinstance(given, str) or not isinstance(given, Sequence):
        raise ModelError(f"`input_shape` must be a tuple of sizes, or a dict or list of these. Received: {given!r}.")
    elif len(names) == 1 and not (given and isinstance(given[0], list | tuple)):
        given = [given]
    if len(given) != len(names):
        raise ModelError(f"`input_shape` must give {len(names)} shapes, for {names}. Received: {given}.")
    for name, old, shape in zip(names, inputs, given, strict=True):
        if not isinstance(shape, Sequence) or not all(is_count(n) for n in shape):
            raise ModelError(f"`input_shape` of {name} must be positive integers, no batch. Received: {shape}.")
        wanted = tuple(old.shape[1:])
        if len(shape) != len(wanted) or any(a not in (None, b) for a, b in zip(wanted, shape, strict=True)):
            raise ModelError(f"`input_shape` of {name} must fit {wanted}. Received: {tuple(shape)}.")
    return [(old.shape[0], *shape) for old, shape in zip(inputs, given, strict=True)]


def output_shapes(op, path: str, node, arrived: Sequence[Shape]) -> list[Shape]:
    """The shapes that a call makes of tensors of these shapes, which may be known where its own node leaves them open.

    Raises:
        ModelError: the operation does not take them.
    """
    tensors = node.arguments.keras_tensors
    if all(tuple(x.shape) == tuple(shape) for x, shape in zip(tensors, arrived, strict=True)):
        return [tuple(x.shape) for x in node.outputs]
    known = {id(x): keras.KerasTensor(shape, dtype=x.dtype) for x, shape in zip(tensors, arrived, strict=True)}
    args, kwargs = node.arguments.fill_in(known)
    try:
        made = op.compute_output_spec(*args, **kwargs)
    except Exception as error:  # a user's layer may raise anything
        said = first_line(error)
        shapes = ", ".join(str(tuple(shape[1:])) for shape in arrived)
        raise ModelError(f"`{path}` does not take samples of shape {shapes}: {said}") from error
    return [tuple(x.shape) for x in keras.tree.flatten(made)]


def open_inputs(graph) -> Iterator[tuple[str, Shape]]:
    """Name and sample shape of the inputs of a traced model whose sizes are open."""
    for x, channels in zip(graph.body.functional.inputs, graph.body.inputs, strict=True):
        if None in channels.shape[1:]:
            yield operation_of(x).name, channels.shape[1:]


def why_open(graph) -> str:
    """Which size of a traced model is open, as a sentence without its full stop."""
    for name, shape in open_inputs(graph):
        remedy = "input_shape={shape}" if len(graph.body.inputs) == 1 else "input_shape={{{name!r}: {shape}, ...}}"
        return open_input(name, shape, remedy)
    places = (call.path for call in graph.calls if any(None in shape[1:] for shape in call.shapes))
    return f"The sizes that `{next(places, graph.model.name)}` makes are known only when it runs"


def fixed_batch(model) -> int | None:
    """The batch size that the stateful layers of a model, or of the model that a twin is of, were built for, or None.

    Others compute on any number of samples, whatever their inputs say.
    """
    if not any(getattr(op, "stateful", False) is True for op in layer_paths(model).values()):
        return None
    inputs = getattr(model, "inputs", None) or getattr(getattr(model, "model", None), "inputs", None) or ()
    return next((x.shape[0] for x in inputs if x.shape and x.shape[0] is not None), None)
