"""Custom layers opened without being asked: the one place where a model enters what has to see through its layers."""

import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Iterator, Sequence

import keras

from tfstruct.graph.keras_model import require_model
from tfstruct.graph.layer_tree import layer_paths
from tfstruct.graph.opening.custom import Wanted, is_custom
from tfstruct.graph.opening.opening import OpenedModel, open_model
from tfstruct.graph.opening.recording import reason_of
from tfstruct.graph.trace import Graph, functional_of, trace
from tfstruct.keras_internals.replacing import replaced_attributes
from tfstruct.keras_internals.training import compile_alike
from tfstruct.patterns import check_open_layers

_opens: contextvars.ContextVar[bool] = contextvars.ContextVar("_opens", default=True)


@contextlib.contextmanager
def no_more_opening() -> Iterator[None]:
    """While it is open, models are taken as they are: what can be opened has been, or nothing is to be."""
    token = _opens.set(False)
    try:
        yield
    finally:
        _opens.reset(token)


def open_by_itself(model: keras.Model, open_layers: str | bool = "auto", *, composites: bool = False) -> OpenedModel:
    """The model with its custom layers opened as far as they can be, or as it is.

    Nothing is recorded where there is nothing to open: without custom layers (one with a `tfstruct.graph.rule`, or that
    does nothing in inference, is none), with `open_layers=False`, and where a `call` of the model itself hides the
    graph. Whatever keeps layers from being opened is no error: they stay as they are, with the reason.

    Args:
        model: a Keras model.
        open_layers: `"auto"`, or False: every layer stays closed.
        composites: whether layers of Keras's own that a file computes in several operators are opened too, as far as
            they can be.

    Returns:
        `OpenedModel`. Where something was opened, its model has the layers, variables, `trainable` flags, loss, metrics
        and optimizer of the original; else it is `model` itself.

    Raises:
        ModelError: no Keras 3 model.
        ArgumentError: another value of `open_layers`.
    """
    require_model(model)
    check_open_layers(open_layers)
    wanted = Wanted(_opens.get(), composites)
    if not open_layers or functional_of(model) is None or not wanted(model):
        return OpenedModel(model, (), {})
    # A compressor that is attached may stand in for the call; what is opened is the model's own.
    own = {"call": functools.partial(type(model).call, model)} if "call" in vars(model) else {}
    try:
        with replaced_attributes(model, **own):
            found = open_model(model, wanted=wanted) if composites else open_model(model)
    except Exception as error:  # whatever a user's code raises on symbolic tensors; nobody asked for it to be opened
        if composites:
            return open_by_itself(model, open_layers)
        return OpenedModel(model, (), dict.fromkeys(_custom_paths(model), reason_of(error)))
    if not found.opened and not found.composites:
        return OpenedModel(model, (), found.closed)
    compile_alike(found.model, model)
    return found


def open_and_trace(
    model: keras.Model,
    input_shape=None,
    open_layers: str | bool = "auto",
    *,
    resized: Sequence[str] = (),
    rows: bool = False,
) -> Graph:
    """Opens the custom layers of a model as far as they can be, and walks it; see `tfstruct.surgery.open_layers`.

    Args:
        model: Sequential or functional.
        input_shape, resized, rows: as in `trace`.
        open_layers: `"auto"`, or False: `trace` of the model as it is.

    Returns:
        `Graph`: its `model` is the opened one, or `model` itself where nothing was opened; `opened` and `opaque` say
        what became of custom layers.

    Raises:
        ModelError: as `trace`; no layer is opened by force.

    Example:
        >>> graph = tfstruct.graph.open_and_trace(model)
        >>> graph.model is model, graph.opened
        (True, ())
    """
    found = open_by_itself(model, open_layers)
    graph = trace(found.model, input_shape, resized=resized, rows=rows, opaque=found.closed)
    return dataclasses.replace(graph, opened=found.opened)


def _custom_paths(model: keras.Model) -> Iterator[str]:
    """Paths of the custom layers, the outermost of each."""
    last = None
    for path, layer in layer_paths(model).items():
        if last is not None and path.startswith(f"{last}/"):
            continue
        functional = isinstance(layer, keras.Model) and functional_of(layer) is not None
        if isinstance(layer, keras.layers.Layer) and not functional and is_custom(layer):
            last = path
            yield path
