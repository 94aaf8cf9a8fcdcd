"""Models of whole sequences that can stream: convolutions and what computes each frame alone, by name."""

import keras
from keras import layers, ops

FRAMES = {}


def case(make):
    FRAMES[make.__name__] = make
    return make


@case
def same1d():
    x = i = keras.Input((None, 6))
    x = layers.Conv1D(8, 5, padding="same", activation="tanh")(x)
    y = layers.Conv1D(8, 3, padding="same")(x)
    x = layers.Add()([x, y])
    x = layers.BatchNormalization()(x)
    return keras.Model(i, layers.Conv1D(4, 4, padding="same")(x))


@case
def strided():
    x = i = keras.Input((40, 6))
    x = layers.Conv1D(8, 5, strides=2, padding="same", activation="relu")(x)
    x = layers.Conv1D(8, 3, strides=2, padding="same", activation="relu")(x)
    return keras.Model(i, x)


@case
def strided_causal_open():
    x = i = keras.Input((None, 6))
    x = layers.Conv1D(8, 5, strides=2, padding="causal", activation="relu")(x)
    x = layers.Conv1D(8, 3, strides=3, padding="causal", activation="relu")(x)
    return keras.Model(i, x)


@case
def unet():
    x = i = keras.Input((None, 6))
    a = layers.Conv1D(8, 3, padding="causal", activation="relu")(x)
    b = layers.MaxPooling1D(2)(a)
    b = layers.Conv1D(8, 3, padding="same", activation="relu")(b)
    b = layers.UpSampling1D(2)(b)
    x = layers.Concatenate()([a, b])
    return keras.Model(i, layers.Conv1D(3, 3, padding="same")(x))


@case
def unet_transposed():
    x = i = keras.Input((None, 6))
    a = layers.Conv1D(8, 4, strides=2, padding="same", activation="relu")(x)
    b = layers.Conv1D(8, 4, strides=2, padding="same", activation="relu")(a)
    b = layers.Conv1DTranspose(8, 4, strides=2, padding="same", activation="relu")(b)
    x = layers.Concatenate()([a, b])
    return keras.Model(i, layers.Conv1DTranspose(3, 5, strides=2, padding="same")(x))


@case
def transposed_valid_fixed():
    x = i = keras.Input((20, 6))
    return keras.Model(i, layers.Conv1DTranspose(3, 5, strides=3, padding="valid")(x))


@case
def separable():
    x = i = keras.Input((None, 6))
    x = layers.SeparableConv1D(8, 3, padding="same", activation="relu")(x)
    x = layers.ZeroPadding1D((4, 0))(x)
    x = layers.DepthwiseConv1D(5)(x)
    return keras.Model(i, x)


@case
def zp_bn():
    x = i = keras.Input((None, 6))
    x = layers.ZeroPadding1D((4, 0))(x)
    x = layers.BatchNormalization()(x)
    x = layers.Conv1D(5, 5, activation="relu")(x)
    x = layers.ZeroPadding1D((2, 0))(x)
    return keras.Model(i, layers.Conv1D(5, 3)(x))


@case
def cropping():
    x = i = keras.Input((None, 6))
    y = layers.Conv1D(6, 5)(x)
    x = layers.Cropping1D((2, 2))(x)
    return keras.Model(i, layers.Add()([x, y]))


@case
def conv2d_same_pool():
    x = i = keras.Input((40, 16, 1))
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Conv2D(4, 3, padding="same")(x)
    x = layers.MaxPooling2D((2, 2), padding="same")(x)
    x = layers.Reshape((x.shape[1], -1))(x)
    x = layers.GRU(7, return_sequences=True)(x)
    return keras.Model(i, layers.TimeDistributed(layers.Dense(3))(x))


@case
def pool_stride1():
    x = i = keras.Input((None, 6))
    x = layers.AveragePooling1D(3, 1)(x)
    x = layers.MaxPooling1D(4, 2)(x)
    return keras.Model(i, x)


@case
def two_inputs_rates():
    a = keras.Input((40, 6), name="a")
    b = keras.Input((10, 3), name="b")
    x = layers.AveragePooling1D(4)(layers.Conv1D(4, 3, padding="same")(a))
    return keras.Model([a, b], layers.Dense(2)(layers.Concatenate()([x, layers.Conv1D(3, 3, padding="causal")(b)])))


@case
def nested():
    j = keras.Input((None, 6))
    b = keras.Model(
        j, layers.Add()([j, layers.Conv1D(6, 3, padding="same", activation="relu", name="c")(j)]), name="block"
    )
    k = keras.Input((None, 6))
    b2 = keras.Model(
        k, layers.Add()([k, layers.Conv1D(6, 3, padding="causal", activation="relu", name="c")(k)]), name="block2"
    )
    x = i = keras.Input((None, 6))
    x = b(x)
    x = b2(x)
    x = b(x)
    return keras.Model(i, x)


