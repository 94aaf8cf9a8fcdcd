"""`to_tflite`: what the options do to the file, and what the file does."""

import contextlib
import gzip
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo

from tfstruct import demo, to_tflite, verify
from tfstruct.convert import Converter, Recipe, flatbuffer
from tfstruct.convert.runtime import Runtime
from tfstruct.errors import ConversionError, DataError, RecipeError, VerificationError


@pytest.fixture(scope="module")
def digits():
    return demo.digits()


@pytest.fixture(scope="module")
def converter(digits_model, process):
    with Converter(digits_model, process=process) as converter:
        yield converter


@pytest.fixture(scope="module")
def int8(converter, digits):
    (x, _), test = digits
    return converter.convert(Recipe(precision="int8", calibration=x, verification=test))


def test_every_precision_keeps_the_accuracy(converter, digits):
    (x, _), test = digits
    sizes = {}
    for precision in ("float32", "float16", "dynamic", "int8", "int16x8", "int4"):
        report = converter.convert(Recipe(precision=precision, calibration=x, verification=test)).report
        assert report.verification.tflite.accuracy >= report.verification.keras.accuracy - 0.02, precision
        assert report.verification.samples == len(test[0])
        sizes[precision] = report.size
    assert sizes["int4"] < sizes["int8"] < sizes["float16"] < sizes["float32"]


def test_int8_file_is_integer_at_the_border_and_inside(int8):
    runtime = Runtime(int8.content)
    assert [p.dtype for p in (*runtime.inputs, *runtime.outputs)] == [np.int8, np.int8]
    assert int8.report.float_operators == ()
    assert int8.report.engine == "litert"


def test_float_io_keeps_float_at_the_border(converter, digits):
    (x, _), (_test, _) = digits
    file = converter.convert(Recipe(precision="int8", calibration=x, float_io=True))
    runtime = Runtime(file.content)
    assert [p.dtype for p in (*runtime.inputs, *runtime.outputs)] == [np.float32, np.float32]
    assert file.report.float_operators == ()
    names = [op.name for op in file.report.operators]
    assert names[0] == "QUANTIZE" and names[-1] == "DEQUANTIZE"


@pytest.mark.parametrize("engine", ["litert", "tensorflow"])
def test_layers_kept_in_float(converter, digits, engine):
    (x, _), _ = digits
    file = converter.convert(Recipe(precision="int8", calibration=x, layers={"conv2": "float32"}, engine=engine))
    assert {op.name for op in file.report.float_operators} == {"CONV_2D"}
    assert file.report.float_operators[0].layers[0] == "conv2"
    assert file.report.engine == engine


def test_both_engines_agree(converter, digits, int8):
    (x, _), (test, _) = digits
    other = converter.convert(Recipe(precision="int8", calibration=x, engine="tensorflow"))
    # The same ranges give the same file up to rounding: a step of a logit, of which a softmax makes a fourth at most.
    read = flatbuffer.read(int8.content)
    (softmax,) = (op for op in read.subgraphs[0].operators if flatbuffer.operator_name(read, op) == "SOFTMAX")
    (logit,) = read.subgraphs[0].tensors[softmax.inputs[0]].quantization.scale
    differ = np.abs(other.predict(test) - int8.predict(test))
    assert differ.max() <= logit / 4 + 1.5 / 256
    assert differ.mean() <= 0.1 / 256


def test_layers_of_their_own_precision(converter, digits):
    (x, _), _ = digits
    layers = {"conv*": "int16x8", "conv3": "int8"}
    file = converter.convert(Recipe(precision="int8", calibration=x, layers=layers, allow_float=True))
    types = {op.layers[0]: op.dtype for op in file.report.operators if op.name == "CONV_2D"}
    assert types == {"conv1": "int16", "conv2": "int16", "conv3": "int8"}


