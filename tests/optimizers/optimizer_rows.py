"""Every public optimizer as a row: how it is made, and its step in NumPy."""

import keras
import numpy as np

from tfstruct import optimizers
from tfstruct.optimizers import proximal

SGD = keras.optimizers.SGD
RATE = 0.05

# Name -> function of a model (None where only variables are there) and Keras's common options.
ROWS = {
    "Momentum": lambda model=None, **o: optimizers.Momentum(RATE, beta=0.9, **o),
    "gradient descent": lambda model=None, **o: optimizers.Momentum(RATE, beta=0, **o),
    "Adam": lambda model=None, **o: optimizers.Adam(RATE, beta_2=0.99, **o),
    "Adam uncorrected": lambda model=None, **o: optimizers.Adam(RATE, beta_2=0.99, bias_correction=False, **o),
    "ProximalSGD": lambda model=None, **o: optimizers.ProximalSGD(proximal.L1(0.01), RATE, momentum=0.5, **o),
    "ProximalAdam": lambda model=None, **o: optimizers.ProximalAdam(proximal.Filters(0.01), RATE, **o),
    "SharpnessAware": lambda model=None, **o: optimizers.SharpnessAware(SGD(RATE, **o), rho=0.1),
    "Lookahead": lambda model=None, **o: optimizers.Lookahead(SGD(RATE, **o), sync_period=2, slow_step=0.5),
    "GradientCentralization": lambda model=None, **o: optimizers.GradientCentralization(SGD(RATE, **o)),
}
BOUND = {
    "ChannelGroups": lambda model, **o: optimizers.ProximalSGD(
        proximal.ChannelGroups(model, 0.05), RATE, momentum=0.5, **o
    ),
    "StructuredSparse": lambda model, **o: optimizers.StructuredSparse(
        SGD(RATE, momentum=0.5, **o), model, channels=3, warmup_steps=1, pruning_steps=5, periods=2
    ),
}
ALL = {**ROWS, **BOUND}


def _momentum(beta):
    def step(w, g, s, t):
        s["v"] = beta * s.get("v", 0) + (1 - beta) * g
        return w - RATE * s["v"]

    return step


def _adam(corrected, prox=lambda w: w):
    def step(w, g, s, t):
        betas = (0.9, 0.99) if prox(np.ones(1)) == 1 else (0.9, 0.999)
        s["m"] = betas[0] * s.get("m", 0) + (1 - betas[0]) * g
        s["v"] = betas[1] * s.get("v", 0) + (1 - betas[1]) * g**2
        rate = RATE * np.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t) if corrected else RATE
        return prox(w - rate * s["m"] / (np.sqrt(s["v"]) + 1e-7))

    return step


def soft(w, threshold):
    return np.sign(w) * np.maximum(np.abs(w) - threshold, 0)


def filters(w, threshold):
    norm = np.sqrt((w**2).mean(tuple(range(w.ndim - 1))))  # the norm over the root of the number of weights
    return w * np.maximum(0, 1 - threshold / norm)


def _proximal_sgd(w, g, s, t):
    new = soft(w - RATE * g + 0.5 * (w - s.get("before", w)), RATE * 0.01)
    s["before"] = w
    return new


def _lookahead(w, g, s, t):
    slow, w = s.setdefault("slow", w), w - RATE * g
    if t % 2 == 0:
        w = s["slow"] = slow + 0.5 * (w - slow)
    return w


# Name -> (weights, gradient, own state, number of the step) -> weights, for a kernel of rank 2.
BY_HAND = {
    "Momentum": _momentum(0.9),
    "gradient descent": _momentum(0.0),
    "Adam": _adam(True),
    "Adam uncorrected": _adam(False),
    "ProximalSGD": _proximal_sgd,
    "ProximalAdam": _adam(True, lambda w: filters(w, RATE * 0.01)),
    "Lookahead": _lookahead,
    "GradientCentralization": lambda w, g, s, t: w - RATE * (g - g.mean(0)),
}


def options_row(name, **options):
    """The row, with options for the optimizer that owns them."""
    return ALL[name](None, **options)


def descend(optimizer, gradients, variables) -> None:
    """`apply`, for SharpnessAware too, whose second gradient is here the same as the first."""
    if isinstance(optimizer, optimizers.SharpnessAware):
        import tensorflow as tf

        def loss():
            return sum(tf.reduce_sum(tf.convert_to_tensor(g) * v) for g, v in zip(gradients, variables, strict=True))

        optimizer.minimize(loss, variables)
    else:
        optimizer.apply(gradients, variables)
