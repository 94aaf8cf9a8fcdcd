"""A task that is small: a dense network on 40 random samples, of which none can be held out."""

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
