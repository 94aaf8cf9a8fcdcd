"""What a user gives as data, as arrays that fit the model."""

from collections.abc import Iterator, Mapping

import keras
import numpy as np

from tfstruct.errors import DataError
from tfstruct.keras_internals.graph_nodes import names_of
from tfstruct.keras_internals.training import loss_weights_of


def in_memory(data) -> bool:
    """Whether data are samples themselves, or a tuple (x, y), and no iterable of batches."""
    return isinstance(data, Mapping | list | tuple) or hasattr(data, "shape")


def arrays(data, labels=None) -> tuple[object, object]:
    """Samples and labels (None where there are none) as NumPy arrays, whole in memory.

    Args:
        data: an array, or a dict or list of arrays for several inputs; a pair (x, y); or anything that yields batches
            of these, such as a `tf.data.Dataset` or a generator.
        labels: where `data` does not hold them.
    """
    if data is None:
        raise DataError("Expected data: arrays, a pair (x, y), a tf.data.Dataset or a generator. Received: None.")
    if not in_memory(data):
        if not hasattr(data, "__iter__"):
            raise DataError(
                f"Expected arrays, (x, y), a tf.data.Dataset or a generator. Received: {type(data).__name__}."
            )
        if hasattr(data, "cardinality") and int(data.cardinality()) == -1:
            raise DataError("Expected finite data. Received a dataset without end: give dataset.take(batches).")
        pairs = [batch if isinstance(batch, tuple) else (batch,) for batch in data]
        if not pairs:
            raise DataError("Expected at least one batch. Received none.")
        x = keras.tree.map_structure(
            lambda *parts: np.concatenate([np.asarray(p) for p in parts]), *(p[0] for p in pairs)
        )
        y = None
        if all(len(p) > 1 for p in pairs):
            y = keras.tree.map_structure(
                lambda *parts: np.concatenate([np.asarray(p) for p in parts]), *(p[1] for p in pairs)
            )
    elif isinstance(data, tuple):
        if not 1 <= len(data) <= 3:
            raise DataError(
                "Expected (x, y), or (x, y, weights), whose weights are not used; several inputs are a list or a dict. "
                f"Received {len(data)} entries."
            )
        x, y, *_ = (*data, None)
    else:
        x, y = data, None
    if labels is not None:
        y = labels
    if isinstance(y, list) and all(np.ndim(one) == 0 for one in y):
        y = np.asarray(y)  # labels, not outputs
    x = keras.tree.map_structure(np.asarray, x)
    y = None if y is None else keras.tree.map_structure(np.asarray, y)
    sizes = {
        len(a) if a.ndim else 0 for a in [*keras.tree.flatten(x), *(keras.tree.flatten(y) if y is not None else [])]
    }
    if len(sizes) != 1 or sizes == {0}:
        raise DataError(f"Expected equally many samples and labels, at least one. Received: {sorted(sizes)}.")
    return x, y


def inputs_of(functional, x) -> list[np.ndarray]:
    """The samples as a list in the order of the model's inputs, in their dtypes."""
    names = names_of(functional.inputs)
    if isinstance(x, Mapping):
        keys = list(functional.input) if isinstance(functional.input, Mapping) else names
        if set(x) not in (set(names), set(keys)):
            raise DataError(f"Expected arrays for the inputs {names}. Received: {sorted(x)}.")
        if set(x) == set(names):
            flat = [x[name] for name in names]
        else:
            by_tensor = {id(t): x[key] for key, t in functional.input.items()}
            flat = [by_tensor[id(t)] for t in functional.inputs]
    else:
        flat = keras.tree.flatten(x)
    if len(flat) != len(names):
        raise DataError(f"Expected arrays for the inputs {names}. Received: {len(flat)} arrays.")
    for name, tensor, value in zip(names, functional.inputs, flat, strict=True):
        wanted = tuple(tensor.shape[1:])
        fits = len(wanted) == value.ndim - 1 and all(
            a in (None, b) for a, b in zip(wanted, value.shape[1:], strict=True)
        )
        if not fits:
            raise DataError(f"Expected samples of shape {wanted} for {name}. Received: {value.shape[1:]}.")
    return [value.astype(tensor.dtype) for value, tensor in zip(flat, functional.inputs, strict=True)]


def slices(count: int, size: int) -> Iterator[slice]:
    """Consecutive batches of `count` samples."""
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
