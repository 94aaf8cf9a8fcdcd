"""Models with masks before a softmax, each with data: what conversion and twin are tried on."""

import keras
import numpy as np
from keras import layers, ops

RNG = np.random.default_rng(0)
X = RNG.normal(size=(100, 8, 16)).astype("float32")
KEEP = RNG.uniform(size=(100, 8, 8)) > 0.4
KEEP[0, 0] = False  # a row of which nothing stays
SOME = KEEP | np.eye(8, dtype=bool)
TOKENS = RNG.integers(0, 20, (100, 8)).astype("int32")
TOKENS[:, 0] = 1
TRIANGLE = np.triu(np.ones((8, 8), "float32"), 1)
CAUSAL = {"use_causal_mask": True}


def sequence():
    return keras.Input((8, 16))


def multi_head():
    x = sequence()
    return keras.Model(x, layers.MultiHeadAttention(2, 8, kernel_initializer="orthogonal")(x, x, **CAUSAL)), X


def grouped():
    x = sequence()
    return keras.Model(x, layers.GroupQueryAttention(8, 4, 2)(x, x, **CAUSAL)), X


def luong():
    x = sequence()
    return keras.Model(x, layers.Attention()([layers.Dense(16, kernel_initializer="orthogonal")(x), x], **CAUSAL)), X


def bahdanau():
    x = sequence()
    return keras.Model(x, layers.AdditiveAttention()([layers.Dense(16)(x), x], **CAUSAL)), X


def attention_mask():
    x, keep = sequence(), keras.Input((8, 8), dtype="bool")
    return keras.Model([x, keep], layers.MultiHeadAttention(2, 8)(x, x, attention_mask=keep)), [X, KEEP]


def embedding():
    tokens = keras.Input((8,), dtype="int32")
    x = layers.Embedding(20, 16, mask_zero=True, embeddings_initializer="normal")(tokens)
    return keras.Model(tokens, layers.MultiHeadAttention(2, 8)(x, x)), TOKENS


def scores(join, *more):
    """softmax(join(x W, *more)) v"""
    x = sequence()
    inputs = [keras.Input(value.shape[1:], dtype=str(value.dtype)) for value in more]
    return keras.Model([x, *inputs], join(layers.Dense(8)(x), *inputs)), [X, *more]


CASES = {
    "MultiHeadAttention": multi_head,
    "GroupQueryAttention": grouped,
    "Attention": luong,
    "AdditiveAttention": bahdanau,
    "attention_mask": attention_mask,
    "Embedding": embedding,
    "Softmax(mask=)": lambda: scores(lambda s, keep: layers.Softmax()(s, mask=keep), KEEP),
    "where": lambda: scores(lambda s, keep: ops.softmax(ops.where(keep, s, -1e9)), KEEP),
    "where, other branch": lambda: scores(lambda s, keep: ops.softmax(ops.where(keep, -1e4, s)), ~KEEP),
    "where, infinite": lambda: scores(lambda s, keep: ops.softmax(ops.where(keep, s, -np.inf)), SOME),
    "constant": lambda: scores(lambda s: ops.softmax(s - 1e9 * TRIANGLE)),
    "least number": lambda: scores(lambda s: ops.softmax(s + TRIANGLE * np.finfo("float32").min)),
    "infinite constant": lambda: scores(lambda s: ops.softmax(s + np.where(TRIANGLE, -np.inf, 0.0).astype("float32"))),
    "and a bias behind it": lambda: scores(lambda s: ops.softmax(0.5 * ((s - 1e9 * TRIANGLE) + X[0, :, :8]))),
    "computed": lambda: scores(lambda s, keep: ops.softmax(s + (1.0 - keep) * -1e9), KEEP.astype("float32")),
    "input": lambda: scores(lambda s, mask: ops.softmax(s + mask), np.where(KEEP, 0, -1e9).astype("float32")),
    "maximum": lambda: scores(lambda s, keep: ops.max(ops.where(keep, s, -1e9), axis=1), SOME),
}  # fmt: skip


@keras.saving.register_keras_serializable("tests")
class AddedMask(layers.Layer):
    """What many a model has: a layer without weights that adds a mask."""

    def call(self, x, keep):
        return x + (1.0 - keep) * -1e9


def by_hand(masked):
    """Attention of two heads, written in operations; masked(scores, x) masks."""
    x = sequence()
    parts = [layers.Dense(16)(x) for _ in range(3)]
    q, k, v = (ops.transpose(ops.reshape(part, (-1, 8, 2, 8)), (0, 2, 1, 3)) for part in parts)
    weights = ops.softmax(masked(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) * 0.25, x))
    y = ops.reshape(ops.transpose(ops.matmul(weights, v), (0, 2, 1, 3)), (-1, 8, 16))
    return keras.Model(x, layers.Dense(4)(y)), X


def exponentials(s):
    """A softmax, written out."""
    e = ops.exp(s - ops.max(s, axis=-1, keepdims=True))
    return e / ops.sum(e, axis=-1, keepdims=True)


def nested():
    s, keep = keras.Input((8, 8)), keras.Input((8, 8), dtype="bool")
    inner = keras.Model([s, keep], ops.softmax(ops.where(keep, s, -1e9)), name="inner")
    return scores(lambda s, keep: inner([s, keep]), KEEP)


