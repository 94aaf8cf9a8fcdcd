"""TFRecords of examples give back their features, in one file or in shards."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from sample_cases import IMAGE, LABELS, PAIR, PIXELS, ROW, ROWS, A, B, assert_pair, assert_rows, labels, refuse, values

from tfstruct.samples import open_samples


def feature(value):
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    array = np.asarray(value)
    if array.dtype.kind == "f":
        return tf.train.Feature(float_list=tf.train.FloatList(value=array.ravel()))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=array.ravel()))


@pytest.fixture
def write():
    """Writes a TFRecord file of Examples given as dicts, or of bytes."""

    def to(path: Path, records: list, compression: str = "") -> Path:
        with tf.io.TFRecordWriter(str(path), compression) as writer:
            for record in records:
                if isinstance(record, dict):
                    features = tf.train.Features(feature={k: feature(v) for k, v in record.items()})
                    record = tf.train.Example(features=features).SerializeToString()
                writer.write(record)
        return path

    return to


def row_records() -> list[dict]:
    return [{"x": r, "label": y} for r, y in zip(ROWS, LABELS, strict=True)]


def test_tfrecords(write, tmp_path):
    path = write(tmp_path / "d.tfrecord", row_records())
    samples = open_samples(path, [ROW])
    assert samples.count is None and samples.reiterable
    assert_rows(samples)
    assert_rows(samples)
    assert_rows(open_samples(path, [ROW], labels=LABELS[::1]))
    assert labels(open_samples(path, [ROW], labels="label")) == list(LABELS)
    assert_rows(open_samples(write(tmp_path / "g.tfrecord.gz", row_records(), "GZIP"), [ROW]))
    # In shards: a folder, a glob, a list; an empty shard is no end.
    folder = tmp_path / "shards"
    folder.mkdir()
    write(folder / "d.tfrecord-00000-of-00003", row_records()[:1])
    write(folder / "d.tfrecord-00001-of-00003", [])
    write(folder / "d.tfrecord-00002-of-00003", row_records()[1:])
    for source in (folder, str(folder / "d.tfrecord*"), sorted(folder.iterdir())):
        assert_rows(open_samples(source, [ROW]))


@pytest.mark.parametrize("encode", ["png", "raw", "float bytes", "floats", "ints"])
@pytest.mark.parametrize("name", ["image_in", "image/encoded", "own"])
def test_tfrecord_images(write, tmp_path, encode, name):
    value = {
        "png": tf.io.encode_png(PIXELS).numpy(),
        "raw": PIXELS.tobytes(),
        "float bytes": PIXELS.astype("<f4").tobytes(),
        "floats": PIXELS.astype(np.float32),
        "ints": PIXELS.astype(np.int64),
    }[encode]
    if name == "own" and encode == "ints":
        name = "features"  # integers are not found without a name
    extra = {"image/height": 4, "image/class/label": 7, "label": b"cat"}
    path = write(tmp_path / "d.tfrecords", [{name: value, **extra}])
    sample = open_samples(path, [IMAGE]).take(1)[0]
    np.testing.assert_array_equal(sample.inputs["image_in"], PIXELS)
    assert sample.label == 7


def test_tfrecord_jpeg_and_several_inputs(write, tmp_path):
    jpeg = tf.io.encode_jpeg(PIXELS).numpy()
    path = write(tmp_path / "j.tfrecord", [{"image": jpeg}])
    want = tf.io.decode_jpeg(jpeg, 3, dct_method="INTEGER_ACCURATE").numpy()
    np.testing.assert_array_equal(values(open_samples(path, [IMAGE]))[0], want)
    records = [{"a": a, "b": b, "target": np.float32([0.5, 1])} for a, b in zip(A, B, strict=True)]
    samples = open_samples(write(tmp_path / "p.tfrecord", records), PAIR)
    assert_pair(samples)
    assert labels(samples)[0].tolist() == [0.5, 1]


def test_tfrecord_errors(write, tmp_path):
    good = row_records()
    path = write(tmp_path / "d.tfrecord", good)
    whole = path.read_bytes()
    refuse("keys are: 'label', 'x'", path, labels="nope")
    refuse("expected features for the inputs 'a', 'b', received 'label', 'x'", path, PAIR)

    path.write_bytes(whole[:-5])
    refuse(r"record 3 of .*d.tfrecord: expected a whole record, received a truncated or corrupt", path)
    size = len(whole) // 4
    corrupt = bytearray(whole)
    corrupt[2 * size + 20] ^= 0xFF
    path.write_bytes(corrupt)
    refuse(r"record 2 of .*d.tfrecord: expected a whole record", path)
    path.write_bytes(b"random bytes, and more of them than a header has")
    refuse("record 0 of .*: expected a whole record", path)
    path.write_bytes(b"<html>gone</html>")
    refuse("HTML page", path)
    path.write_bytes(b"")
    refuse("holds no samples", path)

    for records, match in (
        ([good[0], b"\xff\xff not an example"], "record 1 of .*: expected a tf.train.Example"),
        ([good[0], {"label": 1}], "record 1 of .*: expected a feature 'x', received 'label'"),
        ([{"x": b"birds"}], "record 0 of .*feature 'x': expected a JPEG or PNG.*received 5 bytes"),
        ([{"x": np.float32([1, 2])}], r"sample 0 \(record 0 of .*\): expected shape \(3,\), received \(2,\)"),
        ([{}], "received none"),
        ([{"p": np.float32([1]), "q": np.float32([1])}], "missing 'x_in'"),
    ):
        refuse(match, write(path, records))
    refuse("expected numbers in the label 'kind'", write(path, [{"x": ROWS[0], "kind": b"cat"}]), labels="kind")


def test_folder_of_two_kinds(write, tmp_path):
    write(tmp_path / "d.tfrecord", row_records())
    (tmp_path / "a.png").write_bytes(tf.io.encode_png(PIXELS).numpy())
    refuse("received loose images and TFRecords", tmp_path)
