"""Files and folders that Keras 2 wrote, and what is refused in them."""

import json

import h5py
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from sweeps import sweep
from tf_keras import layers

from tfstruct import legacy
from tfstruct.errors import ModelError

MOBILE = {
    "MobileNet": {"alpha": 0.25, "input_shape": (32, 32, 3)},
    "MobileNetV2": {"alpha": 0.35, "input_shape": (32, 32, 3)},
    "MobileNetV3Small": {"alpha": 0.75, "input_shape": (32, 32, 3)},
}


def small():
    x = image = layers.Input((4, 4, 2), name="image")
    x = layers.DepthwiseConv2D(3, name="depthwise")(x) + 3.0
    return tf_keras.Model(image, layers.Dense(3, name="head")(layers.Flatten(name="flat")(x)), name="small")


_FORMS = [(name, form) for name in MOBILE for form in ("model.h5", "model")]
# SavedModels of large models take a minute; `test_tfmot_models.py` reads a small one.
_QUICK = [("MobileNet", "model.h5"), ("MobileNetV3Small", "model.h5")]


@pytest.mark.parametrize("name, form", sweep(_FORMS, quick=_QUICK))
@pytest.mark.sweep(1)
def test_mobilenets(name, form, tmp_path):
    source = getattr(tf_keras.applications, name)(weights=None, classes=10, classifier_activation=None, **MOBILE[name])
    rng = np.random.default_rng(0)
    # Statistics and biases that are not 0 and 1, yet keep the values in bounds.
    source.set_weights(
        [w + 0.1 * rng.uniform(size=w.shape).astype(w.dtype) if w.ndim == 1 else w for w in source.get_weights()]
    )
    x = rng.uniform(0, 1, (2, 32, 32, 3)).astype("float32")
    wanted = source(x, training=False).numpy()
    assert np.ptp(wanted) > 0.01
    source.save(tmp_path / form)
    model = legacy.load(tmp_path / form)
    np.testing.assert_allclose(model(x, training=False), wanted, atol=1e-5 * max(1, np.abs(wanted).max()))
    names = {layer.name.replace("/", "_") for layer in source.layers}
    assert names <= {op.name for op in model.operations}


def test_explain_names_what_changed(tmp_path):
    small().save(tmp_path / "small.h5")
    said = legacy.explain(tmp_path / "small.h5")
    assert "depthwise: dropped the argument 'groups'" in said
    assert "TensorFlow's __operators__.add became keras.ops" in said
    assert legacy.explain(legacy.load(tmp_path / "small.h5")).endswith("nothing was changed")


def test_a_subclassed_model_from_its_savedmodel(tmp_path):
    class Own(tf_keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3)

        def call(self, x):
            return self.dense(x) * 2.0

    source = Own()
    x = np.ones((2, 4), "float32")
    wanted = source(x).numpy()
    with pytest.raises(ModelError, match=r"subclassed Own.*Save it as a SavedModel"):
        legacy.load(source)
    source.save(tmp_path / "own")
    (found,) = legacy.load(tmp_path / "own")(x).values()
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_plain_savedmodel(tmp_path):
    module = tf.Module()
    module.scale = tf.Variable(3.0)
    function = tf.function(lambda x: {"y": x * module.scale}, input_signature=[tf.TensorSpec((None, 2), name="x")])
    tf.saved_model.save(module, str(tmp_path / "plain"), signatures=function)
    model = legacy.load(tmp_path / "plain")
    np.testing.assert_allclose(model(np.ones((1, 2), "float32"))["y"], [[3, 3]])


def test_a_savedmodel_that_writes_files_is_refused(tmp_path):
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec((None, 2), name="x")])
    def function(x):
        tf.io.write_file("/tmp/never", "x")
        return {"y": x}

    tf.saved_model.save(module, str(tmp_path / "bad"), signatures=function)
    with pytest.raises(ModelError, match=r"reach outside the model: WriteFile.*--trust"):
        legacy.load(tmp_path / "bad")


@pytest.mark.parametrize("form", ["model.h5", "model.keras", "model"])
def test_lambda_needs_trust(form, tmp_path):
    x = layers.Input((4,))
    source = tf_keras.Model(x, layers.Lambda(lambda x: x * 2, name="double")(x))
    source.save(tmp_path / form)
    with pytest.raises(ModelError, match="the Lambda layer 'double', which runs code"):
        legacy.load(tmp_path / form)
    model = legacy.load(tmp_path / form, trust=True)
    np.testing.assert_allclose(model(np.ones((1, 4), "float32")), 2 * np.ones((1, 4)))


def adapted():
    """Numbers and words, by layers that have seen data."""
    numbers, words = layers.Input((3,)), layers.Input((), dtype="string")
    scale, count = layers.Normalization(), layers.TextVectorization(10, output_mode="count")
    scale.adapt(np.random.default_rng(0).normal(2, 3, (20, 3)))
    count.adapt(["a b", "b c"])
    return tf_keras.Model([numbers, words], layers.Concatenate()([scale(numbers), count(words)]))


@pytest.mark.parametrize("form", ["model.keras", "model"])
def test_adapted_layers_come_back_and_nothing_else_is_said(form, tmp_path):
    source, given = adapted(), [tf.constant([[1.0, 2.0, 3.0]]), tf.constant(["c b x b"])]
    source.save(tmp_path / form)
    found = legacy.read(tmp_path / form)
    np.testing.assert_allclose(found.model(given), source(given), rtol=1e-5)
    assert "adapted" not in str(found)


def test_a_normalization_without_data_is_named(tmp_path):
    tf_keras.Sequential([layers.Input((3,)), layers.Normalization(name="scale")]).save(tmp_path / "new.h5")
    assert "scale: was never adapted: mean 0 and variance 1" in legacy.explain(tmp_path / "new.h5")


def test_a_function_without_counterpart_is_never_called(tmp_path):
    small().save(tmp_path / "small.h5")
    with h5py.File(tmp_path / "small.h5", "a") as file:
        text = json.dumps(json.loads(file.attrs["model_config"])).replace("__operators__.add", "io.write_file")
        file.attrs["model_config"] = text
    for trust in (False, True):
        with pytest.raises(ModelError, match=r"io\.write_file|Keras 2 cannot load"):
            legacy.load(tmp_path / "small.h5", trust=trust)


def test_other_things_are_no_models(tmp_path):
    with pytest.raises(ModelError, match=r"Expected a path.*Received: builtins\.int"):
        legacy.read(3)
    with pytest.raises(ModelError, match=r"folder without saved_model\.pb"):
        legacy.read(tmp_path)
    small().save_weights(tmp_path / "step_1")
    with pytest.raises(ModelError, match=r"holds a checkpoint, which is weights only.*model\.load_weights"):
        legacy.read(tmp_path)
