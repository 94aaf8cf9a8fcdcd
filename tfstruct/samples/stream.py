"""Turns what a user has (files, arrays, a tf.data.Dataset, a generator) into a stream of checked samples.

    source ──reader──▶ rows ──preprocess──▶ check ──▶ Sample

One sample is in memory at a time, however large the source is.
"""

import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfstruct.errors import DataError
from tfstruct.samples.files import read_files, read_labels
from tfstruct.samples.memory import is_dataset, read_memory
from tfstruct.samples.preprocess import Preparation, Preprocess, before_resize
from tfstruct.samples.rows import Reader
from tfstruct.samples.spec import TensorSpec
from tfstruct.samples.values import is_image, map_leaves, numbers, require_numbers

_AS_IS = Preprocess()


@dataclasses.dataclass(frozen=True)
class Sample:
    """One sample, ready for the model.

    Attributes:
        inputs: arrays by input name, without the batch axis, in the input's dtype.
        label: an int where the source gives a single integer, else an array (a dict or tuple of these for several
            outputs); None if there is none.
    """

    inputs: dict[str, np.ndarray]
    label: Any | None


class Samples:
    """Streams the samples of a source; made by `open_samples`.

    Attributes:
        source: what the samples come from, to be read by a person.
        count: how many samples there are; None where only reading to the end would tell.
        reiterable: False if the source can be read once only; `take` counts as reading.
    """

    def __init__(self, reader: Reader, prepare: Preparation, limit: int | None, labels: np.ndarray | None):
        self.source = reader.source
        self.count = reader.count if reader.count is None or limit is None else min(reader.count, limit)
        self.reiterable = reader.reiterable
        self._reader = reader
        self._prepare = prepare
        self._limit = limit
        self._labels = labels
        self._used = False

    def __iter__(self) -> Iterator[Sample]:
        if self._used and not self.reiterable:
            raise DataError(
                f"{self.source} can be read once only and has been read. Give a function that returns a new "
                "generator, or a list or an array."
            )
        self._used = True
        return self._stream()

    def take(self, n: int) -> list[Sample]:
        """The first `n` samples, or all there are if they are fewer."""
        return list(itertools.islice(self, n))

    def _stream(self) -> Iterator[Sample]:
        number = 0
        for number, row in enumerate(itertools.islice(self._reader.rows(), self._limit), 1):
            where = f"sample {number - 1}" + (f" ({row.where})" if row.where else "")
            label = row.label
            if self._labels is not None:
                if number > len(self._labels):
                    raise _label_count(self.source, len(self._labels), f"at least {number}")
                label = self._labels[number - 1]
            yield Sample(self._prepare(row.values, where), _clean_label(label, where))
        if number == 0:
            raise _no_samples(self.source)
        if self._labels is not None and number < len(self._labels) and number != self._limit:
            raise _label_count(self.source, len(self._labels), str(number))


def open_samples(
    source: Any,
    inputs: Sequence[TensorSpec],
    *,
    labels: Any = None,
    preprocess: Preprocess = _AS_IS,
    limit: int | None = None,
) -> Samples:
    """Opens `source` as a stream of samples for a model with these `inputs`.

    What can be checked without reading the samples (missing or damaged files, keys, numbers of labels) is checked
    here; the rest is checked sample by sample. Nothing is unpickled.

    Args:
        source: a path to an .npy, .npz or .csv file, a TFRecord file or an image; a folder of images (class
            sub-folders, sorted, give the labels 0, 1, ...) or TFRecords; a glob pattern or a list of files; a
            tf.data.Dataset; a generator, an iterable or a function that returns one, of x, (x, y), dicts or lists,
            single or in batches; an array, an (x, y) tuple, or a dict or list of arrays with the batch axis first.
        inputs: the model's inputs.
        labels: None for the labels that the source carries, if any; or the name of a key, feature or column; or a
            .npy, .csv or .txt file with one label a row; or an array.
        preprocess: what to do to each sample.
        limit: stop after this many samples.

    Returns:
        `Samples`: an iterable of `Sample`, with their number where it is known.

    Raises:
        DataError: if the source cannot be read or does not fit the inputs.
    """
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise DataError(f"`limit` must be a positive integer or None. Received: {limit!r}.")
    require_numbers(inputs)
    on_images = dataclasses.replace(preprocess, function=None) != _AS_IS
    if on_images and len(inputs) > 1 and not any(map(is_image, inputs)):
        raise DataError(
            "`resize`, `scale`, `mean` and `std` apply to images, and none of the model's several inputs is one. Do it "
            "in a `function` instead."
        )
    key, table = _split_labels(labels)
    if limit is None and is_dataset(source) and int(source.cardinality()) == -1:  # tf.data.INFINITE_CARDINALITY
        raise DataError("The tf.data.Dataset repeats without end. Give a `limit`, or leave out repeat().")
    several = isinstance(source, (list, tuple)) and len(source) > 0
    if all(isinstance(path, (str, Path)) for path in (source if several else [source])):
        reader = read_files(source, inputs, key)
    else:
        reader = read_memory(source, [before_resize(spec, preprocess) for spec in inputs], key)
    if reader.count == 0:
        raise _no_samples(reader.source)
    if reader.count is not None and table is not None and reader.count != len(table):
        raise _label_count(reader.source, len(table), str(reader.count))
    return Samples(reader, Preparation(tuple(inputs), preprocess), limit, table)


def _split_labels(labels: Any) -> tuple[str | bool, np.ndarray | None]:
    """`labels` as what to tell a reader (True: the usual names, False: none, or a name) and as an array."""
    if labels is None:
        return True, None
    if isinstance(labels, (str, Path)):
        path = Path(os.path.expanduser(labels))
        named = path.suffix.lower() in (".npy", ".csv", ".txt") and os.path.isfile(path)
        return (False, read_labels(path)) if named or isinstance(labels, Path) else (labels, None)
    table = numbers(labels, "Labels")
    if table.ndim == 0:
        raise DataError(f"Labels: expected an array with one label a row, received the single value {table}.")
    return False, table


def _clean_label(label: Any, where: str) -> Any:
    """A single integer as an int, anything else as an array of its own memory."""

    def clean(leaf: Any) -> int | np.ndarray:
        array = numbers(leaf, f"Label of {where}")
        whole = array.dtype.kind in "biu" and array.shape in ((), (1,))
        return int(array.item()) if whole else np.array(array)

    return map_leaves(clean, label)


def _no_samples(source: str) -> DataError:
    return DataError(f"{source} holds no samples. Expected at least one: check how it was written.")


def _label_count(source: str, labels: int, samples: str) -> DataError:
    return DataError(
        f"{source}: expected a label for each sample, received {labels} labels for {samples} samples. Cut or add."
    )
