"""Turns what a user has (files, arrays, a tf.data.Dataset, a generator) into a stream of checked samples.

    source ──reader──▶ rows ──preprocess──▶ check ──▶ Sample

One sample or batch is in memory at a time, however large the source is.
"""

import dataclasses
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfstruct.arguments import checked, require_count
from tfstruct.errors import ArgumentError, DataError
from tfstruct.samples.files import read_files, read_labels
from tfstruct.samples.memory import is_dataset, is_endless, read_memory
from tfstruct.samples.preprocess import Preparation, Preprocess, before_resize
from tfstruct.samples.rows import Block, Reader, Row, joined, map_leaves
from tfstruct.samples.spec import TensorSpec
from tfstruct.samples.values import is_image, numbers, require_numbers

_AS_IS = Preprocess()
_CHUNK = 512  # samples that are put together at a time
_MOST_BYTES = 4 << 30  # of samples held in memory


@dataclasses.dataclass(frozen=True)
class Sample:
    """One sample, ready for the model.

    Attributes:
        inputs: arrays by input name, without the batch axis, in the input's dtype.
        label: an int where the source gives a single integer, else an array (a dict or tuple of these for several
            outputs); None if there is none.
    """

    inputs: dict[str, np.ndarray]
    label: Any


@dataclasses.dataclass(frozen=True)
class Batch:
    """Samples ready for the model, along the first axis.

    Attributes:
        inputs: an array an input, in the model's order, in the inputs' dtypes.
        labels: arrays in the structure of the model's outputs; None where there are none, or none were asked for.
        weights: one a sample (a dict or tuple of these for several outputs), or None.
    """

    inputs: list[np.ndarray]
    labels: Any = None
    weights: Any = None

    @property
    def size(self) -> int:
        return len(self.inputs[0])


