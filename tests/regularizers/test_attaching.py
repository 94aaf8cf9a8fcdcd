"""Regularizers on models that are already built."""

import contracts
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfstruct import regularizers
from tfstruct.errors import ModelError


def total(model) -> float:
    return float(sum(map(float, model.losses)))


def kinds() -> keras.Model:
    """Every kind of layer that holds others or names its weights in its own way; the nested model is called twice."""
    inputs = keras.Input((6, 4))
    block = keras.Sequential([layers.Dense(5, name="wide"), layers.Dense(4, name="narrow")], name="block")
    x = block(block(inputs))
    x = layers.LSTM(3, return_sequences=True, name="lstm")(x)
    x = layers.Bidirectional(layers.GRU(2, return_sequences=True, name="gru"), name="both")(x)
    x = layers.TimeDistributed(layers.Dense(4, name="inner"), name="each")(x)
    x = layers.MultiHeadAttention(2, 2, name="attention")(x, x)
    x = layers.SeparableConv1D(4, 2, name="separable")(x)
    x = layers.DepthwiseConv1D(2, name="depthwise")(x)
    x = layers.BatchNormalization(name="norm")(x)
    return keras.Model(inputs, layers.Conv1DTranspose(3, 2, name="transposed")(x), name="kinds")


def residual() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(5, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    y = layers.Conv2D(7, 1, activation="relu", name="widen")(x)
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(y)
    x = layers.Add(name="add")([x, layers.Conv2D(5, 1, name="narrow")(y)])
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(4, name="logits")(x), name="residual")
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    return model


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(3, name="first")
        self.rest = [layers.Dense(2, name="second")]

    def call(self, x):
        return self.rest[0](self.first(x))


