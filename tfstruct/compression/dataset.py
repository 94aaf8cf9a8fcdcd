"""A user's data as what a model is trained on and judged by: in memory, or streamed."""

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfstruct.convert.export import signature_of, unique_names
from tfstruct.errors import DataError
from tfstruct.graph.trace import functional_of
from tfstruct.samples import Preprocess, Sample, TensorSpec, open_samples

_MOST_BYTES = 4 << 30
_CHUNK = 512  # samples that are put together at a time
_LOOKED_AT = 64  # samples that tell one data set from another


class Ports:
    """How a model takes its inputs and gives its outputs: samples by name into its own structure.

    Attributes:
        inputs: the inputs, in the order the model flattens them.
        outputs: names of the outputs, in that order.
        widths: length of the last axis of each output.
    """

    def __init__(self, model: keras.Model):
        self.inputs: tuple[TensorSpec, ...] = signature_of(model).inputs
        single = isinstance(model, keras.Sequential)
        self._input = model.inputs[0] if single else model.input
        self._output = model.outputs[0] if single else model.output
        named, functional = isinstance(self._output, Mapping), functional_of(model)
        assert functional is not None  # a model with a `call` of its own is refused before
        self.outputs = tuple(sorted(self._output) if named else functional.output_names)
        self._in_file = self.outputs if named else tuple(unique_names(list(self.outputs)))
        self.widths = tuple(x.shape[-1] for x in keras.tree.flatten(self._output))

    def arranged(self, values):
        """Inputs (by name or in order) as the model takes them. A list becomes a tuple: to tf.data it is one tensor."""
        if isinstance(values, Mapping):
            if isinstance(self._input, Mapping) and set(values) == set(self._input):
                return values
            values = [values[spec.name] for spec in self.inputs]
        return _untied(keras.tree.pack_sequence_as(self._input, keras.tree.flatten(values)))

    def labelled(self, labels):
        """Labels (alone, by output name or in order) in the structure of the model's outputs."""
        if isinstance(labels, Mapping):
            if set(labels) != set(self.outputs):
                raise DataError(f"Expected labels for the outputs {list(self.outputs)}. Received: {sorted(labels)}.")
            flat = [labels[name] for name in self.outputs]
        else:
            flat = list(labels) if isinstance(labels, (tuple, list)) else [labels]
        if len(flat) != len(self.outputs):
            raise DataError(
                f"Expected labels for {len(self.outputs)} outputs, {list(self.outputs)}. Received: {len(flat)}."
            )
        return _untied(keras.tree.pack_sequence_as(self._output, flat))

    def of_file(self, outputs: Mapping[str, np.ndarray]):
        """The outputs of the model's file by name, in the structure of the model's outputs."""
        flat = list(outputs.values()) if len(outputs) == 1 else [outputs[name] for name in self._in_file]
        return _untied(keras.tree.pack_sequence_as(self._output, flat))


