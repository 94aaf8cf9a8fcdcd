"""Lambda layers: their functions are recorded as the `call` of a custom layer is, or stay closed with a reason."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from custom_layers import _sequence, _vector, inputs_of, randomized
from keras import layers, ops
from oracle import assert_equal, assert_pruned_equals_masked

import tfstruct
from tfstruct import quantize, surgery
from tfstruct.graph.opening import open_model


def _half(x, by=2.0):
    return x / by


FREE = keras.Variable(2.0)
FUNCTIONS = {
    "operators": lambda x: ops.tanh(x) * 2.0 + x,
    "operation": ops.square,
    "in training too": lambda x, training=None: x - ops.mean(x, axis=1, keepdims=True),
    "sizes of its input": lambda x: x + ops.broadcast_to(ops.mean(x, axis=0, keepdims=True) * 0.0, ops.shape(x)),
    "slices": lambda x: ops.concatenate([x[:, 4:], ops.relu(x[:, :4])], axis=-1),
}
CLOSED = {
    "tf": lambda x: tf.math.cumsum(x, axis=1),
    "NumPy": lambda x: np.asarray(x) * 1.0,
    "a variable": lambda x: x * FREE,
    "other in training": lambda x, training=None: x * 2.0 if training else ops.relu(x),
    "random numbers": lambda x: x + keras.random.normal(ops.shape(x)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_opened(name):
    model = randomized(_vector(layers.Lambda(FUNCTIONS[name], name="own")))
    found = open_model(model)
    assert found.opened == ("own",) and not found.closed
    x = inputs_of(model)
    assert_equal([np.asarray(model(x))], [np.asarray(found.model(x))])
    assert_pruned_equals_masked(found.model, inputs=ops.convert_to_tensor(x))


def test_arguments_masks_and_several_inputs(tmp_path):
    """What was opened is saved without code, and loads as it is."""
    keras.utils.set_random_seed(0)
    ids = keras.Input((6,), dtype="int32", name="ids")
    x = layers.Embedding(9, 8, mask_zero=True, name="embed")(ids)
    x = layers.Lambda(_half, arguments={"by": 4.0}, mask=lambda x, mask: mask, name="half")(x)
    x = layers.LSTM(5, name="loop")(x)
    x = layers.Lambda(lambda pair: pair[0] * ops.sigmoid(pair[1]), name="gate")([x, layers.Dense(5, name="g")(x)])
    model = randomized(keras.Model(ids, layers.Dense(2, name="head")(x)))
    found = open_model(model)
    assert set(found.opened) == {"half", "gate"}
    x = np.array([[1, 2, 3, 0, 0, 0], [4, 5, 6, 7, 8, 1]], "int32")
    assert_equal([np.asarray(model(x))], [np.asarray(found.model(x))])
    found.model.save(tmp_path / "opened.keras")
    loaded = keras.models.load_model(tmp_path / "opened.keras", safe_mode=True)
    assert_equal([np.asarray(model(x))], [np.asarray(loaded(x))])
    closed = surgery.close_layers(found.model)
    assert set(closed.kept) == {"half", "gate"} and all("code" in why for why in closed.kept.values())


@pytest.mark.parametrize("name", CLOSED)
def test_functions_that_stay_closed_name_their_line(name):
    model = _vector(layers.Lambda(CLOSED[name], output_shape=(8,), name="own"), layers.Dense(8, name="free"))
    report = tfstruct.explain(model)
    assert not report.opened and "test_opening_lambda.py:" in report.opaque["own"]
    assert "stays closed: own" in str(report)
    assert "first" not in {path for group in report.groups if group.prunable for path in group.makers}
    assert not tfstruct.explain(model, open_layers=False).opaque


def test_plans_costs_and_twins_see_inside():
    keras.utils.set_random_seed(0)
    model = randomized(_sequence(layers.Lambda(lambda x: ops.matmul(x, ops.transpose(x, (0, 2, 1))), name="own")))
    assert tfstruct.profile(model).macs - tfstruct.profile(model, open_layers=False).macs in (0, 6 * 8 * 6)
    plan = tfstruct.plan_channels(model, "macs=70%")
    assert plan.opened == ("own",) and len(plan.keep["first"]) < 8
    x = inputs_of(model)
    twin = quantize.calibrate(model, x)
    assert twin.report.opened == ("own",) and any(path.startswith("own/") for path in twin.ranges())
