"""Reads tables of numbers from text: samples in a .csv file, labels in a .csv or .txt file."""

import csv
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from tfstruct.errors import DataError, one_line
from tfstruct.samples.rows import Inputs, LabelKey, Reader, Row, quoted, unknown_label
from tfstruct.samples.values import unflattened

LABEL_COLUMNS = ("label", "labels", "y", "target", "class")

MAX_LINE = 2**26  # characters of one line of text


def read_csv(path: Path, inputs: Inputs, labels: LabelKey) -> Reader:
    """Opens a table of numbers, one sample a line; a first line that is not all numbers names the columns."""
    _, first = next(_table(path), (0, None))
    if first is None:
        return Reader(str(path), 0, lambda: iter(()))
    has_header = not all(map(_is_number, first))
    columns = first if has_header else [str(i) for i in range(len(first))]
    if isinstance(labels, str) and labels not in columns:
        raise unknown_label(labels, columns, str(path))
    names = [spec.name for spec in inputs]
    usual = (c for c in columns if c.lower() in LABEL_COLUMNS and (len(names) == 1 or c not in names))
    # The column of labels is no input, even when other labels are used.
    label_column = labels if isinstance(labels, str) else next(usual, None)
    if len(names) == 1:
        places = {names[0]: [i for i, column in enumerate(columns) if column != label_column]}
    else:
        places = {name: _places(name, columns) for name in names}
    missing = [name for name in names if not places[name]]
    if missing:
        raise DataError(
            f"{path}: expected columns for the inputs {quoted(names)} (`name`, or `name_0`, `name_1`, ...), received "
            f"{quoted(columns)} (missing {quoted(missing)}). Name the columns in the first line."
        )
    label_at = None if label_column is None or labels is False else columns.index(label_column)

    def rows() -> Iterator[Row]:
        for line, cells in itertools.islice(_table(path), int(has_header), None):
            where = f"{path}, line {line}"
            if len(cells) != len(columns):
                raise DataError(f"{where}: expected {len(columns)} columns, received {len(cells)}. Correct the line.")
            values = {}
            for spec in inputs:
                row = [_number(cells[i], columns[i], where) for i in places[spec.name]]
                values[spec.name] = unflattened(np.array(row), spec)
            label = None if label_at is None else _number(cells[label_at], columns[label_at], where, int)
            yield Row(values, label, f"line {line} of {path}")

    return Reader(str(path), None, rows)


def read_text_labels(path: Path) -> np.ndarray:
    """Loads one label a line; a first line that is no number is a header."""
    values: list[int | float] = []
    for row, (line, cells) in enumerate(_table(path)):
        where = f"{path}, line {line}"
        if len(cells) != 1:
            raise DataError(f"{where}: expected one label, received {len(cells)} columns. Keep one column.")
        if row > 0 or _is_number(cells[0]):
            values.append(_number(cells[0], "label", where, int))
    try:
        return np.array(values, np.float64 if any(isinstance(value, float) for value in values) else np.int64)
    except OverflowError as error:
        raise DataError(f"{path}: expected labels within 64 bits, received larger ones. Correct the file.") from error


def _table(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yields (line number, cells) of each line that is not blank."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            lines = _lines(stream, path)
            first = next(lines, "")
            delimiter = next((c for c in ",;\t" if c in first), ",")
            reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter)
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield reader.line_num, [cell.strip() for cell in cells]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path}: expected text, received something else ({one_line(error)}). Save it as UTF-8."
        ) from error


def _lines(stream: TextIO, path: Path) -> Iterator[str]:
    while line := stream.readline(MAX_LINE):
        if len(line) == MAX_LINE:
            raise DataError(f"{path}: expected lines of text, received one of {MAX_LINE} characters. Check the file.")
        yield line


def _places(name: str, columns: Sequence[str]) -> list[int]:
    """Where the columns of an input stand: `name`, or `name_0`, `name_1`, ..."""
    if name in columns:
        return [columns.index(name)]
    numbered = (f"{name}_{i}" for i in itertools.count())
    return [columns.index(column) for column in itertools.takewhile(columns.__contains__, numbered)]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return not cell  # a hole in the data makes no header
    return True


def _number(cell: str, column: str, where: str, kind: type = float) -> int | float:
    try:
        return kind(cell)
    except ValueError as error:
        if kind is int:
            return _number(cell, column, where)
        raise DataError(
            f"{where}, column {column!r}: expected a number, received {cell[:50]!r}. Correct the cell or leave the "
            "column out."
        ) from error
