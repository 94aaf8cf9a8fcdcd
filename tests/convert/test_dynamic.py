"""Files whose batch or sizes are open on request: compared at several, refused by the layer that cannot."""

import keras
import numpy as np
import pytest
from keras import layers

from tfstruct import cli, to_streaming, to_tflite
from tfstruct.convert import Recipe, check_target, describe, test_vectors
from tfstruct.convert.runtime import Runtime
from tfstruct.errors import ConversionError, RecipeError
from tfstruct.quantize import Twin

X = np.random.default_rng(0).uniform(0, 1, (100, 16, 16, 3)).astype("float32")
PLAIN = {"measure_latency": False}


def _segmenter():
    """What asks for sizes while it runs: up-sampling of both kinds, strides without padding, squeeze and excite."""
    keras.utils.set_random_seed(0)
    x = keras.Input((16, 16, 3), name="image")
    h = layers.ZeroPadding2D(1, name="pad")(x)
    h = layers.BatchNormalization(name="norm")(layers.Conv2D(8, 3, strides=2, activation="relu", name="stem")(h))
    s = layers.Flatten(name="flat")(layers.GlobalAveragePooling2D(keepdims=True, name="squeeze")(h))
    h = h * layers.Reshape((1, 1, 8), name="gate")(layers.Dense(8, activation="sigmoid", name="excite")(s))
    smooth = layers.UpSampling2D(2, interpolation="bilinear", name="smooth")(h)
    near = layers.UpSampling2D(2, name="near")(layers.Conv2D(4, 1, name="thin")(h))
    y = layers.Concatenate(name="both")([smooth, near, x])
    kind = layers.Dense(3, name="kind")(layers.GlobalMaxPooling2D(name="most")(y))
    return keras.Model(x, {"mask": layers.Conv2D(2, 3, padding="same", name="mask")(y), "kind": kind})


def _reader():
    keras.utils.set_random_seed(0)
    ids = keras.Input((12,), dtype="int32", name="ids")
    h = layers.Embedding(30, 8, name="table")(ids)
    h = layers.LayerNormalization(name="norm")(h + layers.MultiHeadAttention(2, 4, name="look")(h, h))
    return keras.Model(ids, layers.Dense(2, name="out")(layers.GlobalAveragePooling1D(name="mean")(h)))


@pytest.mark.parametrize("precision", ["float32", "dynamic", "int8"])
@pytest.mark.parametrize("model, data", [(_segmenter, X), (_reader, None)], ids=["images", "ids"])
def test_a_file_of_any_size_and_batch(model, data, precision):
    model = model()
    data = np.random.default_rng(1).integers(0, 30, (100, 12)).astype("int32") if data is None else data
    samples = {"calibration": data} if precision == "int8" else {"verification": data[:8]}
    file = to_tflite(model, precision, dynamic="all", **samples, **PLAIN)
    (port,) = file.inputs
    channels = port.shape[3:]
    assert port.shape == (*(None for _ in data.shape[: 4 - len(channels)]), *channels)
    assert not (precision == "int8" and file.report.float_operators)
    checks = [one.what for one in file.report.sizes]
    assert len(checks) == 3 and all(one.verification.figures()["sqnr_db"] > 15 for one in file.report.sizes)
    assert str(checks[2]) in str(file.report)
    # By the interpreter, at a size that nobody has tried.
    other = np.concatenate([data, data, data], 1)[:5]
    runtime = Runtime(file.content)
    found = runtime.run({port.name: other})
    wanted = _of_any_size(model)(other)
    wanted = wanted if isinstance(wanted, dict) else {next(iter(found)): wanted}
    for name, value in wanted.items():
        scale = float(np.abs(value).max())
        assert np.abs(found[name] - np.asarray(value)).max() < {"float32": 1e-4}.get(precision, 0.1) * scale


def _of_any_size(model):
    from tfstruct.convert.dynamic import opened_model

    return opened_model(model)


def test_what_is_open_is_what_was_asked_for():
    model = _segmenter()
    for dynamic, shape in (("batch", (None, 16, 16, 3)), ("sizes", (1, None, None, 3)), (None, (1, 16, 16, 3))):
        file = to_tflite(model, dynamic=dynamic, **PLAIN)
        assert file.inputs[0].shape == shape
        assert len(file.report.sizes) == {"batch": 2, "sizes": 1, None: 0}[dynamic]
    assert (
        Recipe(dynamic="all").batch_size is None and Recipe.from_json(Recipe(dynamic="all").to_json()).dynamic == "all"
    )


