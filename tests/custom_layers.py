"""Layers and models as users write them, with work inside that no rule knows."""

import keras
import numpy as np
from keras import layers, ops


@keras.saving.register_keras_serializable("tests")
class Scaled(layers.Layer):
    """Own variables only: x @ kernel * scale + bias."""

    def __init__(self, width=6, **kwargs):
        super().__init__(**kwargs)
        self.width = width

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.width), name="kernel")
        self.scale = self.add_weight(shape=(self.width,), name="scale", initializer="ones")
        self.bias = self.add_weight(shape=(self.width,), name="bias")

    def call(self, x):
        return ops.relu(ops.matmul(x, self.kernel) * self.scale + self.bias)


class Feed(layers.Layer):
    """Sublayers, a residual connection."""

    def __init__(self, width=12, **kwargs):
        super().__init__(**kwargs)
        self.width = width

    def build(self, shape):
        self.norm = layers.LayerNormalization(name="norm")
        self.up = layers.Dense(self.width, activation="gelu", name="up")
        self.down = layers.Dense(shape[-1], name="down")
        self.drop = layers.Dropout(0.3, name="drop")
        self.norm.build(shape)
        self.up.build(shape)
        self.down.build((*shape[:-1], self.width))

    def call(self, x, training=None):
        return x + self.drop(self.down(self.up(self.norm(x))), training=training)


class Nested(layers.Layer):
    """Custom layers inside of one, in a list."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [Feed(8, name="first"), Feed(10, name="second")]
        self.last = Scaled(5, name="last")

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return self.last(x)


class Attention(layers.Layer):
    """Heads by hand: reshapes that name the batch, a scale, a softmax."""

    def __init__(self, heads=2, size=4, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.size = heads, size

    def build(self, shape):
        self.qkv = layers.Dense(3 * self.heads * self.size, name="qkv")
        self.out = layers.Dense(shape[-1], name="out")
        self.qkv.build(shape)
        self.out.build((*shape[:-1], self.heads * self.size))

    def call(self, x):
        batch, length = ops.shape(x)[0], ops.shape(x)[1]
        parts = ops.split(self.qkv(x), 3, axis=-1)
        q, k, v = (
            ops.transpose(ops.reshape(part, (batch, length, self.heads, self.size)), (0, 2, 1, 3)) for part in parts
        )
        scores = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) / np.sqrt(self.size))
        mixed = ops.transpose(ops.matmul(scores, v), (0, 2, 1, 3))
        return self.out(ops.reshape(mixed, (batch, length, self.heads * self.size)))


class ClassToken(layers.Layer):
    """A learned token in front of a sequence: broadcast to the batch."""

    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, shape[-1]), name="token")

    def call(self, x):
        token = ops.broadcast_to(self.token, (ops.shape(x)[0], 1, ops.shape(x)[2]))
        return ops.concatenate([token, x], axis=1)


class Positions(layers.Layer):
    """A table of positions, read with `arange`, and an embedding of tokens with a mask."""

    def __init__(self, vocabulary=20, width=8, length=32, **kwargs):
        super().__init__(**kwargs)
        self.tokens = layers.Embedding(vocabulary, width, mask_zero=True, name="tokens")
        self.places = layers.Embedding(length, width, name="places")
        self.supports_masking = True

    def build(self, shape):
        self.tokens.build(shape)
        self.places.build((None,))

    def call(self, x):
        return self.tokens(x) + self.places(ops.arange(ops.shape(x)[-1]))

    def compute_mask(self, x, mask=None):
        return self.tokens.compute_mask(x)


class DropPath(layers.Layer):
    """Stochastic depth: nothing in inference."""

    def __init__(self, rate=0.2, **kwargs):
        super().__init__(**kwargs)
        self.rate, self.seed_generator = rate, keras.random.SeedGenerator(3)

    def call(self, x, training=None):
        if not training:
            return x
        shape = (ops.shape(x)[0],) + (1,) * (len(x.shape) - 1)
        return x * ops.floor(1 - self.rate + keras.random.uniform(shape, seed=self.seed_generator)) / (1 - self.rate)


class Squeeze(layers.Layer):
    """Squeeze and excitation on images."""

    def build(self, shape):
        self.down = layers.Dense(3, activation="relu", name="down")
        self.up = layers.Dense(shape[-1], activation="sigmoid", name="up")
        self.down.build((None, shape[-1]))
        self.up.build((None, 3))

    def call(self, x):
        return x * self.up(self.down(ops.mean(x, axis=(1, 2))))[:, None, None, :]


class TwoOutputs(layers.Layer):
    """A dict of outputs."""

    def build(self, shape):
        self.a, self.b = layers.Dense(4, name="a"), layers.Dense(5, name="b")
        self.a.build(shape)
        self.b.build(shape)

    def call(self, x):
        return {"a": self.a(x), "b": self.b(x)}


class TiedDecoder(layers.Layer):
    """An embedding read twice: as a table, and as the kernel of the last product."""

    def __init__(self, vocabulary=20, width=8, **kwargs):
        super().__init__(**kwargs)
        self.table = layers.Embedding(vocabulary, width, name="table")
        self.mix = layers.Dense(width, activation="relu", name="mix")

    def build(self, shape):
        self.table.build(shape)
        self.mix.build((*shape, self.table.output_dim))

    def call(self, x):
        return ops.matmul(self.mix(self.table(x)), ops.transpose(self.table.embeddings))


class Subclassed(keras.Model):
    """A residual network as a subclassed model."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.stem = layers.Conv2D(8, 3, padding="same", name="stem")
        self.norm = layers.BatchNormalization(name="norm")
        self.conv = layers.Conv2D(8, 3, padding="same", activation="relu", name="conv")
        self.pool = layers.GlobalAveragePooling2D(name="pool")
        self.head = layers.Dense(4, name="head")

    def call(self, x, training=None):
        x = ops.relu(self.norm(self.stem(x), training=training))
        return self.head(self.pool(x + self.conv(x)))


