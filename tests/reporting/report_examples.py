"""One small report of each class, with a name of the test's in every place where a user's text can stand."""

import math

import numpy as np

from tfstruct import analyze
from tfstruct.analyze.drawing import Box, Picture
from tfstruct.analyze.group_report import GroupRow
from tfstruct.analyze.layer_profile import Row


def threshold_choice(name):
    three = (1.0, 0.9, 0.5)
    return analyze.ThresholdChoice(
        name, name, "mean", "mean", "loss", "min", 5, 0.01, 0.1, 0.2, (0.1, 0.2, 0.3), (0.5, 0.6, math.nan),
        (0.01, 0.02, 0.03), three, three,
    )  # fmt: skip


def sensitivity(name):
    return analyze.Sensitivity(
        name, "accuracy", 0.9, (0.25, 0.5), {name: (0.9, math.nan), "b": (0.8, 0.7)}, {name: (1, 2)}
    )


def profile(name):
    rows = (
        Row(name, "Conv2D", (None, 8, 3), 1234, 56789, 4936, 512, 1.5),
        Row("odd", "Odd", (8,), 0, None, 0, 32, 0.0),
    )
    return analyze.Profile(name, rows, 1234, 56789, 4936, 512, name, ("odd",))


def groups(name):
    rows = (
        GroupRow(name, (name,), ((name, "kernel", 3, "makes"),), 8, 6, "", "", ((2, 4),)),
        GroupRow("head", ("head",), (), 10, 0, "the model's own output", "", ()),
    )
    picture = Picture(
        name, (Box("x", "input", 3, -1, 0, 0), Box(name, "Conv2D", 8, 0, 1, 0)), ((0, 1),), ((name, 8, True, True),)
    )
    return analyze.GroupReport(name, rows, 18, 6, {name: "no rule knows it"}, picture)


EXAMPLES = {
    "GradientNoise": lambda name: analyze.GradientNoise(math.inf, 1.0, -0.5, math.nan, 64, 8),
    "GroupReport": groups,
    "Importance": lambda name: analyze.Importance("l2", {name: np.array([1.0, np.inf])}, np.ones(3)),
    "Profile": profile,
    "Sensitivity": sensitivity,
    "ThresholdChoice": threshold_choice,
}
NAMELESS = {"GradientNoise"}  # no user's text stands in them
