"""Models of whole sequences that can stream, with weights that nothing makes equal by luck."""

import keras
import numpy as np
from keras import layers


def shaken(model: keras.Model, seed: int = 0) -> keras.Model:
    """Biases and batch norms that are not those of a new model."""
    rng = np.random.default_rng(seed)
    for w in model.weights:
        if w.path.endswith("moving_variance"):
            w.assign(rng.uniform(0.5, 2.0, w.shape))
        elif len(w.shape) == 1:
            w.assign(rng.normal(size=w.shape) * 0.3 + (1.0 if w.path.endswith("gamma") else 0.0))
    return model


def sequences(count: int, frames: int, *features: int, seed: int = 1) -> np.ndarray:
    """Series whose neighbouring frames are alike."""
    x = np.random.default_rng(seed).normal(size=(count, frames, *features)).astype("float32")
    for t in range(1, frames):
        x[:, t] = 0.8 * x[:, t - 1] + 0.6 * x[:, t]
    return x


def ds_cnn(padding: str = "same", frames: int = 49, width: int = 16) -> keras.Model:
    """The keyword spotter of MLPerf Tiny, narrower: 49 frames of 10 features, every second one."""
    x = sound = keras.Input((frames, 10, 1), name="sound")
    x = layers.Conv2D(width, (10, 4), strides=(2, 2), padding=padding, name="stem")(x)
    x = layers.ReLU()(layers.BatchNormalization(name="stem_norm")(x))
    for i in range(4):
        # Features stay padded: 5 of them do not last for four kernels.
        if padding == "valid":
            x = layers.ZeroPadding2D(((0, 0), (1, 1)))(x)
        x = layers.DepthwiseConv2D(3, padding=padding, name=f"depthwise{i}")(x)
        x = layers.ReLU()(layers.BatchNormalization(name=f"depthwise_norm{i}")(x))
        x = layers.Conv2D(width, 1, padding=padding, name=f"pointwise{i}")(x)
        x = layers.ReLU()(layers.BatchNormalization(name=f"pointwise_norm{i}")(x))
    x = layers.AveragePooling2D((x.shape[1], x.shape[2]), name="pool")(layers.Dropout(0.4)(x))
    words = layers.Dense(12, activation="softmax", name="words")(layers.Flatten()(x))
    return shaken(keras.Model(sound, words, name="ds_cnn"))


def tcn(frames: int | None = None) -> keras.Model:
    """Dilated causal convolutions with residuals."""
    x = series = keras.Input((frames, 6), name="series")
    x = layers.Conv1D(16, 1, name="widen")(x)
    for i in range(4):
        y = layers.Conv1D(16, 3, padding="causal", dilation_rate=2**i, activation="relu", name=f"conv{i}a")(x)
        y = layers.Conv1D(16, 3, padding="causal", dilation_rate=2**i, activation="relu", name=f"conv{i}b")(y)
        x = layers.Add(name=f"join{i}")([x, y])
    return shaken(keras.Model(series, layers.Dense(3, name="next")(x), name="tcn"))


def recurrent(kind: str, head: str | None = None, slow: bool = False) -> keras.Model:
    """Two recurrent layers of a kind; slow ones keep most of their state from frame to frame."""
    x = series = keras.Input((None, 8), name="series")
    for name, units in (("first", 16), ("second", 12)):
        x = getattr(layers, kind)(units, return_sequences=True, name=name)(x)
    model = shaken(keras.Model(series, layers.Dense(4, activation=head, name="classes")(x)))
    for layer in model.layers[1:3] if slow else ():
        bias = layer.cell.bias.numpy()
        gate = {"GRU": (0, slice(0, layer.units)), "LSTM": slice(layer.units, 2 * layer.units)}[kind]
        bias[gate] += 3
        layer.cell.bias.assign(bias)
    return model


def gru(frames: int | None = None, sequences: bool = False) -> keras.Model:
    """Two recurrent layers."""
    x = series = keras.Input((frames, 8), name="series")
    x = layers.GRU(16, return_sequences=True, name="first")(x)
    x = layers.GRU(12, return_sequences=sequences, name="second")(x)
    return shaken(keras.Model(series, layers.Dense(4, activation="softmax", name="classes")(x), name="gru"))
