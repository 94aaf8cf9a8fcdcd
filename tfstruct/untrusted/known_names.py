"""The classes and functions that the description of a model may name: those that only compute.

One list for each loader: Keras 3's, and that of Keras 2 (`tf_keras`), which imports any module that a file names and
takes any name in it. What is not in the list, and was not registered by the user, is never looked up.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tfstruct.keras_internals import keras2 as keras2_internals

# Layers that run code of the file or read files that it names.
_REFUSED = {
    "Lambda",
    "TFSMLayer",
    "GraphLayer",
    "TorchModuleWrapper",
    "JaxLayer",
    "FlaxLayer",
    "Layer",
    "Wrapper",
    "Operation",
    "Function",
}
_NAMESPACES = ("layers", "initializers", "regularizers", "constraints", "losses", "metrics", "optimizers")
_FUNCTIONS = ("activations", "losses", "metrics")
_LOOKUPS = {"get", "serialize", "deserialize"}
# Layers of Keras 2 without a class of that name in Keras 3; `legacy` rebuilds them or says what to do instead.
_KERAS2_LAYERS = {
    "AddLoss",
    "AddMetric",
    "BatchNormalizationV1",
    "BatchNormalizationV2",
    "CuDNNGRU",
    "CuDNNLSTM",
    "Functional",
    "GRUCellV1",
    "GRUCellV2",
    "GRUV1",
    "GRUV2",
    "LSTMCellV1",
    "LSTMCellV2",
    "LSTMV1",
    "LSTMV2",
    "LocallyConnected1D",
    "LocallyConnected2D",
    "Model",
    "RandomHeight",
    "RandomWidth",
    "Sequential",
    "SlicingOpLambda",
    "SyncBatchNormalization",
    "TFOpLambda",
    "ThresholdedReLU",
}
# What TFMOT's wrappers hold; the wrappers themselves are registered while `legacy.tfmot.scope` is open.
_TFMOT = {"ConstantSparsity", "PolynomialDecay"}


class Known(NamedTuple):
    """What a loader may be asked for.

    Attributes:
        classes, functions: pairs of module and name, as the loader writes them.
        names: names of all classes, for files that give no module.
        native: every name that the loader finds by itself, of any kind: what is in here and not allowed is refused even
            where an unknown name would do no harm.
        strings: names of activations, initializers, regularizers and constraints, for arguments that are a string.
        registered: name -> what the user registered for this loader, or None.
    """

    classes: frozenset[tuple[str, str]]
    functions: frozenset[tuple[str, str]]
    names: frozenset[str]
    native: frozenset[str]
    strings: frozenset[str]
    registered: Callable[[Any], Any]


@functools.cache
def keras3() -> Known:
    """What Keras 3 may be asked for."""
    import keras

    from tfstruct.keras_internals import operation_types
    from tfstruct.keras_internals.graph_nodes import Functional

    spaces = {f"keras.{name}": getattr(keras, name) for name in (*_NAMESPACES, "dtype_policies", "quantizers")}
    spaces["keras.optimizers.schedules"] = keras.optimizers.schedules
    pairs = {pair: cls for space, module in spaces.items() for pair, cls in _classes(space, module)}
    pairs.update(_pairs("keras", "Sequential", keras.Sequential))
    pairs.update(_pairs("keras", "Model", keras.Model))
    pairs.update(_pairs("keras.models", "Functional", Functional))
    pairs.update(_pairs("keras.random", "SeedGenerator", keras.random.SeedGenerator))
    for module in operation_types.operation_modules():
        found = _classes(module.__name__, module)
        pairs.update({pair: cls for pair, cls in found if issubclass(cls, keras.Operation)})
    functions = set(_functions(keras, "keras"))
    native = {name for module in (keras.layers, *spaces.values()) for name in dir(module)}
    native |= operation_types.layer_names()
    return Known(
        frozenset(pairs),
        frozenset(functions),
        frozenset(name for _, name in pairs),
        frozenset(native),
        _strings(keras, functions, pairs),
        keras.saving.get_registered_object,
    )


@functools.cache
def keras2() -> Known:
    """What `tf_keras` may be asked for; modules as Keras 2 writes them, `keras.layers`."""
    import tf_keras

    initializers = keras2_internals.every_initializer()
    known_layers = {name for _, name in keras3().classes} | _KERAS2_LAYERS
    layers = {**vars(tf_keras.layers), **keras2_internals.every_layer()}
    pairs = {}
    for name, cls in layers.items():
        if inspect.isclass(cls) and name in known_layers and name not in _REFUSED:
            pairs.update(_pairs("keras.layers", name, cls))
    for name in ("Sequential", "Model"):
        pairs.update(_pairs("keras", name, getattr(tf_keras, name)))
        pairs.update(_pairs("keras.models", name, getattr(tf_keras, name)))
    spaces = {f"keras.{name}": getattr(tf_keras, name) for name in (*_NAMESPACES[1:], "mixed_precision")}
    spaces["keras.optimizers.schedules"] = tf_keras.optimizers.schedules
    spaces["keras.optimizers.legacy"] = tf_keras.optimizers.legacy
    sources = [keras2_internals.defining_module(name) for name in (*_NAMESPACES[1:], *_FUNCTIONS)]
    for space, module in spaces.items():
        pairs.update(_classes(space, module))
    for name, cls in initializers.items():
        if inspect.isclass(cls):
            pairs.update(_pairs("keras.initializers", name, cls))
    wrappers = keras2_internals.defining_module("metrics.base_metric")
    pairs.update(_classes("keras.metrics", wrappers, tf_keras.metrics.Metric))
    functions = set(_functions(tf_keras, "keras"))
    native = {name for module in (*sources, *spaces.values()) for name in vars(module)}
    native |= set(layers) | set(initializers)
    return Known(
        frozenset(pairs),
        frozenset(functions),
        frozenset(name for _, name in pairs) | _TFMOT,
        frozenset(native),
        _strings(tf_keras, functions, pairs),
        tf_keras.saving.get_registered_object,
    )


def normal(module: str) -> str:
    """A module of `tf_keras` as Keras 2 names it."""
    return module.removeprefix("tf_") if module == "tf_keras" or module.startswith("tf_keras.") else module


def _pairs(space: str, name: str, cls: type) -> dict[tuple[str, str], type]:
    """A class by its public name, by the one that its package writes into files, and by where it is defined."""
    written = _written_name(cls) or f"{space}.{name}"
    module, _, own = written.rpartition(".")
    return dict.fromkeys([(space, name), (module, own), (normal(cls.__module__), cls.__name__)], cls)


def _written_name(cls: type) -> str | None:
    if cls.__module__.startswith("tf_keras."):
        return keras2_internals.written_name(cls)
    from tfstruct.keras_internals import operation_types

    return operation_types.written_name(cls)


def _classes(space: str, module, base: type = object) -> Iterator[tuple[tuple[str, str], type]]:
    for name, cls in vars(module).items():
        if not inspect.isclass(cls) or not issubclass(cls, base) or {name, cls.__name__} & _REFUSED:
            continue
        if cls.__module__.split(".")[0] in ("keras", "tf_keras"):  # and none of Python's, of typing for example
            yield from _pairs(space, name, cls).items()


def _functions(package, space: str) -> Iterator[tuple[str, str]]:
    for place in _FUNCTIONS:
        for name, function in vars(getattr(package, place)).items():
            if inspect.isfunction(function) and name not in _LOOKUPS and not name.startswith("_"):
                yield from ((f"{space}.{place}", name), ("builtins", name), (normal(function.__module__), name))


def _strings(package, functions, pairs) -> frozenset[str]:
    homes = (getattr(package, name) for name in ("activations", "initializers", "regularizers", "constraints"))
    public = {name for home in homes for name in dir(home) if not name.startswith("_")}
    return frozenset((public | {name for _, name in (*functions, *pairs)}) - _LOOKUPS)
