"""Names, shapes and policies on the way from a Keras model to its SavedModel."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo
from keras import layers

from tfstruct.convert.export import export, signature_of
from tfstruct.convert.scopes import layer_at
from tfstruct.errors import ConversionError, ModelError, RecipeError
from tfstruct.graph.layer_tree import layer_paths


def test_layer_paths_enter_nested_models_and_layers():
    paths = list(layer_paths(zoo.build("nested")))
    assert paths == ["conv", "block", "block/conv", "block/add", "tail", "tail/flat", "tail/fc"]
    assert "attention/query" in layer_paths(zoo.build("attention"))
    keras.backend.clear_session()  # operators get their names from a counter
    assert {"multiply", "add"} <= set(layer_paths(zoo.build("residual")))
    assert "both/forward_cell/lstm_cell" in layer_paths(zoo.build("bidirectional"))


def test_scopes_tell_layers_of_like_names_apart(tmp_path):
    # Keras calls them conv, conv_1, conv_1_1 ...; TensorFlow makes names unique by the same suffixes.
    x = inputs = keras.Input((4, 4, 2))
    for name in ("conv", "conv_1", "conv_1_1", "conv_2"):
        x = layers.Conv2D(2, 1, name=name)(x)
    exported = export(keras.Model(inputs, x), str(tmp_path))
    assert list(exported.scopes.values()) == ["conv", "conv_1", "conv_1_1", "conv_2"]
    assert exported.output_layers == {"conv_2": "conv_2"}


def test_layer_at_takes_the_innermost_scope():
    scopes = {"m/block": "block", "m/block/conv": "block/conv"}
    assert layer_at("m/block/conv/Relu", scopes) == "block/conv"
    assert layer_at("m/block/other/Relu", scopes) == "block"
    assert layer_at("m/blocks/Relu", scopes) is None


def test_shared_layer_is_named_at_every_call(tmp_path):
    scopes = export(zoo.build("shared"), str(tmp_path)).scopes
    assert list(scopes.values()).count("twice") == 3


def test_signature_of_each_kind():
    several = signature_of(zoo.build("several"))
    assert [str(s) for s in several.inputs] == ["extra (4) float32", "image (8, 8, 1) float32"]
    assert [str(s) for s in signature_of(zoo.build("subclassed")).inputs] == ["input (8, 8, 3) float32"]
    outputs = several.call({"extra": tf.zeros((2, 4)), "image": tf.zeros((2, 8, 8, 1))})
    assert {k: v.shape for k, v in outputs.items()} == {"kind": (2, 3), "size": (2, 1)}


def test_names_that_a_signature_does_not_take_are_made_to_fit():
    a, b = keras.Input((2,), name="my input"), keras.Input((2,), name="2nd")
    model = keras.Model([a, b], layers.Add(name="the-sum")([a, b]))
    signature = signature_of(model)
    assert [s.name for s in signature.inputs] == ["my_input", "_2nd"]
    assert list(signature.call({"my_input": tf.zeros((1, 2)), "_2nd": tf.ones((1, 2))})) == ["the_sum"]


def test_subclassed_model_with_dict_input_and_separate_arguments():
    class Pair(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2)

        def call(self, inputs):
            return {"left": self.dense(inputs["a"]), "both": inputs["a"] + inputs["b"]}

    model = Pair()
    x = {"a": np.ones((3, 4), "float32"), "b": np.zeros((3, 4), "float32")}
    want = model(x)
    signature = signature_of(model)
    assert [str(s) for s in signature.inputs] == ["a (4) float32", "b (4) float32"]
    got = signature.call({k: tf.constant(v) for k, v in x.items()})
    np.testing.assert_array_equal(got["left"], want["left"])


def test_unbuilt_models_say_what_to_do():
    with pytest.raises(ModelError, match="Call it once on a batch"):
        signature_of(zoo.Subclassed())
    with pytest.raises(ModelError, match=r"Expected a keras\.Model"):
        signature_of("model.keras")


def test_open_dimensions_and_input_shapes(tmp_path):
    inputs = keras.Input((None, None, 3), name="image")
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(inputs))
    assert str(signature_of(model).inputs[0]) == "image (?, ?, 3) float32"
    assert export(model, str(tmp_path), input_shapes={"image": (5, 7, 3)}).inputs[0].shape == (5, 7, 3)
    with pytest.raises(RecipeError, match="does not fit"):
        signature_of(model, {"image": (5, 7, 4)})
    with pytest.raises(RecipeError, match="names the input 'picture'"):
        signature_of(model, {"picture": (5, 7, 3)})


def test_fixed_batch_size_of_the_model(tmp_path):
    inputs = keras.Input(batch_shape=(4, 3), name="x")
    model = keras.Model(inputs, layers.Dense(2)(inputs))
    assert export(model, str(tmp_path)).batch == 4
    with pytest.raises(RecipeError, match="fix the batch size at 4"):
        export(model, str(tmp_path), batch_size=2)


def test_mixed_precision_computes_in_float32_and_is_put_back(tmp_path):
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = zoo.build("conv_bn")
    finally:
        keras.mixed_precision.set_global_policy("float32")
    exported = export(model, str(tmp_path))
    loaded = tf.saved_model.load(exported.directory)
    x = zoo.sample_inputs(model, 1)
    graph = loaded.signatures["serve"].graph.as_graph_def(add_shapes=True)
    dtypes = {attr.type for node in graph.node for key, attr in node.attr.items() if key in ("T", "DstT", "dtype")}
    assert tf.float16.as_datatype_enum not in dtypes
    assert model.get_layer("conv").compute_dtype == "float16"
    assert loaded.signatures["serve"](tf.constant(x))["head"].dtype == tf.float32


def test_float16_weights_are_refused(tmp_path):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Dense(2, dtype="float16", name="half")(inputs))
    with pytest.raises(ModelError, match="weights of layer 'half' are float16"):
        export(model, str(tmp_path))
    assert model.get_layer("half").compute_dtype == "float16"


class Counted(layers.Layer):
    """Notes every trace of its call."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.traces = []

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, x):
        self.traces.append(x.shape)
        return x * self.scale


