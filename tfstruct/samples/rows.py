"""What all readers share: the rows they give, which of a source's names feeds which input, and their errors."""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfstruct.errors import DataError
from tfstruct.samples.spec import TensorSpec

INPUT_KEYS = ("x", "x_train", "x_test", "images", "image", "data", "inputs", "samples")
LABEL_KEYS = ("y", "y_train", "y_test", "labels", "label", "targets", "target")

MAX_ROW = 2**30  # bytes of one sample; more is a damaged or hostile header

Inputs = Sequence[TensorSpec]
LabelKey = str | bool  # the name of what holds the labels; True: one of the usual names, False: none


class Row(NamedTuple):
    """One raw sample: arrays of real numbers by input name, its label or None, and where it stands in the source."""

    values: Mapping[str, np.ndarray]
    label: Any = None
    where: str = ""


@dataclasses.dataclass(frozen=True)
class Reader:
    """A source that has been opened and looked at.

    Attributes:
        source: what it is, to be read by a person.
        count: the number of rows, None where only reading to the end would tell.
        rows: starts a pass over the rows.
        reiterable: False if there is only one pass.
    """

    source: str
    count: int | None
    rows: Callable[[], Iterator[Row]]
    reiterable: bool = True


def match_names(
    keys: Collection[str], inputs: Inputs, labels: LabelKey, source: str, usual: tuple, alone: Sequence[Collection[str]]
) -> tuple[dict[str, str], list[str], list[str]]:
    """Says which key feeds which input, which inputs are missing, and which keys may hold labels, the best first.

    Inputs are found by name. One input is found by name, else by one of the usual names of `(inputs, labels)`, else it
    is the only key of one of the groups in `alone` that names no labels.
    """
    names = [spec.name for spec in inputs]
    if isinstance(labels, str) and labels not in keys:
        raise unknown_label(labels, keys, source)
    asked = [labels] if isinstance(labels, str) else []
    usual_labels = [key for key in usual[1] if key in keys and key not in names]
    free = [key for key in keys if key not in (*usual_labels, *asked)]
    matched = {name: name for name in names if name in free}
    if len(names) == 1 and not matched:
        groups = [[key for key in group if key in free] for group in alone]
        found = [key for key in usual[0] if key in free] + [group[0] for group in groups if len(group) == 1]
        matched = dict(zip(names, found, strict=False))
    missing = [name for name in names if name not in matched]
    return matched, missing, usual_labels if labels is True else asked


def match_keys(
    keys: Collection[str], inputs: Inputs, labels: LabelKey, source: str, strict: bool = False
) -> tuple[dict[str, str], str | None]:
    """`match_names` for the keys of arrays: `({input: key}, label key or None)`. With `strict`, none is left over."""
    matched, missing, found = match_names(keys, inputs, labels, source, (INPUT_KEYS, LABEL_KEYS), [keys])
    extra = sorted(map(str, set(keys).difference(matched.values(), LABEL_KEYS, found)))
    if missing or (strict and extra):
        raise DataError(
            f"{source}: expected the inputs {quoted(s.name for s in inputs)}, received the keys {quoted(keys)} "
            f"({f'missing {quoted(missing)}' if missing else f'left over {quoted(extra)}'}). Rename the keys to the "
            "inputs' names and remove the others."
        )
    if labels is True:
        # y_test belongs to x_test: never take the labels of the other split.
        first = matched[inputs[0].name]
        other = {"x_train": "y_test", "x_test": "y_train"}.get(first)
        found = sorted((key for key in found if key != other), key=lambda key: key != first.replace("x", "y", 1))
    return matched, next(iter(found), None)


def same_count(counts: Mapping[str, int], source: str) -> int:
    """The number of samples on which all arrays, inputs and labels, agree."""
    if len(set(counts.values())) > 1:
        found = ", ".join(f"'{name}' {count}" for name, count in counts.items())
        raise DataError(f"{source}: expected as many labels as samples in all arrays, received {found}. Cut or add.")
    return next(iter(counts.values()))


def only_input(inputs: Inputs, labels: LabelKey, source: str) -> TensorSpec:
    """The one input of a source that has no names: neither of inputs nor of labels."""
    if len(inputs) != 1:
        raise DataError(
            f"{source}: expected data for the inputs {quoted(s.name for s in inputs)}, received data for one. Use an "
            ".npz file or a dict with an array an input, or TFRecords with a feature an input."
        )
    if isinstance(labels, str):
        raise unknown_label(labels, (), source)
    return inputs[0]


def unknown_label(labels: str, keys: Iterable[str], source: str) -> DataError:
    """The error for `labels=` that names neither a key nor a file."""
    return DataError(
        f"{source}: labels={labels!r} is neither a key of the data nor an existing .npy, .csv or .txt file. The keys "
        f"are: {quoted(keys) or 'none'}. Name one of them, or a file."
    )


def unreadable(path: Path, error: OSError) -> DataError:
    """The error for a file that may not be read."""
    return DataError(f"{path}: expected a readable file, received: {one_line(error)}. Check its permissions.")


@contextlib.contextmanager
def blamed(code: str, where: str) -> Iterator[None]:
    """Turns whatever the user's code raises in the block into a DataError that says where."""
    try:
        yield
    except (Exception, SystemExit) as error:
        said = one_line(error).rstrip(".")
        raise DataError(f"{code} raised {type(error).__name__} on {where}: {said}. Correct it.") from error


def one_line(error: BaseException) -> str:
    """The first 200 characters of an error's message, on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def quoted(names: Iterable[str]) -> str:
    """The first 20 names in quotes."""
    listed = [f"'{name}'" for name in itertools.islice(names, 21)]
    return ", ".join([*listed[:20], "..."] if len(listed) > 20 else listed)
