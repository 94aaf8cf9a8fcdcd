"""The states of compressors in Keras's files: written while they are attached, found when a file is loaded."""

import json
import re
import warnings
import weakref

import keras
import numpy as np

from tfstruct.errors import ModelError
from tfstruct.keras_internals.replacing import remove_untracked, set_untracked
from tfstruct.keras_internals.saving import SavedPart

_NAME = "compressor_states"  # the attribute of a model where Keras finds them
State = dict[str, np.ndarray]


class _Loaded(SavedPart):
    """The states that came with a model's file, for compressors that are not attached yet. It is never saved."""

    def __init__(self):
        self.states: dict[int, State] = {}

    def load_own_variables(self, store) -> None:
        try:
            self.states = _read(store)
        except Exception as error:  # The file is a good one for a plain model.
            self.states = {}
            warnings.warn(
                f"The file has states of compressors that cannot be read: {error}. The weights are loaded; what is "
                "attached to them begins anew.",
                stacklevel=2,
            )


class _Held(SavedPart):
    """The states of compressors that are attached, or will be when `fit` begins."""

    name = "compressors"

    def __init__(self):
        self.compressors: list = []

    def save_own_variables(self, store) -> None:
        for i, compressor in enumerate(self.compressors):
            for name, value in compressor._saved_state().items():
                store[f"{i}.{name}"] = value

    def load_own_variables(self, store) -> None:
        states = _read(store)  # without any, it is a file of the plain model
        for i, compressor in enumerate(self.compressors):
            if i not in states:
                continue
            own, kind = type(compressor).__name__, kind_of(states[i])
            if kind != own:
                raise ModelError(
                    f"The file has the state of a {kind} where this training has a {own}. "
                    "Give the callbacks in the same order as when it was written."
                )
            compressor._given(states[i])


class _Place:
    """An attribute of every model, which Keras passes by when it loads one; what a model holds goes before it."""

    def __init__(self):
        self._of: weakref.WeakKeyDictionary[keras.Model, _Loaded] = weakref.WeakKeyDictionary()

    def __get__(self, model, owner=None):
        return self if model is None else self._of.setdefault(model, _Loaded())


_place = _Place()
# Keras asks the attributes of a model that it builds from a file for what they want to read of it.
setattr(keras.Model, _NAME, _place)


def hold(model: keras.Model, compressor) -> None:
    """From now on the compressor's state is saved with the model, and loaded."""
    if _NAME not in vars(model):
        set_untracked(model, _NAME, _Held())
    if compressor not in held(model):
        vars(model)[_NAME].compressors.append(compressor)


def release(model: keras.Model, compressor) -> None:
    """Its state is not saved with the model any more."""
    if compressor in held(model):
        vars(model)[_NAME].compressors.remove(compressor)
        if not held(model):
            remove_untracked(model, _NAME)


def held(model: keras.Model) -> list:
    """The compressors that are held, in order."""
    return vars(model)[_NAME].compressors if _NAME in vars(model) else []


def take(model: keras.Model, kind: str) -> State | None:
    """The first state of a compressor of this kind that came with the model's file, once; None if there is none."""
    states = _place.__get__(model).states
    found = next((i for i, state in sorted(states.items()) if kind_of(state) == kind), None)
    return None if found is None else states.pop(found)


def forget(model: keras.Model) -> None:
    """What came with the model's file is not taken up any more."""
    _place.__get__(model).states = {}


def kind_of(state: State) -> str:
    """The name of the compressor's class."""
    return _text(state, "kind")


def head(kind: str, settings: dict[str, str]) -> State:
    """What a state says of its compressor, as arrays, which files of weights can hold."""
    words = {"kind": kind, "settings": json.dumps(settings)}
    return {name: np.frombuffer(value.encode(), np.uint8) for name, value in words.items()}


def body(state: State) -> State:
    """A state without what `head` gave."""
    return {name: value for name, value in state.items() if name not in ("kind", "settings")}


def described(settings: dict) -> dict[str, str]:
    """Settings as words that can be compared: equal ones are equal in another process too."""
    return {name: _described(value) for name, value in settings.items()}


def differences(state: State, settings: dict[str, str]) -> list[str]:
    """In which settings, as words, a state's compressor differs from one with these."""
    try:
        then = json.loads(_text(state, "settings"))
    except ValueError:
        then = None
    if not isinstance(then, dict):
        return ["settings that cannot be read"]
    # One that only either of them knows is of another version of this package.
    names = [name for name in settings if then.get(name, settings[name]) != settings[name]]
    return [f"{name}={then[name]}, now {settings[name]}" for name in names]


def _described(value) -> str:
    if callable(value) and hasattr(value, "__qualname__"):
        return value.__qualname__
    try:
        said = repr(value)
    except NotImplementedError:  # a schedule of the user's own, without a configuration
        said = type(value).__name__
    return re.sub(r" at 0x[0-9a-fA-F]+", "", said)


def _text(state: State, name: str) -> str:
    return state.get(name, np.zeros(0, np.uint8)).tobytes().decode(errors="replace")


def _read(store) -> dict[int, State]:
    states: dict[int, State] = {}
    for key in store.keys():  # noqa: SIM118 - an h5 store is no mapping
        place, _, name = key.partition(".")
        value = np.asarray(store[key])
        if place.isdecimal() and value.dtype.kind in "biuf":
            states.setdefault(int(place), {})[name] = value
    return states