def test_int4_weights(converter, digits):
    (x, _), (test, _) = digits
    both = {}
    for activations in ("int8", "float32"):
        file = converter.convert(Recipe(precision="int4", calibration=x, activations=activations))
        assert {op.weights for op in file.report.operators if op.weights} == {"int4"}
        assert bool(file.report.float_operators) == (activations == "float32")
        both[activations] = file.predict(test)
    assert np.mean(both["int8"].argmax(-1) == both["float32"].argmax(-1)) > 0.95


def test_gptq_loses_less_than_nearest(converter, digits):
    (x, _), test = digits
    recipe = Recipe(precision="int4", calibration=x, verification=test)
    gptq = converter.convert(recipe).report.verification.outputs[0]
    nearest = converter.convert(recipe.replace(rounding="nearest")).report.verification.outputs[0]
    assert gptq.sqnr_db > nearest.sqnr_db + 3


def test_trained_limits_leave_rounded_weights_on_their_grid(converter, digits):
    (x, _), _ = digits
    recipe = Recipe(precision="int4", calibration=x)
    limits = {"conv1/kernel": (9.0,), "conv2/kernel": (9.0,)}
    assert converter.convert(recipe.replace(weight_limits=limits)).content == converter.convert(recipe).content


def test_int4_without_data_says_what_is_lost(converter):
    file = converter.convert(Recipe(precision="int4", activations="float32"))
    assert any("rounded to nearest" in warning for warning in file.report.warnings)


def test_predict_takes_arrays_lists_and_dicts(process):
    model = zoo.build("several")
    x = zoo.sample_inputs(model, 5)
    with Converter(model, process=process) as converter:
        file = converter.convert(Recipe())
    want = model.predict(x, verbose=0)
    names = [port.name for port in Runtime(file.content).inputs]
    for given in (x, [x[name] for name in names]):
        got = file.predict(given)
        assert set(got) == {"kind", "size"}
        np.testing.assert_allclose(got["kind"], want["kind"], atol=1e-5)
        np.testing.assert_allclose(got["size"], want["size"], atol=1e-5)
    with pytest.raises(DataError, match=r"Expected the inputs .*'extra'.* Received \['image'\]"):
        file.predict({"image": x["image"]})
    with pytest.raises(DataError, match="same number of samples"):
        file.predict({"image": x["image"], "extra": x["extra"][:2]})
    with pytest.raises(DataError, match=r"expects samples of shape \(4,\). Received \(3,\)"):
        file.predict({"image": x["image"], "extra": x["extra"][:, :3]})


@pytest.mark.parametrize("batch", [1, 3, None])
def test_batch_sizes(converter, digits, batch, digits_model):
    _, (test, _) = digits
    file = converter.convert(Recipe(batch_size=batch))
    assert Runtime(file.content).batch == batch
    want = digits_model.predict(test[:7], verbose=0)
    np.testing.assert_allclose(file.predict(test[:7]), want, atol=1e-5)


def test_int8_with_a_dynamic_batch(converter, digits, digits_model):
    (x, _), (test, _y) = digits
    file = converter.convert(Recipe(precision="int8", calibration=x, batch_size=None))
    assert file.predict(test[:33]).shape == (33, 10)
    assert np.mean(file.predict(test).argmax(-1) == digits_model.predict(test, verbose=0).argmax(-1)) > 0.95


def test_open_dimensions_take_samples_of_different_shapes(process):
    x = inputs = keras.Input((None, 3), name="signal")
    x = keras.layers.Conv1D(4, 3, activation="relu")(x)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(x))
    samples = [np.random.default_rng(n).normal(size=(n, 3)).astype("float32") for n in (8, 12, 12, 9)]
    with Converter(model, process=process) as converter:
        file = converter.convert(Recipe(verification=lambda: iter(samples)))
    assert file.report.verification.samples == 4
    assert file.report.verification.outputs[0].sqnr_db > 100


