"""Runs with one planted fault each, and healthy ones: what `Diagnose` has to tell apart."""

import keras
import numpy as np
from contracts import data

from tfstruct import demo

layers = keras.layers
LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def digits(count: int = 1257) -> tuple[np.ndarray, np.ndarray]:
    (x, y), _ = demo.digits()
    return x[:count] / 16, y[:count]


def fit(model, x, y, callback, optimizer, epochs=6, batch_size=32, validation=None, **compiled):
    model.compile(optimizer, LOGITS, jit_compile=False, **compiled)
    model.fit(x, y, batch_size, epochs, verbose=0, validation_data=validation, callbacks=[callback])
    return callback.report


def convnet(norm: bool = False, activation="relu", width: int = 8) -> keras.Model:
    def conv(filters, **more):
        yield layers.Conv2D(filters, 3, padding="same", use_bias=not norm, **more)
        if norm:
            yield layers.BatchNormalization(momentum=0.9)
        yield layers.Activation(activation)

    parts = [*conv(width), *conv(2 * width, strides=2), layers.Flatten(), layers.Dense(10)]
    return keras.Sequential([keras.Input((8, 8, 1)), *parts])


def deep(activation: str, initializer, depth: int = 50, width: int = 16) -> keras.Model:
    parts = [layers.Dense(width, activation, kernel_initializer=initializer) for _ in range(depth - 1)]
    return keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), *parts, layers.Dense(10)])


# Faults: callback -> report. 3e-3 is a good rate for Adam here, 0.1 for plain gradient descent.


def rate_too_high(callback, optimizer="sgd", norm=False):
    rate = {"sgd": 10.0, "adam": 0.3}[optimizer]
    return fit(convnet(norm), *digits(), callback, _optimizer(optimizer, rate))


def rate_too_low(callback, optimizer="sgd", norm=False):
    rate = {"sgd": 1e-3, "adam": 3e-5}[optimizer]
    return fit(convnet(norm), *digits(), callback, _optimizer(optimizer, rate), epochs=4)


def vanishing(callback, activation="sigmoid", initializer="glorot_uniform"):
    return fit(deep(activation, initializer), *digits(640), callback, _optimizer("sgd", 0.1), epochs=3)


def vanishing_by_small_weights(callback):
    return vanishing(callback, "relu", keras.initializers.RandomNormal(stddev=0.05))


def exploding(callback, activation="relu", gain=4.0):
    start = keras.initializers.VarianceScaling(2 * gain**2, "fan_in", "untruncated_normal")
    return fit(deep(activation, start), *digits(640), callback, _optimizer("sgd", 1e-3), epochs=2)


def exploding_tanh(callback):
    return exploding(callback, "tanh", 3.0)


def dead_by_bias(callback):
    model = convnet()
    model.layers[2].bias.assign(np.full(16, -20.0))
    return fit(model, *digits(), callback, _optimizer("adam", 3e-3), epochs=3)


def dead_by_step(callback):
    model = convnet()
    x, y = digits()
    model.compile(_optimizer("sgd", 100.0), LOGITS)
    model.fit(x[:32], y[:32], verbose=0)  # one step that is much too large
    return fit(model, x, y, callback, _optimizer("sgd", 0.05), epochs=3)


def shuffled_labels(callback, norm=False):
    x, y = digits(256)
    (_, _), (test_x, test_y) = demo.digits()
    labels = np.random.default_rng(1).permutation(y)
    validation = (test_x[:256] / 16, test_y[:256])
    return fit(convnet(norm, width=16), x, labels, callback, _optimizer("adam", 3e-3), 30, 32, validation)


class Fuse(layers.Layer):
    """log(steps - n) in the n-th call of training is added: NaN from the call after that many steps on."""

    def __init__(self, steps, **kwargs):
        super().__init__(**kwargs)
        self.steps = steps

    def build(self, shape):
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x, training=False):
        if training:
            self.calls.assign_add(1.0)
        return x + 0 * keras.ops.log(self.steps - self.calls + 0.5)


