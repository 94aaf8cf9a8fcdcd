"""The teacher's outputs on disk, for data that is the same in each epoch."""

import contextlib
import hashlib
import json
import os
import pathlib
import typing

import keras
import numpy as np
import tensorflow as tf

from tfstruct.arguments import checked, require_count
from tfstruct.errors import DataError
from tfstruct.files import FileLock, write_atomic
from tfstruct.graph.keras_model import require_model
from tfstruct.graph.layer_tree import states_kept
from tfstruct.graph.sizes import fixed_batch
from tfstruct.samples.for_model import samples_of
from tfstruct.untrusted import json_text

_FORMAT = 1


class TeacherTargets(typing.NamedTuple):
    """What `cached` puts in the place of the labels.

    Attributes:
        labels: the labels; () where the data has none.
        outputs: what the teacher puts out for the same samples.
    """

    labels: typing.Any
    outputs: typing.Any


Taught = TeacherTargets  # as it was called before


@checked
def cached(teacher: keras.Model, data, path: str | os.PathLike, *, batch_size: int = 32) -> tf.data.Dataset:
    """The same batches with the teacher's outputs beside the labels: (x, y) becomes (x, TeacherTargets(y, outputs)).

    The teacher runs over the dataset once, now, in inference, and what it puts out is written to `path`, a row a
    sample, and `path.json`, which says what the rows are. Where these files are there already, only what is missing is
    computed, so a killed run goes on. The rows are read as they are needed.

    Each row has a hash of its sample, which is checked when it is read: a dataset that gives other samples, or the same
    in another order, is refused. So shuffle and repeat what this returns, and augment before only if each epoch gives
    the same.

        student.fit(cached(teacher, dataset, "teacher.rows").shuffle(100), callbacks=[Distill(teacher)])

    Under `tf.distribute`, Keras looks at labels before callbacks begin: call the Distill's `attach(student)` before.

    Args:
        teacher: not changed.
        data: a finite `tf.data.Dataset` of batches x, (x, y) or (x, y, sample_weight), which is streamed; anything else
            that `tfstruct.samples` reads is held in memory.
        path: of the file; its folder must be there.
        batch_size: of data that is no `tf.data.Dataset`.

    Returns:
        A `tf.data.Dataset` of (x, `TeacherTargets`) in the same batches, which reads the outputs from `path` the next
        time.

    Raises:
        DataError: the file belongs to another teacher or to other samples, or is none of these; or the dataset is
            endless or not batched.

    Example:
        >>> batches = tfstruct.distill.cached(model, (x, y), "teacher.rows")
        >>> _, targets = next(iter(batches))
        >>> targets.labels.shape, targets.outputs.shape
        (TensorShape([32]), TensorShape([32, 2]))
    """
    require_model(teacher, "a keras.Model as teacher")
    require_count("batch_size", batch_size)
    folder = pathlib.Path(path).parent
    if not folder.is_dir():
        raise DataError(
            f"`path` must be a file in a folder that is there. Received: {str(path)!r}: no folder {folder}."
        )
    dataset = data if isinstance(data, tf.data.Dataset) else _dataset(teacher, data, batch_size)
    if int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise DataError("Expected a finite tf.data.Dataset of batches. Received one that repeats: leave out repeat().")
    spec = _parts(dataset.element_spec)[0]
    if any(not isinstance(s, tf.TensorSpec) or not s.shape.rank for s in keras.tree.flatten(spec)):
        raise DataError(f"Expected batches of plain tensors. Received elements {spec}: call batch(...) first.")
    rows = _Rows(pathlib.Path(path), teacher)
    with states_kept(teacher):
        rows.fill(dataset)
    started = dataset.scan(np.int64(0), lambda start, batch: (start + _count(_parts(batch)[0]), (start, batch)))
    return started.map(rows.beside, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _dataset(teacher: keras.Model, data, batch_size: int) -> tf.data.Dataset:
    """A user's data, held in memory, as batches."""
    samples = samples_of(teacher, data, use_labels=True)
    found = samples.in_memory()
    parts = (samples.ports.arranged(found.inputs), found.labels, found.weights)
    given = parts[: 1 if found.labels is None else 2 if found.weights is None else 3]
    return tf.data.Dataset.from_tensor_slices(keras.tree.lists_to_tuples(given)).batch(batch_size)


class _Rows:
    """The file: one structured row a sample, "sample" its hash, "0", "1", ... the outputs."""

    def __init__(self, path: pathlib.Path, teacher: keras.Model):
        self._path, self._about = path, path.with_name(f"{path.name}.json")
        self._teacher, self._owner = teacher, _fingerprint(teacher)
        self._outputs = None
        self._row: np.dtype | None = None
        self._rows: np.memmap | None = None

    def fill(self, dataset: tf.data.Dataset) -> None:
        lock = f"{self._path}.lock"
        if self._read().get("rows") is not None:
            if os.path.exists(lock):  # of a process that was killed when all was written
                with contextlib.suppress(BlockingIOError):
                    FileLock(lock).release()
            self._fill(dataset)
            return
        try:
            held = FileLock(lock)
        except BlockingIOError:
            raise DataError(
                f"Another process writes {self._path}. Wait until it has ended, or give another path."
            ) from None
        try:
            self._fill(dataset)
        finally:
            held.release()

    def _fill(self, dataset: tf.data.Dataset) -> None:
        about, start, size = self._read(), 0, fixed_batch(self._teacher)
        predict = tf.function(lambda x: self._teacher(x, training=False), reduce_retracing=True)
        for batch in dataset:
            x = _parts(batch)[0]
            hashes = _hashes(x)
            if len(hashes) != (size or len(hashes)):
                raise DataError(
                    f"The teacher `{self._teacher.name}` fixes its batch at {size} samples. Received a batch of "
                    f"{len(hashes)}: dataset.batch({size}, drop_remainder=True)."
                )
            row = self._row
            if row is None:
                row = self._row = self._shape(predict.get_concrete_function(x).structured_outputs, about)
            have = self._known(row, start, hashes)
            if about.get("rows") is not None:
                break  # whole, and it starts with the same samples
            if have < len(hashes):
                self._append(row, hashes, predict(x))
            start += len(hashes)
        if self._row is None:
            raise DataError("Expected at least one batch. Received an empty dataset.")
        if about.get("rows") is None:
            self._say(self._row, start)
        self._rows = np.memmap(self._path, self._row, "r")

    def _read(self) -> dict:
        if not self._about.exists():
            if self._path.exists():
                raise DataError(f"{self._path} is there, but no {self._about.name} beside it: not a file of `cached`.")
            return {}
        about = json_text.read_file(self._about, dict, DataError)
        if about.get("format") != _FORMAT or about.get("teacher") != self._owner:
            raise DataError(
                f"{self._path} has the outputs of another teacher: fingerprint {about.get('teacher')}, this one has "
                f"{self._owner}. Give another path, or delete the file."
            )
        return about if self._path.exists() else {}  # killed in between, or the rows were deleted

    def _shape(self, outputs, about: dict) -> np.dtype:
        """Settles what a row is, from the specs of the teacher's outputs."""
        self._outputs = keras.tree.lists_to_tuples(outputs)  # tf.data takes a list for an array
        fields = [(str(i), "<f4", tuple(x.shape[1:])) for i, x in enumerate(keras.tree.flatten(outputs))]
        row = np.dtype([("sample", "<u8"), *fields])
        if not about:
            self._say(row, None)
            self._path.touch()
        whole = self._path.stat().st_size // row.itemsize * row.itemsize
        os.truncate(self._path, whole)  # a row that was being written
        return row

    def _say(self, row: np.dtype, rows: int | None) -> None:
        about = {"format": _FORMAT, "teacher": self._owner, "row": row.descr, "rows": rows}
        write_atomic(self._about, json.dumps(about).encode())

    def _known(self, row: np.dtype, start: int, hashes: np.ndarray) -> int:
        """How many of a batch's rows are there; cuts off what is only begun."""
        there = self._path.stat().st_size // row.itemsize - start
        found = min(there, len(hashes))
        if found > 0:
            rows = np.fromfile(self._path, row, found, offset=start * row.itemsize)
            self._check(rows["sample"], hashes[:found], start)
        if 0 < found < len(hashes):
            os.truncate(self._path, start * row.itemsize)
            return 0
        return max(found, 0)

    def _append(self, row: np.dtype, hashes: np.ndarray, outputs) -> None:
        rows = np.empty(len(hashes), row)
        rows["sample"] = hashes
        for i, output in enumerate(keras.tree.flatten(outputs)):
            rows[str(i)] = output.numpy()
        with self._path.open("ab") as file:
            file.write(rows.tobytes())

    def _check(self, found, hashes, start: int) -> None:
        same = len(found) == len(hashes) and (found == hashes).all()
        if not same:
            raise DataError(
                f"{self._path} has the teacher's outputs for other samples, from number {start} on. The dataset has to "
                "give the same samples in the same order in each epoch: shuffle behind `cached`, and augment behind "
                "it or not at random. For other data, give another path or delete the file."
            )

    # In the pipeline

    def beside(self, start, batch):
        x, labels, weights = _parts(batch)
        flat = keras.tree.flatten(self._outputs)
        read = tf.numpy_function(self._at, [start, *keras.tree.flatten(x)], [tf.float32] * len(flat))
        for value, output in zip(read, flat, strict=True):
            value.set_shape((keras.tree.flatten(x)[0].shape[0], *output.shape[1:]))
        targets = TeacherTargets(() if labels is None else labels, keras.tree.pack_sequence_as(self._outputs, read))
        return (x, targets) if weights is None else (x, targets, weights)

    def _at(self, start, *x):
        assert self._rows is not None and self._row is not None and self._row.names is not None  # `fill` was called
        hashes = _hashes(x)
        rows = self._rows[start : start + len(hashes)]
        self._check(rows["sample"], hashes, int(start))
        return [np.ascontiguousarray(rows[name]) for name in self._row.names[1:]]


def _parts(batch) -> tuple:
    batch = batch if isinstance(batch, tuple) else (batch,)
    return keras.utils.unpack_x_y_sample_weight(batch)


def _count(x):
    return tf.shape(keras.tree.flatten(x)[0], tf.int64)[0]


def _hashes(x) -> np.ndarray:
    """Of each sample, 64 bits."""
    arrays = [np.asarray(part) for part in keras.tree.flatten(x)]
    digests = []
    for sample in zip(*arrays, strict=True):
        digest = hashlib.blake2b(digest_size=8)
        for part in sample:
            part = np.asarray(part)
            digest.update(repr(part.tolist()).encode() if part.dtype == object else part.tobytes())
        digests.append(digest.digest())
    return np.frombuffer(b"".join(digests), "<u8")


def _fingerprint(teacher: keras.Model) -> str:
    """Of its operations and weights; not of names, which differ between two models made alike."""
    digest = hashlib.sha256()
    for op in getattr(teacher, "operations", teacher.layers):
        digest.update(f"{type(op).__name__} {getattr(getattr(op, 'activation', None), '__name__', '')};".encode())
    for weight in teacher.weights:
        value = weight.numpy()
        digest.update(f"{value.shape} {value.dtype};".encode() + value.tobytes())
    return digest.hexdigest()[:16]
