"""What the tests of `tfstruct.samples` share: small sources, the inputs they fit, and what must come out."""

from collections.abc import Iterable

import numpy as np
import pytest

from tfstruct.errors import DataError
from tfstruct.samples import Sample, Samples, TensorSpec, open_samples

ROW = TensorSpec("x_in", (3,), "float32")
IMAGE = TensorSpec("image_in", (4, 5, 3), "float32")
GREY = TensorSpec("grey_in", (4, 4, 1), "float32")
PAIR = (TensorSpec("a", (2,), "float32"), TensorSpec("b", (), "int32"))

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)
LABELS = np.array([3, 1, 0, 2])
A = np.arange(6, dtype=np.float32).reshape(3, 2)
B = np.array([7, 8, 9])
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)


def values(samples: Iterable[Sample]) -> np.ndarray:
    return np.stack([next(iter(s.inputs.values())) for s in samples])


def labels(samples: Iterable[Sample]) -> list:
    return [s.label for s in samples]


def assert_rows(samples: Samples, with_labels: bool = True) -> None:
    got = list(samples)
    np.testing.assert_array_equal(values(got), ROWS)
    assert labels(got) == (list(LABELS) if with_labels else [None] * 4)


def assert_pair(samples: Samples) -> None:
    got = list(samples)
    np.testing.assert_array_equal(np.stack([s.inputs["a"] for s in got]), A)
    assert [int(s.inputs["b"]) for s in got] == list(B)
    assert got[0].inputs["a"].dtype == np.float32 and got[0].inputs["b"].dtype == np.int32


def refuse(match: str, source, inputs=(ROW,), **options) -> None:
    """Opening and reading `source` raises a DataError of one line that matches."""
    with pytest.raises(DataError, match=match) as caught:
        list(open_samples(source, inputs, **options))
    assert "\n" not in str(caught.value)