def test_figures_of_one_size_say_which():
    file = to_tflite(_segmenter(), "int8", calibration=X, dynamic="sizes")
    assert "at image 1 x 16 x 16 x 3" in str(file.report)
    assert file.report.sizes[0].what == "image 1 x 32 x 32 x 3"
    found = describe(file)
    assert found.counted_at == "image 1 x 16 x 16 x 3" and "MACs at" in str(found)
    stem = next(op for op in found.operators if op.operator == "CONV_2D")
    assert stem.macs == 8 * 8 * 8 * 27
    with pytest.raises(ConversionError, match="fixed sizes"):
        test_vectors(file)
    assert not check_target(file, "edgetpu").fits
    again = to_tflite(_segmenter(), dynamic="sizes", input_shapes={"image": (24, 20, 3)})
    assert "at image 1 x 24 x 20 x 3" in str(again.report)


def _flat():
    x = keras.Input((16, 16, 3), name="image")
    h = layers.Flatten(name="flat")(layers.Conv2D(4, 3, name="stem")(x))
    return keras.Model(x, layers.Dense(3, name="dense")(h))


def _reshaped():
    x = keras.Input((16, 16, 3), name="image")
    h = layers.Reshape((256, 4), name="fixed")(layers.Conv2D(4, 3, padding="same", name="stem")(x))
    return keras.Model(x, layers.GlobalAveragePooling1D(name="mean")(h))


def _recurrent():
    x = keras.Input((12, 3), name="sound")
    return keras.Model(x, layers.GRU(4, name="gru")(x))


@pytest.mark.parametrize(
    "model, error, said",
    [
        (_flat, RecipeError, "layer 'dense' needs the size"),
        (_reshaped, RecipeError, "layer 'fixed' does not take image 1 x 32 x 32 x 3"),
        (lambda: Twin(_segmenter(), "int8"), RecipeError, "no twins"),
        (lambda: to_streaming(_recurrent()), RecipeError, "for Keras models"),
        (lambda: to_tflite(_flat(), **PLAIN).content, RecipeError, "for Keras models"),
        (lambda: keras.Sequential([keras.Input((4,)), layers.Dense(2)]), RecipeError, "vectors"),
    ],
)
def test_what_cannot_is_named(model, error, said):
    with pytest.raises(error, match=said):
        to_tflite(model(), dynamic="sizes", **PLAIN)


def test_loops_take_any_length_of_one_batch():
    file = to_tflite(_recurrent(), dynamic="sizes", **PLAIN)
    assert file.inputs[0].shape == (1, None, 3) and len(file.report.sizes) == 1
    with pytest.raises(ConversionError, match="layer gru"):
        to_tflite(_recurrent(), dynamic="all", **PLAIN)


def test_what_refuses_other_sizes_takes_other_batches():
    for model in (_flat(), _reshaped()):
        file = to_tflite(model, "int8", calibration=X, dynamic="batch", **PLAIN)
        assert np.abs(file.predict(X[:7]) - np.asarray(model(X[:7]))).max() < 4 * file.outputs[0].scale


def test_recipes_that_contradict_themselves():
    with pytest.raises(RecipeError, match="dynamic"):
        Recipe(dynamic="height")
    with pytest.raises(RecipeError, match="batch_size"):
        Recipe(dynamic="all", batch_size=4)


def test_a_model_that_leaves_sizes_open_itself(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    x = keras.Input((None, None, 3), name="image")
    y = layers.GlobalAveragePooling2D(name="mean")(layers.Conv2D(4, 3, name="stem")(x))
    keras.Model(x, y).save("any.keras")
    common = ["any.keras", "-o", "any.tflite", "--overwrite", "--no-latency", "--dynamic", "sizes"]
    assert cli.main([*common, "--input-shape", "24,24,3"]) == 0
    assert "also at" in capsys.readouterr().out
    assert Runtime((tmp_path / "any.tflite").read_bytes()).inputs[0].shape == (1, None, None, 3)
    assert cli.main(["any.tflite", "-o", "more.tflite", "--dynamic", "batch"]) == 2
    assert "--dynamic is for Keras models" in capsys.readouterr().err
