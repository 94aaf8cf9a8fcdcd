""".npy and .npz files are streamed and never unpickled; a damaged one is a DataError."""

import io
import os
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from sample_cases import LABELS, PAIR, ROW, ROWS, A, B, assert_pair, assert_rows, labels, refuse

from tfstruct.samples import TensorSpec, numpy_files, open_samples


@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(tmp_path, order):
    np.save(tmp_path / "x.npy", np.asarray(ROWS, ">f8", order=order))
    samples = open_samples(str(tmp_path / "x.npy"), [ROW])
    assert samples.count == 4
    assert_rows(samples, with_labels=False)
    assert_rows(open_samples(tmp_path / "x.npy", [ROW], labels=LABELS))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "keys",
    [("x_in", "y"), ("x_train", "y_train"), ("x_test", "y_test"), ("images", "labels"), ("other", "target")],
)
def test_npz(tmp_path, save, keys):
    save(tmp_path / "d.npz", **{keys[0]: ROWS, keys[1]: LABELS})
    samples = open_samples(tmp_path / "d.npz", [ROW])
    assert samples.count == 4
    assert_rows(samples)
    assert_rows(samples)  # again


def test_npz_of_several_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(numpy_files, "BLOCK", 30)  # two rows and a bit
    np.savez_compressed(tmp_path / "c.npz", x=ROWS, y=LABELS)
    assert_rows(open_samples(tmp_path / "c.npz", [ROW]))
    np.savez(tmp_path / "f.npz", x=np.asfortranarray(ROWS), y=LABELS)
    assert_rows(open_samples(tmp_path / "f.npz", [ROW]))


def test_npz_splits_and_names(tmp_path):
    path = tmp_path / "d.npz"
    np.savez(path, x_test=ROWS[:2], y_test=[9, 9], x_train=ROWS, y_train=LABELS, own=LABELS[::-1])
    assert_rows(open_samples(path, [ROW]))
    assert labels(open_samples(path, [ROW], labels="own")) == list(LABELS[::-1])
    refuse("neither a key.*keys are: 'x_test', 'y_test', 'x_train', 'y_train', 'own'", path, labels="nope")
    np.savez(path, x_test=ROWS, y_train=[0, 0])  # not the labels of this split
    assert_rows(open_samples(path, [ROW]), with_labels=False)


def test_npz_several_inputs(tmp_path):
    np.savez(tmp_path / "d.npz", b=B, a=A, y=[0, 1, 2])
    assert_pair(open_samples(tmp_path / "d.npz", PAIR))
    np.savez(tmp_path / "d.npz", a=A)
    refuse("expected the inputs 'a', 'b', received the keys 'a'", tmp_path / "d.npz", PAIR)
    np.savez(tmp_path / "d.npz", p=A, q=A)
    refuse("missing 'x_in'", tmp_path / "d.npz")


def test_npz_is_streamed(tmp_path):
    count, row = 240, np.zeros((256, 256), np.float32)
    row[0, 0] = 1
    np.savez_compressed(tmp_path / "big.npz", x=np.broadcast_to(row, (count, 256, 256)), y=np.arange(count))
    spec = TensorSpec("x", (256, 256), "float32")
    samples = open_samples(tmp_path / "big.npz", [spec])
    assert samples.count * row.nbytes > 60e6
    samples.take(1)
    tracemalloc.start()
    try:
        for index, sample in zip(range(64), samples, strict=False):
            assert sample.label == index and sample.inputs["x"][0, 0] == 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3e6


class Bomb:
    """Leaves a mark if it is ever unpickled."""

    def __reduce__(self):
        return os.mkdir, ("unpickled",)


def test_objects_are_never_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bomb = np.array([Bomb()], object)
    np.save("x.npy", bomb, allow_pickle=True)
    np.savez("x.npz", x=bomb)
    np.savez("y.npz", x=ROWS, y=bomb)
    for name in ("x.npy", "x.npz", "y.npz"):
        refuse("received dtype object.*unpickled", name)
    refuse("received dtype object", ROWS, labels="x.npy")
    assert not Path("unpickled").exists()


def header(shape: str, descr: str = "'<f4'", fortran: bool = False) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"\x00random bytes", "expected a NumPy array, received something else"),
        (b"", "expected a NumPy array"),
        (b"\n<!DOCTYPE html><html>not found</html>", "received an HTML page"),
        (header("(4, 3)") + b"\0" * 40, "expected 48 bytes of values, received 40. The file is truncated"),
        (header("()") + b"\0" * 4, "expected a batch axis first"),
        (header("(1, 1000000000)"), "expected samples of at most 1073741824 bytes"),
        (header("(4, 0)"), "expected samples of at most"),
        (header("(-1, 3)"), "NumPy array|samples of at most"),
        (header("(" * 50), "expected a NumPy array"),
        (header("(4,)", "[('a', '<f4')]"), "expected an array of numbers"),
        (header("(4,)", "'<U3'"), "expected an array of numbers, received dtype <U3"),
        (b"\x93NUMPY\x09\x00" + header("(4, 3)")[8:], "NumPy array"),
        (header("(0, 3)"), "holds no samples"),
    ],
)
def test_damaged_arrays(tmp_path, content, match):
    (tmp_path / "x.npy").write_bytes(content)
    refuse(match, tmp_path / "x.npy")
    if b"html" not in content:
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            archive.writestr("x.npy", content)
        refuse(match, tmp_path / "x.npz")


def test_damaged_archives(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    for content, match in ((b"random", "expected an .npz archive"), (b"<html>", "HTML page")):
        path.write_bytes(content)
        refuse(match, path)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.random.default_rng(0).random((200, 3), np.float32))
    whole = bytearray(buffer.getvalue())
    whole[len(whole) // 2] ^= 0xFF
    path.write_bytes(whole)
    refuse("expected an .npz archive, received a damaged", path)
    np.savez(path, x=ROWS, y=LABELS[:3])
    refuse("expected as many labels as samples.*'x' 4, 'y' 3", path)
    monkeypatch.setattr(numpy_files, "MAX_LABELS", 2)
    refuse("expected at most 2 entries of labels", path)
    monkeypatch.setattr(numpy_files, "MAX_SPOOL", 2)
    np.savez(path, x=np.asfortranarray(ROWS))
    refuse("Fortran order", path)


def test_one_array_cannot_fill_two_inputs(tmp_path):
    np.save(tmp_path / "x.npy", A)
    refuse("expected data for the inputs 'a', 'b', received data for one", tmp_path / "x.npy", PAIR)
    np.save(tmp_path / "x.npy", ROWS)
    refuse("neither a key.*keys are: none", tmp_path / "x.npy", labels="y")


@pytest.mark.parametrize("packed", ["x", "y"], ids=["samples", "labels"])
def test_small_archives_of_gigabytes_are_refused(tmp_path, monkeypatch, packed):
    monkeypatch.setattr(numpy_files, "HARMLESS", 2**20)
    path, count = tmp_path / "bomb.npz", 2**19
    arrays = {"x": np.ones((count, *ROW.shape), ROW.dtype), "y": np.zeros(count, np.int32)}
    other = "y" if packed == "x" else "x"
    arrays[other] = np.random.default_rng(0).integers(0, 255, arrays[other].shape).astype(arrays[other].dtype)
    np.savez_compressed(path, **arrays)
    refuse(f"'{packed}' in .*bomb.npz: .* bytes would become", path, [ROW], labels="y")
    np.savez(path, **arrays)
    open_samples(path, [ROW], labels="y")
