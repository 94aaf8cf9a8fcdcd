"""Every layer type that both Kerases have: equal outputs, as a Keras 3 model and after it was saved and loaded."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras import layers

from tfstruct import legacy

ACTIVATIONS = ("elu", "exponential", "gelu", "linear", "mish", "relu", "selu", "sigmoid", "softmax", "swish", "tanh")
IMAGE, SEQUENCE, VOLUME = (8, 8, 3), (6, 4), (4, 4, 4, 2)


def adapted():
    layer = layers.Normalization()
    layer.adapt(np.random.default_rng(1).normal(2, 3, (20, *IMAGE)).astype("float32"))
    return layer


def _by_name(shape, **arguments):
    return {name: (shape, lambda n=name, a=args: getattr(layers, n)(*a)) for name, args in arguments.items()}


LAYERS = {
    **_by_name(
        IMAGE,
        Conv2D=(4, 3),
        Conv2DTranspose=(4, 3),
        SeparableConv2D=(4, 3),
        DepthwiseConv2D=(3,),
        Cropping2D=((1, 1),),
        ZeroPadding2D=((1, 2),),
        UpSampling2D=(2,),
        MaxPooling2D=(2,),
        AveragePooling2D=(2,),
        GlobalAveragePooling2D=(),
        GlobalMaxPooling2D=(),
        Flatten=(),
        Dense=(3,),
        BatchNormalization=(),
        LayerNormalization=(),
        GroupNormalization=(3,),
        UnitNormalization=(),
        ReLU=(6.0, 0.1, 0.2),
        LeakyReLU=(0.2,),
        PReLU=(),
        ELU=(0.7,),
        Softmax=(),
        ThresholdedReLU=(0.4,),
        Activation=("hard_sigmoid",),
        Dropout=(0.5,),
        SpatialDropout2D=(0.5,),
        GaussianNoise=(0.1,),
        GaussianDropout=(0.1,),
        AlphaDropout=(0.1,),
        ActivityRegularization=(0.1,),
        Permute=((2, 1, 3),),
        Reshape=((4, -1),),
        Rescaling=(0.5, 0.1),
        Resizing=(4, 5),
        CenterCrop=(4, 4),
        RandomCrop=(4, 4),
        RandomFlip=(),
        RandomRotation=(0.1,),
        RandomZoom=(0.1,),
        RandomTranslation=(0.1, 0.1),
        RandomContrast=(0.1,),
        RandomBrightness=(0.1,),
        Identity=(),
    ),
    **_by_name(
        SEQUENCE,
        Conv1D=(4, 3),
        Conv1DTranspose=(4, 3),
        SeparableConv1D=(4, 3),
        DepthwiseConv1D=(3,),
        Cropping1D=(1,),
        ZeroPadding1D=(1,),
        UpSampling1D=(2,),
        MaxPooling1D=(2,),
        AveragePooling1D=(2,),
        GlobalAveragePooling1D=(),
        GlobalMaxPooling1D=(),
        LSTM=(4,),
        GRU=(4,),
        SimpleRNN=(4,),
        SpatialDropout1D=(0.5,),
        Masking=(),
        EinsumDense=("abc,cd->abd", (None, 5), "relu", "d"),
    ),
    **_by_name(
        VOLUME,
        Conv3D=(4, 2),
        Conv3DTranspose=(4, 2),
        Cropping3D=(1,),
        ZeroPadding3D=(1,),
        UpSampling3D=(2,),
        MaxPooling3D=(2,),
        AveragePooling3D=(2,),
        GlobalAveragePooling3D=(),
        GlobalMaxPooling3D=(),
        SpatialDropout3D=(0.5,),
    ),
    "RepeatVector": ((4,), lambda: layers.RepeatVector(3)),
    "Discretization": ((4,), lambda: layers.Discretization(bin_boundaries=[-1.0, 0.0, 1.0])),
    "ConvLSTM1D": ((3, 6, 2), lambda: layers.ConvLSTM1D(3, 3, return_sequences=True)),
    "ConvLSTM2D": ((3, 6, 6, 2), lambda: layers.ConvLSTM2D(3, 3)),
    "ConvLSTM3D": ((2, 4, 4, 4, 2), lambda: layers.ConvLSTM3D(3, 2)),
    "LSTMCell": (SEQUENCE, lambda: layers.RNN(layers.LSTMCell(4))),
    "GRUCell": (SEQUENCE, lambda: layers.RNN(layers.GRUCell(4), return_sequences=True)),
    "SimpleRNNCell": (SEQUENCE, lambda: layers.RNN(layers.SimpleRNNCell(4))),
    "StackedRNNCells": (SEQUENCE, lambda: layers.RNN([layers.LSTMCell(4), layers.GRUCell(3)])),
    "old GRU": (SEQUENCE, lambda: layers.GRU(4, reset_after=False, recurrent_activation="hard_sigmoid")),
    "backwards": (SEQUENCE, lambda: layers.GRU(4, go_backwards=True, implementation=1)),
    "LSTM with all": (
        SEQUENCE,
        lambda: layers.LSTM(
            4,
            return_sequences=True,
            unroll=True,
            dropout=0.2,
            kernel_regularizer="l2",
            kernel_constraint="max_norm",
            activity_regularizer="l1",
        ),
    ),
    "Bidirectional": (SEQUENCE, lambda: layers.Bidirectional(layers.LSTM(4, return_sequences=True))),
    "Bidirectional of two": (
        SEQUENCE,
        lambda: layers.Bidirectional(
            layers.GRU(4), merge_mode="sum", backward_layer=layers.GRU(4, go_backwards=True, name="back")
        ),
    ),
    "TimeDistributed": (SEQUENCE, lambda: layers.TimeDistributed(layers.Dense(3, activation="gelu"))),
    "TimeDistributed model": (
        SEQUENCE,
        lambda: layers.TimeDistributed(tf_keras.Sequential([layers.Input((4,)), layers.Dense(4), layers.Dense(4)])),
    ),
    "groups, dilation, relu6": (
        (8, 8, 4),
        lambda: layers.Conv2D(4, 3, groups=2, dilation_rate=2, activation=tf.nn.relu6, padding="same"),
    ),
    "a layer as activation": (IMAGE, lambda: layers.Conv2D(4, 3, activation=layers.LeakyReLU(0.3))),
    "depth multiplier": (IMAGE, lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, strides=2, use_bias=False)),
    "keepdims": (IMAGE, lambda: layers.GlobalAveragePooling2D(keepdims=True)),
    "batch norm of another axis": (IMAGE, lambda: layers.BatchNormalization(axis=1, epsilon=0.01, center=False)),
    "layer norm of two axes": (IMAGE, lambda: layers.LayerNormalization(axis=[2, 3], epsilon=0.01)),
    "Normalization": (IMAGE, lambda: layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[0.5, 0.6, 0.7])),
    "Normalization adapted": (IMAGE, adapted),
    **{f"activation {name}": (SEQUENCE, lambda name=name: layers.Activation(name)) for name in ACTIVATIONS},
}
FEW = (
    "Conv2D",
    "DepthwiseConv2D",
    "old GRU",
    "Bidirectional of two",
    "LeakyReLU",
    "Activation",
    "Normalization adapted",
)
TWO = {
    "Add": {},
    "Subtract": {},
    "Multiply": {},
    "Average": {},
    "Maximum": {},
    "Minimum": {},
    "Concatenate": {"axis": 1},
    "Dot": {"axes": (2, 2)},
    "Attention": {"use_scale": True},
    "AdditiveAttention": {},
}


def draw(*shape):
    return np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")


def randomised(model):
    """Weights and statistics such that equal outputs mean something."""
    rng = np.random.default_rng(0)
    model.set_weights(
        [
            (rng.uniform(0.3, 1, w.shape) if w.ndim == 1 else rng.normal(0, 0.5, w.shape)).astype(w.dtype)
            if w.dtype.kind == "f"
            else w
            for w in model.get_weights()
        ]
    )
    return model


def agrees(source, inputs, folder=None):
    """The Keras 3 model, after a check that it computes what `source` computes."""
    model = legacy.load(source)
    wanted = [np.asarray(y) for y in tf.nest.flatten(source(inputs, training=False))]
    models = [model]
    if folder:
        model.save(folder / "model.keras")
        models.append(keras.models.load_model(folder / "model.keras"))
    for found in models:
        got = tf.nest.flatten(found(inputs, training=False))
        for a, b in zip(got, wanted, strict=True):
            np.testing.assert_allclose(np.asarray(a), b, atol=1e-5)
    # Operators on shapes are gone: a shape is known here.
    kept = {layer.name for layer in source.layers if not layer.name.startswith("tf.")}
    assert kept <= {op.name for op in model.operations}
    return model


def check(name, folder):
    shape, make = LAYERS[name]
    x = layers.Input(shape)
    model = tf_keras.Model(x, make()(x))
    agrees(model if name.startswith("Normalization") else randomised(model), draw(*shape), folder)


@pytest.mark.parametrize("name", FEW)
def test_layer(name, tmp_path):
    check(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(LAYERS) - set(FEW)))
def test_every_layer(name, tmp_path):
    check(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TWO))
def test_layers_of_two_inputs(name, tmp_path):
    a, b = layers.Input(SEQUENCE), layers.Input(SEQUENCE)
    agrees(tf_keras.Model([a, b], getattr(layers, name)(**TWO[name])([a, b])), [draw(*SEQUENCE)] * 2, tmp_path)


def test_multi_head_attention(tmp_path):
    a, b = layers.Input(SEQUENCE), layers.Input((5, 4))
    outputs = layers.MultiHeadAttention(2, 3)(a, b, return_attention_scores=True)
    agrees(randomised(tf_keras.Model([a, b], outputs)), [draw(*SEQUENCE), draw(5, 4)], tmp_path)


def test_masked_embedding(tmp_path):
    x = layers.Input((6,), dtype="int32")
    model = tf_keras.Model(x, layers.LSTM(4)(layers.Embedding(10, 4, mask_zero=True, input_length=6)(x)))
    agrees(randomised(model), np.array([[1, 2, 3, 0, 0, 0], [4, 5, 6, 7, 8, 0]]), tmp_path)


def test_text(tmp_path):
    words = layers.TextVectorization(output_sequence_length=4)
    words.adapt(["a b c", "b c"])
    x = layers.Input((1,), dtype="string")
    agrees(tf_keras.Model(x, words(x)), tf.constant([["a c"], ["z b"]]), tmp_path)
    agrees(tf_keras.Model(x, layers.StringLookup(vocabulary=["a", "b"])(x)), tf.constant([["a"], ["z"]]), tmp_path)


def test_encoder_and_decoder_with_states_and_dicts(tmp_path):
    e, d = layers.Input(SEQUENCE, name="e"), layers.Input(SEQUENCE, name="d")
    _, h, c = layers.LSTM(5, return_state=True, name="encoder")(e)
    y = layers.LSTM(5, return_sequences=True, name="decoder")(d, initial_state=[h, c])
    model = randomised(tf_keras.Model({"e": e, "d": d}, {"y": y, "h": h}))
    agrees(model, {"e": draw(*SEQUENCE), "d": draw(*SEQUENCE) + 1}, tmp_path)


def test_nested_and_shared(tmp_path):
    inner = tf_keras.Sequential(
        [layers.Input((4,)), layers.Dense(4, activation="relu", name="d"), layers.BatchNormalization(name="b")],
        name="inner",
    )
    x = layers.Input((8,))
    two = tf_keras.Model(x, [layers.Dense(2, name="x")(x), layers.Dense(3, name="y")(x)], name="two")
    a, b = layers.Input((4,), name="a"), layers.Input((4,), name="b")
    shared = layers.Dense(4, name="shared")
    joined = layers.Concatenate(name="joined")([inner(shared(a)), inner(shared(b), training=False)])
    model = randomised(tf_keras.Model([a, b], [*two(joined), two(joined)[0]], name="outer"))
    found = agrees(model, [draw(4), draw(4) + 1], tmp_path)
    assert found.get_layer("inner").get_layer("d").name == "d"
    assert found.count_params() == model.count_params()
    assert len(found.get_layer("shared")._inbound_nodes) == 2


def test_operators(tmp_path):
    x = image = layers.Input(IMAGE)
    x = 1.0 - (-tf.nn.relu6(((x + 3.0) * 2.0 - 1.0) / 2)) / 6.0
    x = tf.reshape(x, [tf.shape(x)[0], -1, 3])[:, 1:5]
    x = tf.reduce_mean(tf.transpose(x, [0, 2, 1]), axis=-1, keepdims=True)
    a, b = tf.split(tf.concat([x, x], -1), 2, axis=-1)
    x = tf.clip_by_value(tf.pad(tf.squeeze(a * b, -1), [[0, 0], [1, 1]]), -1.0, 1.0)
    z = tf.stack([x, x], axis=1)
    z = tf.image.resize(tf.expand_dims(tf.matmul(z, z, transpose_b=True), -1), (4, 4))
    z = tf.nn.softmax(tf.unstack(z, axis=1)[0], axis=1) ** 2
    z = (tf.cast(z > 0.05, tf.float32) + tf.math.sqrt(z))[..., 0]
    agrees(tf_keras.Model(image, [z, x]), draw(*IMAGE), tmp_path)
