"""Tables of numbers give back their rows; every misfit names its line."""

import numpy as np
import pytest
from sample_cases import GREY, LABELS, PAIR, ROW, ROWS, assert_pair, assert_rows, labels, refuse, values

from tfstruct.samples import csv_files, open_samples


def csv_text(with_header: bool, delimiter: str = ",") -> str:
    lines = [delimiter.join(["p", "label", "q", "r"])] if with_header else []
    lines += [delimiter.join(map(str, [r[0], y, r[1], r[2]])) for r, y in zip(ROWS, LABELS, strict=True)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv(tmp_path, delimiter):
    (tmp_path / "d.csv").write_text("\ufeff" + csv_text(True, delimiter), encoding="utf-8")
    samples = open_samples(tmp_path / "d.csv", [ROW])
    assert samples.count is None
    assert_rows(samples)
    (tmp_path / "n.csv").write_text(csv_text(False, delimiter))
    assert_rows(open_samples(tmp_path / "n.csv", [ROW], labels="1"))
    assert_rows(open_samples(tmp_path / "d.csv", [ROW], labels=LABELS))


def test_csv_is_reshaped(tmp_path):
    (tmp_path / "d.csv").write_text("\n".join(",".join(map(str, range(i, i + 16))) for i in range(2)))
    got = values(open_samples(tmp_path / "d.csv", [GREY]))
    np.testing.assert_array_equal(got, np.stack([np.arange(16), np.arange(1, 17)]).reshape(2, 4, 4, 1))


def test_csv_of_several_inputs(tmp_path):
    (tmp_path / "d.csv").write_text("id,b,a_1,a_0,class\nu1,7,1,0,0\nu2,8,3,2,1\nu3,9,5,4,0\n")
    samples = open_samples(tmp_path / "d.csv", PAIR)
    assert_pair(samples)
    assert labels(samples) == [0, 1, 0]
    (tmp_path / "d.csv").write_text("a_0,a_1\n1,2\n")
    refuse("expected columns for the inputs 'a', 'b'.*missing 'b'", tmp_path / "d.csv", PAIR)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("p,q,r\n1,2,3\n4,five,6\n", "line 3, column 'q': expected a number, received 'five'"),
        ("1,,3\n", "line 1, column '1': expected a number, received ''"),
        ("1,2,3\n4,5\n", "line 2: expected 3 columns, received 2"),
        ("1,2,3,4\n", r"sample 0 \(line 1 of .*d.csv\): expected shape \(3,\), received \(4,\)"),
        ("1,nan,3\n", "received NaN"),
        ("p,q,r,label\n1,2,3,cat\n", "line 2, column 'label': expected a number, received 'cat'"),
        ("", "holds no samples"),
        ("p,q,r\n", "holds no samples"),
        ("<html><body>", "HTML page"),
    ],
)
def test_csv_errors(tmp_path, text, match):
    (tmp_path / "d.csv").write_text(text)
    refuse(match, tmp_path / "d.csv")


def test_csv_that_is_no_text(tmp_path, monkeypatch):
    (tmp_path / "d.csv").write_bytes(b"\xff\xfe\x00\x81" * 9)
    refuse("expected text, received something else", tmp_path / "d.csv")
    (tmp_path / "d.csv").write_text(csv_text(True))
    refuse("keys are: 'p', 'label', 'q', 'r'", tmp_path / "d.csv", labels="nope")
    monkeypatch.setattr(csv_files, "MAX_LINE", 5)
    refuse("expected lines of text, received one of 5 characters", tmp_path / "d.csv")
