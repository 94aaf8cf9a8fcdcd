"""What a pattern of layers means, for everything that takes one."""

import fnmatch

import keras
import numpy as np
import pytest
from keras import layers

from tfstruct.convert.recipe import Recipe
from tfstruct.graph import trace
from tfstruct.graph.kernels import kernels
from tfstruct.patterns import matches, names_layer
from tfstruct.quantize.scheme import Scheme

PATHS = ("stem", "net/block/conv", "net/block/out", "net/head", "block_1/conv")
MEANT = {
    "stem": {"stem"},
    "conv": {"net/block/conv", "block_1/conv"},
    "net/block/conv": {"net/block/conv"},
    "block": {"net/block/conv", "net/block/out"},
    "net/block": {"net/block/conv", "net/block/out"},
    "net": {"net/block/conv", "net/block/out", "net/head"},
    "block*": {"net/block/conv", "net/block/out", "block_1/conv"},
    "net/*": {"net/block/conv", "net/block/out", "net/head"},
    "*": set(PATHS),
    "nothing": set(),
    "et": set(),
}


@pytest.mark.parametrize("pattern", MEANT)
def test_a_pattern_names_a_layer_or_a_block_around_it(pattern):
    assert {path for path in PATHS if matches(pattern, path)} == MEANT[pattern]


@pytest.mark.parametrize("pattern", MEANT)
def test_scheme_and_recipe_mean_the_same_layers(pattern):
    scheme, recipe = Scheme("int8", {pattern: "float32"}), Recipe(precision="int8", layers={pattern: "float32"})
    for path in PATHS:
        meant = "float32" if path in MEANT[pattern] else "int8"
        assert scheme.precision_of(path) == recipe.precision_of((path,)) == meant


def test_a_layer_itself_is_meant_by_path_or_name():
    assert names_layer("conv", "net/conv") and names_layer("net/*", "net/conv") and not names_layer("net", "net/conv")


@pytest.fixture(scope="module")
def nested():
    inner = keras.Sequential([keras.Input((8, 8, 4)), layers.Conv2D(6, 3, name="conv")], name="block")
    net = keras.Sequential([keras.Input((8, 8, 4)), inner, layers.Conv2D(4, 3, name="out")], name="net")
    x = keras.Input((8, 8, 4))
    return keras.Model(x, layers.Dense(3, name="head")(layers.Flatten()(net(x))))


def _regularized(model, pattern):
    from tfstruct.regularizers.weights import chosen, weights

    found = chosen(model, weights(model), [pattern], lambda w: w.path.endswith("kernel"), "a kernel")
    return {w.path.rpartition("/")[0] for w in found}


def _excluded(model, pattern):
    from tfstruct.graph import groups
    from tfstruct.surgery.pruning.removals import excluded

    return {maker for group in groups(trace(model)) if excluded(group, [pattern]) for maker in group.makers}


def _factorized(model, pattern):
    from tfstruct.surgery.factor import low_rank, targets

    graph = trace(model)
    return set(low_rank._named(graph, targets.by_path(graph), "layers", pattern))


ASKED = {
    "kernels": lambda model, pattern: {k.name.rpartition("/")[0] for k in kernels(model, pattern)},
    "regularizers": _regularized,
    "exclude": _excluded,
    "factorize": _factorized,
}


@pytest.mark.parametrize("pattern", ["conv", "block", "net/block", "net", "*/out", "head"])
@pytest.mark.parametrize("who", ASKED)
def test_everything_that_takes_patterns_means_the_same_layers(nested, who, pattern):
    paths = ["net/block/conv", "net/out", "head"]
    assert ASKED[who](nested, pattern) & set(paths) == {path for path in paths if matches(pattern, path)}


def test_no_matcher_but_one():
    import pathlib

    import tfstruct

    root = pathlib.Path(tfstruct.__file__).parent
    users = [file.relative_to(root).as_posix() for file in root.rglob("*.py") if fnmatch.__name__ in file.read_text()]
    assert users == ["patterns.py"]


@pytest.mark.parametrize("pattern", ["block", "net/block", "net/*"])
def test_file_and_twin_leave_the_same_layers_in_float(nested, pattern):
    from tfstruct import quantize, to_tflite

    x = np.random.default_rng(0).normal(size=(24, 8, 8, 4)).astype("float32")
    twin = quantize.calibrate(nested, x, Scheme("int8", {pattern: "float32"}))
    step = np.ptp(twin.ranges()["head"]) / 255
    assert np.abs(to_tflite(twin).predict(x) - np.asarray(twin(x))).max() < 0.5 * step
