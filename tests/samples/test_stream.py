"""Limits, labels given apart, and what a sample is."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sample_cases import LABELS, ROW, ROWS, assert_rows, refuse, values

from tfstruct.samples import open_samples


def test_samples_own_their_memory():
    source = ROWS.copy()
    sample = open_samples(source, [ROW]).take(1)[0]
    sample.inputs["x_in"][:] = -1
    np.testing.assert_array_equal(source, ROWS)


def test_limit_and_take():
    samples = open_samples(ROWS, [ROW], limit=2)
    assert samples.count == 2
    np.testing.assert_array_equal(values(samples), ROWS[:2])
    assert [len(samples.take(n)) for n in (0, 1, 5)] == [0, 1, 2]


@pytest.mark.parametrize("limit", [0, -1, 1.5])
def test_bad_limit(limit):
    refuse("`limit` must be a positive integer", ROWS, limit=limit)


def test_labels_from_array_and_files(tmp_path):
    np.save(tmp_path / "l.npy", LABELS)
    (tmp_path / "l.txt").write_text("3\n1\n\n0\n2\n")
    (tmp_path / "l.csv").write_text("label\n3\n1\n0\n2\n")
    for given in (LABELS, LABELS.tolist(), tmp_path / "l.npy", str(tmp_path / "l.txt"), tmp_path / "l.csv"):
        assert_rows(open_samples(ROWS, [ROW], labels=given))
    # They go before what the source carries.
    assert_rows(open_samples((ROWS, LABELS[::-1]), [ROW], labels=LABELS))
    assert_rows(open_samples((r for r in ROWS), [ROW], labels=LABELS))
    assert len(open_samples(ROWS, [ROW], labels=LABELS, limit=2).take(9)) == 2
    (tmp_path / "f.txt").write_text("0.5\n1\n2\n3\n")
    assert float(open_samples(ROWS, [ROW], labels=tmp_path / "f.txt").take(1)[0].label) == 0.5


def test_label_errors(tmp_path):
    refuse("received 3 labels for 4 samples", ROWS, labels=LABELS[:3])
    refuse("received 3 labels for at least 4 samples", (r for r in ROWS), labels=LABELS[:3])
    refuse("received 5 labels for 4 samples", (r for r in ROWS), labels=[0] * 5)
    refuse("neither a key of the data nor an existing", ROWS, labels="nope")
    refuse("keys are: 'x_in', 'y'", {"x_in": ROWS, "y": LABELS}, labels="nope")
    refuse("found nothing there", ROWS, labels=tmp_path / "gone.npy")
    refuse("single value", ROWS, labels=3)
    refuse("Labels: expected numbers", ROWS, labels=["cat", "dog", "cat", "cat"])
    refuse("dtype <U3", (ROWS, np.array(["cat"] * 4)))
    cases = {"a.txt": ("0\ncat\n", "line 2.*received 'cat'"), "b.csv": ("1,2\n", "received 2 columns")}
    cases["c.txt"] = ("9" * 30, "within 64 bits")
    for name, (text, match) in cases.items():
        (tmp_path / name).write_text(text)
        refuse(match, ROWS, labels=tmp_path / name)
    (tmp_path / "l.bin").write_bytes(b"123")
    refuse("expected labels in a .npy, .csv or .txt file", ROWS, labels=tmp_path / "l.bin")


def test_arrays_and_csv_do_not_import_tensorflow(tmp_path):
    (tmp_path / "d.csv").write_text("1,2,3\n4,5,6\n")
    code = (
        "import sys; from tfstruct.samples import *; s = TensorSpec('x', (3,), 'float32'); "
        f"print(len(list(open_samples({str(tmp_path / 'd.csv')!r}, [s]))), len(open_samples([[1, 2, 3]], [s]).take(1)),"
        "'tensorflow' in sys.modules, 'keras' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "1", "False", "False"]