class Examples:
    """Samples and labels in memory.

    Attributes:
        source: what they come from, to be read by a person.
        inputs: an array an input, the samples along the first axis.
        labels: None, or arrays in the structure of the model's outputs.
    """

    def __init__(self, ports: Ports, inputs: Sequence[np.ndarray], labels, source: str):
        self.ports, self.inputs, self.labels, self.source = ports, list(inputs), labels, source

    def __len__(self) -> int:
        return len(self.inputs[0])

    def __str__(self) -> str:
        return f"{len(self):,} samples ({self.source})"

    @property
    def x(self):
        """The samples as the model takes them."""
        return self.ports.arranged(self.inputs)

    def for_file(self, ports: Ports) -> dict[str, np.ndarray]:
        """The samples by the input names of a model that was made from this one."""
        return {spec.name: array for spec, array in zip(ports.inputs, self.inputs, strict=True)}

    def take(self, count: int) -> "Examples":
        """The first ones."""
        labels = None if self.labels is None else keras.tree.map_structure(lambda a: a[:count], self.labels)
        return Examples(self.ports, [a[:count] for a in self.inputs], labels, self.source)

    def fingerprint(self) -> str:
        """A hash of the number of samples, some of them, and all labels."""
        digest = hashlib.sha256(repr([a.shape for a in self.inputs]).encode())
        rows = np.linspace(0, len(self) - 1, min(len(self), _LOOKED_AT)).astype(int)
        for array in self.inputs:
            digest.update(np.ascontiguousarray(array[rows]).tobytes())
        for array in keras.tree.flatten(self.labels) if self.labels is not None else ():
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    def steps(self, batch_size: int) -> int:
        """Batches an epoch."""
        return max(len(self) // batch_size, 1)

    def batches(self, epochs: range, batch_size: int, seed: int) -> tf.data.Dataset:
        """Batches (x, y) for these epochs, each in an order of its own that depends on `seed` and the epoch alone, so
        that training goes on where it was as if it had not been stopped. What is less than a batch waits for the next
        order: a batch of another size would be compiled anew."""
        flat = [*self.inputs, *(keras.tree.flatten(self.labels) if self.labels is not None else [])]
        arrays = [tf.convert_to_tensor(array) for array in flat]
        count = len(self)

        def order(epoch):
            seeds = tf.stack([tf.constant(seed, tf.int64), epoch])
            rows = tf.random.experimental.stateless_shuffle(tf.range(count, dtype=tf.int64), seeds)
            return tf.data.Dataset.from_tensor_slices(rows).batch(batch_size, drop_remainder=count >= batch_size)

        def gather(rows):
            values = [tf.gather(array, rows) for array in arrays]
            x = self.ports.arranged(values[: len(self.inputs)])
            return (x,) if self.labels is None else (x, self.ports.labelled(tuple(values[len(self.inputs) :])))

        stream = tf.data.Dataset.range(epochs.start, epochs.stop).flat_map(order)
        return stream.map(gather, num_parallel_calls=2, deterministic=True).prefetch(4)


class Stream:
    """A `tf.data.Dataset` of (x, y), single or in batches: read anew in each epoch, as it is, with what it augments."""

    def __init__(self, ports: Ports, dataset: tf.data.Dataset):
        self.ports, self.source = ports, "Dataset"
        if int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY:
            raise DataError("The tf.data.Dataset repeats without end. Leave out repeat(), or give take(batches).")
        self._dataset = dataset
        spec = dataset.element_spec
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

    def take(self, count: int | None) -> Examples:
        """The first samples, or all, in memory."""
        return _in_memory(self.ports, open_samples(self._dataset, self.ports.inputs, limit=count), self.source)

    def fingerprint(self) -> str:
        """A hash of the structure: what it holds may be drawn anew each time."""
        return hashlib.sha256(f"{self._dataset.element_spec} {self._count}".encode()).hexdigest()[:16]

    def batches(self, epochs: range, batch_size: int, seed: int) -> tf.data.Dataset:
        """Batches (x, y), the data set once an epoch."""

        def arrange(*element):
            x, *rest = element
            x = self.ports.arranged(x)
            return (x, self.ports.labelled(rest[0]), *rest[1:]) if rest else (x,)

        stream = self._dataset if self._batched else self._dataset.batch(batch_size, drop_remainder=True)
        return stream.map(arrange, num_parallel_calls=2, deterministic=True).repeat(len(epochs)).prefetch(4)


def open_data(
    data: Any,
    ports: Ports,
    *,
    labels: Any = None,
    preprocess: Preprocess = Preprocess(),  # noqa: B008 (frozen)
) -> Examples | Stream:
    """Anything that `tfstruct.samples.open_samples` takes, checked. A `tf.data.Dataset` stays a stream, everything else
    is read into memory.

    Raises:
        DataError: the data cannot be read, does not fit the model, or does not fit into memory.
    """
    if isinstance(data, Examples | Stream):
        return data
    samples = open_samples(data, ports.inputs, labels=labels, preprocess=preprocess)
    if isinstance(data, tf.data.Dataset) and labels is None and preprocess == Preprocess():
        samples.take(1)  # it fits the model, or the error says why not
        return Stream(ports, data)
    return _in_memory(ports, samples, samples.source)


def _in_memory(ports: Ports, samples: Iterable[Sample], source: str) -> Examples:
    stream, chunks, size = iter(samples), [], 0
    while some := list(itertools.islice(stream, _CHUNK)):
        inputs = [np.stack([sample.inputs[spec.name] for sample in some]) for spec in ports.inputs]
        labels = None
        if some[0].label is not None:
            labels = ports.labelled(keras.tree.map_structure(lambda *one: np.stack(one), *(s.label for s in some)))
        size += sum(array.nbytes for array in inputs)
        if size > _MOST_BYTES:
            raise DataError(
                f"{source} needs more than {_MOST_BYTES >> 30} GiB of memory. Give a tf.data.Dataset: it is streamed."
            )
        chunks.append((inputs, labels))
    inputs = [np.concatenate(parts) for parts in zip(*(inputs for inputs, _ in chunks), strict=True)]
    labelled = all(labels is not None for _, labels in chunks)
    labels = keras.tree.map_structure(lambda *p: np.concatenate(p), *(y for _, y in chunks)) if labelled else None
    return Examples(ports, inputs, labels, source)


def _untied(structure):
    return tuple(structure) if isinstance(structure, list) else structure
