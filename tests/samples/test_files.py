"""Paths, patterns and folders find their reader."""

import os
from pathlib import Path

import numpy as np
from sample_cases import IMAGE, ROW, ROWS, assert_rows, refuse

from tfstruct.samples import open_samples


def test_paths(tmp_path, monkeypatch):
    refuse("found nothing there", tmp_path / "gone.npz")
    refuse("Expected files that match", str(tmp_path / "*.tfrecord"))
    (tmp_path / "x.dat").write_text("1")
    refuse(r"unknown suffix '.dat'. Expected one of .npz, .npy, .csv, .tfrecord", tmp_path / "x.dat")
    (tmp_path / "x.csv").write_text("1")
    refuse("all TFRecords or all images", [tmp_path / "x.dat", tmp_path / "x.csv"])
    os.mkfifo(tmp_path / "x.npy")
    refuse("expected a regular file", tmp_path / "x.npy")

    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    refuse("expected a readable file, received: .*Permission denied. Check its permissions", tmp_path / "x.csv")
    monkeypatch.setattr(Path, "iterdir", denied)
    refuse("Permission denied", tmp_path, [IMAGE])


def test_glob_and_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    np.save(tmp_path / "rows.npy", ROWS)
    assert_rows(open_samples(str(tmp_path / "ro*.npy"), [ROW]), with_labels=False)
    assert_rows(open_samples("~/rows.npy", [ROW]), with_labels=False)
    refuse("found nothing there", "~nobody_of_this_name/rows.npy")
