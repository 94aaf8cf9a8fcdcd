"""Reads TFRecord files of tf.train.Example."""

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfstruct.errors import DataError, one_line
from tfstruct.samples.images import decode, image_kind
from tfstruct.samples.rows import Inputs, LabelKey, Reader, Row, match_names, quoted
from tfstruct.samples.spec import TensorSpec
from tfstruct.samples.values import dtype_of, numbers, unflattened

INPUT_FEATURES = ("image", "image/encoded", "image_raw", "x", "input", "inputs", "features")
LABEL_FEATURES = ("label", "labels", "image/class/label", "y", "target")

_NAME = re.compile(r"\.tfrecords?(-\d+-of-\d+)?(\.gz)?$", re.IGNORECASE)


def is_record(path: Path) -> bool:
    """True for the name of a TFRecord file, or of one of its shards."""
    return _NAME.search(path.name) is not None


def read_records(paths: Sequence[Path], source: str, inputs: Inputs, labels: LabelKey) -> Reader:
    """Opens files of tf.train.Example; the first record says which feature feeds which input."""
    _, first = next(_examples(paths), ("", None))
    if first is None:
        return Reader(source, 0, lambda: iter(()))
    features, label_feature = _match_features(first, inputs, labels, source)

    def rows() -> Iterator[Row]:
        for where, example in _examples(paths):
            values = {s.name: _value(example, features[s.name], s, where) for s in inputs}
            yield Row(values, None if label_feature is None else _label(example, label_feature, where), where)

    return Reader(source, None, rows)


def _examples(paths: Sequence[Path]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields (where, features by name) of each record that holds a tf.train.Example."""
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    for path in paths:
        with path.open("rb") as stream:
            compression = "GZIP" if stream.read(2) == b"\x1f\x8b" else ""
        records = iter(tf.data.TFRecordDataset(str(path), compression))
        for index in itertools.count():
            where = f"record {index} of {path}"
            try:
                example = tf.train.Example.FromString(next(records).numpy())
            except StopIteration:
                break
            except tf.errors.OpError as error:
                raise DataError(
                    f"{where}: expected a whole record, received a truncated or corrupt one ({one_line(error)}). Copy "
                    "or write the file again."
                ) from error
            except DecodeError as error:
                raise DataError(
                    f"{where}: expected a tf.train.Example, received another message ({one_line(error)}). Write the "
                    "records with tf.train.Example(...).SerializeToString()."
                ) from error
            yield where, dict(example.features.feature)


def _match_features(
    example: Mapping[str, Any], inputs: Inputs, labels: LabelKey, source: str
) -> tuple[dict[str, str], str | None]:
    kinds = {name: example[name].WhichOneof("kind") for name in sorted(example)}
    alone = [[name for name in kinds if kinds[name] == kind] for kind in ("bytes_list", "float_list")]
    usual = (INPUT_FEATURES, LABEL_FEATURES)
    matched, missing, found = match_names(kinds, inputs, labels, source, usual, alone)
    if missing:
        raise DataError(
            f"{source}: expected features for the inputs {quoted(s.name for s in inputs)}, received "
            f"{quoted(kinds) or 'none'} (missing {quoted(missing)}). Name the features like the inputs."
        )
    # A label of bytes is a class name: of no use unless asked for, and then an error.
    return matched, next((name for name in found if name == labels or kinds[name] != "bytes_list"), None)


def _value(example: Mapping[str, Any], name: str, spec: TensorSpec, where: str) -> np.ndarray:
    values = _feature(example, name, where)
    if isinstance(values, np.ndarray):
        return unflattened(values, spec)
    where = f"{where}, feature '{name}'"
    if len(values) != 1:
        raise DataError(f"{where}: expected one value of bytes, received {len(values)}. Write one.")
    data = values[0]
    if image_kind(data) in ("jpeg", "png"):
        return decode(data, spec, where)
    shape = [n for n in spec.shape if n is not None]
    if len(shape) == len(spec.shape):
        for dtype in (dtype_of(spec), np.dtype("uint8"), np.dtype("float32")):
            # A dtype of one byte other than uint8 (int8, bool) is not what raw pixels are written in.
            is_raw = dtype.itemsize > 1 or dtype == np.uint8
            if is_raw and len(data) == math.prod(shape) * dtype.itemsize:
                return numbers(np.frombuffer(data, dtype.newbyteorder("<")).reshape(shape), where)
    raise DataError(
        f"{where}: expected a JPEG or PNG, or raw uint8 or float32 bytes for {spec}, received {len(data)} bytes of "
        "something else. Write the values as a float_list, or as tf.io.encode_png."
    )


def _label(example: Mapping[str, Any], name: str, where: str) -> np.ndarray:
    label = _feature(example, name, where)
    if not isinstance(label, np.ndarray):
        raise DataError(f"{where}: expected numbers in the label '{name}', received bytes. Write class numbers.")
    return label.reshape(()) if label.size == 1 else label


def _feature(example: Mapping[str, Any], name: str, where: str) -> np.ndarray | Sequence[bytes]:
    """The values of a feature: an array, or several values of bytes."""
    kind = example[name].WhichOneof("kind") if name in example else None
    if kind is None:
        raise DataError(
            f"{where}: expected a feature '{name}', received {quoted(sorted(example)) or 'none'}. Write it."
        )
    values = getattr(example[name], kind).value
    return values if kind == "bytes_list" else np.array(values, np.float32 if kind == "float_list" else np.int64)
