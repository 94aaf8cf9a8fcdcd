"""Floats that integers are made of (ids, bins) are not rounded, in the twin as in the file."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfstruct import quantize
from tfstruct.convert import Converter, Recipe, flatbuffer, to_tflite
from tfstruct.convert.runtime import Runtime
from tfstruct.graph.kernels import kernels

rng = np.random.default_rng(0)
many = rng.integers(0, 300, (64, 6)).astype("float32")


def looked_up(x, size: int = 301):
    return layers.Dense(3)(layers.GlobalAveragePooling1D()(layers.Embedding(size, 8)(x)))


def bins(x):
    return looked_up(layers.Discretization(bin_boundaries=[-1.0, -0.5, 0.0, 0.3, 1.0])(x), 6)


CASES = {
    "float ids": (looked_up, many),
    "after a sum": (lambda x: looked_up(x + 1.0), many),
    "computed": (lambda x: looked_up(ops.cast(ops.floor(x * 39.99), "int32"), 40), rng.uniform(size=(64, 6))),
    "read as numbers too": (lambda x: looked_up(x) + layers.Dense(3)(x / 300.0), many),
    "bins": (bins, rng.normal(size=(64, 6))),
}


def decibels(expected, got) -> float:
    return 10 * np.log10(np.mean(np.square(expected)) / max(np.mean(np.square(expected - got)), 1e-30))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.sweep(3)
def test_twin_file_and_model_agree(case):
    make, x = CASES[case]
    keras.utils.set_random_seed(0)
    given = keras.Input((6,))
    model, x = keras.Model(given, make(given)), x.astype("float32")
    twin = quantize.calibrate(model, x)
    expected, simulated = model.predict(x, verbose=0), np.asarray(twin(x))
    assert decibels(expected, simulated) > 30
    assert decibels(simulated, to_tflite(twin).predict(x)) > 30


@pytest.mark.skipif(not hasattr(layers, "ReversibleEmbedding"), reason="this Keras has none")
def test_a_table_that_scores_ids_too(process):
    """Looked up, and in reverse a kernel of its own, tied or not: twin and file agree to the integer."""
    keras.utils.set_random_seed(0)
    ids = keras.Input((6,), dtype="int32", name="ids")
    outputs = {}
    for name, options in {"tied": {}, "own": {"tie_weights": False}, "cap": {"logit_soft_cap": 3.0}}.items():
        table = layers.ReversibleEmbedding(20, 8, embeddings_initializer="random_normal", name=name, **options)
        outputs[f"{name}_scores"] = table(layers.Dense(8, activation="relu")(table(ids)), reverse=True)
    model, x = keras.Model(ids, outputs), np.random.default_rng(0).integers(0, 20, (120, 6)).astype("int32")
    names = {kernel.name for kernel in kernels(model) if kernel.name[0] in "toc"}
    assert names == {"tied/embeddings", "own/embeddings", "own/reverse_embeddings", "cap/embeddings"}

    twin = quantize.calibrate(model, x)
    assert not twin.report.skipped
    with Converter(twin, process=process) as converter:
        file = converter.convert(Recipe())
    ours, theirs = twin.predict(x, verbose=0), file.predict(x)
    for port in Runtime(file.content).outputs:
        assert np.abs(ours[port.name] - theirs[port.name]).max() < 0.5 * port.scale
    with Converter(model, process=process) as converter:
        plain = converter.convert(Recipe(precision="int8", calibration=x))
    kinds = {op.name for op in flatbuffer.operators(plain.content)}
    assert kinds == {"GATHER", "FULLY_CONNECTED", "QUANTIZE", "TANH", "MUL"}  # ids are in range: nothing compares them


@pytest.mark.skipif(not hasattr(layers, "ReversibleEmbedding"), reason="this Keras has none")
def test_such_a_table_keeps_its_mask_in_files(process):
    ids = keras.Input((6,), dtype="int32", name="ids")
    rows = layers.ReversibleEmbedding(20, 8, mask_zero=True, embeddings_initializer="random_normal")(ids)
    model = keras.Model(ids, layers.GlobalAveragePooling1D()(rows))
    x = np.random.default_rng(0).integers(0, 3, (120, 6)).astype("int32")
    with Converter(model, process=process) as converter:
        file = converter.convert(Recipe(precision="int8", calibration=x))
    assert decibels(model.predict(x, verbose=0), file.predict(x)) > 25