def test_the_model_is_traced_once_and_weights_are_written_once(tmp_path):
    inputs = keras.Input((250,))
    counted = Counted(name="counted")
    model = keras.Model(inputs, layers.Dense(100)(counted(inputs)))
    counted.traces.clear()
    export(model, str(tmp_path))
    assert counted.traces == [(1, 250)]
    size = sum(file.stat().st_size for file in (tmp_path / "variables").iterdir())
    assert 4 * model.count_params() < size < 4.4 * model.count_params()


@pytest.mark.parametrize("layer", [layers.IntegerLookup(vocabulary=[3, 4]), layers.StringLookup(vocabulary=["3", "4"])])
def test_lookup_tables_are_in_the_savedmodel(layer, tmp_path):
    strings = isinstance(layer, layers.StringLookup)
    x = np.array([[4, 3, 7]], "int64")
    x = tf.strings.as_string(x) if strings else tf.constant(x)
    inputs = keras.Input((3,), dtype="string" if strings else "int64", name="x")
    model = keras.Model(inputs, layers.Embedding(3, 2, name="table")(layer(inputs)))
    loaded = tf.saved_model.load(export(model, str(tmp_path)).directory)
    np.testing.assert_allclose(loaded.signatures["serve"](x)["table"], model(x))


def test_a_failing_trace_leaves_the_model_as_it_was(tmp_path):
    class Broken(layers.Layer):
        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, x.dtype)

        def call(self, x):
            raise ValueError("broken on purpose")

    inputs = keras.Input((3,))
    model = keras.Model(inputs, Broken(name="broken")(layers.Dense(2)(inputs)))
    with pytest.raises(ConversionError, match="broken on purpose"):
        export(model, str(tmp_path))
    assert not any("call" in layer.__dict__ for layer in model.layers)
