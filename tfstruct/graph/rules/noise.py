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

    Channels pass through them, memory is not counted for them, and `surgery` takes them out. Returns a decorator::

        @tfstruct.graph.training_only()
        class Jitter(keras.layers.Layer): ...

    or takes the types themselves. What they do in training may treat each channel as it likes, but not tie weights to
    channels; that takes a rule of its own (`tfstruct.graph.rule`).
    """

    def register(*kinds: type):
        add_row(kinds, _NOISE)
        rule(*kinds)(alone)
        return kinds[0] if kinds else None

    register(*types)
    return register


def is_training_only(op) -> bool:
    """Whether the operation is registered so, or computes as a base class that is, or was seen to be so."""
    return traits_of(op).training_only


def note_training_only(layer: keras.layers.Layer) -> None:
    """Registers this layer alone: its class may do otherwise with other arguments."""
    note_traits(layer, _NOISE)
    note_rule(layer, alone)


rule(*classes_that(lambda traits: traits.training_only))(alone)
