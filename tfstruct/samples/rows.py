"""What all readers share: the rows they give, which of a source's names feeds which input, and their errors."""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfstruct.errors import DataError, one_line
from tfstruct.samples.spec import TensorSpec

INPUT_KEYS = ("x", "x_train", "x_test", "images", "image", "data", "inputs", "samples")
LABEL_KEYS = ("y", "y_train", "y_test", "labels", "label", "targets", "target")

MAX_ROW = 2**30  # bytes of one sample; more is a damaged or hostile header

Inputs = Sequence[TensorSpec]
LabelKey = str | bool  # the name of what holds the labels; True: one of the usual names, False: none


@dataclasses.dataclass(frozen=True)
class Row:
    """One raw sample: arrays of real numbers by input name, its label or None, where it stands in the source, and its
    weight or None."""

    values: Mapping[str, np.ndarray]
    label: Any = None
    where: str = ""
    weight: Any = None


@dataclasses.dataclass(frozen=True)
class Block:
    """`count` raw samples along the first axis of arrays, with labels and weights or None."""

    values: Mapping[str, np.ndarray]
    label: Any
    weight: Any
    count: int
    where: str = ""

    def part(self, start: int, stop: int) -> "Block":
        """The samples from `start` up to `stop`."""
        values = {name: value[start:stop] for name, value in self.values.items()}
        label, weight = (map_leaves(lambda leaf: np.atleast_1d(leaf)[start:stop], y) for y in (self.label, self.weight))
        return Block(values, label, weight, min(stop, self.count) - start, self.where)

    def rows(self) -> Iterator[Row]:
        for i in range(self.count):
            label, weight = (map_leaves(lambda y: np.atleast_1d(y)[i], y) for y in (self.label, self.weight))  # noqa: B023
            yield Row({name: value[i] for name, value in self.values.items()}, label, self.where, weight)


@dataclasses.dataclass(frozen=True)
class Reader:
    """A source that has been opened and looked at.

    Attributes:
        source: what it is, to be read by a person.
        count: the number of rows, None where only reading to the end would tell.
        rows: starts a pass over the rows, single or in blocks.
        reiterable: False if there is only one pass.
        is_whole: True if it gives a single block, of everything: it has no batches of its own.
    """

    source: str
    count: int | None
    rows: Callable[[], Iterator[Row | Block]]
    reiterable: bool = True
    is_whole: bool = False


def map_leaves(function: Callable[[Any], Any], label: Any) -> Any:
    """Applies `function` to a label, or to each in a dict or tuple of labels for several outputs; None stays."""
    if isinstance(label, Mapping):
        return {key: map_leaves(function, value) for key, value in label.items()}
    if isinstance(label, tuple):
        return tuple(map_leaves(function, value) for value in label)
    return None if label is None else function(label)


def joined(labels: Sequence[Any]) -> Any:
    """The labels of several blocks as those of one; None where one of them has none."""
    first = labels[0]
    if any(label is None for label in labels):
        return None
    if isinstance(first, Mapping):
        return {key: joined([label[key] for label in labels]) for key in first}
    if isinstance(first, tuple):
        return tuple(map(joined, zip(*labels, strict=True)))
    return first if len(labels) == 1 else np.concatenate(labels)


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
    matched = next((own for own in spellings(inputs) if set(own.values()) <= set(free)), None)
    if matched is None:
        matched = {name: name for name in names if name in free}
    if len(names) == 1 and not matched:
        groups = [[key for key in group if key in free] for group in alone]
        found = [key for key in usual[0] if key in free] + [group[0] for group in groups if len(group) == 1]
        matched = dict(zip(names, found, strict=False))
    missing = [name for name in names if name not in matched]
    return matched, missing, usual_labels if labels is True else asked


def spellings(inputs: Inputs) -> Iterator[dict[str, str]]:
    """By name of an input, what it may be called in a source: the model's own keys go first."""
    for others in zip(*(spec.other_names for spec in inputs), strict=True):
        yield dict(zip((spec.name for spec in inputs), others, strict=True))
    yield {spec.name: spec.name for spec in inputs}


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


def quoted(names: Iterable[str]) -> str:
    """The first 20 names in quotes."""
    listed = [repr(str(name)) for name in itertools.islice(names, 21)]
    return ", ".join([*listed[:20], "..."] if len(listed) > 20 else listed)
