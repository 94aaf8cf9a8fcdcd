"""Initializers, regularizers and constraints of weights that get another shape."""

import contextlib
import threading
import warnings
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from tfstruct.forks import Lock
from tfstruct.keras_internals.layer_parts import all_layers, draws_any_shape
from tfstruct.keras_internals.replacing import replaced_attributes

_ZEROS: dict[str, object] = dict(module="keras.initializers", class_name="Zeros", config={}, registered_name=None)
_PLAIN = (keras.initializers.Zeros, keras.initializers.Ones)  # they make every shape
_lock = Lock(reentrant=True)


def for_new_shapes(config: dict) -> dict:
    """A layer's configuration with zeros for initializers that hold arrays: the weights are given values anyway."""
    found = {}
    for key, value in config.items():
        if isinstance(key, str) and key.endswith("initializer") and _holds_array(value):
            value = dict(_ZEROS)
        elif isinstance(value, dict):
            value = for_new_shapes(value)
        elif isinstance(value, list):
            value = [for_new_shapes(x) if isinstance(x, dict) else x for x in value]
        found[key] = value
    return found


def _holds_array(value) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_array, value.values()))
    if isinstance(value, list | tuple):
        numbers = [x for x in value if isinstance(x, int | float | np.number) and not isinstance(x, bool)]
        return len(numbers) > 1 or any(map(_holds_array, value))
    return not isinstance(value, str) and len(getattr(value, "shape", ())) > 0


class Building:
    """Which weights of layers that are built are assigned afterwards: no initializer runs for them."""

    def __init__(self):
        self._assigned: set[int] = set()
        self._every = False
        self._zeros: dict[tuple, object] = {}  # what weights of one shape start from, shared until they are assigned

    def assigned_later(self, layer: keras.layers.Layer) -> None:
        """All weights that the layer itself makes are."""
        self._assigned.add(id(layer))

    @contextlib.contextmanager
    def every_weight_assigned_later(self) -> Iterator[None]:
        """While it is open, all weights that are built are, also those of layers in layers."""
        before, self._every = self._every, True
        try:
            yield
        finally:
            self._every = before

    def initializer(self, layer: keras.layers.Layer, own):
        """What a weight of the layer with the initializer `own` starts from."""
        return self._shared_zeros if self._every or id(layer) in self._assigned else own

    def _shared_zeros(self, shape, dtype):
        key = (tuple(shape), dtype)
        if key not in self._zeros:
            with tf.init_scope():  # a layer may be built while its call is traced
                self._zeros[key] = tf.raw_ops.Empty(shape=shape, dtype=dtype, init=True)  # faster than tf.zeros
        return self._zeros[key]


@contextlib.contextmanager
def any_initializer() -> Iterator[Building]:
    """While it is open, weights of layers that this thread builds start from zeros where their initializer does not
    make their shape; their layers keep `Zeros` in its place, so that they load from a file."""
    own, thread = keras.layers.Layer.add_weight, threading.get_ident()
    building = Building()

    def add_weight(layer, shape=None, initializer=None, *args, **kwargs):
        if threading.get_ident() != thread:
            return own(layer, shape, initializer, *args, **kwargs)
        fixed = initializer is not None and shape is not None  # else Keras's own, which make every shape
        if fixed and not _makes(initializer, shape, kwargs.get("dtype") or layer.variable_dtype):
            for name, value in list(vars(layer).items()):
                if value is initializer:
                    setattr(layer, name, keras.initializers.Zeros())
            initializer = "zeros"
        return own(layer, shape, building.initializer(layer, initializer), *args, **kwargs)

    with _lock.held(), replaced_attributes(keras.layers.Layer, add_weight=add_weight):
        yield building


def _makes(initializer, shape, dtype) -> bool:
    if isinstance(initializer, str) or type(initializer) in _PLAIN or draws_any_shape(initializer):
        return True
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    try:
        made = keras.initializers.get(initializer)(shape, dtype=keras.backend.standardize_dtype(dtype))
    except Exception:  # a user's code, or TensorFlow's kernels
        return False
    return tuple(getattr(made, "shape", ())) == shape


def drop_unfitting(layer: keras.layers.Layer, variable: keras.Variable) -> None:
    """Takes the regularizer and the constraint off a weight of a new shape if they do not take it, with a warning."""
    for what in ("regularizer", "constraint"):
        function = getattr(variable, what, None)
        if function is None:
            continue
        try:
            result = function(variable.value)
            if what == "regularizer" or tuple(result.shape) == tuple(variable.shape):
                continue
        except Exception:  # a user's code, or TensorFlow's kernels
            pass
        setattr(variable, what, None)
        for owner in all_layers(layer):
            for name, value in list(vars(owner).items()):
                if value is function:
                    setattr(owner, name, None)
        warnings.warn(
            f"{variable.path}: its {what} ({type(function).__name__}) does not take the new shape "
            f"{tuple(variable.shape)} and was left out. Give the new layer one that does.",
            stacklevel=3,
        )
