"""The weights of a model, each with its layer and path, and which of them a user means."""

import dataclasses
from collections.abc import Iterable

import keras

from tfstruct.errors import ModelError
from tfstruct.graph.keras_model import require_model
from tfstruct.keras_internals.layer_parts import own_trainable, parts_of
from tfstruct.patterns import matches

_NO_KERNELS = ("bias", "gamma", "beta", "alpha", "scale")
ATTENTION = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)
# Entries of a configuration that hold those of the layers inside.
_INNER = ("layers", "layer", "cell", "cells")


@dataclasses.dataclass(frozen=True, eq=False)
class Weight:
    """One trainable weight, or one that is frozen and would be.

    Attributes:
        path: of its layer, after those around it, and its name: `block/conv/kernel`.
        around: the layers that hold it, the model first, its own last.
    """

    variable: keras.Variable
    path: str
    around: tuple[keras.layers.Layer, ...]

    @property
    def layer(self) -> keras.layers.Layer:
        return self.around[-1]

    @property
    def attribute(self) -> str | None:
        """The attribute of its layer that holds its regularizer, as `kernel_regularizer` does."""
        name = self.variable.name
        known = (f"{name}_regularizer", f"{name.removesuffix('_kernel')}_regularizer", "depthwise_regularizer")
        return next((x for x in known[: 3 if name == "kernel" else 2] if hasattr(self.layer, x)), None)

    @property
    def is_kernel(self) -> bool:
        """It is multiplied with what comes in: no bias, no scale of a normalization."""
        return len(self.variable.shape) > 1 and not any(part in self.variable.name for part in _NO_KERNELS)


def weights(model: keras.Model) -> list[Weight]:
    """All weights of a model once, those of nested, wrapped and shared layers too.

    Raises:
        ModelError: this is no model, or one that is not built.
    """
    require_model(model)
    found: dict[int, Weight] = {}

    def walk(layer, path, around):
        around = (*around, layer)
        for variable in own_trainable(layer):
            found.setdefault(id(variable), Weight(variable, f"{path}{variable.name}", around))
        for inner in parts_of(layer):
            if not any(inner is outer for outer in around):
                walk(inner, f"{path}{inner.name}/", around)

    walk(model, "", ())
    if not found:
        raise ModelError(
            f"`{model.name}` has no trainable weights{'' if model.built else ' yet: it is not built'}. Call it on an "
            "input, or build it, first."
        )
    return list(found.values())


def chosen(model: keras.Model, everything: list[Weight], layers, wanted, what: str) -> list[Weight]:
    """The weights of `layers` for which `wanted(weight)` holds.

    Args:
        layers: None for all; a name or path with wildcards, a layer, a predicate, or several of these.
        what: for errors, what `wanted` asks for: "a kernel".

    Raises:
        ModelError: something in `layers` matches nothing.
    """
    if layers is None:
        fitting = [w for w in everything if wanted(w)]
        if not fitting:
            raise ModelError(f"`{model.name}` has no layer with {what}.")
        return fitting
    several = isinstance(layers, Iterable) and not isinstance(layers, str)
    asked = list(layers) if several else [layers]
    if not asked:
        raise ModelError("`layers` is empty. Give at least one name, layer or predicate, or None for all layers.")
    picked: dict[int, Weight] = {}
    for one in asked:
        matched = [w for w in everything if _matches(one, w)]
        fitting = [w for w in matched if wanted(w)]
        if not fitting:
            label = one if isinstance(one, str) else getattr(one, "name", None) or getattr(one, "__name__", repr(one))
            if matched:
                raise ModelError(f"No layer of `{model.name}` that `{label}` matches has {what}.")
            names = list(dict.fromkeys(w.path.rpartition("/")[0] for w in everything))
            raise ModelError(
                f"No layer of `{model.name}` with weights matches `{label}`. It has {', '.join(names[:12])}"
                f"{', ...' if len(names) > 12 else ''}."
            )
        picked.update({id(w.variable): w for w in fitting})
    return [w for w in everything if id(w.variable) in picked]


def _matches(which, weight: Weight) -> bool:
    """Whether one of the layers around a weight is meant."""
    inside = weight.around[1:] or weight.around
    if isinstance(which, keras.layers.Layer):
        return any(layer is which for layer in weight.around)
    if isinstance(which, str):
        return matches(which, "/".join(layer.name for layer in inside))
    if callable(which):
        return any(which(layer) for layer in inside)
    raise ModelError(
        "`layers` takes names or paths (`*` and `?` match), layer objects, a predicate layer -> bool, or a list of "
        f"these. Received: {type(which).__name__}."
    )


def stored(weight: Weight, alike: set[int]) -> bool:
    """Whether the model's configuration holds the weight's regularizer, so that a `.keras` file does.

    Args:
        alike: ids of the kernels in attention layers that all have the same.
    """
    name = weight.attribute
    if name is None or name not in _config(weight.layer):
        return False
    for outer in weight.around[:-1]:
        config = _config(outer)
        if isinstance(outer, ATTENTION):
            return id(weight.variable) in alike
        if isinstance(outer, keras.layers.RNN) and "cell" not in config:
            return name in config  # an LSTM has the settings of its cell as its own
        if not any(key in config for key in _INNER):
            return False
    return True


def _config(layer) -> dict:
    try:
        return layer.get_config()
    except (NotImplementedError, TypeError, ValueError):
        return {}
