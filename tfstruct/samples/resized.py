"""Data whose batch size is asked for at the beginning of each epoch."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from tfstruct.errors import DataError


@dataclasses.dataclass(frozen=True)
class ResizedData:
    """Data as `fit` takes them, and what is known of them.

    Attributes:
        dataset: its batches have the size that is asked for when an epoch begins.
        samples: in an epoch.
        some: count -> about as many samples, as (x, y).
        begin, end: called by who trains, around each epoch.
    """

    dataset: tf.data.Dataset
    samples: int
    some: Callable[[int], tuple]
    begin: Callable[[], None] = lambda: None
    end: Callable[[], None] = lambda: None


def resized(x, y, sample_weight, samples, shuffle: bool, rng: np.random.Generator, size) -> ResizedData:
    """Arrays, a batched `tf.data.Dataset` or a `PyDataset` as batches of `size()` samples."""
    if isinstance(x, tuple) and y is None and sample_weight is None and 1 < len(x) <= 3:
        x, y, sample_weight = (*x, None)[:3]  # (x, y) or (x, y, weights), as everywhere
    whole = isinstance(x, tf.data.Dataset | keras.utils.PyDataset)
    if whole and (y is not None or sample_weight is not None):
        raise DataError(f"Expected labels and weights inside of the {type(x).__name__}. Received: them beside it.")
    if isinstance(x, tf.data.Dataset):
        found = _of_dataset(x, samples, size)
    elif isinstance(x, keras.utils.PyDataset):
        found = _of_py_dataset(x, samples, shuffle, rng, size)
    else:
        found = _of_arrays(x, y, sample_weight, shuffle, rng, size)
    return dataclasses.replace(found, dataset=found.dataset.prefetch(tf.data.AUTOTUNE))


def _of_arrays(x, y, sample_weight, shuffle, rng, size) -> ResizedData:
    packed = keras.utils.pack_x_y_sample_weight(x, y, sample_weight)
    packed = packed if isinstance(packed, tuple) else (packed,)
    if any(not hasattr(part, "shape") for part in keras.tree.flatten(packed)):
        raise DataError(f"Expected arrays, a tf.data.Dataset or a PyDataset. Received: {type(x).__name__}.")
    with tf.device("CPU:0"):
        values = keras.tree.map_structure(tf.convert_to_tensor, _tuples(packed))
    counts = {int(part.shape[0]) if part.shape.rank else 0 for part in keras.tree.flatten(values)}
    if len(counts) != 1 or counts == {0}:
        raise DataError(f"Expected equally many samples and labels, at least one. Received: {sorted(counts)}.")
    count = counts.pop()

    def epoch():
        yield size(), rng.permutation(count) if shuffle else np.arange(count)

    def batches(size, order):
        take = lambda rows: keras.tree.map_structure(lambda part: tf.gather(part, rows), values)  # noqa: E731
        return tf.data.Dataset.from_tensor_slices(order).batch(size).map(take, num_parallel_calls=tf.data.AUTOTUNE)

    def some(wanted: int):
        rows = rng.permutation(count)[:wanted]
        return keras.tree.map_structure(lambda part: tf.gather(part, rows).numpy(), values[:2])

    plan = (tf.TensorSpec((), tf.int64), tf.TensorSpec((count,), tf.int64))
    dataset = tf.data.Dataset.from_generator(epoch, output_signature=plan).flat_map(batches)
    return ResizedData(dataset, count, some)


def _of_dataset(data: tf.data.Dataset, samples, size) -> ResizedData:
    if int(data.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise DataError("Expected finite data, as one pass is one epoch. Received a dataset without end: no repeat().")
    if any(not spec.shape.rank for spec in keras.tree.flatten(data.element_spec)):
        raise DataError(f"Expected a batched dataset. Received elements {data.element_spec}: call batch(...) first.")
    if samples is None:
        samples = int(data.reduce(np.int64(0), lambda sum, *batch: sum + _rows(batch)))
    if not samples:
        raise DataError("Expected at least one sample. Received an empty dataset.")
    return ResizedData(_regrouped(data, size), samples, lambda wanted: _gathered(iter(data), wanted))


def _of_py_dataset(data: keras.utils.PyDataset, samples, shuffle, rng, size) -> ResizedData:
    count = data.num_batches
    if count is None:
        raise DataError("Expected finite data, as one pass is one epoch. Received a PyDataset without length.")
    if count < 1:
        raise DataError("Expected at least one batch. Received an empty PyDataset.")

    def batch(i: int):
        found = data[i]
        return _tuples(tuple(found) if isinstance(found, list | tuple) else (found,))

    def epoch():
        order = rng.permutation(data.num_batches) if shuffle else range(data.num_batches)
        for i in order:
            yield batch(int(i))

    def spec(*parts):
        arrays = [np.asarray(part) for part in parts]
        sides = zip(*(a.shape[1:] for a in arrays), strict=True)
        inner = [side[0] if len(set(side)) == 1 else None for side in sides]
        return tf.TensorSpec((None, *inner), arrays[0].dtype)

    # Sizes that differ between batches, such as the length of texts, are left open.
    seen = [batch(i) for i in sorted({0, count // 2, count - 1})]
    source = tf.data.Dataset.from_generator(epoch, output_signature=keras.tree.map_structure(spec, *seen))
    some = lambda wanted: _gathered((batch(int(i)) for i in rng.permutation(count)), wanted)  # noqa: E731
    if samples is None:
        samples = sum(_length(batch(i)) for i in range(count))
    return ResizedData(_regrouped(source, size), samples, some, data.on_epoch_begin, data.on_epoch_end)


def _regrouped(data: tf.data.Dataset, size) -> tf.data.Dataset:
    """The samples of batched data in batches of another size, in order."""

    def epoch():
        yield size()

    plan = tf.data.Dataset.from_generator(epoch, output_signature=tf.TensorSpec((), tf.int64))
    return plan.flat_map(lambda wanted: data.rebatch(wanted))


def _gathered(batches, wanted: int) -> tuple:
    """The first `wanted` samples of some batches, as (x, y)."""
    taken, count = [], 0
    for batch in batches:
        taken.append(batch[:2] if isinstance(batch, tuple) else (batch,))
        count += _length(batch)
        if count >= wanted:
            break
    return keras.tree.map_structure(lambda *parts: np.concatenate([np.asarray(p) for p in parts])[:wanted], *taken)


def _length(batch) -> int:
    return int(keras.tree.flatten(batch)[0].shape[0])


def _rows(batch):
    """The number of samples of a batch, inside of a pipeline."""
    return tf.shape(keras.tree.flatten(batch)[0], tf.int64)[0]


def _tuples(value):
    """Lists as tuples: tf.data takes a list for an array."""
    if isinstance(value, list | tuple):
        return tuple(_tuples(part) for part in value)
    return {key: _tuples(part) for key, part in value.items()} if isinstance(value, dict) else value