class Samples:
    """Streams the samples of a source; made by `open_samples` and `samples_of`.

    Attributes:
        source: what the samples come from, to be read by a person.
        count: how many samples there are; None where only reading to the end would tell.
        reiterable: False if the source can be read once only; `take` counts as reading.
        ports: of the model that they are for, where `samples_of` made them.
    """

    ports: Any = None
    _need: str | None = None

    def __init__(self, reader: Reader, prepare: Preparation, limit: int | None, labels: Any):
        self.source = reader.source
        self.count = reader.count if reader.count is None or limit is None else min(reader.count, limit)
        self.reiterable = reader.reiterable
        self._reader = reader
        self._prepare = prepare
        self._limit = limit
        self._labels = labels
        self._used = False

    def __iter__(self) -> Iterator[Sample]:
        self._use()
        return self._stream()

    def take(self, n: int) -> list[Sample]:
        """The first `n` samples, or all there are if they are fewer."""
        return list(itertools.islice(self, n))

    def batches(self, size: int = 32, own: bool = False) -> Iterator[Batch]:
        """The samples in batches of `size`, the last one smaller; a change of an open dimension begins a new one.

        Args:
            own: batches that the source itself gives stay as they are.

        Raises:
            ArgumentError: `size` is no whole number above 0.
        """
        size = require_count("batch_size", size)
        self._use()
        waiting: list[Batch] = []
        own = own and not self._reader.is_whole
        for batch, is_block in self._prepared(None if own else size):
            if own and is_block:
                yield from self._labelled(waiting)
                yield from self._labelled([batch])
                waiting = []
                continue
            if waiting and [x.shape[1:] for x in waiting[0].inputs] != [x.shape[1:] for x in batch.inputs]:
                yield from self._labelled(waiting)
                waiting = []
            room = size - sum(one.size for one in waiting)
            waiting.append(_part(batch, 0, room))
            if batch.size >= room:
                yield from self._labelled(waiting)
                waiting = [_part(batch, room, batch.size)] if batch.size > room else []
        yield from self._labelled(waiting)

    def in_memory(self) -> Batch:
        """All samples at once.

        Raises:
            DataError: samples of different shapes, or of more than 4 GiB that were not in memory before.
        """
        found, size = [], 0
        for batch in self.batches(sys.maxsize if self._reader.is_whole else _CHUNK):
            found.append(batch)
            size += sum(x.nbytes for x in batch.inputs)
            if size > _MOST_BYTES and not self._reader.is_whole:
                raise DataError(
                    f"{self.source} needs more than {_MOST_BYTES >> 30} GiB of memory. Give fewer samples, such as "
                    "dataset.take(n); a tf.data.Dataset where the work can be streamed."
                )
        shapes = {tuple(x.shape[1:] for x in batch.inputs) for batch in found}
        if len(shapes) > 1:
            raise DataError(
                f"{self.source}: expected samples of one shape, as all are needed at once, received "
                f"{' and '.join(str(list(one)) for one in sorted(shapes)[:2])}. Pad or crop them."
            )
        return _joined(found)

    def for_model(self, ports: Any, need: str | None = None) -> "Samples":
        """The same, with labels in the structure of a model's outputs; `need`: what cannot do without labels."""
        self.ports, self._need = ports, need
        return self

    def first(self, limit: int | None) -> "Samples":
        """The same, at most so many samples of it."""
        if limit is not None:
            self._limit = limit if self._limit is None else min(limit, self._limit)
            self.count = None if self.count is None else min(self.count, limit)
        return self

    def _use(self) -> None:
        if self._used and not self.reiterable:
            raise DataError(
                f"{self.source} can be read once only and has been read. Give a function that returns a new "
                "generator, or a list or an array."
            )
        self._used = True

    def _stream(self) -> Iterator[Sample]:
        number = 0
        for part in self._parts():
            for row in part.rows() if isinstance(part, Block) else [part]:
                where = _where(number, row.where)
                yield Sample(self._prepare(row.values, where), _clean_label(row.label, where))
                number += 1

    def _parts(self) -> Iterator[Row | Block]:
        """What the reader gives, up to the limit, with the labels that were given beside it."""
        number = 0
        limit = sys.maxsize if self._limit is None else self._limit
        for part in self._reader.rows():
            count = part.count if isinstance(part, Block) else 1
            if isinstance(part, Block) and count > limit - number:
                part, count = part.part(0, limit - number), limit - number
            if self._labels is not None:
                known = _length(self._labels)
                if number + count > known:
                    raise _label_count(self.source, known, f"at least {number + count}")
                at = slice(number, number + count) if isinstance(part, Block) else number
                part = dataclasses.replace(part, label=_picked(self._labels, at))
            number += count
            yield part
            if number >= limit:
                break
        if number == 0:
            raise _no_samples(self.source)
        if self._labels is not None and number < _length(self._labels) and number != self._limit:
            raise _label_count(self.source, _length(self._labels), str(number))

    def _prepared(self, most: int | None) -> Iterator[tuple[Batch, bool]]:
        """Batches of at most `most` samples, and whether they were such in the source."""
        names, number = [spec.name for spec in self._prepare.inputs], 0
        for part in self._parts():
            if not (is_block := isinstance(part, Block)):
                values = {name: np.asarray(value)[None] for name, value in part.values.items()}
                part = Block(values, _alone(part.label), _alone(part.weight), 1, part.where)
            for start in range(0, part.count, most or part.count):
                block = part.part(start, start + (most or part.count)) if part.count > (most or part.count) else part
                if (inputs := self._prepare.batch(block.values)) is not None:
                    label, weight = (map_leaves(np.atleast_1d, y) for y in (block.label, block.weight))
                    yield Batch(inputs, label, weight), is_block
                else:
                    rows = []
                    for i, row in enumerate(block.rows()):
                        values = self._prepare(row.values, _where(number + i, row.where))
                        rows.append(
                            Batch([values[name][None] for name in names], _alone(row.label), _alone(row.weight))
                        )
                    if len({tuple(x.shape for x in row.inputs) for row in rows}) == 1:
                        yield _joined(rows), is_block
                    else:
                        yield from ((row, False) for row in rows)
                number += block.count

    def _labelled(self, batches: list[Batch]) -> Iterator[Batch]:
        """The batches as one, its labels in the structure of the model's outputs; nothing for none."""
        if not batches:
            return
        whole = _joined(batches)
        if whole.labels is None and self._need is not None:
            raise DataError(f"{self._need}. Give data=(x, y), labels=..., or batches of such pairs.")
        if whole.labels is not None and self.ports is not None:
            whole = dataclasses.replace(whole, labels=self.ports.labelled(whole.labels))
        yield whole


def _part(batch: Batch, start: int, stop: int) -> Batch:
    if start == 0 and stop >= batch.size:
        return batch
    labels, weights = (map_leaves(lambda y: y[start:stop], y) for y in (batch.labels, batch.weights))
    return Batch([x[start:stop] for x in batch.inputs], labels, weights)


