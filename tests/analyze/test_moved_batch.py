"""Work where the axis of the samples moves to another place, or is joined with others: that of one sample."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfstruct import profile, surgery
from tfstruct.analyze import Costs
from tfstruct.graph import trace


def _similarities():
    """Each image against each text, as CLIP does it."""
    images, texts = keras.Input((6,)), keras.Input((5,))
    a, b = layers.Dense(8, use_bias=False)(images), layers.Dense(8, use_bias=False)(texts)
    return keras.Model([images, texts], ops.matmul(a, ops.transpose(b)) * ops.exp(ops.convert_to_tensor(0.5)))


class _Experts(layers.Layer):
    """Every expert on every position, the axis of the experts first."""

    def build(self, shape):
        self.up = self.add_weight(shape=(3, 16, 20), name="up")
        self.down = self.add_weight(shape=(3, 20, 16), name="down")

    def call(self, x):
        rows = ops.reshape(x, (-1, 16))
        made = ops.relu(ops.einsum("th,ehi->eti", rows, self.up))
        made = ops.transpose(ops.einsum("eti,eih->eth", made, self.down), (1, 0, 2))
        return ops.reshape(ops.sum(made, axis=1), (-1, 8, 16))


def _experts():
    inputs = keras.Input((8, 16))
    return keras.Model(inputs, layers.Dense(4)(_Experts(name="second")(_Experts(name="first")(inputs))))


COUNTS = {
    "similarities": (_similarities, 6 * 8 + 5 * 8 + 8),
    "experts": (_experts, 2 * (2 * 8 * 3 * 16 * 20) + 8 * 16 * 4),
}


@pytest.mark.parametrize("name", COUNTS)
def test_the_work_of_one_sample(name):
    make, macs = COUNTS[name]
    model = surgery.open_layers(make()).model
    assert profile(model).macs == macs
    found = Costs(trace(model), ("macs", "peak_memory"))()
    assert found["macs"] == macs and found["peak_memory"] > 0
    # What is in front of the joint is counted as before.
    assert all(np.isfinite(Costs(trace(model), ("macs",)).by_call()["macs"]))


def test_planned_by_work():
    model = surgery.open_layers(_experts()).model
    plan = surgery.plan_channels(model, "macs=60%")
    smaller = surgery.apply(model, plan)
    assert profile(smaller).macs == plan.after["macs"] <= 0.6 * plan.before["macs"]


def test_open_sizes_stay_open():
    inputs = keras.Input((None, 6))
    model = keras.Model(inputs, ops.transpose(layers.Dense(4)(inputs), (1, 0, 2)))
    assert "macs" not in Costs(trace(model), ("macs",)).known()
    assert Costs(trace(model, (7, 6)), ("macs",))()["macs"] == 7 * 6 * 4
