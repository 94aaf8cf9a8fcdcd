"""Small ones: a task of 40 random samples, of which none can be held out; a residual network, and points to learn."""

import keras
import numpy as np

from tfstruct.compression import Settings, Task

layers = keras.layers


def dense_task(process) -> Task:
    """60 % of the MACs, nothing trained. To be closed."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    x = layers.Dense(16, activation="relu", name="hidden")(inputs)
    model = keras.Model(inputs, layers.Dense(3, activation="softmax", name="classes")(x))
    rng = np.random.default_rng(0)
    data = rng.normal(size=(40, 6)).astype("float32"), rng.integers(0, 3, 40)
    return Task(model, data, data, "macs=60%", settings=Settings(epochs=0), process=process)


def points(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Around four centres, and which."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, count)
    return (np.eye(4, 12)[y] * 3 + rng.normal(size=(count, 12))).astype("float32"), y


def residual_network() -> keras.Model:
    """Of dense layers, trained on such points for a moment."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12,))
    x = layers.Dense(16, activation="relu", name="stem")(inputs)
    y = layers.Dense(16, name="back")(layers.Dense(32, activation="relu", name="inner")(x))
    x = layers.Add(name="join")([x, y])
    model = keras.Model(inputs, layers.Dense(4, activation="softmax", name="classes")(x), name="small")
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    model.fit(*points(256, 0), epochs=5, batch_size=32, verbose=0)
    return model
