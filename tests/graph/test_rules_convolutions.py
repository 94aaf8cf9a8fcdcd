"""Convolutions of `keras.ops` with kernels that layers compute or hold as constants."""

import custom_layers
import keras
import numpy as np
import pytest
from keras import layers, ops
from oracle import assert_pruned_equals_masked

from tfstruct.graph import groups, trace
from tfstruct.graph.opening import open_model

KINDS = {
    "conv": (ops.conv, (3, 3, 8, 6)), "depthwise": (ops.depthwise_conv, (3, 3, 8, 1)),
    "twice": (ops.depthwise_conv, (3, 3, 8, 2)),
}  # fmt: skip


class Masked(layers.Layer):
    """A convolution whose kernel is a weight times a constant."""

    def __init__(self, kind, constant, **kwargs):
        super().__init__(**kwargs)
        (self.run, self.shape), self.constant = KINDS[kind], constant
        self.mask = (np.random.default_rng(0).random(self.shape) < 0.7).astype("float32")

    def build(self, shape):
        if not self.constant:
            self.kernel = self.add_weight(shape=self.shape, name="kernel")

    def call(self, x):
        kernel = self.mask if self.constant else self.kernel * self.mask
        return self.run(x, kernel, strides=2, padding="same", data_format="channels_last")


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_kernels_that_are_computed(kind, constant):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3))
    x = Masked(kind, constant, name="masked")(layers.Conv2D(8, 1, name="before")(inputs))
    model = custom_layers.randomized(keras.Model(inputs, layers.Conv2D(2, 1, name="head")(x)))
    found = open_model(model)
    assert not found.closed
    graph = trace(found.model)
    free = {maker: len(group.free) for group in groups(graph) for maker in group.makers}
    assert free["before"] == 8
    if kind == "conv" and not constant:
        assert [n for maker, n in free.items() if maker.startswith("masked/") and maker.endswith("axis3")] == [6]
    x = np.random.default_rng(1).normal(size=(3, 6, 6, 3)).astype("float32")
    assert_pruned_equals_masked(found.model, inputs=ops.convert_to_tensor(x))
    (call,) = (c for c in graph.calls if "conv" in c.op.name and c.path.startswith("masked"))
    macs = sum(factor * np.prod([len(labels) for labels in own]) for factor, own in call.costs)
    assert macs == 3 * 3 * np.prod(KINDS[kind][1])


def test_channels_of_a_constant_kernel_go_with_what_they_are_added_to():
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(8, 1, name="before")(inputs)
    kernel = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype("float32")
    x = layers.Add()([x, ops.conv(x, kernel, padding="same")])
    model = custom_layers.randomized(keras.Model(inputs, layers.Conv2D(2, 1)(x)))
    x = np.random.default_rng(1).normal(size=(3, 6, 6, 3)).astype("float32")
    _, _, smaller = assert_pruned_equals_masked(model, inputs=x)
    assert smaller.get_layer("before").filters < 8
