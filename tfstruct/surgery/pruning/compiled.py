"""Carries the compiled state over to the smaller model: loss, metrics, and the optimizer with its slots cut."""

import dataclasses

import keras
import numpy as np

from tfstruct.errors import ModelError
from tfstruct.graph import Graph, kept_by
from tfstruct.keras_internals.optimizers import slots_of, trained_by


def carry_compiled(graph: Graph, keep: np.ndarray, smaller: keras.Model, pairs: dict) -> None:
    """Compiles `smaller` like the original and copies the optimizer's variables, slots cut like their weights.

    Args:
        pairs: from `rebuild`: by id of each weight of the original, the new weight and how it was cut.
    """
    model = graph.model
    if not model.compiled:
        raise ModelError(f"`{model.name}` is not compiled: there is no optimizer to carry over. Leave `compiled` out.")
    config = model.get_compile_config()
    if config is None:
        raise ModelError(f"`{model.name}` was compiled in a way Keras cannot describe. Compile the new model yourself.")
    try:
        smaller.compile_from_config(config)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"The loss, metrics or optimizer of `{model.name}` cannot be made again: {str(error).splitlines()[0]} "
            "Register them with keras.saving.register_keras_serializable, or compile the new model yourself."
        ) from error
    _copy(model.optimizer, smaller.optimizer, kept_by(graph, keep), pairs)


def _copy(old, new, kept, pairs) -> None:
    if not old.built:
        return
    done: set[int] = set()
    if hasattr(old, "inner_optimizer"):
        _copy(old.inner_optimizer, new.inner_optimizer, kept, pairs)
        done.update(id(v) for v in old.inner_optimizer.variables)
    new_of = {id(before): after for before, (after, _) in _by_variable(old, pairs)}
    place = {id(v): i for i, v in enumerate(trained_by(new))}
    order = [place.get(id(new_of.get(id(v)))) for v in trained_by(old)]
    if None in order:
        raise ModelError("The optimizer was built on other variables than the model's. Compile the new model yourself.")
    for name, slots in slots_of(old).items():
        successors = getattr(new, name)
        for i, (reference, slot) in enumerate(zip(trained_by(old), slots, strict=True)):
            _, cut = pairs[id(reference)]
            successor = successors[order[i]]
            array = slot.numpy()
            successor.assign(array if cut is None else _plain(cut).take(array, kept))
            done.add(id(slot))
    for before, after in zip(old.variables, new.variables, strict=True):
        if id(before) in done:
            continue
        if before.shape != after.shape:
            raise ModelError(
                f"{type(old).__name__} keeps a variable that is no copy of a weight's shape ({before.path}), which "
                "cannot be cut. Compile the new model yourself."
            )
        after.assign(before)


def _by_variable(optimizer, pairs):
    return [(v, pairs[id(v)]) for v in trained_by(optimizer) if id(v) in pairs]


def _plain(slot):
    """Cuts without scaling: a factor on a weight does not apply to its momentum."""
    return dataclasses.replace(slot, scale=None)
