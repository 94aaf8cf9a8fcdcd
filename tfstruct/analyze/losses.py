"""Losses of a model on labelled samples, and the slices that samples in memory are run in."""

from collections.abc import Iterator, Mapping

import keras

from tfstruct.arguments import require_count
from tfstruct.errors import DataError
from tfstruct.keras_internals.training import loss_weights_of


def slices(count: int, size: int) -> Iterator[slice]:
    """Consecutive batches of `count` samples.

    Raises:
        ArgumentError: `size` is no whole number above 0.
    """
    size = require_count("batch_size", size)
    return (slice(i, min(i + size, count)) for i in range(0, count, size))


def loss_function(model, loss, what: str, weights=None):
    """`(labels, outputs) -> scalar`, the mean over the batch, summed over the outputs with their weights.

    Args:
        loss, weights: as in `compile`; without a loss, both are those that the model is compiled with.

    Raises:
        DataError: no loss was given and the model is not compiled with one.
    """
    if loss is None:
        loss = getattr(model, "loss", None)
        weights = loss_weights_of(model)
    if loss is None:
        raise DataError(f"{what} needs a loss. Give loss=..., or compile the model with one.")

    def one(function, y, out):
        return keras.ops.mean(keras.losses.get(function)(y, out))

    def whole(y, out):
        outs, ys = keras.tree.flatten(out), keras.tree.flatten(y)
        if isinstance(out, Mapping) and isinstance(y, Mapping):
            ys = [y[key] for key in sorted(out)]
            outs = [out[key] for key in sorted(out)]
        if len(ys) != len(outs):
            raise DataError(f"Expected labels for {len(outs)} outputs. Received: {len(ys)}.")
        given, share = _by_output(loss, out, len(outs)), _by_output(1.0 if weights is None else weights, out, len(outs))
        total = 0.0
        for function, weight, label, value in zip(given, share, ys, outs, strict=True):
            if function is not None:
                total = total + one(function, label, value) * (1.0 if weight is None else weight)
        return total

    return whole


def _by_output(given, out, count: int) -> list:
    if isinstance(given, Mapping):
        if not isinstance(out, Mapping):
            raise DataError("Losses by name need a model whose outputs are a dict. Give a list, in their order.")
        return [given.get(key) for key in sorted(out)]
    return list(given) if isinstance(given, list | tuple) else [given] * count
