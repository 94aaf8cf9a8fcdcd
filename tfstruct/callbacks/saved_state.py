"""A compressor's state in Keras's files: written while it is attached, given back when weights are loaded."""

import functools
import itertools

import keras
import numpy as np
from keras.src.saving.keras_saveable import KerasSaveable

from tfstruct.errors import ModelError

_NAME = "compressor_state_"


class _State(KerasSaveable):
    """The state of a compressor, where Keras finds it when it saves or loads the weights of a model."""

    def __init__(self, compressor):
        self.compressor = compressor

    def _obj_type(self):
        return "Loss"  # the plainest kind that Keras's files know

    @functools.cached_property
    def name(self) -> str:
        return type(self.compressor).__name__

    def save_own_variables(self, store) -> None:
        for name, value in self.compressor._saved_state().items():
            store[name] = value

    def load_own_variables(self, store) -> None:
        stored = {name: np.asarray(store[name]) for name in store.keys()}  # noqa: SIM118 - an h5 store is no mapping
        if not stored:
            return  # a file of the plain model
        kind = stored["kind"].tobytes().decode()
        if kind != self.name:
            raise ModelError(
                f"The file has the state of a {kind} where this training has a {self.name}. "
                "Give the callbacks in the same order as when it was written."
            )
        self.compressor._given(stored)


def hold(model: keras.Model, compressor) -> None:
    """From now on the compressor's state is saved with the model, and loaded."""
    if compressor not in held(model):
        free = next(name for i in itertools.count() if (name := f"{_NAME}{i}") not in vars(model))
        # Not through Keras's own tracking, which would make it a part of the model.
        object.__setattr__(model, free, _State(compressor))


def release(model: keras.Model, compressor) -> None:
    """Its state is not saved with the model any more."""
    for name, value in list(vars(model).items()):
        if isinstance(value, _State) and value.compressor is compressor:
            object.__delattr__(model, name)


def held(model: keras.Model) -> list:
    """The compressors that are held, in order."""
    return [value.compressor for value in vars(model).values() if isinstance(value, _State)]
