"""Every public layer of `tfstruct.layers`, as it stands in a small model."""

import keras

from tfstruct.layers import (
    ConcreteDropout,
    DropBlock1D,
    DropBlock2D,
    DropConnect,
    HardConcrete,
    MonteCarloDropout,
    ScheduledDropout,
    StochasticDepth,
    TargetedDropout,
    VariationalDropout,
)

kl = keras.layers


def conv(**settings) -> kl.Layer:
    start = keras.initializers.GlorotUniform(seed=7)  # rows are made before the model's seed is set
    return kl.Conv2D(6, 3, padding="same", kernel_initializer=start, **settings)


def rising():
    return keras.optimizers.schedules.PolynomialDecay(0.0, 10, 0.4)


WRAPPERS = {
    "DropConnect": lambda: DropConnect(conv(), 0.3, seed=1),
    "TargetedDropout": lambda: TargetedDropout(conv(), 0.3, 0.5, seed=1),
    "TargetedDropout of units": lambda: TargetedDropout(conv(), 0.3, 0.5, "unit", seed=1),
    "ConcreteDropout": lambda: ConcreteDropout(conv(), seed=1),
    "VariationalDropout": lambda: VariationalDropout(conv(activation="relu"), 1e-4, seed=1),
}
NOISE = {
    "DropBlock2D": lambda: DropBlock2D(0.2, 3, seed=1),
    "StochasticDepth": lambda: StochasticDepth(0.2, seed=1),
    "ScheduledDropout": lambda: ScheduledDropout(rising(), seed=1),
}
IMAGES = {
    **WRAPPERS,
    **NOISE,
    "HardConcrete": lambda: HardConcrete(1e-3, 0.2, seed=1),
    "MonteCarloDropout": lambda: MonteCarloDropout(0.2, seed=1),
}
# On sequences: (batch, steps, channels).
SEQUENCES = {"DropBlock1D": lambda: DropBlock1D(0.2, 3, seed=1)}
ROWS = {**IMAGES, **SEQUENCES}
