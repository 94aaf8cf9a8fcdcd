"""A small network, data, and what holds of a pruned model: for the suites of pruning while training."""

import keras
import numpy as np

from tfstruct.schedules import PolynomialRatio

L = keras.layers
NAMES = ("one", "two")


def network(optimizer=None, eager: bool = False, **compiled) -> keras.Model:
    """Two dense layers with kernels of 96 and 48 weights, compiled; always the same."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), L.Dense(12, activation="tanh", name="one"), L.Dense(4, name="two")])
    settings = {"loss": "mse", "jit_compile": False, "run_eagerly": eager, **compiled}
    model.compile(keras.optimizers.Adam(0.05) if optimizer is None else optimizer, **settings)
    return model


def data(count: int = 32) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 8)).astype("float32"), rng.normal(size=(count, 4)).astype("float32")


def fit(model, *callbacks, epochs=2, batch_size=4, **settings):
    """Eight steps an epoch, in order."""
    return model.fit(
        *data(), batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks), **settings
    )


def schedule() -> PolynomialRatio:
    """Ends before two epochs of `fit` do."""
    return PolynomialRatio(0.25, 0.75, 2, 14)


def values(model, names=NAMES) -> list[np.ndarray]:
    return [model.get_layer(name).kernel.numpy() for name in names]


def shares(model, names=NAMES) -> list[float]:
    """The share of zeros in each kernel."""
    return [float((value == 0).mean()) for value in values(model, names)]


def asked(ratio: float) -> list[float]:
    """What `shares` is at a ratio."""
    return [(n - max(round(n * (1 - ratio)), 1)) / n for n in (96, 48)]


class EachStep(keras.callbacks.Callback):
    """`seen`: what a function says of the model after each step."""

    def __init__(self, look):
        super().__init__()
        self.look, self.seen = look, []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(self.look(self.model))
