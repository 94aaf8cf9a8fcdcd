"""Public calls with arguments that they take: a row each, of the rooms in `ROOMS`; a new public name there adds one.

`GOOD` maps "room.name" to what makes the arguments; what is left out has a default. `USES` says what is done with what
a class made, where it looks at its arguments only then.
"""

import importlib
import inspect
import os
import tempfile
from collections.abc import Callable

import keras
import numpy as np

L = keras.layers
ROOMS = ("augment", "regularizers", "samples", "schedules")
X = np.random.default_rng(0).normal(size=(24, 8)).astype("float32")

# What calls hand back and only they make, and what programs subclass: no user fills in their arguments.
MADE_BY_CALLS = {
    "augment": set(),
    "regularizers": set(),
    "samples": {"Batch", "Sample", "Samples"},
    "schedules": {"RatioSchedule"},
}


def public(room: str) -> dict[str, Callable]:
    """The functions and classes of a room that are ours."""
    module = importlib.import_module(f"tfstruct.{room}")
    every = {name: getattr(module, name) for name in module.__all__}
    return {
        name: value
        for name, value in every.items()
        if callable(value) and value.__module__.startswith("tfstruct") and name not in MADE_BY_CALLS[room]
    }


def names() -> list[str]:
    return [f"{room}.{name}" for room in ROOMS for name in public(room)]


def arguments(name: str) -> list[str]:
    """The arguments of a public call that have a name."""
    room, _, own = name.partition(".")
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in inspect.signature(public(room)[own]).parameters.values() if p.kind not in kinds]


def dense() -> keras.Model:
    keras.utils.set_random_seed(0)
    x = keras.Input((8,), name="x")
    return keras.Model(x, L.Dense(2, name="head")(L.Dense(8, "relu", name="hidden")(x)), name="dense")


def _regularized() -> keras.Model:
    from tfstruct import regularizers

    model = dense()
    regularizers.apply(model, regularizers.GroupLasso())
    return model


def _penalty():
    from tfstruct.regularizers import GroupLasso

    return GroupLasso()


def _decay():
    from tfstruct.schedules import LinearDecay

    return LinearDecay(**SLOPE)


def _spec():
    from tfstruct.samples import TensorSpec

    return TensorSpec("x", (8,), "float32")


def _picture() -> str:
    return os.path.join(tempfile.mkdtemp(prefix="tfstruct-test-"), "p.svg")


SLOPE = {"initial_learning_rate": 0.1, "decay_steps": 10}
PLATEAU = {"learning_rate": 0.1, "warmup_steps": 2, "stable_steps": 2, "decay_steps": 2}
CURVE = {"initial": 0.0, "final": 0.5, "begin": 0, "end": 10}

GOOD: dict[str, Callable[[], dict]] = {
    "augment.Choice": lambda: {"changes": [L.RandomFlip()]},
    "augment.Draws": lambda: {"seed": 0},
    "augment.Mix": lambda: {"classes": 2},
    "augment.Pipeline": lambda: {"changes": [L.RandomFlip()]},
    "augment.audio": dict,
    "augment.images": lambda: {"classes": 2},
    "augment.sequences": dict,
    "augment.spectrograms": dict,
    "augment.text": lambda: {"unknown": 1},
    "regularizers.GroupLasso": dict,
    "regularizers.BatchNormScale": dict,
    "regularizers.HoyerSquare": dict,
    "regularizers.Entropy": dict,
    "regularizers.Orthogonal": dict,
    "regularizers.apply": lambda: {"model": dense(), "regularizer": _penalty()},
    "regularizers.remove": lambda: {"model": _regularized()},
    "samples.Preprocess": dict,
    "samples.TensorSpec": lambda: {"name": "x", "shape": (8,), "dtype": "float32"},
    "samples.open_samples": lambda: {"source": X, "inputs": (_spec(),)},
    "samples.require_numbers": lambda: {"inputs": (_spec(),)},
    "schedules.ConstantRatio": lambda: {"ratio": 0.5},
    "schedules.OneShot": lambda: {"ratio": 0.5},
    "schedules.PolynomialRatio": lambda: CURVE,
    "schedules.CosineRatio": lambda: CURVE,
    "schedules.Iterative": lambda: {"final": 0.5, "rounds": 2, "recover": 2},
    "schedules.AutomaticRatio": lambda: {"final": 0.5, "begin": 0, "end": 10},
    "schedules.StepDecay": lambda: {"initial_learning_rate": 0.1, "steps": [3]},
    "schedules.LinearDecay": lambda: SLOPE,
    "schedules.WarmupStableDecay": lambda: PLATEAU,
    "schedules.OneCycle": lambda: {"max_learning_rate": 0.1, "steps": 10},
    "schedules.Cyclical": lambda: {"low": 0.1, "high": 0.2, "half_cycle": 5},
    "schedules.Warmup": lambda: {"schedule": 0.1, "steps": 5},
    "schedules.Sequence": lambda: {"schedules": [0.1, 0.2], "boundaries": [5]},
    "schedules.plot": lambda: {"schedule": _decay(), "steps": 5, "path": _picture()},
}


def _scheduled(schedule) -> None:
    for step in (0, 1, 5, 100):
        float(schedule(step)) if callable(schedule) else None


def _penalized(regularizer) -> None:
    if isinstance(regularizer, keras.Regularizer):
        shape = (4,) if type(regularizer).__name__ == "BatchNormScale" else (3, 4)
        float(regularizer(keras.ops.ones(shape)))


USES: dict[str, Callable] = {"schedules": _scheduled, "regularizers": _penalized, "samples.open_samples": list}


def call(name: str, given: dict):
    """Calls it and uses what it makes."""
    room, _, own = name.partition(".")
    what = public(room)[own]
    made = what(**given)
    use = USES.get(name, USES.get(room) if inspect.isclass(what) else None)
    if use is not None:
        use(made)
    return made