@keras.saving.register_keras_serializable("tests")
class Stepped(Feed):
    """`TimeDistributed` asks for this."""

    def compute_output_shape(self, shape):
        return shape


@keras.saving.register_keras_serializable("tests")
class MinimalCell(layers.Layer):
    """A cell with variables of its own: tanh(x @ W + h @ U)."""

    def __init__(self, units=6, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.recurrent = self.add_weight(shape=(self.units, self.units), name="recurrent")

    def call(self, x, states):
        new = ops.tanh(ops.matmul(x, self.kernel) + ops.matmul(states[0], self.recurrent))
        return new, [new]


class GatedCell(layers.Layer):
    """A cell of layers with two states and an output of another width."""

    def __init__(self, units=5, width=7, **kwargs):
        super().__init__(**kwargs)
        self.state_size, self.output_size = [units, units], width
        self.gate = layers.Dense(units, activation="sigmoid", name="gate")
        self.new = layers.Dense(units, activation="tanh", name="new")
        self.feed = Scaled(6, name="feed")
        self.out = layers.Dense(width, name="out")

    def build(self, shape):
        units = self.state_size[0]
        for layer in (self.gate, self.new):
            layer.build((None, shape[-1] + units))
        self.feed.build((None, units))
        self.out.build((None, 6))

    def call(self, x, states, training=None):
        both = ops.concatenate([x, states[0]], axis=-1)
        memory = states[1] * self.gate(both) + self.new(both)
        return self.out(self.feed(memory)), [ops.tanh(memory), memory]


class MaskedBlock(layers.Layer):
    """Attention that reads the mask that Keras hands on, and hands it on."""

    def __init__(self, width=9, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.attention = layers.MultiHeadAttention(2, 3, name="attention")
        self.up, self.down = layers.Dense(width, activation="relu", name="up"), layers.Dense(8, name="down")

    def build(self, shape):
        self.attention.build(shape, shape)
        self.up.build(shape)
        self.down.build((*shape[:-1], self.up.units))

    def call(self, x, mask=None):
        x = x + self.attention(x, x, attention_mask=None if mask is None else mask[:, None, :])
        return x + self.down(self.up(x))


# What has to stay closed.


class RawTensorFlow(layers.Layer):
    def call(self, x):
        import tensorflow as tf

        return tf.math.cumsum(x, axis=-1)


class Noisy(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(1)

    def call(self, x):
        return x + keras.random.normal(ops.shape(x), seed=self.seed_generator)


class OtherInTraining(layers.Layer):
    def call(self, x, training=None):
        return ops.relu(x) if training else x * 2.0


class Frozen(layers.Layer):
    """A batch norm called with a `training` of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.BatchNormalization(name="norm")

    def build(self, shape):
        self.norm.build(shape)

    def call(self, x):
        return self.norm(x, training=False)


class Counting(layers.Layer):
    def build(self, shape):
        self.count = self.add_weight(shape=(), name="count", initializer="zeros", trainable=False)

    def call(self, x):
        self.count.assign_add(1.0)
        return x * 1.0


CLOSED = {
    "raw TensorFlow": RawTensorFlow,
    "random numbers": Noisy,
    "other in training": OtherInTraining,
    "training of its own": Frozen,
    "assigns": Counting,
}


def randomized(model: keras.Model, seed: int = 0) -> keras.Model:
    """Weights such that equality is not luck."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if "float" in str(weight.dtype):
            value = rng.normal(size=weight.shape) * 0.4
            weight.assign(np.abs(value) + 0.5 if "variance" in weight.name else value)
    return model


def _vector(*made) -> keras.Model:
    x = inputs = keras.Input((7,), name="x")
    x = layers.Dense(8, activation="relu", name="first")(x)
    for layer in made:
        x = layer(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def _sequence(*made) -> keras.Model:
    x = inputs = keras.Input((6, 8), name="x")
    x = layers.Dense(8, name="first")(x)
    for layer in made:
        x = layer(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.GlobalAveragePooling1D()(x)))


def _image(*made) -> keras.Model:
    x = inputs = keras.Input((8, 8, 3), name="x")
    x = layers.Conv2D(6, 3, name="conv")(x)
    for layer in made:
        x = layer(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(x)))


def _text(layer) -> keras.Model:
    ids = keras.Input((9,), dtype="int32", name="ids")
    x = layers.LSTM(5, name="lstm")(layer(ids))
    return keras.Model(ids, layers.Dense(3, name="head")(x))


def _masked() -> keras.Model:
    """Masks that go from layer to layer, also through two opened ones."""
    ids = keras.Input((9,), dtype="int32", name="ids")
    x = layers.Embedding(20, 8, mask_zero=True, name="table")(ids)
    for i in range(2):
        x = MaskedBlock(name=f"block{i}")(x)
    return keras.Model(ids, layers.Dense(3, name="head")(layers.LSTM(5, name="lstm")(x)))


def _tied() -> keras.Model:
    ids = keras.Input((9,), dtype="int32", name="ids")
    return keras.Model(ids, TiedDecoder(name="tied")(ids))


def _two_outputs() -> keras.Model:
    inputs = keras.Input((7,), name="x")
    found = TwoOutputs(name="two")(layers.Dense(8, name="first")(inputs))
    return keras.Model(inputs, {"left": layers.Dense(2)(found["a"]), "right": found["b"]})


def _called_twice() -> keras.Model:
    inputs = keras.Input((7,), name="x")
    layer = Feed(9, name="feed")
    x = layer(layers.Dense(8, name="first")(inputs))
    return keras.Model(inputs, layers.Dense(3, name="head")(layer(layers.Activation("tanh")(x))))


def _sequential() -> keras.Model:
    return keras.Sequential([keras.Input((7,)), layers.Dense(8), Feed(name="feed"), layers.Dense(3)])


def _nested_model() -> keras.Model:
    inner_input = keras.Input((8,))
    inner = keras.Model(inner_input, Scaled(6, name="scaled")(layers.Dense(8)(inner_input)), name="inner")
    inputs = keras.Input((7,), name="x")
    return keras.Model(inputs, layers.Dense(3, name="head")(inner(layers.Dense(8, name="first")(inputs))))


def _looped(layer, length=6) -> keras.Model:
    inputs = keras.Input((length, 8), name="x")
    x = layer(layers.Dense(8, name="first")(inputs))
    x = layers.GlobalAveragePooling1D()(x) if len(x.shape) == 3 else x
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def _frames() -> keras.Model:
    """A small convolutional network on each image of a sequence."""
    net = [layers.Conv2D(5, 3, activation="relu"), layers.GlobalAveragePooling2D(), layers.Dense(6)]
    inputs = keras.Input((4, 6, 6, 2), name="x")
    x = layers.TimeDistributed(keras.Sequential([keras.Input((6, 6, 2)), *net], name="net"), name="each")(inputs)
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.LSTM(5, name="lstm")(x)))