def test_report_says_what_was_done(int8, digits_model):
    text = str(int8.report)
    for word in (
        "int8 (by litert)",
        "all" if False else "none: every compute operator is integer",
        "accuracy",
        "median",
    ):
        assert word in text
    data = json.loads(int8.report.to_json())
    assert data["size"] == len(int8.content)
    assert data["gzip_size"] == len(gzip.compress(int8.content, 9, mtime=0))
    assert data["recipe"]["calibration"] == "<ndarray>"
    assert data["parameters"] == digits_model.count_params()
    assert {"export", "convert"} & set(data["seconds"]) or data["seconds"]["quantize"] >= 0


def test_layer_errors_list_the_worst_first(int8):
    errors = int8.layer_errors()
    assert {e.layers[0] for e in errors if e.layers} >= {"conv1", "conv2", "conv3", "classes"}
    assert [e.added_noise for e in errors] == sorted((e.added_noise for e in errors), reverse=True)
    assert all(e.sqnr_db > 15 for e in errors)


def test_verify_works_on_a_saved_file(int8, digits_model, digits, tmp_path):
    _, test = digits
    int8.save(tmp_path / "m.tflite")
    found = verify(digits_model, tmp_path / "m.tflite", test)
    assert found.outputs == int8.report.verification.outputs
    assert found.tflite == int8.report.verification.tflite
    detailed = verify(digits_model, int8, test, per_layer=True, limit=100)
    assert detailed.samples == 100 and detailed.layers
    with pytest.raises(DataError, match="`per_layer` compares with the float file"):
        verify(digits_model, tmp_path / "m.tflite", test, per_layer=True)


def test_thresholds(converter, digits):
    (x, _), test = digits
    recipe = Recipe(precision="int8", calibration=x, verification=test)
    converter.convert(recipe.replace(require={"accuracy": 0.9, "sqnr_db": 10, "max_abs_error": 0.9}))
    with pytest.raises(VerificationError, match=r"sqnr_db is .*, expected at least 90") as error:
        converter.convert(recipe.replace(require={"sqnr_db": 90, "accuracy": 0.5}))
    assert "accuracy" not in str(error.value)
    assert len(error.value.model.content) > 1000
    with pytest.raises(VerificationError, match="labels are needed"):
        converter.convert(recipe.replace(verification=test[0], require={"accuracy": 0.5}))


def test_few_samples_are_a_warning(converter, digits):
    (x, _), _ = digits
    file = converter.convert(Recipe(precision="int8", calibration=x[:5]))
    assert any("only 5 calibration samples" in w for w in file.report.warnings)


def test_recipes_that_do_not_fit_the_model(converter, digits):
    (x, _), _ = digits
    with pytest.raises(RecipeError, match=r"pattern 'nothing\*' matches no layer of 'digits'. Its layers are: rescale"):
        converter.convert(Recipe(precision="int8", calibration=x, layers={"nothing*": "float32"}))
    with pytest.raises(RecipeError, match="needs calibration data"):
        converter.convert(Recipe(precision="int8"))
    with pytest.raises(DataError, match=r"expected.*8, 8, 1"):
        converter.convert(Recipe(precision="int8", calibration=x[:, :7]))


def test_int4_of_an_operator_without_integer_kernel_is_an_error(process):
    model = zoo.build("conv1d")
    x = zoo.sample_inputs(model, 100)
    with (
        Converter(model, process=process) as converter,
        pytest.raises(ConversionError, match=r"int4 file would stay in float: leaky: LEAKY_RELU") as error,
    ):
        converter.convert(Recipe(precision="int4", calibration=x, check_range=False))
    assert error.value.layers == ("leaky",)


def test_weights_without_a_kernel_in_the_precision_are_named(process):
    model = keras.Sequential([keras.Input((4, 4, 4, 2)), keras.layers.Conv3D(3, 3, name="volume")])
    with Converter(model, process=process) as converter:
        file = converter.convert(Recipe(precision="dynamic"))
    assert any("CONV_3D (volume) in float32" in warning for warning in file.report.warnings)


