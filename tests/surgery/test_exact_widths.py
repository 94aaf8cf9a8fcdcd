"""Plans by widths: exactly so many channels stay, the most important ones; what cannot be is refused."""

import keras
import numpy as np
import pytest
import zoo
from keras import layers
from oracle import assert_equal, masked_outputs

from tfstruct import graph as graphs
from tfstruct.errors import ArgumentError, BudgetError, EmptyPlanError, PlanError
from tfstruct.surgery import apply, plan_channels
from tfstruct.surgery.pruning.plan import units_of


def residual():
    x = inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", name="stem")(x)
    y = layers.Conv2D(12, 3, padding="same", name="inner")(x)
    y = layers.BatchNormalization(name="bn")(y)
    y = layers.Conv2D(8, 3, padding="same", activation="relu", name="outer")(y)
    x = layers.Add(name="add")([x, y])
    x = layers.Conv2D(8, 3, groups=4, padding="same", name="grouped")(x)
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    return keras.Model(inputs, layers.Dense(5, name="head")(x), name="residual")


def transformer():
    x = inputs = keras.Input((6, 8), name="tokens")
    y = layers.MultiHeadAttention(num_heads=4, key_dim=4, name="attention")(x, x)
    x = layers.Add(name="add")([x, y])
    y = layers.Dense(16, activation="gelu", name="ff1")(x)
    x = layers.Add(name="add2")([x, layers.Dense(8, name="ff2")(y)])
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.Flatten(name="flat")(x)), name="transformer")


def nested():
    inner = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(6, 3, name="conv")], name="base")
    x = inputs = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 1, name="point")(inner(x)))
    return keras.Model(inputs, layers.Dense(2, name="head")(x))


CASES = {
    "inner": (residual, {"inner": 5}, {"inner": 5, "stem": 8, "outer": 8}),
    "coupled": (residual, {"stem": 4}, {"stem": 4, "outer": 4, "inner": 12}),
    "both": (residual, {"outer": 4, "inner": 3}, {"stem": 4, "outer": 4, "inner": 3}),
    "said twice": (residual, {"stem": 4, "outer": 4}, {"stem": 4, "outer": 4}),
    "heads and feed-forward": (transformer, {"attention.heads": 3, "ff1": 10}, {"attention.heads": 3, "ff1": 10}),
    "width of heads": (transformer, {"attention.key_dim": 2}, {"attention.key_dim": 2}),
    "recurrent": (lambda: zoo.MODELS["lstm"](), {"lstm_layer": 3}, {"lstm_layer": 3}),
    "nested": (nested, {"base/conv": 2, "point": 3}, {"base/conv": 2, "point": 3}),
    "one of a flattened layer": (lambda: zoo.MODELS["depthwise"](), {"sep": 5}, {"sep": 5}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_widths_are_exact_and_the_rest_is_the_masked_original(name):
    build, widths, expected = CASES[name]
    keras.utils.set_random_seed(0)
    model = zoo.randomise(build())
    plan = plan_channels(model, widths=widths)
    smaller = apply(model, plan)
    made = {path: len(labels) for path, labels in graphs.trace(smaller).makes.items()}
    assert {path: made[path] for path in expected} == expected
    graph = graphs.trace(model)
    keep = units_of(graph, plan)
    x = zoo.sample_inputs(model, 3)
    for ours, theirs in zip(keras.tree.flatten(smaller(x)), masked_outputs(graph, keep, x), strict=True):
        assert_equal(np.asarray(ours), np.asarray(theirs))


def test_what_stays_are_the_largest_kernels():
    model = zoo.randomise(residual())
    kernel = model.get_layer("inner").kernel
    kernel.assign(np.ones(kernel.shape) * np.arange(12, 0, -1))
    assert plan_channels(model, widths={"inner": 5}).keep["inner"] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "widths, error, said",
    [
        ({"inner": 0}, PlanError, "whole number from 1 to 12. Received: 0"),
        ({"inner": 13}, PlanError, "whole number from 1 to 12. Received: 13"),
        ({"inner": True}, ArgumentError, "Received: {'inner': True}"),
        ({"nothing": 3}, PlanError, "no layer of that name makes channels. Those that do: stem, inner"),
        ({"head": 3}, PlanError, "`head` keeps its 5 channels: the model's own output. Leave it out"),
        ({"stem": 3}, PlanError, "cannot have 3 channels.*nearest widths that it can have: 4, 8"),
        ({"stem": 4, "outer": 8}, PlanError, "`outer` is coupled with `stem`, and has 4 channels.*Received: 8"),
        ({"inner": 12}, EmptyPlanError, "removes nothing: `residual` has these widths as it is: {'inner': 12}"),
    ],
)
def test_what_cannot_be_is_refused(widths, error, said):
    with pytest.raises(error, match=said.replace("{", r"\{").replace("}", r"\}")):
        plan_channels(residual(), widths=widths)


def test_one_of_budget_threshold_and_widths():
    with pytest.raises(BudgetError, match="Give `widths`, or either `budget` or `threshold`"):
        plan_channels(residual(), 0.5, widths={"inner": 3})
    with pytest.raises(BudgetError, match="Give `widths`, or either"):
        plan_channels(residual())
