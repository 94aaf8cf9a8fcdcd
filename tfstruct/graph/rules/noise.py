"""Layers that do nothing in inference: dropout and noise."""

import weakref

import keras
from keras import layers

from tfstruct.graph.kinds import kind_of
from tfstruct.graph.rules.elementwise import alone
from tfstruct.graph.rules.registry import note_rule, rule

_TYPES: set[type] = set()
_NOTED: weakref.WeakSet[keras.layers.Layer] = weakref.WeakSet()


def training_only(*types: type):
    """Registers layers of one input that hand it on as it is in inference, whatever they do in training.

    Channels pass through them, memory is not counted for them, and `surgery` takes them out. Returns a decorator::

        @tfstruct.graph.training_only()
        class Jitter(keras.layers.Layer): ...

    or takes the types themselves. What they do in training may treat each channel as it likes, but not tie weights to
    channels; that takes a rule of its own (`tfstruct.graph.rule`).
    """

    def register(*kinds: type):
        _TYPES.update(kinds)
        rule(*kinds)(alone)
        return kinds[0] if kinds else None

    register(*types)
    return register


def is_training_only(op) -> bool:
    """Whether the operation is registered so, or computes as a base class that is, or was seen to be so."""
    return kind_of(op, _TYPES) is not None or op in _NOTED


def note_training_only(layer: keras.layers.Layer) -> None:
    """Registers this layer alone: its class may do otherwise with other arguments."""
    _NOTED.add(layer)
    note_rule(layer, alone)


training_only(
    layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D, layers.AlphaDropout,
    layers.GaussianDropout, layers.GaussianNoise,
)  # fmt: skip
