"""Layers that do nothing in inference: dropout and noise."""

import keras

from tfstruct.graph.operation_traits import add_row, classes_that, note_traits, traits_of
from tfstruct.graph.rules.elementwise import alone
from tfstruct.graph.rules.registry import note_rule, rule
from tfstruct.graph.traits import Traits

# As a row of the table has it.
_NOISE = Traits(training_only=True, moves="identity", keeps_zero=True, homogeneous=True)


def training_only(*types: type):
    """Registers layers of one input that hand it on as it is in inference, whatever they do in training.

    Channels pass through them, memory is not counted for them, and `surgery` takes them out. What they do in training
    may treat each channel as it likes, but not tie weights to channels; that takes a rule of its own
    (`tfstruct.graph.rule`).

    Args:
        types: the layer classes; none where it is used as a decorator.

    Returns:
        A decorator of a class.

    Example:
        >>> @tfstruct.graph.training_only()
        ... class Jitter(keras.layers.Layer):
        ...     def call(self, x, training=False):
        ...         return x + keras.random.normal(keras.ops.shape(x)) if training else x
        >>> tfstruct.graph.is_training_only(Jitter())
        True
    """

    def register(*kinds: type):
        add_row(kinds, _NOISE)
        rule(*kinds)(alone)
        return kinds[0] if kinds else None

    register(*types)
    return register


def is_training_only(op) -> bool:
    """Whether an operation hands on what it gets in inference, as dropout does: by the table, by `training_only`, or as
    it was seen to.

    Args:
        op: a layer or operation.

    Returns:
        True or False.

    Example:
        >>> tfstruct.graph.is_training_only(keras.layers.Dropout(0.5)), tfstruct.graph.is_training_only(hidden)
        (True, False)
    """
    return traits_of(op).training_only


def note_training_only(layer: keras.layers.Layer) -> None:
    """Registers this layer alone: its class may do otherwise with other arguments."""
    note_traits(layer, _NOISE)
    note_rule(layer, alone)


rule(*classes_that(lambda traits: traits.training_only))(alone)
