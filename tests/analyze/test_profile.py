"""Multiply-accumulates by closed formulas for every layer that counts them, and against published totals."""

import json

import keras
import pytest
import tensorflow as tf
import zoo
from keras import layers

from tfstruct import profile
from tfstruct.errors import ModelError

# layer, input shape -> MACs of one sample, written out.
CLOSED = {
    "dense": (lambda: layers.Dense(5), (7,), 7 * 5),
    "dense_on_sequence": (lambda: layers.Dense(5), (3, 7), 3 * 7 * 5),
    "einsum_dense": (lambda: layers.EinsumDense("abc,cde->abde", (3, 2, 4), bias_axes="de"), (3, 7), 3 * 7 * 2 * 4),
    "conv1d": (lambda: layers.Conv1D(5, 3), (10, 4), 8 * 3 * 4 * 5),
    "conv1d_causal": (lambda: layers.Conv1D(5, 3, padding="causal"), (10, 4), 10 * 3 * 4 * 5),
    "conv2d": (lambda: layers.Conv2D(5, 3), (10, 9, 4), 8 * 7 * 9 * 4 * 5),
    "conv2d_strided": (lambda: layers.Conv2D(5, (3, 2), 2, padding="same"), (10, 9, 4), 5 * 5 * 6 * 4 * 5),
    "conv2d_dilated": (lambda: layers.Conv2D(5, 3, dilation_rate=2), (10, 9, 4), 6 * 5 * 9 * 4 * 5),
    "conv2d_grouped": (lambda: layers.Conv2D(6, 3, groups=2), (10, 9, 4), 8 * 7 * 9 * 2 * 6),
    "conv3d": (lambda: layers.Conv3D(5, 2), (4, 4, 4, 3), 27 * 8 * 3 * 5),
    "depthwise1d": (lambda: layers.DepthwiseConv1D(3), (10, 4), 8 * 3 * 4),
    "depthwise2d": (lambda: layers.DepthwiseConv2D(3, depth_multiplier=2), (10, 9, 4), 8 * 7 * 9 * 8),
    "separable1d": (lambda: layers.SeparableConv1D(5, 3), (10, 4), 8 * (3 * 4 + 4 * 5)),
    "separable2d": (lambda: layers.SeparableConv2D(5, 3), (10, 9, 4), 56 * (9 * 4 + 4 * 5)),
    "transposed1d": (lambda: layers.Conv1DTranspose(5, 3), (10, 4), 10 * 3 * 4 * 5),
    "transposed2d": (lambda: layers.Conv2DTranspose(5, 3, 2), (10, 9, 4), 90 * 9 * 4 * 5),
    "lstm": (lambda: layers.LSTM(5), (6, 4), 6 * 4 * (4 * 5 + 5 * 5)),
    "gru": (lambda: layers.GRU(5), (6, 4), 6 * 3 * (4 * 5 + 5 * 5)),
    "simple_rnn": (lambda: layers.SimpleRNN(5), (6, 4), 6 * (4 * 5 + 5 * 5)),
    "bidirectional": (lambda: layers.Bidirectional(layers.LSTM(5)), (6, 4), 2 * 6 * 4 * (4 * 5 + 5 * 5)),
    "time_distributed": (lambda: layers.TimeDistributed(layers.Dense(5)), (6, 4), 6 * 4 * 5),
    "conv_lstm2d": (lambda: layers.ConvLSTM2D(5, 3, padding="same"), (6, 8, 7, 4), 6 * 56 * 9 * 4 * (4 * 5 + 5 * 5)),
    "transposed3d": (lambda: layers.Conv3DTranspose(5, 2), (4, 4, 4, 3), 64 * 8 * 3 * 5),
}


@pytest.mark.parametrize("first", [True, False], ids=["on_the_input", "on_channels"])
@pytest.mark.parametrize("name", CLOSED)
def test_macs_are_the_closed_formula(name, first):
    make, shape, macs = CLOSED[name]
    x = inputs = keras.Input(shape)
    if not first:
        x = layers.Dense(shape[-1], name="before")(x)
    found = {row.path: row for row in profile(keras.Model(inputs, make_named(make)(x))).rows}
    assert found["layer"].macs == macs


def make_named(make):
    layer = make()
    layer.name = "layer"
    return layer


def test_a_depthwise_convolution_by_groups():
    x = layers.Conv2D(4, 1)(inputs := keras.Input((10, 9, 3)))
    row = profile(keras.Model(inputs, layers.Conv2D(8, 3, groups=4)(x))).rows[-1]
    assert row.macs == 8 * 7 * 9 * 8


def test_attention():
    inputs, other = keras.Input((5, 6)), keras.Input((7, 8))
    y = layers.MultiHeadAttention(2, 3, value_dim=4)(inputs, other)
    projections = 5 * 6 * 2 * 3 + 7 * 8 * 2 * 3 + 7 * 8 * 2 * 4 + 5 * 2 * 4 * 6
    products = 5 * 7 * 2 * 3 + 5 * 7 * 2 * 4
    assert profile(keras.Model([inputs, other], y)).macs == projections + products


def test_operations_that_multiply_matrices():
    a, b = layers.Dense(4)(inputs := keras.Input((5, 3))), layers.Dense(4)(inputs)
    product = keras.ops.matmul(a, keras.ops.transpose(b, (0, 2, 1)))
    assert profile(keras.Model(inputs, product)).rows[-1].macs == 5 * 4 * 5
    assert profile(keras.Model(inputs, keras.ops.einsum("bij,bkj->bik", a, b))).rows[-1].macs == 5 * 4 * 5


