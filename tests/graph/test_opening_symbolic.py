"""What Keras computes on numbers and not on symbolic tensors, in the code of custom layers."""

import custom_layers
import keras
import numpy as np
import pytest
from keras import layers, ops
from oracle import assert_equal

from tfstruct import surgery

INDICES = {
    "None": lambda x: x[None][0],
    "a slice": lambda x: x[1:] + x[:-1] if x.shape[0] == 7 else x,
    "an ellipsis": lambda x: x[...] * 2.0,
    "numbers of NumPy": lambda x: x[:, np.int64(1)][:, None] * x,
    "a new last axis": lambda x: ops.sum(x[..., None], axis=-1),
    "ndim": lambda x: x * (1.0 / ops.ndim(x)) if ops.ndim(x) > 1 else x,
    "size": lambda x: x / ops.cast(ops.size(x[0]), x.dtype),
}


class Own(layers.Layer):
    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def build(self, shape):
        self.positions = self.add_weight(shape=(12, shape[-1]), name="positions")

    def call(self, x):
        return self.function(x) + self.positions[:1] + self.positions[np.int64(2)]


@pytest.mark.parametrize("name", INDICES)
def test_equal_to_the_layer(name):
    model = custom_layers.randomized(custom_layers._vector(Own(INDICES[name], name="own"), layers.Dense(8)))
    found = surgery.open_layers(model)
    assert found.opened == ("own",)
    x = custom_layers.inputs_of(model)
    assert_equal([np.asarray(model(x))], [np.asarray(found.model(x))])
    smaller = surgery.apply(model, surgery.plan_channels(model, "macs=70%"))
    assert smaller.count_params() < model.count_params()
    assert keras.ops.shape(smaller(x)) == keras.ops.shape(model(x))
