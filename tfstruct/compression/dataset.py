"""A user's data as what a model is trained on and judged by: in memory, or streamed."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfstruct.errors import DataError
from tfstruct.samples import Preprocess, Samples
from tfstruct.samples.for_model import samples_of
from tfstruct.samples.ports import Ports
from tfstruct.samples.rows import match_keys

_LOOKED_AT = 64  # samples that tell one data set from another


class Examples:
    """Samples and labels in memory.

    Attributes:
        source: what they come from, to be read by a person.
        inputs: an array an input, the samples along the first axis.
        labels: None, or arrays in the structure of the model's outputs.
        weights: None, or how much each sample counts in training.
        rows: None, or the rows of these arrays that are the samples: others are held out.
    """

    def __init__(self, ports: Ports, inputs: Sequence[np.ndarray], labels, source: str, weights=None, rows=None):
        self.ports, self.inputs, self.labels, self.source = ports, list(inputs), _untied(labels), source
        self.weights, self.rows = weights, rows

    @classmethod
    def of(cls, ports: Ports, samples: Samples) -> "Examples":
        """All samples, in memory."""
        batch = samples.in_memory()
        return cls(ports, batch.inputs, batch.labels, samples.source, batch.weights)

    def __len__(self) -> int:
        return len(self.inputs[0]) if self.rows is None else len(self.rows)

    def __str__(self) -> str:
        held = "" if self.rows is None else f", {len(self.inputs[0]) - len(self):,} more held out to judge by"
        return f"{len(self):,} samples ({self.source}){held}"

    @property
    def x(self):
        """The samples as the model takes them."""
        return _untied(self.ports.arranged(self.inputs))

    def for_file(self, ports: Ports) -> dict[str, np.ndarray]:
        """The samples by the input names of a model that was made from this one."""
        return {spec.name: array for spec, array in zip(ports.inputs, self.inputs, strict=True)}

    @property
    def sizes(self) -> list[tuple[int, ...]]:
        """The shape of a sample of each input."""
        return [array.shape[1:] for array in self.inputs]

    def take(self, count: int) -> "Examples":
        """The first ones."""
        return self._taken(slice(count) if self.rows is None else self.rows[:count])

    def select(self, rows: np.ndarray) -> "Examples":
        """The samples of these rows of the arrays."""
        return self._taken(rows)

    def without(self, rows: np.ndarray) -> "Examples":
        """All but the samples of these rows, on the same arrays."""
        left = np.setdiff1d(np.arange(len(self.inputs[0])), rows)
        return Examples(self.ports, self.inputs, self.labels, self.source, self.weights, left)

    def _taken(self, rows) -> "Examples":
        labels, weights = (
            None if one is None else keras.tree.map_structure(lambda a: a[rows], one)
            for one in (self.labels, self.weights)
        )
        return Examples(self.ports, [a[rows] for a in self.inputs], labels, self.source, weights)

    def fingerprint(self) -> str:
        """A hash of the number of samples, some of them, and all labels and weights."""
        digest = hashlib.sha256(repr([a.shape for a in self.inputs]).encode())
        count = len(self.inputs[0])
        rows = np.linspace(0, count - 1, min(count, _LOOKED_AT)).astype(int)
        for array in self.inputs:
            digest.update(np.ascontiguousarray(array[rows]).tobytes())
        for array in _flat([self.labels, self.weights]):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    def steps(self, batch_size: int) -> int:
        """Batches an epoch."""
        return max(len(self) // batch_size, 1)

    def batches(self, epochs: range, batch_size: int, seed: int) -> tf.data.Dataset:
        """Batches (x, y) for these epochs, each in an order of its own that depends on `seed` and the epoch alone, so
        that training goes on where it was as if it had not been stopped. What is less than a batch waits for the next
        order: a batch of another size would be compiled anew."""
        targets = () if self.labels is None else (self.labels,) if self.weights is None else (self.labels, self.weights)
        arrays = keras.tree.map_structure(tf.convert_to_tensor, (self.x, *targets))
        count = len(self)
        every = tf.range(count, dtype=tf.int64) if self.rows is None else tf.constant(self.rows, tf.int64)

        def order(epoch):
            seeds = tf.stack([tf.constant(seed, tf.int64), epoch])
            rows = tf.random.experimental.stateless_shuffle(every, seeds)
            return tf.data.Dataset.from_tensor_slices(rows).batch(batch_size, drop_remainder=count >= batch_size)

        def gather(rows):
            return keras.tree.map_structure(lambda array: tf.gather(array, rows), arrays)

        stream = tf.data.Dataset.range(epochs.start, epochs.stop).flat_map(order)
        return stream.map(gather, num_parallel_calls=2, deterministic=True).prefetch(4)


class Stream:
    """A `tf.data.Dataset` of (x, y), single or in batches: read anew in each epoch, as it is, with what it augments."""

    def __init__(self, ports: Ports, dataset: tf.data.Dataset):
        self.ports, self.source = ports, "Dataset"
        if int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY:
            raise DataError("The tf.data.Dataset repeats without end. Leave out repeat(), or give take(batches).")
        spec = dataset.element_spec
        if isinstance(spec, Mapping) and (key := match_keys(spec, ports.inputs, True, self.source)[1]) is not None:
            dataset = dataset.map(lambda x: (x, x[key]), num_parallel_calls=2, deterministic=True)
        self._dataset = dataset
        first = keras.tree.flatten(spec[0] if isinstance(spec, tuple) else spec)[0]
        self._batched = len(first.shape) > len(ports.inputs[0].shape)
        self._count = int(dataset.cardinality())
        if self._count == tf.data.UNKNOWN_CARDINALITY:
            self._count = sum(1 for _ in dataset)

    def __str__(self) -> str:
        return f"{self._count:,} {'batches' if self._batched else 'samples'} (streamed)"

    def steps(self, batch_size: int) -> int:
        """Batches an epoch."""
        return self._count if self._batched else max(self._count // batch_size, 1)

    @property
    def sizes(self) -> list[tuple[int | None, ...]]:
        """The shape of a sample of each input; None is a size that the data set leaves open."""
        spec = self._dataset.element_spec
        given = keras.tree.flatten(self.ports.given(spec[0] if isinstance(spec, tuple) else spec))
        return [tuple(one.shape)[self._batched :] for one in given]

    def take(self, count: int | None) -> Examples:
        """The first samples, or all, in memory."""
        samples = samples_of(self.ports, self._dataset, use_labels=True, limit=count, finite=True)
        return Examples.of(self.ports, samples)

    def fingerprint(self) -> str:
        """A hash of the structure: what it holds may be drawn anew each time."""
        return hashlib.sha256(f"{self._dataset.element_spec} {self._count}".encode()).hexdigest()[:16]

    def batches(self, epochs: range, batch_size: int, seed: int) -> tf.data.Dataset:
        """Batches (x, y), the data set once an epoch."""

        def arrange(*element):
            x, *rest = element
            x = _untied(self.ports.given(x))
            return (x, _untied(self.ports.labelled(rest[0])), *rest[1:]) if rest else (x,)

        stream = self._dataset if self._batched else self._dataset.batch(batch_size, drop_remainder=True)
        return stream.map(arrange, num_parallel_calls=2, deterministic=True).repeat(len(epochs)).prefetch(4)


def open_data(
    data: Any,
    ports: Ports,
    *,
    labels: Any = None,
    preprocess: Preprocess = Preprocess(),  # noqa: B008 (frozen)
) -> Examples | Stream:
    """Data by the rules of `tfstruct.samples`: a `tf.data.Dataset` stays a stream, all else is read into memory.

    Raises:
        DataError: the data cannot be read, does not fit the model, or does not fit into memory.
    """
    if isinstance(data, Examples | Stream):
        return data
    samples = samples_of(ports, data, labels, use_labels=True, preprocess=preprocess, finite=True)
    if isinstance(data, tf.data.Dataset) and labels is None and preprocess == Preprocess():
        next(samples.batches(1))  # it fits the model, or the error says why not
        return Stream(ports, data)
    return Examples.of(ports, samples)


def _flat(structures) -> list[np.ndarray]:
    return [array for one in structures if one is not None for array in keras.tree.flatten(one)]


def _untied(structure):
    """Lists as tuples: to tf.data a list is one tensor."""
    return None if structure is None else keras.tree.lists_to_tuples(structure)
