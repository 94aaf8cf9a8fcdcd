"""What a layer's own `call` does on symbolic tensors, as it happens; and what such tensors and their graph keep."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
from keras.src import backend
from keras.src.backend.common import KerasVariable
from keras.src.layers import layer as layer_module
from keras.src.ops import operation as operation_module
from keras.src.ops.function import _build_map
from keras.src.random.seed_generator import SeedGenerator

from tfstruct.forks import Lock
from tfstruct.keras_internals.replacing import replaced_attributes

# Classes and modules of Keras are changed while something is recorded: by one thread at a time.
_LOCK = Lock(reentrant=True)

# Lists of variables and bookkeeping of a layer, which no `call` computes with.
NO_ATTRIBUTES_OF_CALLS = frozenset((
    "_trainable_variables", "_non_trainable_variables", "_seed_generators", "_metrics", "_losses", "_tracker",
    "_auto_config", "_lock", "_path",
))  # fmt: skip
# What an operation that is no layer keeps besides what it computes by.
_BOOKKEEPING = {"name", "_inbound_nodes", "_outbound_nodes", "_remat_mode", "_auto_config", "_lock"}


@contextlib.contextmanager
def watched_calls(
    is_watched: Callable[[], bool],
    noted: Callable[[keras.Operation, tuple, dict, Any], None],
    before_read: Callable[[keras.Variable], None],
    before_draw: Callable[[], None],
) -> Iterator[None]:
    """While it is open, calls on symbolic tensors in this thread are reported, and leave no trace in a graph.

    Args:
        is_watched: whether the next event is to be reported; else Keras does what it always does.
        noted: (operation, args, kwargs, outputs) behind each call of a layer or operation.
        before_read: called before the value of a variable is read, with the variable; it may raise.
        before_draw: called before a random number is drawn; it may raise.
    """
    thread = threading.get_ident()
    node, value, draw = operation_module.Node, KerasVariable.value, SeedGenerator.next

    def is_seen() -> bool:
        return threading.get_ident() == thread and is_watched()

    def node_or_note(operation, call_args=(), call_kwargs=None, outputs=None):
        if not is_seen():
            return node(operation, call_args=call_args, call_kwargs=call_kwargs or {}, outputs=outputs)
        return noted(operation, call_args, call_kwargs or {}, outputs)

    def value_of(variable):
        if is_seen():
            before_read(variable)
        return value.fget(variable)

    def next_seed(generator, ordered=True):
        if is_seen():
            before_draw()
        return draw(generator, ordered)

    with _LOCK.held(), contextlib.ExitStack() as stack:
        for module in (layer_module, operation_module):
            stack.enter_context(replaced_attributes(module, Node=node_or_note))
        stack.enter_context(replaced_attributes(KerasVariable, value=property(value_of)))
        stack.enter_context(replaced_attributes(SeedGenerator, next=next_seed))
        stack.enter_context(_before_arrays())
        if keras.config.is_traceback_filtering_enabled():  # it wraps errors in others
            keras.config.disable_traceback_filtering()
            stack.callback(keras.config.enable_traceback_filtering)
        yield


@contextlib.contextmanager
def operations_as(forms: Mapping[type[keras.Operation], Callable], is_watched: Callable[[], bool]) -> Iterator[None]:
    """While it is open, operations of these classes compute on symbolic tensors in this thread as functions of
    (operation, their arguments) do, which are other operations."""
    thread = threading.get_ident()

    def as_form(kind: type[keras.Operation], form: Callable):
        own = kind.symbolic_call

        def symbolic_call(operation, *args, **kwargs):
            seen = threading.get_ident() == thread and is_watched()
            return (form if seen else own)(operation, *args, **kwargs)

        return symbolic_call

    with _LOCK.held(), contextlib.ExitStack() as stack:
        for kind, form in forms.items():
            stack.enter_context(replaced_attributes(kind, symbolic_call=as_form(kind, form)))
        yield


@contextlib.contextmanager
def one_seed() -> Iterator[None]:
    """While it is open, every random number that this thread draws comes of one seed, whatever draws it and when."""
    thread, draw = threading.get_ident(), SeedGenerator.next

    def next_seed(generator, ordered=True):
        if threading.get_ident() != thread:
            return draw(generator, ordered)
        return keras.ops.convert_to_tensor([1, 2], generator.state.dtype)

    with _LOCK.held(), replaced_attributes(SeedGenerator, next=next_seed):
        yield


@contextlib.contextmanager
def _before_arrays() -> Iterator[None]:
    """While it is open, `array * tensor` asks the symbolic tensor, as it does tf.Tensor: NumPy would want numbers."""
    if hasattr(keras.KerasTensor, "__array_priority__"):
        yield
        return
    keras.KerasTensor.__array_priority__ = 100  # that of tf.Tensor
    try:
        yield
    finally:
        del keras.KerasTensor.__array_priority__


def set_masks_as_layer(layer: keras.layers.Layer, inputs, outputs, mask) -> None:
    """Hangs on the outputs of a layer's `call` the masks that the layer computes, as calling the layer does."""
    if layer.supports_masking:
        layer._set_mask_metadata(inputs, outputs, mask)


def computed_spec(call: Callable, *args, **kwargs):
    """The shapes and dtypes of what a function returns, by tracing it."""
    return backend.compute_output_spec(call, *args, **kwargs)


def takes_arguments_as_they_are(layer: keras.layers.Layer) -> None:
    """The layer's arguments keep their dtype: floats are not cast to its compute dtype."""
    layer._convert_input_args = False


def stored_dtype(variable: keras.Variable) -> str:
    """The dtype of a variable, whatever precision it is read in."""
    return variable._dtype


def set_spec(x: keras.KerasTensor, shape=None, dtype: str | None = None) -> None:
    """Says what is known of a symbolic tensor and was not inferred."""
    if shape is not None:
        x._shape = tuple(shape)
    if dtype is not None:
        x._dtype = dtype


def computed_by(operation: keras.Operation) -> dict[str, Any]:
    """The attributes by which an operation that is no layer computes."""
    return {name: value for name, value in vars(operation).items() if name not in _BOOKKEEPING}


def operations_between(inputs: list, outputs: list) -> list[keras.Operation]:
    """The operations that make `outputs` of `inputs`, each once."""
    return list(_build_map(inputs, outputs)[1])
