"""Axes that pictures share."""

import pytest


@pytest.mark.parametrize(
    "least, low, high, ticks",
    [
        (0.5, -40.0, 900.0, ["-10", "-1", "-0.1", "0", "0.1", "1", "10", "100"]),
        (2.0, 0.0, 255.0, ["0", "1", "10", "100"]),
        (1e-6, -1.0, 1e6, ["-1", "-0.001", "-1e-06", "0", "1e-06", "0.001", "1", "1000", "1e+06"]),
    ],
)
def test_an_axis_that_is_logarithmic_on_both_sides_of_zero_has_plain_numbers(least, low, high, ticks):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    from tfstruct.reporting import figures

    axes = Figure().subplots()
    axes.barh(["a", "b"], [high, high - low], left=[0, low])
    figures.signed_logarithmic(axes, "x", least, low, high)
    assert [label.get_text() for label in axes.get_xticklabels()] == ticks
    assert axes.get_xscale() == "symlog" and not any("$" in tick for tick in ticks)
