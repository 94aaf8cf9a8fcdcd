"""What surgery does grows with the number of layers, and no faster: counted in lines run, not in seconds."""

import pathlib
import sys

import keras
import numpy as np
import pytest
from keras import layers

import tfstruct
from tfstruct import graph as graphs
from tfstruct import surgery
from tfstruct.surgery.lossless.shrinking import shrunk

OURS = str(pathlib.Path(tfstruct.__file__).parent)


def chain(blocks: int) -> keras.Model:
    """Residual blocks of every kind that surgery looks into, each with a channel that has no effect."""
    x = inputs = keras.Input((4, 4, 4))
    for i in range(blocks):
        y = layers.BatchNormalization()(layers.Conv2D(4, 1, name=f"first{i}")(x))
        y = layers.LayerNormalization()(layers.Conv2D(4, 1)(layers.ReLU()(y)))
        x = layers.Add()([x, y])
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    for i in range(blocks):
        kernel = model.get_layer(f"first{i}").kernel
        kernel.assign(kernel * np.array([0, 1, 1, 1], "float32"))
    return model


def lines(work, model) -> int:
    """How many lines of ours run; each round of a comprehension counts."""
    count = 0

    def line(frame, event, arg):
        nonlocal count
        count += 1
        return line

    before = sys.gettrace()
    sys.settrace(lambda frame, event, arg: line if frame.f_code.co_filename.startswith(OURS) else None)
    try:
        work(model)
    finally:
        sys.settrace(before)
    return count


def planned(**options):
    return lambda model: surgery.plan_channels(model, 0.5, normalization="mean", **options)


WORKS = {
    "trace and groups": lambda model: graphs.groups(graphs.trace(model)),
    "plan by budget": lambda model: surgery.plan_channels(model, {"macs": 0.8}),
    "plan by multiples": planned(round_to=2),
    "plan and apply": lambda model: surgery.apply(model, surgery.plan_channels(model, 0.5)),
    "shrink": lambda model: shrunk(graphs.trace(model)),
    "optimize_inference": surgery.optimize_inference,
    "profile": tfstruct.profile,
    "explain": tfstruct.explain,
}


@pytest.fixture(scope="module")
def chains():
    return [chain(blocks) for blocks in (2, 4, 6)]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "optimize_inference")) for name in WORKS]
)
def test_each_block_takes_as_many_lines_as_the_one_before(name, chains):
    WORKS[name](chains[0])  # what is imported and remembered once
    two, four, six = (lines(WORKS[name], model) for model in chains)
    # A bisection takes a little more; anything that looks at all layers for each layer takes 5 % and more.
    assert six - four < 1.02 * (four - two), f"{two:,} lines for 2 blocks, {four:,} for 4, {six:,} for 6"
