"""Masks of attention and of softmax in integer files: finite, and as good as without them."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from mask_cases import CASES, RNG, SOME, X, scores, sequence

from tfstruct import Recipe
from tfstruct.convert import flatbuffer
from tfstruct.convert.layer_errors import layer_errors
from tfstruct.convert.runtime import Runtime
from tfstruct.convert.tflite import Converter

SIXTEEN_BITS = ("MultiHeadAttention", "attention_mask", "computed")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.sweep(3)
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
    model, x = CASES["MultiHeadAttention"]()
    with Converter(model, process=process) as converter:
        made = converter.convert(Recipe("int8", calibration=x))
    samples = [{model.inputs[0].name: one[None]} for one in x[:4]]
    found = layer_errors(made.reference, made.content, samples, made.layers)
    assert min(error.sqnr_db for error in found) > 15


def test_values_less_their_largest_end_at_zero(process):
    """Exponentials that are no SOFTMAX in the file: masked or not, x - max(x) lies in [low - high, 0]."""

    def shares(s, keep):
        s = ops.where(keep, s, -1e9)
        e = ops.exp(s - ops.max(s, axis=-1, keepdims=True))
        return e / (ops.sum(e, axis=-1, keepdims=True) + 1e-3)

    model, data = scores(shares, SOME)
    with Converter(model, process=process) as converter:
        made = converter.convert(Recipe("int8", calibration=data))
    file = flatbuffer.read(made.content)
    graph = file.subgraphs[0]
    ends = {}
    for op in graph.operators:
        stored = graph.tensors[op.outputs[0]].quantization
        scale, zero = float(stored.scale[0]), int(stored.zeroPoint[0])
        ends[flatbuffer.operator_name(file, op)] = np.array([-128 - zero, 127 - zero]) * scale
    (low, high), step = ends["SELECT_V2"], np.ptp(ends["SUB"]) / 255
    np.testing.assert_allclose(ends["SUB"], [low - high, 0.0], atol=step)


@pytest.mark.parametrize("engine", ["auto", "tensorflow"])
def test_scores_are_rounded_once(engine, process):
    """Behind a TRANSPOSE, as an einsum leaves it, scores had a range of their own, and another before the SELECT."""
    x, keep = sequence(), keras.Input((1, 8, 8), dtype="bool", name="keep")
    q, k = (ops.reshape(layers.Dense(16)(x), (-1, 8, 2, 8)) for _ in range(2))
    s = ops.einsum("aecd,abcd->acbe", k, q)
    model = keras.Model([x, keep], ops.softmax(ops.where(keep, s, -1e9)))
    data = [X, RNG.random((len(X), 1, 8, 8)) < 0.7]
    with Converter(model, process=process) as converter:
        made = converter.convert(Recipe("int8", calibration=data, engine=engine))
    read = flatbuffer.read(made.content)
    names = [flatbuffer.operator_name(read, op) for op in read.subgraphs[0].operators]
    before = names[: names.index("SELECT_V2")]
    assert "QUANTIZE" not in before[before.index("BATCH_MATMUL") :]
