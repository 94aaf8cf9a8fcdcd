"""The data and the network behind `tfstruct-convert --demo`."""

import importlib.resources

import numpy as np

# Seven parts in ten train; the rest is looked at once, after everything is fixed.
_TRAIN = 1257


def digits() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """The shipped digits as ((x, y) for training, (x, y) for the test).

    1,797 images of 8x8, float32 in 0..16, shape (n, 8, 8, 1), labels 0..9; shuffled once with a fixed seed.
    """
    source = importlib.resources.files(__name__) / "digits.npz"
    with source.open("rb") as file, np.load(file) as data:
        x, y = data["x"].astype("float32")[..., None], data["y"].astype("int64")
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    return (x[:_TRAIN], y[:_TRAIN]), (x[_TRAIN:], y[_TRAIN:])


def train(x: np.ndarray, y: np.ndarray, epochs: int = 12):
    """Trains a small convolutional network on the digits; some seconds."""
    import keras

    layers = keras.layers
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="digit"),
            layers.Rescaling(1 / 16, name="rescale"),
            layers.Conv2D(16, 3, padding="same", use_bias=False, name="conv1"),
            layers.BatchNormalization(momentum=0.9, name="norm1"),
            layers.ReLU(name="relu1"),
            layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False, name="conv2"),
            layers.BatchNormalization(momentum=0.9, name="norm2"),
            layers.ReLU(name="relu2"),
            layers.Conv2D(32, 3, padding="same", use_bias=False, name="conv3"),
            layers.BatchNormalization(momentum=0.9, name="norm3"),
            layers.ReLU(name="relu3"),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(10, activation="softmax", name="classes"),
        ],
        name="digits",
    )
    return _fit(model, x, y, 3e-3, epochs)


def _fit(model, x, y, rate: float, epochs: int):
    import keras

    steps = epochs * -(-len(x) // 64)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)
    return model
