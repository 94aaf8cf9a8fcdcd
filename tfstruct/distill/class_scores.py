"""What the outputs of a classifier are: logits or probabilities, of one class among many or of yes and no."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from tfstruct.errors import ArgumentError, ModelError
from tfstruct.graph.endings import ending
from tfstruct.keras_internals.graph_nodes import names_of

KINDS = ("logits", "softmax", "sigmoid", "binary_logits")
_LEAST = 1e-7  # of a probability, before its logarithm is taken


def as_logits(x, kind: str):
    """Outputs of a kind as logits over the last axis."""
    x = tf.cast(x, tf.float32)
    if kind == "softmax":
        return tf.math.log(tf.maximum(x, _LEAST))
    if kind == "sigmoid":
        x = tf.math.log(tf.maximum(x, _LEAST)) - tf.math.log(tf.maximum(1.0 - x, _LEAST))
    return x if kind == "logits" else tf.stack([x, tf.zeros_like(x)], axis=-1)


def named(model: keras.Model, names: Sequence[str]) -> list[int]:
    """Positions of a model's outputs by the names of the layers that make them."""
    found = names_of(_outputs(model))
    if missing := [name for name in names if name not in found]:
        raise ModelError(f"`outputs` must be of {', '.join(found)}. Received: {', '.join(missing)}.")
    return [found.index(name) for name in names]


def kinds_of(model: keras.Model, given: str | Sequence[str] | None, chosen: Sequence[int] | None) -> str | list[str]:
    """The kind of all outputs, or of each, or of each chosen one: as given, or read off the layer that makes it."""
    if isinstance(given, str):
        return given
    if given is not None:
        given, count = list(given), len(chosen) if chosen is not None else len(getattr(model, "outputs", None) or given)
        if len(given) != count:
            raise ArgumentError(f"Expected what each of the {count} outputs of `{model.name}` is. Received: {given}.")
        return given
    outputs = _outputs(model)
    return [_kind(model, x) for x in (outputs if chosen is None else [outputs[i] for i in chosen])]


def _outputs(model: keras.Model) -> list:
    outputs = getattr(model, "outputs", None)
    if not outputs:
        raise ModelError(
            f"What `{model.name}` ({type(model).__name__}) puts out cannot be read off a model without a graph. Give "
            f"teacher_outputs= or student_outputs=, one of {', '.join(KINDS)}."
        )
    return outputs


def _kind(model: keras.Model, x) -> str:
    name, op = ending(x)
    if name in ("softmax", "sigmoid"):
        return name
    hint = f"Give teacher_outputs= or student_outputs=, one of {', '.join(KINDS)}; or use Features(), which compares "
    if name != "linear":
        raise ModelError(f"`{model.name}` ends in {op.name} with {name}, which makes no classes. {hint}any values.")
    if x.shape[-1] == 1:
        raise ModelError(f"`{model.name}` ends in one unit, {op.name}, without an activation. {hint}numbers.")
    return "logits"
