"""Callbacks that can be pickled and copied, used or not: without the model, and without what belongs to it."""

import copy
from typing import ClassVar

import keras


class Portable(keras.callbacks.Callback):
    """A copy has the settings, the report and all figures, but no model: it is ready for the next `fit`."""

    _blank: ClassVar[dict[str, object]] = {}  # attribute that belongs to a model -> its value without one

    def __getstate__(self) -> dict:
        blank = {"_model": None, **self._blank}
        return {**vars(self), **{name: copy.copy(value) for name, value in blank.items() if name in vars(self)}}
