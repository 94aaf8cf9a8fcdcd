"""Callbacks that can be pickled and copied, used or not: without the model, and without what belongs to it."""

import copy
from typing import ClassVar

import keras

from tfstruct.keras_internals.training import state_without_model


class Portable(keras.callbacks.Callback):
    """A copy has the settings, the report and all figures, but no model: it is ready for the next `fit`."""

    _blank: ClassVar[dict[str, object]] = {}  # attribute that belongs to a model -> its value without one

    def __getstate__(self) -> dict:
        state = state_without_model(self)
        return {**state, **{name: copy.copy(value) for name, value in self._blank.items() if name in state}}