def test_models_of_every_training_setting(process, digits):
    (_x, _y), _ = digits
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        with strategy.scope():
            mixed = zoo.build("conv_bn")
    finally:
        keras.mixed_precision.set_global_policy("float32")
    jitted = zoo.build("conv_bn")
    jitted.compile("adam", "sparse_categorical_crossentropy", jit_compile=True)
    images = zoo.sample_inputs(jitted, 64)
    jitted.fit(images, np.arange(64) % 5, verbose=0)
    for model, least in ((mixed, 40), (jitted, 90)):
        with Converter(model, process=process) as converter:
            file = converter.convert(Recipe(verification=images))
        assert file.report.verification.outputs[0].sqnr_db > least


def test_to_tflite_in_one_call(digits_model, digits, tmp_path):
    _, (test, y) = digits
    stages = []
    file = to_tflite(digits_model, progress=lambda stage, done, total: stages.append(stage))
    assert list(dict.fromkeys(stages)) == ["export", "convert", "check", "verify", "latency"]
    assert np.mean(file.predict(test).argmax(-1) == y) > 0.9
    file.save(tmp_path / "m.tflite")
    assert (tmp_path / "m.tflite").read_bytes() == file.content
    assert repr(file).startswith("TFLiteModel('digits', float32")


@pytest.mark.parametrize("kind", [keras.layers.LSTM, keras.layers.GRU, keras.layers.SimpleRNN])
@pytest.mark.sweep(1)
def test_states_stay_as_they_were(kind, process):
    inputs = keras.Input(batch_shape=(1, 4, 3))
    inner = keras.layers.Bidirectional(kind(4, stateful=True, return_sequences=True))
    model = keras.Model(inputs, keras.layers.Dense(2)(kind(5, stateful=True)(inner(inputs))))
    x = np.random.default_rng(0).normal(size=(6, 4, 3)).astype("float32")
    model(x[:1])
    layers = [inner.forward_layer, inner.backward_layer, model.layers[2]]
    before = [np.asarray(state) for layer in layers for state in layer.states]
    assert all(np.abs(state).max() > 0 for state in before)
    with Converter(model, process=process) as converter:
        file = converter.convert(verification=x)
        for recipe in (Recipe("int8", calibration=x), Recipe("int8", calibration=x, allow_float=True)):
            with contextlib.suppress(ConversionError):
                converter.convert(recipe)
    verify(model, file, x)
    # Errors by layer read every tensor: a handle of a variable is none, and reading it ended the process.
    states = [name for op in file.report.operators if op.name == "VAR_HANDLE" for name in op.outputs]
    runtime = Runtime(file.content, intermediates=True)
    runtime.run({runtime.inputs[0].name: x[:1]})
    assert states and all(runtime.tensor(name) is None for name in states)
    for state, value in zip((s for layer in layers for s in layer.states), before, strict=True):
        np.testing.assert_array_equal(state, value)


def test_fields_of_a_recipe_as_arguments(digits_model, digits, int8):
    (x, _), test = digits
    file = to_tflite(digits_model, "int8", calibration=x, verification=test)
    assert file.content == int8.content
    with Converter(digits_model) as converter:
        assert converter.convert("float32").report.precision == converter.convert().report.precision == "float32"
    with pytest.raises(RecipeError, match=r"no field `float_i0`\. Did you mean `float_io`"):
        to_tflite(digits_model, float_i0=True)