def test_applied_is_as_constructed():
    def build(regularizer=None):
        keras.utils.set_random_seed(1)
        return contracts.network(layers.Conv2D(6, 3, kernel_regularizer=regularizer, name="more"))

    wanted, _ = contracts.trained(lambda: build(keras.regularizers.L2(0.1)))
    model = build()
    assert regularizers.apply(model, keras.regularizers.L2(0.1), layers="more") == ("more/kernel",)
    contracts.go_on(model, epochs=2)
    for a, b in zip(model.get_weights(), wanted.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    assert model.get_layer("more").get_config() == wanted.get_layer("more").get_config()


def test_after_a_first_fit():
    x, y = contracts.data()
    model = contracts.network()
    contracts.go_on(model)
    plain = model.evaluate(x, y, verbose=0)
    kernel = model.get_layer("conv").kernel.numpy()
    regularizers.apply(model, regularizers.L1(10.0), layers="conv")
    penalty = 10 * np.abs(kernel).sum()
    assert model.evaluate(x, y, verbose=0) == pytest.approx(plain + penalty, rel=1e-5)
    model.optimizer.learning_rate = 1e-4
    contracts.go_on(model)
    # Four steps of lr * 10 towards zero.
    moved = np.abs(kernel) - np.abs(model.get_layer("conv").kernel.numpy())
    np.testing.assert_allclose(moved[np.abs(kernel) > 0.01], 4e-3, rtol=0.1)
    assert regularizers.remove(model) == ("conv/kernel",)
    assert model.losses == []
    now = keras.losses.sparse_categorical_crossentropy(y, model.predict(x, verbose=0), from_logits=True)
    assert model.evaluate(x, y, verbose=0) == pytest.approx(float(np.mean(now)), rel=1e-5)


def test_every_kind_of_layer_from_a_file(tmp_path):
    model = kinds()
    paths = regularizers.apply(model, regularizers.GroupLasso(0.1))
    assert len(paths) == len(set(paths)) == len(model.losses) == 17
    assert {"block/wide/kernel", "lstm/lstm_cell/recurrent_kernel", "attention/query/kernel"} <= set(paths)
    model.save(tmp_path / "kinds.keras")
    loaded = keras.models.load_model(tmp_path / "kinds.keras")
    assert len(loaded.losses) == 17
    assert total(loaded) == pytest.approx(total(model), rel=1e-6)
    assert len(regularizers.remove(loaded)) == 17
    assert keras.models.clone_model(loaded).losses == []


def test_filters_follow_the_layer():
    model = kinds()
    regularizers.apply(model, regularizers.GroupLasso(1.0), layers=["depthwise", "transposed"])
    first, second = (layer.kernel.numpy() for layer in (model.get_layer("depthwise"), model.get_layer("transposed")))
    wanted = 2**0.5 * np.linalg.norm(first, axis=0).sum()  # (time, channels, 1): a filter a channel
    wanted += 8**0.5 * np.linalg.norm(second, axis=(0, 2)).sum()  # (time, filters, channels)
    assert total(model) == pytest.approx(wanted, rel=1e-6)
    regularizers.apply(model, regularizers.Orthogonal(1.0), layers="transposed")
    rows = np.moveaxis(second, 1, -1).reshape(-1, 3)
    assert float(model.losses[-1]) == pytest.approx(((rows.T @ rows - np.eye(3)) ** 2).sum(), rel=1e-5)


@pytest.mark.parametrize(
    "which, wanted",
    [
        ("block", ["block/wide/kernel", "block/narrow/kernel"]),
        ("block/w*", ["block/wide/kernel"]),
        ("wide", ["block/wide/kernel"]),
        (["each", "sep*"], ["each/inner/kernel", "separable/depthwise_kernel", "separable/pointwise_kernel"]),
        (lambda layer: isinstance(layer, layers.DepthwiseConv1D), ["depthwise/kernel"]),
        (lambda layer: layer.name == "narrow", ["block/narrow/kernel"]),
    ],
)
def test_layers(which, wanted):
    model = kinds()
    assert list(regularizers.apply(model, regularizers.Entropy(), layers=which)) == wanted
    assert len(model.losses) == len(wanted)
    assert list(regularizers.remove(model, which)) == wanted


def test_layer_objects():
    model = kinds()
    inner = model.get_layer("block").layers[0]
    assert regularizers.apply(model, "l2", layers=[inner, "wide"]) == ("block/wide/kernel",)
    assert regularizers.apply(model, regularizers.BatchNormScale(0.1)) == ("norm/gamma",)
    assert total(model) == pytest.approx(0.01 * (inner.kernel.numpy() ** 2).sum() + 0.1 * 4, rel=1e-5)
    assert set(regularizers.remove(model)) == {"block/wide/kernel", "norm/gamma"}


def test_nothing_matches():
    model = kinds()
    with pytest.raises(ModelError, match=r"No layer of `kinds` with weights matches `conv1`\. It has block/wide, "):
        regularizers.apply(model, regularizers.L2(), layers=["wide", "conv1"])
    assert model.losses == []
    with pytest.raises(ModelError, match="No layer of `kinds` that `norm` matches has a kernel"):
        regularizers.apply(model, regularizers.L2(), layers="norm")
    with pytest.raises(ModelError, match="that `wide` matches has a gamma of a batch normalization"):
        regularizers.apply(model, regularizers.BatchNormScale(), layers="wide")
    with pytest.raises(ModelError, match="matches `dense`"):
        regularizers.apply(model, regularizers.L2(), layers=layers.Dense(3, name="dense"))
    with pytest.raises(ModelError, match="`layers` is empty"):
        regularizers.remove(model, [])
    with pytest.raises(ModelError, match="Received: int"):
        regularizers.apply(model, regularizers.L2(), layers=3)
    small = keras.Sequential([keras.Input((3,)), layers.Dense(2)], name="small")
    with pytest.raises(ModelError, match="`small` has no layer with a gamma of a batch normalization"):
        regularizers.apply(small, regularizers.BatchNormScale())
    with pytest.raises(ModelError, match="not built"):
        regularizers.apply(keras.Sequential([layers.Dense(2)]), regularizers.L2())
    with pytest.raises(ModelError, match=r"Expected a keras\.Model"):
        regularizers.remove("model")
    with pytest.raises(ValueError, match="must be a regularizer"):
        regularizers.apply(small, None)


def test_what_a_file_cannot_hold_is_said():
    model = Subclassed(name="own")
    x = np.ones((4, 3), "float32")
    model(x)
    with pytest.warns(UserWarning, match="configuration of `own` cannot hold the regularizer of second/kernel"):
        regularizers.apply(model, regularizers.L2(0.5), layers="second")
    assert total(model) == pytest.approx(0.5 * (model.rest[0].kernel.numpy() ** 2).sum(), rel=1e-6)
    model.compile("sgd", "mse", jit_compile=False)
    assert model.evaluate(x, model.predict(x, verbose=0), verbose=0) == pytest.approx(total(model), rel=1e-5)
    attention = kinds()
    with pytest.warns(UserWarning, match="attention/query/kernel"):
        regularizers.apply(attention, regularizers.L2(), layers="attention/query")


def unit_norms(model, frozen=()) -> float:
    """The penalty of `residual` over its channels, in NumPy."""
    value = 0.0
    stream = [("stem", "kernel", -1), ("norm", "gamma", 0), ("norm", "beta", 0), ("narrow", "kernel", -1)]
    inner = [("widen", "kernel", -1), ("widen", "bias", 0), ("depthwise", "kernel", -2), ("depthwise", "bias", 0)]
    for members, width in (([*stream, ("narrow", "bias", 0)], 5), (inner, 7)):
        arrays = [
            np.moveaxis(getattr(model.get_layer(layer), name).numpy(), axis, 0).reshape(width, -1)
            for layer, name, axis in members
            if layer not in frozen
        ]
        w = np.concatenate(arrays, axis=1)
        value += np.sqrt(w.shape[1]) * np.linalg.norm(w, axis=1).sum()
    return value


def test_channel_groups_are_those_of_the_graph():
    model = residual()
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    paths = regularizers.apply(model, regularizers.GroupLasso(0.1, by="channel"))
    assert set(paths) == {
        "stem/kernel", "norm/gamma", "norm/beta", "narrow/kernel", "narrow/bias", "widen/kernel", "widen/bias",
        "depthwise/kernel", "depthwise/bias",
    }  # fmt: skip
    assert total(model) == pytest.approx(0.1 * unit_norms(model), rel=1e-5)
    model.get_layer("stem").trainable = False  # the weight that handed out the penalty
    assert total(model) == pytest.approx(0.1 * unit_norms(model, ["stem"]), rel=1e-5)
    regularizers.remove(model, "norm")
    assert total(model) == pytest.approx(0.1 * unit_norms(model, ["stem", "norm"]), rel=1e-5)
    model.get_layer("stem").trainable = True
    regularizers.remove(model)
    assert model.losses == []


def test_one_group_is_chosen_by_any_layer_that_makes_it():
    model = residual()
    paths = regularizers.apply(model, regularizers.GroupLasso(0.1, by="channel"), layers="depthwise")
    assert set(paths) == {"widen/kernel", "widen/bias", "depthwise/kernel", "depthwise/bias"}
    with pytest.raises(ModelError, match=r"No channel of `residual` can go: logits \(the model's own output"):
        regularizers.apply(model, regularizers.GroupLasso(0.1, by="channel"), layers="logits")


def test_channel_gradient_pulls_a_unit_as_one():
    model = residual()
    regularizers.apply(model, regularizers.GroupLasso(0.1, by="channel"), layers="widen")
    widen, depthwise = model.get_layer("widen"), model.get_layer("depthwise")
    for variable in (widen.kernel, widen.bias, depthwise.kernel, depthwise.bias):
        value = np.random.default_rng(1).normal(size=variable.shape)
        value[(..., 0, slice(None)) if variable is depthwise.kernel else (..., 0)] = 0  # the first unit is all zero
        variable.assign(value)
    with tf.GradientTape() as tape:
        value = sum(model.losses)
    kernel, depth = tape.gradient(value, [widen.kernel, depthwise.kernel])
    size = 5 + 1 + 9 + 1
    norm = np.sqrt(
        (widen.kernel.numpy()[..., 3] ** 2).sum() + widen.bias.numpy()[3] ** 2
        + (depthwise.kernel.numpy()[:, :, 3] ** 2).sum() + depthwise.bias.numpy()[3] ** 2
    )  # fmt: skip
    for slope, weight in ((kernel[..., 3], widen.kernel[..., 3]), (depth[:, :, 3], depthwise.kernel[:, :, 3])):
        np.testing.assert_allclose(slope, 0.1 * np.sqrt(size) * weight / norm, rtol=1e-5)
    assert not kernel.numpy()[..., 0].any() and not depth.numpy()[:, :, 0].any()


def test_channel_groups_after_loading(tmp_path):
    def build():
        model = residual()
        regularizers.apply(model, regularizers.GroupLasso(0.01, by="channel"))
        return model

    whole, _ = contracts.trained(build, epochs=2)
    half, _ = contracts.trained(build, epochs=1)
    half.save(tmp_path / "half.keras")
    loaded = keras.models.load_model(tmp_path / "half.keras")
    assert loaded.get_layer("stem").kernel_regularizer.get_config() == {"strength": 0.01, "by": "channel"}
    x, y = contracts.data()
    assert loaded.predict(x, verbose=0).shape == (64, 4)
    with pytest.raises(ModelError, match="belongs to a whole model"):
        loaded.evaluate(x, y, verbose=0)
    regularizers.apply(loaded, regularizers.GroupLasso(0.01, by="channel"))
    contracts.go_on(loaded)
    for a, b in zip(loaded.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_channel_groups_need_a_graph():
    model = Subclassed()
    model(np.ones((4, 3), "float32"))
    with pytest.raises(ModelError, match="subclassed model"):
        regularizers.apply(model, regularizers.GroupLasso(by="channel"))
    assert model.losses == []


def test_attention_heads_count_in_each_of_their_units():
    inputs = keras.Input((4, 6))
    model = keras.Model(inputs, layers.MultiHeadAttention(2, 3, use_bias=False, name="attention")(inputs, inputs))
    regularizers.apply(model, regularizers.GroupLasso(1.0, by="channel"))
    query, key, value = (
        getattr(model.get_layer("attention"), f"_{n}_dense").kernel.numpy() for n in ("query", "key", "value")
    )
    heads = np.sqrt(3 * 18) * np.sqrt((query**2 + key**2 + value**2).sum(axis=(0, 2))).sum()
    widths = np.sqrt(2 * 12) * np.sqrt((query**2 + key**2).sum(axis=(0, 1))).sum()
    widths += np.sqrt(12) * np.sqrt((value**2).sum(axis=(0, 1))).sum()
    assert total(model) == pytest.approx(heads + widths, rel=1e-5)
