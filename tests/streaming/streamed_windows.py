"""Models of whole sequences that can stream: what looks at windows or remembers, by name."""

import keras
from keras import layers, ops

WINDOWS = {}


def case(make):
    WINDOWS[make.__name__] = make
    return make


@case
def crnn_last():
    x = i = keras.Input((40, 16, 1))
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    x = layers.MaxPooling2D((2, 2))(x)
    x = layers.TimeDistributed(layers.Flatten())(x)
    x = layers.LSTM(7, return_sequences=True)(x)
    x = layers.LSTM(5)(x)
    return keras.Model(i, layers.Dense(3)(x))


@case
def flatten():
    x = i = keras.Input((12, 6))
    x = layers.Conv1D(4, 3)(x)
    x = layers.Flatten()(x)
    return keras.Model(i, layers.Dense(3)(layers.Dense(5, "relu")(x)))


@case
def flatten_strided():
    x = i = keras.Input((33, 6))
    x = layers.Conv1D(4, 3, strides=2)(x)
    x = layers.Conv1D(4, 3, strides=2)(x)
    x = layers.Flatten()(x)
    return keras.Model(i, layers.Dense(3)(layers.Dense(5, "relu")(x)))


@case
def two_branches():
    x = i = keras.Input((20, 6))
    a = layers.GlobalAveragePooling1D()(layers.Conv1D(4, 3)(x))
    b = layers.GlobalMaxPooling1D()(layers.Conv1D(4, 5, padding="same")(x))
    return keras.Model(i, layers.Dense(3)(layers.Concatenate()([a, b])))


@case
def se_block():
    x = i = keras.Input((20, 6))
    x = layers.Conv1D(8, 3, padding="same")(x)
    s = layers.GlobalAveragePooling1D(keepdims=True)(x)
    s = layers.Dense(8, "sigmoid")(s)
    x = layers.Multiply()([x, s])
    return keras.Model(i, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))


@case
def rnn_and_window():
    x = i = keras.Input((20, 6))
    a = layers.GRU(5)(x)
    b = layers.GlobalAveragePooling1D()(layers.Conv1D(4, 3, padding="same")(x))
    return keras.Model(i, layers.Concatenate()([a, b]))


@case
def cumulative():
    x = i = keras.Input((None, 6))
    x = layers.Conv1D(4, 5, padding="same")(x)
    return keras.Model(i, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))


@case
def ops_mean():
    x = i = keras.Input((20, 6))
    x = layers.Conv1D(4, 3)(x)
    return keras.Model(i, layers.Dense(2)(ops.mean(x, axis=1)))


@case
def ops_std():
    x = i = keras.Input((20, 6))
    x = layers.Conv1D(4, 3)(x)
    m = ops.mean(x, axis=1, keepdims=True)
    v = ops.mean((x - m) ** 2, axis=1)
    return keras.Model(i, layers.Dense(2)(ops.sqrt(v + 1e-3)))


@case
def last_frame():
    x = i = keras.Input((None, 6))
    x = layers.Conv1D(4, 3, padding="causal")(x)
    return keras.Model(i, layers.Dense(2)(x[:, -1]))


@case
def lags_rnn():
    x = i = keras.Input((None, 6))
    x = layers.Conv1D(4, 5, padding="same")(x)
    x = layers.SimpleRNN(5, return_sequences=True)(x)
    return keras.Model(i, x)


@case
def rnn_cells():
    x = i = keras.Input((None, 6))
    x = layers.RNN([layers.GRUCell(4), layers.LSTMCell(3)], return_sequences=True)(x)
    return keras.Model(i, layers.RNN(layers.SimpleRNNCell(4))(x))


@case
def convlstm():
    x = i = keras.Input((9, 6, 6, 2))
    x = layers.ConvLSTM2D(3, 3, padding="same", return_sequences=True)(x)
    return keras.Model(i, x)


@case
def convlstm1d():
    x = i = keras.Input((9, 6, 2))
    x = layers.ConvLSTM1D(3, 3, padding="same", return_sequences=False)(x)
    return keras.Model(i, x)


@case
def embedding():
    x = i = keras.Input((None,), dtype="int32")
    x = layers.Embedding(20, 5)(x)
    x = layers.Conv1D(4, 3, padding="causal")(x)
    x = layers.GRU(4, return_sequences=True)(x)
    return keras.Model(i, x)


@case
def conditioned():
    x = i = keras.Input((None, 6))
    c = keras.Input((3,), name="who")
    h = layers.Dense(6)(c)
    x = layers.Conv1D(6, 3, padding="same")(x)
    x = x * layers.Reshape((1, 6))(h)
    return keras.Model([i, c], layers.Dense(2)(x))


@case
def several_outputs():
    x = i = keras.Input((20, 6))
    x = layers.Conv1D(5, 3, padding="same")(x)
    a = layers.Dense(3, name="a")(x)
    b = layers.Dense(2, name="b")(layers.GlobalAveragePooling1D()(x))
    return keras.Model(i, {"frames": a, "word": b})


@case
def attention_window():
    x = i = keras.Input((16, 8))
    x = layers.Conv1D(8, 3, padding="causal")(x)
    y = layers.MultiHeadAttention(2, 4, name="mha")(x, x)
    x = layers.LayerNormalization()(x + y)
    return keras.Model(i, layers.Dense(3)(x))


@case
def bidi_window():
    x = i = keras.Input((16, 8))
    x = layers.Conv1D(8, 3)(x)
    x = layers.Bidirectional(layers.GRU(3), name="bi")(x)
    return keras.Model(i, layers.Dense(3)(x))


@case
def conv3d():
    x = i = keras.Input((12, 6, 6, 2))
    x = layers.Conv3D(3, 3, padding="same", activation="relu")(x)
    x = layers.MaxPooling3D((1, 2, 2))(x)
    x = layers.GlobalAveragePooling3D()(x)
    return keras.Model(i, x)


@case
def lstm_states():
    x = i = keras.Input((None, 6))
    y, h, _ = layers.LSTM(4, return_state=True, return_sequences=True)(x)
    return keras.Model(i, [y, h])


@case
def spectrogram():
    x = i = keras.Input((16, None, 1))
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    x = layers.MaxPooling2D((2, 1))(x)
    x = layers.Permute((2, 1, 3))(x)
    x = layers.Reshape((-1, 32))(x)
    return keras.Model(i, layers.GRU(5)(x))


@case
def raw_audio():
    x = i = keras.Input((3200,))
    x = layers.Reshape((3200, 1))(x)
    x = layers.Conv1D(8, 400, strides=160, activation="relu")(x)
    x = layers.Conv1D(8, 3, padding="causal")(x)
    return keras.Model(i, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


@case
def window_open():
    x = i = keras.Input((None, 6))
    x = layers.Conv1D(8, 3, strides=2, padding="same")(x)
    return keras.Model(i, layers.Dense(3)(layers.GlobalMaxPooling1D()(x)))


ARGUMENTS = {
    "spectrogram": dict(time_axis=2),
    "stem_time_last": dict(time_axis=2),
    "window_open": dict(window=20),
    "attention_window": dict(windows=["mha"]),
    "bidi_window": dict(windows=["bi"]),
}
