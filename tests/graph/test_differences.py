"""Gaps between outputs, by hand."""

import keras
import numpy as np
import pytest

from tfstruct.graph.differences import largest_gap, largest_magnitude
from tfstruct.graph.opening.equality import unequal

A = np.array([1.0, -3.0, np.inf, np.nan])


@pytest.mark.parametrize(
    "got, gap",
    [
        (A, 0.0),
        (np.array([1.5, -3.0, 7.0, 7.0]), 0.5),  # of what is not finite nothing can be told
        (np.array([1.0, np.nan, np.inf, 0.0]), np.inf),
        (np.array([1.0, -3.0]), np.inf),
    ],
)
def test_the_largest_gap_is_of_finite_values(got, gap):
    assert largest_gap(A, got) == gap


def test_the_largest_magnitude_is_of_finite_values():
    assert largest_magnitude([np.array([2.0]), A]) == 3.0
    assert largest_magnitude([A[2:], np.zeros(0)]) == largest_magnitude([]) == 0.0


def test_a_difference_from_zeros_is_told():
    x = keras.Input((3,))
    zero, one = (keras.Model(x, keras.layers.Dense(2, kernel_initializer=kind)(x)) for kind in ("zeros", "ones"))
    twin = dict(zip(map(id, zero.variables), one.variables, strict=True))
    structure = keras.KerasTensor((4, 3))
    assert unequal(zero, one, structure, lambda variable: twin[id(variable)]).startswith("its outputs for a batch of")
    assert not unequal(zero, zero, structure)
