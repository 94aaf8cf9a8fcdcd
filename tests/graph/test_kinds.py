"""Subclasses of Keras's layers that compute in their own way are not taken for what they were made from."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from tfstruct import quantize, surgery
from tfstruct.convert import to_tflite
from tfstruct.errors import PlanError
from tfstruct.graph import groups, trace
from tfstruct.graph.endings import activation_of
from tfstruct.graph.kinds import built_in_name, kind_of

register = keras.saving.register_keras_serializable("test_kinds")


@register
class StandardizedConv(layers.Conv2D):
    """Weight standardization by the hook that Keras has for it: `call` is inherited."""

    def convolution_op(self, inputs, kernel):
        mean, deviation = (f(kernel, axis=(0, 1, 2), keepdims=True) for f in (ops.mean, ops.std))
        return super().convolution_op(inputs, (kernel - mean) / (deviation + 1e-5))


@register
class PositiveConv(layers.Conv2D):
    @property
    def kernel(self):
        return ops.abs(self._kernel)


@register
class CausalConv(layers.Conv2D):
    def call(self, x):
        mask = np.ones((3, 3, 1, 1), "float32")
        mask[2:], mask[1, 1:] = 0, 0
        return ops.conv(x, self.kernel * mask, strides=1, padding="same") + self.bias


@register
class ScaledConv(layers.Conv2D):
    def call(self, x):
        return 3 * super().call(x) + 1


@register
class NamedConv(layers.Conv2D):
    """Computes as its base does."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)

    def build(self, input_shape):
        super().build(input_shape)

    def get_config(self):
        return super().get_config()


OTHER = [StandardizedConv, PositiveConv, CausalConv, ScaledConv]


def network(kind) -> keras.Model:
    keras.utils.set_random_seed(3)
    x = given = keras.Input((8, 8, 3))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(6, 3, padding="same", name="first")(x)))
    x = layers.BatchNormalization()(kind(8, 3, padding="same", name="own")(x))
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    model = keras.Model(given, layers.Dense(4, name="last")(x))
    rng = np.random.default_rng(3)
    for weight in model.weights:
        if len(weight.shape) == 1:
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    return model


x = np.random.default_rng(4).normal(size=(32, 8, 8, 3)).astype("float32")


def decibels(expected, got) -> float:
    return 10 * np.log10(np.mean(np.square(expected)) / np.mean(np.square(expected - got)))


@pytest.mark.parametrize("kind", OTHER)
@pytest.mark.sweep(2)
def test_no_surgery_changes_what_they_compute(kind):
    model = network(kind)
    expected = model.predict(x, verbose=0)
    for make in (
        surgery.fold_batch_norm,
        surgery.optimize_inference,
        surgery.shrink,
        lambda m: surgery.factorize(m, energy=1.0),
        lambda m: surgery.deepen(m, "first"),
        quantize.equalize,
    ):
        made = make(model)
        np.testing.assert_allclose(getattr(made, "model", made).predict(x, verbose=0), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(PlanError, match=kind.__name__):
        surgery.widen(model, "first", 9, open_layers=False)
    assert not [group for group in groups(trace(model)) if group.prunable]


@pytest.fixture(scope="module")
def int8():
    """The outputs of a model with one of each, of its twin and of the twin's file."""
    given = keras.Input((8, 8, 3))
    model = keras.Model(given, [network(kind)(given) for kind in OTHER])
    twin = quantize.calibrate(model, x, open_layers=False)
    file = to_tflite(twin)
    return twin, list(model.predict(x, verbose=0)), [np.asarray(y) for y in twin(x)], list(file.predict(x).values())


@pytest.mark.parametrize("kind", OTHER)
@pytest.mark.sweep(2)
def test_the_twin_computes_as_they_do_and_as_the_file(int8, kind):
    twin, expected, simulated, file = int8
    place = OTHER.index(kind)
    assert decibels(expected[place], simulated[place]) > 25
    assert decibels(expected[place], file[place]) > 25
    assert decibels(simulated[place], file[place]) > 30
    assert [name for name, _ in twin.simulation.skipped if name.split("/")[1] == "own"]


def test_a_subclass_that_computes_as_its_base_is_its_base():
    graph = trace(network(NamedConv))
    (own,) = [call.op for call in graph.calls if call.path == "own"]
    assert kind_of(own, (layers.Conv2D,)) is layers.Conv2D
    assert built_in_name(own) == "Conv2D"
    assert [group for group in groups(graph) if group.prunable]


@pytest.mark.parametrize("kind", OTHER)
def test_others_are_not(kind):
    own = kind(4, 3)
    assert kind_of(own, (layers.Conv2D, kind)) is kind
    assert kind_of(own, (layers.Conv2D,)) is None
    assert built_in_name(own) == ""


def test_activations():
    class Attends(layers.Layer):
        activation = staticmethod(keras.activations.softmax)

    def relu(x):
        return x

    known = [
        (layers.Dense(3), None), (layers.Dense(3, activation="relu"), "relu"),
        (layers.Dense(3, activation=tf.nn.softmax), "softmax"), (layers.Dense(3, activation=tf.nn.silu), "silu"),
        (layers.Activation("linear"), None), (layers.Conv2D(3, 3, activation=layers.ReLU()), "relu"),
        (layers.ReLU(6.0), "relu6"), (layers.ReLU(2.0), "relu_variant"), (layers.Softmax(), "softmax"),
        (layers.LSTM(3), None), (layers.SimpleRNN(3), "tanh"), (Attends(), None),
    ]  # fmt: skip
    assert [activation_of(layer) for layer, _ in known] == [name for _, name in known]
    assert activation_of(layers.Dense(3, activation=relu)) not in ("relu", None)  # of a user's own