def _joined(batches: Sequence[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    inputs = [np.concatenate(parts) for parts in zip(*(batch.inputs for batch in batches), strict=True)]
    return Batch(inputs, joined([batch.labels for batch in batches]), joined([batch.weights for batch in batches]))


def _alone(label: Any) -> Any:
    """The label of one sample as that of a batch."""
    return map_leaves(lambda leaf: np.asarray(leaf)[None], label)


def _picked(labels: Any, at: int | slice) -> Any:
    return map_leaves(lambda leaf: leaf[at], labels)


def _where(number: int, where: str) -> str:
    return f"sample {number}" + (f" ({where})" if where else "")


def _length(labels: Any) -> int:
    """The number of samples that labels are for."""
    lengths: list[int] = []
    map_leaves(lambda leaf: lengths.append(len(leaf)), labels)
    return lengths[0]


@checked
def open_samples(
    source: Any,
    inputs: Sequence[TensorSpec],
    *,
    labels: Any = None,
    preprocess: Preprocess = _AS_IS,
    limit=None,
    outputs: int = 1,
    finite: bool = True,
    endless: bool = False,
) -> Samples:
    """Opens `source` as a stream of samples for a model with these `inputs`.

    What can be checked without reading the samples (missing or damaged files, keys, numbers of labels) is checked
    here; the rest is checked sample by sample. Nothing is unpickled.

    Args:
        source: see `tfstruct.samples`; or `Samples`, which are handed back.
        inputs: the model's inputs.
        labels: None for the labels that the source carries, if any; or the name of a key, feature or column; or a
            .npy, .csv or .txt file with one label a row; or an array, a dict or tuple of arrays for several outputs;
            False for none.
        preprocess: what to do to each sample.
        limit: stop after this many samples.
        outputs: of the model: so many labels in a list are one for each.
        finite: refuse NaN and infinity.
        endless: take a dataset that repeats without end: the caller stops by itself.

    Returns:
        `Samples`: an iterable of `Sample`, with their number where it is known.

    Raises:
        DataError: if the source cannot be read or does not fit the inputs.

    Example:
        >>> spec = tfstruct.samples.TensorSpec("features", (8,), "float32")
        >>> samples = tfstruct.samples.open_samples((x, y), [spec], limit=10)
        >>> samples.count, next(iter(samples)).inputs["features"].shape
        (10, (8,))
    """
    if isinstance(source, Samples):
        return source
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise DataError(f"`limit` must be a positive integer or None. Received: {limit!r}.")
    require_numbers(inputs)
    if not isinstance(preprocess, Preprocess):
        raise ArgumentError(f"`preprocess` must be a Preprocess. Received: {preprocess!r}.")
    on_images = dataclasses.replace(preprocess, function=None) != _AS_IS
    if on_images and len(inputs) > 1 and not any(map(is_image, inputs)):
        raise DataError(
            "`resize`, `scale`, `mean` and `std` apply to images, and none of the model's several inputs is one. Do it "
            "in a `function` instead."
        )
    key, table = _split_labels(labels, outputs)
    if limit is None and not endless and is_endless(source):
        raise DataError(
            f"The {'tf.data.Dataset' if is_dataset(source) else type(source).__name__} repeats without end. Leave out "
            "repeat(), or give dataset.take(batches)."
        )
    several = isinstance(source, (list, tuple)) and len(source) > 0
    if all(isinstance(path, (str, Path)) for path in (source if several else [source])):
        reader = read_files(source, inputs, key)
    else:
        reader = read_memory(source, [before_resize(spec, preprocess) for spec in inputs], key, outputs)
    if reader.count == 0:
        raise _no_samples(reader.source)
    if reader.count is not None and table is not None and reader.count != _length(table):
        raise _label_count(reader.source, _length(table), str(reader.count))
    return Samples(reader, Preparation(tuple(inputs), preprocess, finite), limit, table)


def _split_labels(labels: Any, outputs: int) -> tuple[str | bool, Any]:
    """`labels` as what to tell a reader (True: the usual names, False: none, or a name) and as an array."""
    if labels is None or labels is False:
        return labels is None, None
    if isinstance(labels, (str, Path)):
        path = Path(os.path.expanduser(labels))
        named = path.suffix.lower() in (".npy", ".csv", ".txt") and os.path.isfile(path)
        return (False, read_labels(path)) if named or isinstance(labels, Path) else (labels, None)
    if isinstance(labels, list) and len(labels) == outputs > 1:
        labels = tuple(labels)
    table = map_leaves(lambda leaf: _rows_of_labels(numbers(leaf, "Labels")), labels)
    lengths: set[int] = set()
    map_leaves(lambda leaf: lengths.add(len(leaf)), table)
    if len(lengths) != 1:
        raise DataError(f"Labels: expected equally many for each output, received {sorted(lengths)}. Cut or add.")
    return False, table


def _rows_of_labels(table: np.ndarray) -> np.ndarray:
    if table.ndim == 0:
        raise DataError(f"Labels: expected an array with one label a row, received the single value {table}.")
    return table


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
