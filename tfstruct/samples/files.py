"""Opens a file, a folder, a pattern or a list of files by the reader of its kind."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tfstruct.errors import DataError
from tfstruct.samples.csv_files import read_csv, read_text_labels
from tfstruct.samples.images import IMAGE_SUFFIXES, read_images
from tfstruct.samples.numpy_files import read_npy, read_npy_labels, read_npz
from tfstruct.samples.records import is_record, read_records
from tfstruct.samples.rows import Inputs, LabelKey, Reader, unreadable

_READERS = {".npy": read_npy, ".npz": read_npz, ".csv": read_csv}
_KNOWN = ".npz, .npy, .csv, .tfrecord, .tfrecords, .jpg, .jpeg, .png, .bmp, or a folder of images or TFRecords"


def read_files(source: str | Path | Sequence[str | Path], inputs: Inputs, labels: LabelKey) -> Reader:
    """Opens a file, a folder, a glob pattern or a list of files."""
    paths = [Path(os.path.expanduser(p)) for p in ([source] if isinstance(source, (str, Path)) else source)]
    if isinstance(source, (str, Path)):
        # os.path: pathlib raises on a path that may not be looked at, and _check says so better.
        if os.path.isdir(paths[0]):
            return _read_folder(paths[0], inputs, labels)
        if not os.path.exists(paths[0]) and any(c in str(source) for c in "*?["):
            paths = [Path(p) for p in sorted(glob.glob(str(paths[0])))]
            if not paths:
                raise DataError(f"Expected files that match {source!s}, found none. Check the pattern.")
    for path in paths:
        _check(path)
    if all(map(is_record, paths)):
        return read_records(paths, _shortened(paths, "TFRecord"), inputs, labels)
    if all(path.suffix.lower() in IMAGE_SUFFIXES for path in paths):
        return read_images([(path, None) for path in paths], _shortened(paths, "image"), inputs, labels)
    if len(paths) > 1:
        raise DataError(
            f"Expected several files to be all TFRecords or all images, received {len(paths)} files "
            f"({', '.join(path.name for path in paths[:3])}, ...). Name one file, or only files of one of these kinds."
        )
    suffix = paths[0].suffix
    if suffix.lower() not in _READERS:
        raise DataError(f"{paths[0]}: unknown suffix '{suffix}'. Expected one of {_KNOWN}.")
    return _READERS[suffix.lower()](paths[0], inputs, labels)


def _shortened(paths: Sequence[Path], kind: str) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{len(paths)} {kind} files ({paths[0]}, ...)"


def read_labels(path: Path) -> np.ndarray:
    """Loads one label a row from a .npy, .csv or .txt file."""
    _check(path)
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".csv", ".txt"):
        raise DataError(f"{path}: expected labels in a .npy, .csv or .txt file, received '{suffix}'. Convert it.")
    return read_npy_labels(path) if suffix == ".npy" else read_text_labels(path)


def _check(path: Path) -> None:
    """Raises DataError unless `path` is a file that can be read and holds no web page."""
    try:
        if not path.exists():
            raise DataError(f"{path}: expected a file or a folder, found nothing there. Check the path.")
        if not path.is_file():
            raise DataError(f"{path}: expected a regular file, received another kind. Name a file.")
        with path.open("rb") as stream:
            head = stream.read(256).lstrip().lower()
    except OSError as error:
        raise unreadable(path, error) from error
    if head.startswith((b"<!doctype html", b"<html")):
        raise DataError(f"{path}: expected data, received an HTML page (a failed download?). Download the file again.")


def _read_folder(path: Path, inputs: Inputs, labels: LabelKey) -> Reader:
    try:
        entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
        # As in Keras, each sub-folder is a class, also an empty one.
        folders = [entry for entry in entries if entry.is_dir()]
        classes = [(p, i) for i, folder in enumerate(folders) for p in sorted(folder.rglob("*")) if _is_image(p)]
        loose = [(entry, None) for entry in entries if _is_image(entry)]
        records = [entry for entry in entries if is_record(entry) and entry.is_file()]
    except OSError as error:
        raise unreadable(path, error) from error
    kinds = {"loose images": loose, "images in sub-folders": classes, "TFRecords": records}
    found = [kind for kind, files in kinds.items() if files]
    if len(found) > 1:
        raise DataError(
            f"{path}: expected data of one kind, received {' and '.join(found)}. Move all but one elsewhere."
        )
    if not found:
        raise DataError(
            f"{path}: expected images ({', '.join(IMAGE_SUFFIXES)}) or TFRecords in the folder, found none. Check the "
            "path and the suffixes."
        )
    if records:
        return read_files(records, inputs, labels)
    images = classes or loose
    return read_images(images, f"{len(images)} images in {path}", inputs, labels)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
