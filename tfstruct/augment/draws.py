"""Random numbers that depend on one seed alone, and changes made with them."""

import contextlib
from collections.abc import Callable, Mapping
from typing import TypeAlias, TypeVar

import keras
import tensorflow as tf

from tfstruct.arguments import require_one_of
from tfstruct.keras_internals.layer_parts import all_layers
from tfstruct.keras_internals.replacing import replaced_attributes

# What is done to a batch of values: a function of them and of draws, or a layer of Keras.
Change: TypeAlias = Callable[[tf.Tensor, "Draws"], tf.Tensor] | keras.layers.Layer
Preset = TypeVar("Preset")


class Draws(keras.random.SeedGenerator):
    """Seeds made from one seed, one after the other.

    Stands in for a `SeedGenerator` in `keras.random` and in Keras's layers. Those keep the state of their draws in a
    variable, so that batches handled in parallel get draws in any order; this has none.
    """

    def __init__(self, seed):
        self._seed, self._count = seed, 0  # and no variable, which the base class makes

    def next(self, ordered: bool = True):
        self._count += 1
        return tf.random.experimental.stateless_fold_in(self._seed, self._count)

    def uniform(self, shape, low=0.0, high=1.0):
        return keras.random.uniform(shape, low, high, dtype="float32", seed=self)

    def normal(self, shape, mean=0.0, deviation=1.0):
        return keras.random.normal(shape, mean, deviation, dtype="float32", seed=self)

    def integers(self, shape, low: int, high):
        """From `low` to `high`, both included; `high` may be a tensor."""
        span = tf.cast(high - low + 1, tf.float32)
        return low + tf.cast(tf.minimum(tf.floor(self.uniform(shape) * span), span - 1), tf.int32)


def changed(change: Change, x, draws: Draws):
    """The values after a change; a layer draws from `draws`."""
    if not isinstance(change, keras.layers.Layer):
        return change(x, draws)
    with contextlib.ExitStack() as stack:
        for layer in all_layers(change):
            own = [name for name in ("generator", "seed_generator") if hasattr(layer, name)]
            stack.enter_context(replaced_attributes(layer, **dict.fromkeys(own, draws)))
        return change(x, training=True)


def settings(presets: Mapping[str, Preset], strength: str) -> Preset:
    return presets[require_one_of("strength", strength, presets)]
