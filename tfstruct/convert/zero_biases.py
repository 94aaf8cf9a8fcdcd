"""Biases of zeros: the converter drops sums with zeros, and fuses others than a twin does, whose biases may learn.

So while the model of a twin is converted, its biases that are all zero have the least number instead, which is zero as
an integer.
"""

import contextlib
from collections.abc import Iterator

import keras
import numpy as np

from tfstruct.errors import ModelError
from tfstruct.graph import trace
from tfstruct.graph.layer_tree import layer_paths
from tfstruct.graph.opening.parts import Weight
from tfstruct.graph.operation_traits import traits_of

_LEAST = np.finfo(np.float32).tiny


@contextlib.contextmanager
def kept(model: keras.Model) -> Iterator[None]:
    """While it is open, no bias is all zero: of layers, and of weights that are added."""
    zero = {id(bias): bias for bias in _biases(model) if not np.any(keras.ops.convert_to_numpy(bias))}
    try:
        for bias in zero.values():
            bias.assign(np.full(bias.shape, _LEAST))
        yield
    finally:
        for bias in zero.values():
            bias.assign(np.zeros(bias.shape))


def _biases(model: keras.Model) -> Iterator[keras.Variable]:
    for op in layer_paths(model).values():
        bias = getattr(op, "bias", None) if traits_of(op).kernel else None
        if isinstance(bias, keras.Variable):
            yield bias
    try:
        calls = trace(model).calls
    except ModelError:  # its `call` is its own
        return
    makers = {tensor.key: call.op for call in calls for tensor in call.outputs}
    for call in calls:
        for x in call.inputs if traits_of(call.op).joins == "add" else ():
            made = makers.get(x.key)
            if isinstance(made, Weight) and made.value is not None and "float" in made.weight_dtype:
                yield made.value
