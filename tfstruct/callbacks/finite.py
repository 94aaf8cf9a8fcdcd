"""Whether weights and other values are numbers still: training may have diverged, or have begun so."""

from collections.abc import Iterable

import keras
import tensorflow as tf


def all_finite(values: Iterable) -> bool:
    """Whether no value of these tensors is NaN or infinite."""
    return all(bool(tf.reduce_all(tf.math.is_finite(one))) for one in values)


def diverged(model: keras.Model) -> str:
    """Which weights of a model hold NaN or infinities, as a sentence; empty where none does."""
    floats = [w for w in model.weights if "float" in w.dtype]
    paths = [w.path for w in floats if not all_finite([w.value])]
    if not paths:
        return ""
    others = f" and {len(paths) - 1} other weights" if len(paths) > 1 else ""
    return (
        f"`{paths[0]}`{others} of `{model.name}` hold NaN or infinities: training has diverged, or began with them. "
        "callbacks.Diagnose() says where they begin."
    )