def two_layers():
    """One mask, given as an input, in two layers."""
    x, mask = sequence(), keras.Input((8, 8))
    y = x
    for _ in range(2):
        weights = ops.softmax(layers.Dense(8)(y) + mask)
        y = ops.matmul(weights, layers.Dense(16)(y))
    return keras.Model([x, mask], y), [X, np.where(SOME, 0, -1e9).astype("float32")]


def padding():
    """Scores of tokens, of which zeros are padding."""
    tokens = keras.Input((8,), dtype="int32", name="tokens")
    s = layers.Dense(8)(layers.Embedding(20, 16, embeddings_initializer="normal")(tokens))
    keep = ops.cast(ops.not_equal(tokens, 0), "float32")
    return keras.Model(tokens, ops.softmax(s + (ops.expand_dims(keep, 1) - 1.0) * 1e9)), TOKENS


ADDED = np.where(SOME, 0, -1e9).astype("float32")
FLOAT_KEEP = KEEP.astype("float32")
FLOAT_SOME = SOME.astype("float32")
BIAS = RNG.normal(size=(8, 8)).astype("float32")
LOWER = TRIANGLE == 0
OPERATIONS = {
    "by hand, where": lambda: by_hand(lambda s, x: ops.where(LOWER, s, -1e9)),
    "by hand, added": lambda: by_hand(lambda s, x: s + TRIANGLE * -1e9),
    "by hand, a layer for it": lambda: by_hand(lambda s, x: layers.Softmax()(s, mask=LOWER[None, None])),
    "nested": nested,
    "two layers": two_layers,
    "padding": padding,
    "Add": lambda: scores(lambda s, mask: ops.softmax(layers.Add()([s, mask])), ADDED),
    "Subtract": lambda: scores(lambda s, keep: ops.softmax(layers.Subtract()([s, (1.0 - keep) * 1e9])), FLOAT_KEEP),
    "Activation": lambda: scores(lambda s, keep: layers.Activation("softmax")(ops.where(keep, s, -1e9)), KEEP),
    "axis 1": lambda: scores(lambda s, keep: layers.Softmax(axis=1)(ops.where(keep, s, -1e9)), SOME),
    "minus 100": lambda: scores(lambda s: ops.softmax(s + np.float32(-100) * TRIANGLE)),
    "least number of float16": lambda: scores(lambda s, keep: ops.softmax(s + (1.0 - keep) * -65504.0), FLOAT_SOME),
    "two choices": lambda: scores(lambda s, keep: ops.softmax(ops.where(LOWER, ops.where(keep, s, -1e9), -1e9)), SOME),
    "two sums": lambda: scores(lambda s, keep: ops.softmax((s + (1.0 - keep) * -1e9) - 1e9 * TRIANGLE), FLOAT_SOME),
    "one sum of two masks": lambda: scores(
        lambda s, keep: ops.softmax(s + ((1.0 - keep) * -1e9 + TRIANGLE * -1e9)), FLOAT_SOME
    ),
    "chosen mask": lambda: scores(lambda s, keep: ops.softmax(s + ops.where(keep, 0.0, -1e9)), KEEP),
    "chosen tensor": lambda: scores(lambda s, keep: ops.softmax(ops.where(keep, s, ops.full_like(s, -1e9))), KEEP),
    "product and sum": lambda: scores(lambda s, keep: ops.softmax(s * keep - (1.0 - keep) * 1e9), FLOAT_KEEP),
    "bias before": lambda: scores(lambda s, keep: ops.softmax(ops.where(keep, s + BIAS, -1e9)), KEEP),
    "mask less scores": lambda: scores(lambda s, keep: ops.softmax((keep - 1.0) * 1e9 - s), FLOAT_KEEP),
    "a sink beside": lambda: scores(
        lambda s, keep: ops.softmax(ops.concatenate([ops.where(keep, s, -1e9), s[:, :, :1]], -1)), KEEP
    ),
    "three in one sum": lambda: scores(
        lambda s, keep: ops.softmax(layers.Add()([s, 0.5 * s, (1.0 - keep) * -1e9])), FLOAT_SOME
    ),
    "a vector": lambda: scores(lambda s: ops.softmax(s + np.float32([0, 0, -1e9, 0, 0, -1e9, 0, 0]))),
    "sigmoid": lambda: scores(lambda s, keep: ops.sigmoid(ops.where(keep, s, -1e9)), KEEP),
    "logarithm": lambda: scores(
        lambda s, keep: ops.log_softmax(ops.where(keep, s, -1e9))[:, :, :1], SOME | (np.arange(8) == 0)
    ),
    "read twice": lambda: scores(lambda s, keep: [ops.softmax(ops.where(keep, s, -1e9)), ops.tanh(s)], KEEP),
    "exponentials": lambda: scores(lambda s, keep: exponentials(ops.where(keep, s, -1e9)), SOME),
    "custom layer": lambda: scores(lambda s, keep: ops.softmax(AddedMask(name="masks")(s, keep)), FLOAT_KEEP),
}  # fmt: skip


def together(names):
    """One model of several cases side by side, with the data of all: one conversion for them."""
    made = {name: OPERATIONS[name]() for name in names}
    inputs = [x for model, _ in made.values() for x in model.inputs]
    data = [value for _, own in made.values() for value in (own if isinstance(own, list) else [own])]
    outputs = [model.outputs[0] for model, _ in made.values()]
    return keras.Model(inputs, outputs), data
