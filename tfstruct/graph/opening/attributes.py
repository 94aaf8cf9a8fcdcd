"""What a user's `call` notes in its layer while it is recorded or compared is taken back."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import keras

from tfstruct.keras_internals.layer_parts import all_layers
from tfstruct.keras_internals.replacing import remove_untracked, set_untracked


@contextlib.contextmanager
def attributes_kept(model: keras.Model) -> Iterator[None]:
    """Afterwards the attributes of custom layers and models are the objects that they were, and lists, dicts and sets
    among them hold what they held. What these hold in turn is not looked at."""
    before = [(layer, _attributes(layer)) for layer in all_layers(model) if not _is_of_keras(layer)]
    held = [(value, _copy(value)) for _, attributes in before for value in attributes.values()]
    try:
        yield
    finally:
        for layer, attributes in before:
            for name, value in _attributes(layer).items():
                if name not in attributes:
                    remove_untracked(layer, name)
                elif value is not attributes[name]:
                    set_untracked(layer, name, attributes[name])
            for name in attributes.keys() - vars(layer).keys():
                set_untracked(layer, name, attributes[name])
        for value, copy in held:
            if copy is not None and not _same(value, copy):
                value.clear()
                value.extend(copy) if isinstance(value, list) else value.update(copy)


def _attributes(layer: keras.layers.Layer) -> dict[str, Any]:
    return {name: value for name, value in vars(layer).items() if name not in _names_of_keras()}


@functools.cache
def _names_of_keras() -> frozenset[str]:
    """Attributes by which Keras keeps its books of any layer and model."""
    return frozenset(vars(keras.layers.Layer(name="any"))) | frozenset(vars(keras.Model(name="any")))


def _is_of_keras(layer: keras.layers.Layer) -> bool:
    return type(layer).__module__.partition(".")[0] == "keras"


def _copy(value):
    if isinstance(value, list):
        return list(value)
    if isinstance(value, dict):
        return dict(value)
    return set(value) if isinstance(value, set) else None


def _same(value, copy) -> bool:
    if len(value) != len(copy):
        return False
    if isinstance(value, list):
        return all(a is b for a, b in zip(value, copy, strict=True))
    if isinstance(value, dict):
        return all(key in value and value[key] is one for key, one in copy.items())
    return value == copy
