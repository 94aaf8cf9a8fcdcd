"""The classes behind `keras.ops`, and of layers without a public name; where Keras defines its functions."""

import functools
import importlib
import pkgutil
from types import ModuleType

import keras
import keras.src.layers
import keras.src.ops
from keras.src import api_export, backend
from keras.src.activations import activations
from keras.src.applications import convnext, inception_resnet_v2
from keras.src.ops import core, einops, image, linalg, math, nn, numpy

_HOMES = (numpy, nn, core, image, linalg, math, einops, activations)
# The layers that `keras.applications` define for themselves.
StochasticDepth, LayerScale = convnext.StochasticDepth, convnext.LayerScale
ScaledSum = inception_resnet_v2.CustomScaleLayer
# Where `keras.ops` look up their functions when they run: from Keras 3.16 on below `backend.ops`.
BACKEND_FUNCTIONS: ModuleType = getattr(backend, "ops", backend).numpy


def operations(names: str) -> list[type[keras.Operation]]:
    """The operations of these names, such as `"Add Relu"`, parted by spaces, as far as this Keras has them.

    A node of a functional model holds an object of such a class where a function of `keras.ops` or an operator was
    called. A name may stand for two classes: those of `keras.ops` and of `keras.activations`.
    """
    found = (getattr(home, name, None) for name in names.split() for home in _HOMES)
    return [kind for kind in dict.fromkeys(found) if isinstance(kind, type) and issubclass(kind, keras.Operation)]


@functools.cache
def operation(name: str) -> type[keras.Operation]:
    """The one operation of `keras.ops` of this name."""
    return next(iter(operations(name)))


@functools.cache
def operation_modules() -> list[ModuleType]:
    """The modules that define the operations of `keras.ops`."""
    names = [info.name for info in pkgutil.iter_modules(keras.src.ops.__path__, "keras.src.ops.")]
    return [importlib.import_module(name) for name in names if not name.endswith("_test")]


def layer_names() -> set[str]:
    """Every name that Keras's own files know layers by."""
    return set(vars(keras.src.layers))


def written_name(cls: type) -> str | None:
    """The name that Keras writes into files for a class of its own, such as `keras.layers.Dense`."""
    return api_export.get_name_from_symbol(cls)