@pytest.mark.slow
def test_real_model_keeps_its_accuracy(shared, process):
    """The figures of the README: ResNet8 on CIFAR-10, ranges from the training images, 10,000 test images."""
    from tfstruct import legacy

    model = legacy.load(shared / "models" / "resnet8_cifar10_jpeg.h5")
    recipe = Recipe(
        precision="int8",
        calibration=str(shared / "cifar10" / "train.tfrecord"),
        verification=str(shared / "cifar10" / "test.tfrecord"),
    )
    with Converter(model, process=process) as converter:
        plain = converter.convert(recipe).report
        best = converter.convert(recipe.replace(calibrator="percentile", rounding="gptq")).report
    assert plain.verification.samples == 10_000
    assert plain.verification.keras.accuracy == pytest.approx(0.8452, abs=2e-4)
    assert plain.verification.tflite.accuracy >= 0.838
    assert plain.size <= 95_568 and plain.float_operators == ()
    assert best.verification.tflite.accuracy >= 0.842


@pytest.mark.parametrize("make", [
    lambda x: keras.ops.tile(x, (1, 3)), lambda x: keras.ops.clip(x, -0.3, 0.4), lambda x: keras.ops.top_k(x, 3)[0],
], ids=["TILE", "MINIMUM", "TOPK_V2"])  # fmt: skip
def test_int16_of_the_second_engine(make, process):
    i = keras.Input((8,))
    x = np.random.default_rng(0).uniform(-1, 1, (32, 8)).astype("float32")
    with Converter(keras.Model(i, make(i)), process=process) as converter:
        report = converter.convert(Recipe(precision="int16x8", calibration=x)).report
    assert report.engine == "tensorflow" and not report.float_operators
    assert report.verification.outputs[0].sqnr_db > 80


@pytest.mark.parametrize(
    "layer",
    [
        lambda: keras.layers.Conv1D(4, 3, bias_initializer="normal"),
        lambda: keras.layers.Conv1DTranspose(4, 3, bias_initializer="normal"),
    ],
    ids=["Conv1D", "Conv1DTranspose"],
)
def test_int16_of_the_second_engine_keeps_biases(layer, process):
    """It wrote them in 32 bits, which kernels of 16-bit activations do not read: outputs were constant."""
    keras.utils.set_random_seed(0)
    ids = keras.Input((6,), dtype="int32")
    features = layer()(keras.layers.Embedding(20, 3, embeddings_initializer="normal")(ids))
    model = keras.Model(ids, keras.layers.GlobalMaxPooling1D()(features))  # which the first engine leaves in float
    x = np.random.default_rng(0).integers(0, 20, (120, 6)).astype("int32")
    with Converter(model, process=process) as converter:
        report = converter.convert(Recipe(precision="int16x8", calibration=x, allow_float=True)).report
    assert report.engine == "tensorflow" and not report.float_operators and not report.warnings
    assert report.verification.outputs[0].sqnr_db > 35


def test_ids_beyond_their_table_are_a_clear_error(process):
    model = keras.Sequential([keras.Input((4,), dtype="int32"), keras.layers.Embedding(5, 3), keras.layers.Flatten()])
    with Converter(model, process=process) as converter:
        made = converter.convert(Recipe())
    with pytest.raises(ConversionError, match="ids within their table"):
        made.predict(np.full((2, 4), 7, "int32"))


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_inputs_of_strings_are_refused_and_the_advice_ends_well(precision):
    text = keras.Input((1,), dtype="string", name="word")
    x = keras.layers.StringLookup(vocabulary=["a", "b", "c"], name="lookup")(text)
    model = keras.Model(text, keras.layers.Dense(2)(keras.layers.Flatten()(keras.layers.Embedding(4, 3)(x))))
    with pytest.raises(DataError, match="Input 'word': expected an input of numbers, received dtype string"):
        to_tflite(model, precision, calibration=np.array([["a"], ["b"]]) if precision == "int8" else None)
    cut = keras.Model(model.get_layer("lookup").output, model.outputs)
    ids = np.arange(120, dtype="int64").reshape(-1, 1) % 4
    assert to_tflite(cut, precision, calibration=ids).report.verification.outputs[0].sqnr_db > 30