@case
def sequential():
    return keras.Sequential(
        [
            keras.Input((None, 6)),
            layers.Conv1D(5, 3, padding="causal", activation="relu"),
            layers.LayerNormalization(),
            layers.Dense(3),
        ]
    )


@case
def shared():
    x = i = keras.Input((None, 6))
    c = layers.Conv1D(6, 3, padding="causal", activation="relu")
    return keras.Model(i, c(c(x)))


@case
def wavenet():
    x = i = keras.Input((None, 6))
    x = layers.Conv1D(8, 1)(x)
    skips = []
    for k in range(4):
        t = layers.Conv1D(8, 2, dilation_rate=2**k, padding="causal", activation="tanh")(x)
        s = layers.Conv1D(8, 2, dilation_rate=2**k, padding="causal", activation="sigmoid")(x)
        z = layers.Multiply()([t, s])
        skips.append(layers.Conv1D(4, 1)(z))
        x = layers.Add()([x, layers.Conv1D(8, 1)(z)])
    return keras.Model(i, layers.Conv1D(3, 1)(layers.ReLU()(layers.Add()(skips))))


@case
def permuted():
    x = i = keras.Input((None, 6))
    x = layers.Conv1D(8, 3, padding="causal")(x)
    x = layers.Reshape((-1, 4, 2))(x)
    x = layers.Conv2D(3, (3, 2), padding="same")(x)
    x = layers.Permute((2, 1, 3))(x)
    x = layers.LayerNormalization()(x)
    x = layers.Permute((2, 1, 3))(x)
    return keras.Model(i, x)


@case
def dilated_same():
    x = i = keras.Input((None, 6))
    x = layers.Conv1D(8, 3, padding="same", dilation_rate=3)(x)
    return keras.Model(i, layers.Conv1D(8, 3, padding="same", dilation_rate=2)(x))


@case
def stack_frames():
    x = i = keras.Input((24, 8))
    x = layers.Conv1D(8, 3, padding="same")(x)
    x = layers.Reshape((8, 24))(x)
    x = layers.Conv1D(8, 3, padding="causal")(x)
    return keras.Model(i, layers.Dense(3)(x))


@case
def groupconv_rescaling():
    x = i = keras.Input((None, 6))
    x = layers.Rescaling(0.5, 1.0)(x)
    x = layers.Conv1D(6, 3, groups=3, padding="causal")(x)
    x = layers.PReLU(shared_axes=[1])(x)
    x = layers.Dropout(0.3)(x)
    x = layers.SpatialDropout1D(0.2)(x)
    x = layers.Activation("gelu")(x)
    return keras.Model(i, x)


class Block(keras.layers.Layer):
    def __init__(s, **k):
        super().__init__(**k)
        s.c = layers.Conv1D(6, 3, padding="causal")
        s.n = layers.LayerNormalization()

    def call(s, x):
        return x + ops.relu(s.n(s.c(x)))


@case
def custom():
    x = i = keras.Input((24, 6))
    x = Block()(x)
    return keras.Model(i, Block()(x))


@case
def features_only():
    x = i = keras.Input((None, 6))
    return keras.Model(i, layers.Dense(3)(ops.concatenate([x, x**2], -1)))


@case
def glu_split():
    x = i = keras.Input((None, 6))
    x = layers.Conv1D(8, 3, padding="causal")(x)
    a, b = ops.split(x, 2, axis=-1)
    return keras.Model(i, a * ops.sigmoid(b))


@case
def roll_hop():
    x = i = keras.Input((None, 6))
    x = layers.AveragePooling1D(3)(x)
    x = layers.Conv1D(5, 2, padding="same")(x)
    x = layers.AveragePooling1D(2, padding="same")(x)
    return keras.Model(i, x)


@case
def raw_open():
    x = i = keras.Input((None,))
    x = ops.expand_dims(x, -1)
    x = layers.Conv1D(8, 40, strides=16, activation="relu")(x)
    x = layers.GRU(8, return_sequences=True)(x)
    return keras.Model(i, layers.Dense(3)(x))


@case
def input_is_output():
    x = i = keras.Input((None, 6))
    return keras.Model(i, [x, layers.Conv1D(3, 3)(x)])


@case
def stem_time_last():
    x = i = keras.Input((6, None))
    x = layers.Permute((2, 1))(x)
    x = layers.Conv1D(3, 3)(x)
    return keras.Model(i, layers.Permute((2, 1))(x))