OPENED = {
    "own variables": lambda: _vector(Scaled(name="block")),
    "sublayers": lambda: _vector(Feed(name="block")),
    "nested": lambda: _vector(Nested(name="block")),
    "attention": lambda: _sequence(Attention(name="block")),
    "class token": lambda: _sequence(ClassToken(name="token")),
    "positions": lambda: _text(Positions(name="embed")),
    "squeeze": lambda: _image(Squeeze(name="block")),
    "drop path": lambda: _vector(Feed(name="block"), DropPath(name="path")),
    "two outputs": _two_outputs,
    "masked": _masked,
    "tied": _tied,
    "called twice": _called_twice,
    "sequential": _sequential,
    "nested model": _nested_model,
    "cell": lambda: _looped(layers.RNN(MinimalCell(name="cell"), name="loop")),
    "cell of layers": lambda: _looped(layers.RNN(GatedCell(name="cell"), return_sequences=True, name="loop")),
    "cells": lambda: _looped(layers.RNN([GatedCell(name="low"), MinimalCell(4, name="high")], name="loop")),
    "cell, both ways": lambda: _looped(
        layers.Bidirectional(layers.RNN(MinimalCell(name="cell"), return_sequences=True), name="both")
    ),
    "time distributed": lambda: _looped(layers.TimeDistributed(Stepped(name="feed"), name="each")),
    "time distributed, open": lambda: _looped(layers.TimeDistributed(Stepped(name="feed"), name="each"), None),
    "time distributed model": _frames,
}


def build(name: str) -> keras.Model:
    keras.utils.set_random_seed(0)
    return randomized(OPENED[name]())


def inputs_of(model: keras.Model, batch: int = 5, seed: int = 1):
    """Random inputs for a model of one input."""
    rng = np.random.default_rng(seed)
    (spec,) = model.inputs
    shape = (batch, *(7 if n is None else n for n in spec.shape[1:]))
    if "int" in spec.dtype:
        return rng.integers(0, 12, shape).astype("int32")
    return rng.normal(size=shape).astype("float32")
