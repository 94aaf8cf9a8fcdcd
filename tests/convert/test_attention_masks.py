"""Masks of attention and of softmax in integer files: finite, and as good as without them."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfstruct import Recipe
from tfstruct.convert.runtime import Runtime
from tfstruct.convert.tflite import Converter
from tfstruct.convert.verification import layer_errors

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
    return keras.Input((8, 16), name="x")


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
    x, keep = sequence(), keras.Input((8, 8), dtype="bool", name="keep")
    return keras.Model([x, keep], layers.MultiHeadAttention(2, 8)(x, x, attention_mask=keep)), [X, KEEP]


def embedding():
    tokens = keras.Input((8,), dtype="int32")
    x = layers.Embedding(20, 16, mask_zero=True, embeddings_initializer="normal")(tokens)
    return keras.Model(tokens, layers.MultiHeadAttention(2, 8)(x, x)), TOKENS


def scores(join, *more):
    """softmax(join(x W, *more)) v"""
    x = sequence()
    inputs = [keras.Input(value.shape[1:], dtype=str(value.dtype), name=f"more{i}") for i, value in enumerate(more)]
    return keras.Model([x, *inputs], join(layers.Dense(8, name="scores")(x), *inputs)), [X, *more]


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
SIXTEEN_BITS = ("MultiHeadAttention", "attention_mask", "computed")


@pytest.mark.parametrize("name", CASES)
def test_integers_are_those_of_what_is_not_masked(name, process):
    keras.utils.set_random_seed(0)
    model, data = CASES[name]()
    with Converter(model, process=process) as converter:
        for precision, engine in (("int8", "auto"), ("int8", "tensorflow"), ("int16x8", "auto")):
            if precision == "int8" or name in SIXTEEN_BITS:
                made = converter.convert(Recipe(precision=precision, calibration=data, engine=engine))
                (agreement,) = made.report.verification.outputs
                assert agreement.sqnr_db > (30 if precision == "int8" else 40), (precision, engine)
                assert any("masks with" in line for line in made.report.rewrites)


@pytest.mark.parametrize("name", ["where", "computed", "attention_mask"])
def test_a_row_of_which_nothing_stays_is_as_in_keras(name, process):
    model, data = CASES[name]()
    with Converter(model, process=process) as converter:
        made = converter.convert(Recipe(precision="int8", calibration=data))
    nothing = [part[:1] for part in data]
    nothing[1] = np.zeros_like(nothing[1])
    want = model.predict(nothing, verbose=0)
    found = made.predict({x.name: part for x, part in zip(model.inputs, nothing, strict=True)})
    (port,) = Runtime(made.content).outputs
    assert np.abs(found - want).max() <= 2 * port.scale  # of the whole network; a row of its own would be far off


def test_a_mask_that_the_calibration_data_did_not_use(process):
    model, data = CASES["computed"]()
    with Converter(model, process=process) as converter:
        unused = [data[0], np.ones_like(data[1])]
        made = converter.convert(Recipe(precision="int8", calibration=unused, verification=data))
    (agreement,) = made.report.verification.outputs
    assert agreement.sqnr_db > 30


def test_what_is_lost_beside_large_values_is_told(process):
    x, far = sequence(), keras.Input((8, 8), name="far")
    model = keras.Model([x, far], layers.Add(name="swallows")([layers.Dense(8)(x), far]))
    large = RNG.normal(size=(100, 8, 8)).astype("float32") * 1e6
    with Converter(model, process=process) as converter:
        made = converter.convert(Recipe(precision="int8", calibration=[X, large]))
    assert any(warning.startswith("swallows: the range") for warning in made.report.warnings)


def test_errors_by_layer_are_against_finite_masks(process):
    """Against -1e9 a masked value has 0 dB: every mask were a layer that loses most."""
    model, x = multi_head()
    with Converter(model, process=process) as converter:
        made = converter.convert(Recipe("int8", calibration=x))
    found = layer_errors(made.reference, made.content, [{"x": one[None]} for one in x[:4]], made.layers)
    assert min(error.sqnr_db for error in found) > 15
