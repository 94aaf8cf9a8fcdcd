"""Known networks, quantized while they train and after, to the file: one each always, all by `pytest -m slow`."""

import keras
import numpy as np
import pytest
import zoo
from keras import layers
from sweeps import sweep

from tfstruct import Recipe, surgery
from tfstruct.callbacks import QuantizeAware
from tfstruct.convert.runtime import Runtime
from tfstruct.convert.tflite import Converter
from tfstruct.quantize import calibrate, correct_bias, equalize

VOCABULARY = 50


def application(name, **options):
    def build():
        return getattr(keras.applications, name)(input_shape=(64, 64, 3), weights=None, classes=10, **options)

    return build


def _encoder(x, blocks: int = 2, width: int = 32):
    """Transformer blocks, normalized before attention and after the sum in turn."""
    for i in range(blocks):
        y = layers.LayerNormalization(name=f"norm{i}a")(x)
        y = layers.MultiHeadAttention(2, width // 2, name=f"attention{i}")(y, y)
        x = layers.Add(name=f"add{i}a")([x, y])
        y = layers.Dense(2 * width, activation="gelu", name=f"wide{i}")(x)
        y = layers.Dense(width, name=f"narrow{i}")(y)
        x = layers.LayerNormalization(name=f"norm{i}b")(layers.Add(name=f"add{i}b")([x, y]))
    x = layers.GlobalAveragePooling1D(name="mean")(x)
    return layers.Dense(10, name="head")(x)


def vision_transformer():
    inputs = keras.Input((32, 32, 3), name="image")
    x = layers.Reshape((16, 32), name="tokens")(layers.Conv2D(32, 8, 8, name="patches")(inputs))
    return keras.Model(inputs, _encoder(x), name="vit")


def text_encoder():
    inputs = keras.Input((16,), dtype="int32", name="ids")
    return keras.Model(inputs, _encoder(layers.Embedding(VOCABULARY, 32, name="words")(inputs)), name="encoder")


def recurrent(layer):
    def build():
        inputs = keras.Input((8, 6), name="sequence")
        return keras.Model(inputs, layers.Dense(4, name="head")(layer(8, name="cells")(inputs)), name="recurrent")

    return build


NETWORKS = {
    "MobileNet": application("MobileNet", alpha=0.25),
    "MobileNetV2": application("MobileNetV2", alpha=0.35),
    "MobileNetV3Small": application("MobileNetV3Small"),
    "EfficientNetB0": application("EfficientNetB0"),
    "DenseNet121": application("DenseNet121"),
    "ResNet50": application("ResNet50"),
    "ConvNeXtTiny": application("ConvNeXtTiny"),
    "vit": vision_transformer,
    "encoder": text_encoder,
    "lstm": recurrent(layers.LSTM),
    "gru": recurrent(layers.GRU),
    "nested": lambda: zoo.build("nested"),
    "several": lambda: zoo.build("several"),
}


def _samples(model, count: int = 32):
    rng = np.random.default_rng(0)
    if len(model.inputs) > 1:
        return zoo.sample_inputs(model, count)
    shape, dtype = model.inputs[0].shape[1:], model.inputs[0].dtype
    if "int" in dtype:
        return rng.integers(0, VOCABULARY, (count, *shape)).astype(dtype)
    if shape[:2] == (64, 64):
        return rng.uniform(0, 255, (count, *shape)).astype("float32")
    return rng.normal(size=(count, *shape)).astype("float32")


@pytest.mark.parametrize("name", sweep(NETWORKS, {"lstm"}))
def test_trained_converted_and_equal(name, process):
    keras.utils.set_random_seed(0)
    model = NETWORKS[name]()
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.5  # two steps have to be enough
    x = _samples(model)
    rng = np.random.default_rng(1)
    y = keras.tree.map_structure(lambda out: rng.normal(size=(32, *out.shape[1:])).astype("float32"), model.output)
    model.compile(keras.optimizers.SGD(1e-3), keras.tree.map_structure(lambda _: "mse", y), jit_compile=False)
    aware = QuantizeAware()
    model.fit(x, y, batch_size=16, verbose=0, callbacks=[aware])
    _agree(name, aware.twin, x, process)


@pytest.mark.parametrize("name", sweep(NETWORKS, {"several"}))
@pytest.mark.slow
def test_calibrated_converted_and_equal(name, process):
    keras.utils.set_random_seed(0)
    model = NETWORKS[name]()
    x = _samples(model)
    folded = surgery.fold_batch_norm(model).model
    _agree(name, calibrate(correct_bias(equalize(folded), x), x), x, process)


def _agree(name, twin, x, process):
    """The file of a twin is made, says what stays in float, and computes what the twin computes."""
    with Converter(twin, process=process) as converter:
        # Only what `skipped` lists needs the samples.
        file = converter.convert(Recipe(calibration=x, check_range=False, allow_float=True))
    for op in file.report.float_operators:
        named = ", ".join(op.layers) or "no layer known"
        assert any(f"{named}: " in warning and op.name in warning for warning in file.report.warnings)
    found = file.predict(x)
    found = list(found.values()) if isinstance(found, dict) else [found]
    unseen = bool(twin.simulation.skipped)
    ports = Runtime(file.content).outputs
    for ours, theirs, port in zip(keras.tree.flatten(twin.predict(x, verbose=0)), found, ports, strict=True):
        step = port.scale or (max(ours.max(), 0) - min(ours.min(), 0)) / 255
        steps = np.abs(ours - theirs).max() / step
        print(f"{name}: {steps:.0f} steps", "with unseen values" if unseen else "")
        assert steps - 1e-3 <= (12 if unseen else 2)  # whole steps, but for the last bits
