"""Every structure of the zoo: float32 and int8 files that agree with the Keras model, and say what stays float."""

import keras
import numpy as np
import pytest
import zoo
from sweeps import sweep

from tfstruct.convert import Converter, Recipe
from tfstruct.convert.flatbuffer import operators
from tfstruct.errors import ConversionError

# What no quantizer has an integer kernel for unless it is rewritten, by model: the operators and their layers.
LEFT_IN_FLOAT = {
    "lstm": {("WHILE", "lstm_layer"), ("TANH", "lstm_layer/lstm_cell")},
    "gru": {("WHILE", "gru_layer"), ("TANH", "gru_layer/gru_cell")},
    "bidirectional": {("WHILE", "both/forward_cell"), ("WHILE", "both/backward_cell")},
}


@pytest.fixture(
    scope="module", params=sweep(sorted(zoo.MODELS), set(zoo.MODELS) - {"concat", "conv1d", "gru", "shared"})
)
def case(request, process):
    model = zoo.build(request.param)
    x = zoo.sample_inputs(model, 128, seed=1)
    with Converter(model, process=process) as converter:
        yield request.param, model, x, converter


def _keras(model, x):
    y = model.predict(x, verbose=0)
    return y if isinstance(y, dict) else {"": y}


def _tflite(result, x):
    y = result.predict(x)
    return y if isinstance(y, dict) else {"": y}


@pytest.mark.sweep(6)
def test_float32_equals_keras(case):
    _, model, x, converter = case
    result = converter.convert(Recipe(verification=x))
    want, got = _keras(model, x), _tflite(result, x)
    assert want.keys() == got.keys()
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-4, atol=1e-5)


@pytest.mark.sweep(6)
def test_int8_is_all_integer_and_agrees(case):
    name, model, x, converter = case
    result = converter.convert(Recipe(precision="int8", calibration=x, check_range=False))
    assert result.report.float_operators == ()
    assert not LEFT_IN_FLOAT.get(name) or result.report.rewrites
    # The report counts what the file holds, not what was planned.
    held = [op.name for op in operators(result.content)]
    assert sorted(held) == sorted(n for n, k in result.report.operator_counts().items() for _ in range(k))
    for output in result.report.verification.outputs:
        assert output.sqnr_db > 30
        assert output.top1_agreement is None or output.top1_agreement > 0.95
    want, got = _keras(model, x), _tflite(result, x)
    for key in want:
        assert np.sqrt(np.mean(np.square(want[key] - got[key]))) < 0.05 * np.sqrt(np.mean(np.square(want[key])))


def test_int8_without_rewrites_says_what_stays_float(case):
    name, _, x, converter = case
    if name not in LEFT_IN_FLOAT:
        pytest.skip("every operator of this model has an integer kernel")
    recipe = Recipe(precision="int8", calibration=x, check_range=False, rewrite=False)
    with pytest.raises(ConversionError, match="would stay in float") as error:
        converter.convert(recipe)
    assert {layer for _, layer in LEFT_IN_FLOAT[name]} <= set(error.value.layers)
    result = converter.convert(recipe.replace(allow_float=True))
    floats = {(op.name, op.layers[-1]) for op in result.report.float_operators}
    assert LEFT_IN_FLOAT[name] <= floats
    assert all(layer.split("/")[0] in {path.split("/")[0] for _, path in LEFT_IN_FLOAT[name]} for _, layer in floats)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float16", "dynamic", "int16x8", "int4"])
def test_other_precisions(case, precision):
    _, _, x, converter = case
    recipe = Recipe(precision=precision, calibration=x, check_range=False, allow_float=True)
    result = converter.convert(recipe)
    least = {"float16": 55, "dynamic": 35, "int16x8": 40, "int4": 15}[precision]
    assert min(o.sqnr_db for o in result.report.verification.outputs) > least


def test_conversion_leaves_the_model_as_it_was(process):
    model = zoo.build("nested")
    x = zoo.sample_inputs(model, 4)
    before, config = model.predict(x, verbose=0), model.get_config()
    with Converter(model, process=process) as converter:
        converter.convert(Recipe())
    assert model.get_config() == config
    assert not any("call" in layer.__dict__ for layer in model._flatten_layers())
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
    model.compile("sgd", "mse")
    model.fit(x, before + 1, verbose=0)
    assert not np.array_equal(model.predict(x, verbose=0), before)


def test_reloaded_model_gives_the_same_file(process, tmp_path):
    model = zoo.build("conv_bn")
    model.save(tmp_path / "m.keras")
    with Converter(model, process=process) as converter:
        first = converter.convert(Recipe())
    with Converter(keras.saving.load_model(tmp_path / "m.keras"), process=process) as converter:
        assert converter.convert(Recipe()).content == first.content
