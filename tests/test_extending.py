"""What CONTRIBUTING.md says an extension takes, tried with toy ones: registered, used, and taken out again."""

import sys

import keras
import numpy as np
import pytest
from keras import layers

from tfstruct import analyze, callbacks, quantize, surgery
from tfstruct.analyze.weight_criteria import BY_KERNEL
from tfstruct.convert import to_tflite
from tfstruct.graph.operation_traits import _ROWS, traits_of
from tfstruct.graph.rules.registry import _RULES, rule_of
from tfstruct.graph.traits import Traits
from tfstruct.precisions import PRECISIONS, Precision


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(8, 3, activation="relu", name="conv")(inputs)
    model = keras.Model(inputs, layers.Dense(3, name="head")(layers.Flatten()(x)))
    model.compile("sgd", "mse")
    return model


X = np.random.default_rng(0).normal(size=(32, 6, 6, 2)).astype("float32")


class Mirror(layers.Layer):
    """y[:, :, i] = x[:, :, -i]"""

    def call(self, inputs):
        return keras.ops.flip(inputs, axis=2)


def test_a_layer_type_is_its_rule_and_its_row():
    """A file of `graph/rules/` and `graph/operation_traits.py`: channels pass through, and the file has one scale."""
    inputs = keras.Input((6, 6, 2))
    x = Mirror(name="mirror")(layers.Conv2D(8, 3, activation="relu", name="conv")(inputs))
    model = keras.Model(inputs, layers.Dense(3, name="head")(layers.Flatten()(x)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(_RULES, Mirror, lambda call: call.input.axes)
        patch.setitem(_ROWS, Mirror, (Traits(moves="order", operator="REVERSE_V2"), None))
        smaller = surgery.apply(model, surgery.plan_channels(model, {"params": 0.5}))
        assert not smaller.report.opened and type(smaller.get_layer("mirror")) is Mirror
        assert smaller.get_layer("conv").filters < 8
        ranges = quantize.calibrate(model, X).ranges()
        assert "mirror" in ranges and ranges["mirror"] == ranges["conv"]
    assert rule_of(model.get_layer("mirror")) is None and traits_of(model.get_layer("mirror")) == Traits()


def test_a_channel_criterion_is_a_row_in_one_file():
    """`analyze/weight_criteria.py`: a function of (channels, weights), and how the channels of a unit add up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BY_KERNEL, "toy", (lambda w: np.abs(w).max(axis=1), "sum"))
        model = network()
        kernel = model.get_layer("conv").kernel.numpy()
        found = analyze.importance(model, "toy")
        np.testing.assert_allclose(found.groups["conv"], np.abs(kernel).max(axis=(0, 1, 2)), rtol=1e-6)
        prune = callbacks.PruneChannels(0.5, criterion="toy")
        prune.attach(model)
        callbacks.release(model)
    for use in (lambda: analyze.importance(network(), "toy"), lambda: callbacks.PruneChannels(0.5, criterion="toy")):
        with pytest.raises(ValueError, match="`criterion` must be one of l1, l2"):
            use()


def test_a_precision_is_a_row_in_one_file(process):
    """`precisions.py`: 3 bits, of which the file holds 4; schemes, twins, training and files follow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRECISIONS, "int3", Precision("int3", 3, 8, "int4", levels=(-3, 3)))
        model = network()
        twin = quantize.calibrate(model, X, "int3")
        file = to_tflite(twin)
        assert file.report.precision == "int4"
        low, high = (value(twin(X)) for value in (np.min, np.max))
        np.testing.assert_allclose(file.predict(X), twin(X), atol=2.1 * (high - low) / 255)
        kernel = quantize.dequantize(twin).get_layer("conv").kernel.numpy().reshape(-1, 8)
        assert max(len(np.unique(channel)) for channel in kernel.T) <= 7
        steps = np.abs(kernel).max(axis=0) / 3
        np.testing.assert_allclose(kernel / steps, np.rint(kernel / steps), atol=1e-4)
        aware = callbacks.QuantizeAware("int3")
        model.fit(X, np.zeros((32, 3)), verbose=0, callbacks=[aware])
        assert aware.twin.scheme.weight_bits("conv") == 3
    with pytest.raises(ValueError, match="A precision must be one of"):
        quantize.Scheme("int3")


_OPTIMIZER = '''
import keras

@keras.saving.register_keras_serializable(package="toys")
class SignDescent(keras.optimizers.Optimizer):
    """w <- w - lr sign(g)"""

    def update_step(self, gradient, variable, learning_rate):
        self.assign_sub(variable, keras.ops.cast(learning_rate, variable.dtype) * keras.ops.sign(gradient))
'''
_ROOM = """
from tfstruct import lazy

__getattr__, __dir__, __all__ = lazy.names(__name__, {"SignDescent": "sign_descent"}, registered=True)
"""


def test_an_optimizer_is_a_file_and_its_line_in_the_room(tmp_path, monkeypatch):
    """`optimizers/sign_descent.py` and `optimizers/__init__.py`, here in a room of its own."""
    room = tmp_path / "toy_optimizers"
    room.mkdir()
    (room / "__init__.py").write_text(_ROOM)
    (room / "sign_descent.py").write_text(_OPTIMIZER)
    monkeypatch.syspath_prepend(tmp_path)
    import toy_optimizers

    model = network()
    model.compile(toy_optimizers.SignDescent(learning_rate=0.01), "mse", jit_compile=False)
    before = model.get_layer("head").kernel.numpy()
    model.fit(X, np.ones((32, 3), "float32"), batch_size=32, verbose=0)
    moved = np.abs(model.get_layer("head").kernel.numpy() - before)
    np.testing.assert_allclose(moved[moved > 0], 0.01, rtol=1e-3)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer).__name__ == "SignDescent"
    for name in [name for name in sys.modules if name.startswith("toy_optimizers")]:
        del sys.modules[name]
    keras.saving.get_custom_objects().pop("toys>SignDescent")
    with pytest.raises(AttributeError, match="SignDescent"):
        _ = keras.optimizers.SignDescent
