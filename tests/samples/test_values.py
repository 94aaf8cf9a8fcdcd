"""A value becomes an array in the input's shape and dtype, or a DataError that says why not."""

import numpy as np
import pytest
from sample_cases import IMAGE, ROW, ROWS, refuse, values

from tfstruct.samples import TensorSpec, open_samples


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (np.array([["a", "b", "c"]]), "expected numbers, received dtype <U1"),
        (np.array([[1, None, 2]], object), "expected numbers, received dtype object"),
        (np.ones((1, 3), complex), "expected numbers, received dtype complex128"),
        (np.array([[0, np.nan, 1]]), "'x_in' of sample 0: expected finite values, received NaN"),
        (
            np.array([[0, 1, 2], [0, np.inf, 1.0]]),
            "'x_in' of sample 1: expected finite values, received infinity",
        ),
        (np.array([[0, 1e300, 1]]), "expected values within float32"),
        ([[[1, 2], [3]]], "Give samples of one shape"),
        ({"serving_default": [{"x_in": [1, 2, 3]}]}, "received a list of dicts.*under no name"),
        ({"x_in": ([1, 2, 3] for _ in range(2))}, "received an iterator.*under no name"),
    ],
)
def test_bad_values(bad, match):
    refuse(match, bad)


def test_integer_inputs():
    spec = TensorSpec("x", (2,), "uint8")
    got = open_samples(np.array([[1.0, 255.0]]), [spec]).take(1)[0].inputs["x"]
    assert got.dtype == np.uint8 and got.tolist() == [1, 255]
    refuse("expected whole numbers for uint8, received fractions", np.array([[0.5, 1]]), [spec])
    refuse(r"expected values in \[0, 255\] for uint8, received \[0, 256\]", np.array([[0, 256]]), [spec])
    refuse(r"received \[-1, 0\]", np.array([[0, -1]]), [spec])
    refuse(r"expected values in \[0, 1\] for bool", np.array([[0, 2]]), [TensorSpec("x", (2,), "bool")])
    refuse("in .* for int64", np.array([[0, 2.0**63]]), [TensorSpec("x", (2,), "int64")])


def test_bfloat16_in_and_out():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    got = open_samples(ROWS.astype(ml_dtypes.bfloat16), [ROW])
    np.testing.assert_array_equal(values(got), ROWS)
    sample = open_samples(ROWS, [TensorSpec("x", (3,), "bfloat16")]).take(1)[0]
    assert sample.inputs["x"].dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize(
    ("shape", "spec_shape"),
    [
        ((28, 28), (28, 28, 1)),
        ((28, 28, 1), (28, 28)),
        ((1, 4), (4,)),
        ((), (1,)),
        ((1,), ()),
        ((1, 2, 2), (2, 2, 1)),
    ],
)
def test_an_axis_of_one_is_added_or_dropped(shape, spec_shape):
    source = np.random.default_rng(0).random((2, *shape), np.float32)
    spec = TensorSpec("x", spec_shape, "float32")
    np.testing.assert_array_equal(values(open_samples(source, [spec])), source.reshape(2, *spec_shape))


def test_open_dimensions():
    spec = TensorSpec("x", (None, 2), "float32")
    got = [s.inputs["x"].shape for s in open_samples([np.zeros((3, 2)), np.zeros((5, 2))], [spec])]
    assert got == [(3, 2), (5, 2)]


def test_shape_advice():
    refuse(r"Resize the images.*--resize 4,5", np.zeros((1, 8, 8, 3)), [IMAGE])
    refuse("The channels differ", np.zeros((1, 4, 5, 1)), [IMAGE])
    refuse("transpose", np.zeros((1, 3, 4, 5)), [IMAGE])
    refuse("Reshape the samples", np.zeros((1, 60)), [IMAGE])
