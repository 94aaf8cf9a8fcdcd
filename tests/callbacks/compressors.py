"""Every compressor as a row, on the small network."""

import keras
import numpy as np
from small import L

from tfstruct.callbacks import Cluster, Prune, PruneChannels, QuantizeAware
from tfstruct.distill import Distill
from tfstruct.schedules import PolynomialRatio

# Name -> a new one, which is in the middle of its work after one epoch of `fit` of eight steps.
COMPRESSORS = {
    "Prune": lambda: Prune(PolynomialRatio(0.0, 0.75, 0, 14), frequency=2),
    "Prune movement": lambda: Prune(PolynomialRatio(0.0, 0.75, 2, 14), criterion="movement", frequency=2),
    "PruneChannels": lambda: PruneChannels({"macs": 0.5}, PolynomialRatio(0.0, 0.5, 0, 14), frequency=2),
    "QuantizeAware": lambda: QuantizeAware(),
    "Cluster": lambda: Cluster(4),
    "Distill": lambda: Distill(),
}


def relu_network(optimizer=None, **compiled) -> keras.Model:
    """As `small.network`, with an activation whose channels can go."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), L.Dense(12, activation="relu", name="one"), L.Dense(4, name="two")])
    settings = {"loss": "mse", "jit_compile": False, **compiled}
    model.compile(keras.optimizers.Adam(0.05) if optimizer is None else optimizer, **settings)
    return model


def is_plain(model) -> bool:
    """Nothing of ours is left on the model."""
    ours = [name for name in vars(model) if name.startswith("compressor_state")]
    ours += [name for name in ("call", "compute_loss", "compute_metrics") if name in vars(model)]
    return (
        not ours
        and all(v.constraint is None for v in model.weights)
        and not any(type(v.regularizer).__module__.startswith("tfstruct") for v in model.weights)
    )


def figures(model) -> list[tuple[int, int]]:
    """By kernel, its zeros and distinct values."""
    kernels = [model.get_layer(name).kernel.numpy() for name in ("one", "two")]
    return [(int((w == 0).sum()), len(np.unique(w))) for w in kernels]