def test_dot():
    a, b = layers.Dense(4)(inputs := keras.Input((5, 3))), layers.Dense(4)(inputs)
    assert profile(keras.Model(inputs, layers.Dot(axes=2)([a, b]))).rows[-1].macs == 5 * 5 * 4


def test_a_row_by_hand():
    x = inputs = keras.Input((10, 10, 3))
    x = layers.Conv2D(8, 3, name="conv")(x)
    made = profile(keras.Model(inputs, layers.Flatten(name="flat")(x), name="one"))
    row = made.rows[0]
    assert (row.path, row.type, row.shape, row.params) == ("conv", "Conv2D", (8, 8, 8), 224)
    assert (row.weight_bytes, row.activation_bytes) == (896, 2048)
    assert row.intensity == pytest.approx(2 * 64 * 27 * 8 / (896 + 1200 + 2048), abs=1e-3)
    assert (made.params, made.weight_bytes, made.macs) == (224, 896, 64 * 27 * 8)
    assert (made.peak_activation_bytes, made.peak_at) == (1200 + 2048, "conv")


def test_bytes_are_in_the_dtype_the_layer_computes_in():
    x = layers.Dense(6, dtype="mixed_float16")(inputs := keras.Input((4,)))
    row = profile(keras.Model(inputs, layers.Dense(2)(x))).rows[0]
    assert (row.weight_bytes, row.activation_bytes) == (30 * 4, 6 * 2)


def test_a_shared_layer_counts_its_parameters_once_and_its_macs_every_time():
    model = zoo.build("shared")
    made = profile(model)
    rows = [row for row in made.rows if row.path == "twice"]
    assert [row.params for row in rows] == [42, 0, 0]
    assert [row.macs for row in rows] == [36, 36, 36]
    assert made.params == model.count_params()


@pytest.mark.parametrize("name", [n for n in sorted(zoo.MODELS) if n != "subclassed"])
def test_the_zoo_adds_up(name, tmp_path):
    model = zoo.build(name)
    made = profile(model)
    assert made.params == model.count_params()
    assert json.loads(json.dumps(made.to_dict()))["params"] == made.params
    assert model.name in str(made)


def test_operations_whose_work_is_hidden_are_named_not_counted():
    @keras.saving.register_keras_serializable("tests")
    class Odd(layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 3))

        def call(self, x):
            y = tf.numpy_function(lambda a: a, [x @ self.kernel], tf.float32)
            return tf.ensure_shape(y, (None, 3))

    made = profile(keras.Sequential([keras.Input((4,)), Odd(name="odd")]))
    assert (made.unknown, made.params) == (("odd",), 12)
    assert made.rows[0].macs is None
    assert "no rule knows odd" in str(made)


def test_open_sizes_ask_for_an_input_shape():
    inner = keras.Sequential([keras.Input((None, None, 4)), layers.Conv2D(2, 1, name="inside")], name="inner")
    x = layers.Conv2D(4, 3, padding="same", name="conv")(inputs := keras.Input((None, None, 3), name="image"))
    model = keras.Model(inputs, inner(x), name="open")
    with pytest.raises(ModelError, match=r"leaves sizes open at conv.*Give input_shape"):
        profile(model)
    for shape in ((10, 8, 3), {"image": (10, 8, 3)}, [(10, 8, 3)]):
        assert [(r.path, r.macs) for r in profile(model, shape).rows] == [
            ("conv", 80 * 27 * 4),
            ("inner/inside", 80 * 4 * 2),
        ]
    assert [layer.name for layer in model.layers] == ["image", "conv", "inner"]
    assert len(model.get_layer("conv")._inbound_nodes) == 1


@pytest.mark.parametrize(
    "shape, message",
    [
        ((10, 8), "must fit"),
        ((10, 8, 4), "must fit"),
        ((None, 8, 3), "positive integers"),
        ({"picture": (10, 8, 3)}, "must name the inputs"),
        ([(10, 8, 3), (1,)], "must give 1 shapes"),
    ],
)
def test_an_input_shape_that_does_not_fit(shape, message):
    x = layers.Conv2D(4, 3)(inputs := keras.Input((None, None, 3), name="image"))
    with pytest.raises(ModelError, match=message):
        profile(keras.Model(inputs, x), shape)


def test_subclassed_models_are_refused():
    with pytest.raises(ModelError, match="subclassed"):
        profile(zoo.subclassed())


def test_a_picture_is_written(tmp_path):
    profile(zoo.build("nested")).plot(tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 5000


def test_weights_that_no_call_reads_are_named():
    class Spare(layers.Layer):
        def build(self, shape):
            self.used = self.add_weight(shape=shape[-1:], name="used")
            self.spare = self.add_weight(shape=(5, 5), name="spare")

        def call(self, x):
            return x * self.used

    model = keras.Sequential([keras.Input((4,)), Spare(name="own"), layers.Dense(2)])
    found = profile(model)
    assert found.unread == ("own/spare",) and found.params == model.count_params() - 25
    assert "weights that no call reads: own/spare" in str(found)
    assert not profile(model, open_layers=False).unread


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, giga", [("ResNet50", 3.87), ("MobileNetV2", 0.300), ("EfficientNetB0", 0.390), ("VGG16", 15.5)]
)
def test_published_totals(name, giga):
    made = profile(getattr(keras.applications, name)(weights=None))
    assert made.macs == pytest.approx(giga * 1e9, rel=0.015)