def nan_in_layer(callback, after: bool = False):
    """log of what can be negative, at once; or a layer that breaks after some steps."""
    inputs = keras.Input((8, 8, 1))
    x = layers.Dense(16, activation="relu", name="first")(layers.Flatten()(inputs))
    x = layers.Dense(16, name="second")(x)
    x = Fuse(17, name="logarithm")(x) if after else layers.Lambda(keras.ops.log, name="logarithm")(x)
    x = layers.Dense(16, activation="tanh", name="third")(x)
    return fit(keras.Model(inputs, layers.Dense(10)(x)), *digits(320), callback, _optimizer("sgd", 0.05), epochs=4)


# Healthy runs.


def healthy_convnet(callback):
    return fit(convnet(), *digits(), callback, _optimizer("sgd", 0.1), validation=_held())


def healthy_batch_norm(callback):
    return fit(convnet(norm=True), *digits(), callback, _optimizer("adam", 3e-3), validation=_held())


def healthy_residual(callback):
    """Blocks whose last batch norm begins at zero: inside them no gradient, at first."""
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 3, padding="same")(inputs)
    for _ in range(4):
        y = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(layers.Conv2D(8, 3, padding="same")(x)))
        y = layers.BatchNormalization(momentum=0.9, gamma_initializer="zeros")(layers.Conv2D(8, 3, padding="same")(y))
        x = layers.ReLU()(layers.Add()([x, y]))
    model = keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9, weight_decay=1e-4)
    return fit(model, *digits(), callback, optimizer, epochs=6, validation=_held())


def healthy_gru(callback):
    inputs = keras.Input((8, 8, 1))
    x = layers.GRU(24)(layers.Reshape((8, 8))(inputs))
    model = keras.Model(inputs, layers.Dense(10)(layers.Dropout(0.2)(x)))
    return fit(model, *digits(), callback, _optimizer("adam", 5e-3), epochs=6, validation=_held())


def healthy_transformer(callback):
    inputs = keras.Input((8, 8, 1))
    x = layers.Dense(16)(layers.Reshape((8, 8))(inputs))
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(2, 8)(y, y)])
        y = layers.Dense(32, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(16)(y)])
    model = keras.Model(inputs, layers.Dense(10)(layers.Flatten()(x)))
    return fit(model, *digits(), callback, keras.optimizers.AdamW(3e-3), epochs=5, validation=_held())


def healthy_quarters(callback):
    x, y = data(512)
    model = keras.Sequential([keras.Input((8, 8, 2)), layers.Flatten(), layers.Dense(32, "relu"), layers.Dense(4)])
    optimizer = keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.05, 192), momentum=0.9)
    return fit(model, x, y, callback, optimizer, epochs=6, batch_size=16, validation=data(128, seed=1))


def _optimizer(name: str, rate: float):
    return {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}[name](rate)


def _held():
    _, (x, y) = demo.digits()
    return x / 16, y


FAULTS = {
    "rate_too_high_sgd": (rate_too_high, "learning_rate_too_high"),
    "rate_too_high_adam": (lambda c: rate_too_high(c, "adam"), "learning_rate_too_high"),
    "rate_too_high_batch_norm": (lambda c: rate_too_high(c, "adam", norm=True), "learning_rate_too_high"),
    "rate_too_low_sgd": (rate_too_low, "learning_rate_too_low"),
    "rate_too_low_adam": (lambda c: rate_too_low(c, "adam"), "learning_rate_too_low"),
    "rate_too_low_batch_norm": (lambda c: rate_too_low(c, "adam", norm=True), "learning_rate_too_low"),
    "vanishing_sigmoid": (vanishing, "vanishing_gradients"),
    "vanishing_tanh": (lambda c: vanishing(c, "tanh", keras.initializers.RandomNormal(0, 0.05)), "vanishing_gradients"),
    "vanishing_by_small_weights": (vanishing_by_small_weights, "vanishing_gradients"),
    "exploding_relu": (exploding, "exploding_gradients"),
    "exploding_tanh": (exploding_tanh, "exploding_gradients"),
    "dead_by_bias": (dead_by_bias, "dead_units"),
    "dead_by_step": (dead_by_step, "dead_units"),
    "shuffled_labels": (shuffled_labels, "overfitting"),
    "shuffled_labels_batch_norm": (lambda c: shuffled_labels(c, norm=True), "overfitting"),
    "nan_at_once": (nan_in_layer, "nan"),
    "nan_later": (lambda c: nan_in_layer(c, after=True), "nan"),
}
HEALTHY = {name.removeprefix("healthy_"): run for name, run in list(globals().items()) if name.startswith("healthy_")}
