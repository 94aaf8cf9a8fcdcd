"""The table of operations against the operations themselves."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfstruct.graph import training_only
from tfstruct.graph.operation_traits import (
    _FUNCTIONS,
    classes_that,
    function_name,
    function_traits,
    layers_with,
    traits_of,
)

GRID = np.linspace(-9, 9, 181).astype("float32").reshape(1, -1)
KNOWN = [name for name in _FUNCTIONS if hasattr(keras.activations, name) and name != "threshold"]  # which has arguments


def run(function, x) -> np.ndarray:
    return keras.ops.convert_to_numpy(function(keras.ops.convert_to_tensor(x)))


@pytest.mark.parametrize("name", KNOWN)
def test_functions_do_what_the_table_says(name):
    function, traits = getattr(keras.activations, name), function_traits(name)
    y = run(function, GRID)
    assert traits.function == name
    assert traits.keeps_zero == (run(function, np.zeros((1, 2), "float32")) == 0).all()
    alone = np.concatenate([run(function, GRID[:, i : i + 1]) for i in range(0, GRID.size, 30)], axis=1)
    assert traits.elementwise == np.allclose(alone, y[:, ::30], atol=1e-6)
    low, high = traits.output_range or (-np.inf, np.inf)
    assert low - 1e-6 <= y.min() and y.max() <= high + 1e-6
    if traits.elementwise:
        assert traits.homogeneous == np.allclose(run(function, 3 * GRID), 3 * y, atol=1e-4)
        # What is said to end ends there: no narrower range would do.
        far = run(function, np.float32([[-80, 80]]))
        assert (low == -np.inf) == (far.min() < -5)
        assert (high == np.inf) == (far.max() > 20)
        passed = GRID[np.isclose(y, GRID, atol=1e-6)]
        lowest, highest = traits.passes or (np.inf, -np.inf)
        inside = (lowest <= GRID) & (highest >= GRID)
        assert np.isin(GRID[inside], passed).all()


def test_a_relu_is_what_its_configuration_says():
    found = {
        "relu": layers.ReLU(), "relu6": layers.ReLU(6), "relu_variant": layers.ReLU(max_value=3, negative_slope=0.1),
    }  # fmt: skip
    assert {name: traits_of(layer).function for name, layer in found.items()} == {name: name for name in found}
    assert traits_of(layers.ReLU(6)).clips and not traits_of(found["relu_variant"]).clips
    threshold = traits_of(layers.ReLU(threshold=1.0))
    assert threshold.keeps_zero and not threshold.homogeneous and threshold.passes is None
    assert traits_of(layers.LeakyReLU(0.2)).function == "leaky_relu"
    assert traits_of(layers.LeakyReLU(0.3)).function == "leaky_relu_variant"
    assert traits_of(layers.ELU(0.5)).output_range == (-0.5, np.inf)


@pytest.mark.parametrize(
    ("layer", "idle"),
    [
        (layers.Activation("linear"), "linear"), (layers.Activation("relu"), ""), (layers.Identity(), "linear"),
        (layers.MaxPooling2D(1), "by one"), (layers.MaxPooling2D(2), ""), (layers.AveragePooling1D(1, 2), ""),
        (layers.UpSampling2D(1, interpolation="bilinear"), "by one"), (layers.UpSampling1D(2), ""),
        (layers.ZeroPadding2D(0), "by zero"), (layers.ZeroPadding2D(((0, 1), (0, 0))), ""),
        (layers.Cropping1D(0), "by zero"), (layers.Rescaling(1.0), "by one"), (layers.Rescaling(1.0, 2.0), ""),
    ],
)  # fmt: skip
def test_what_is_idle(layer, idle):
    assert traits_of(layer).idle == idle
    assert (traits_of(layer).moves == "identity") == bool(idle)


def test_what_depends_on_interpolation():
    nearest, linear, cubic = (
        traits_of(layers.UpSampling2D(2, interpolation=kind)) for kind in ("nearest", "bilinear", "bicubic")
    )
    assert (nearest.moves, nearest.stays_within, nearest.same_scale) == ("selection", True, True)
    assert (linear.moves, linear.stays_within, linear.same_scale) == ("", True, True)
    assert (cubic.moves, cubic.stays_within, cubic.same_scale) == ("", False, False)


class Halved(layers.Dense):
    def call(self, x):
        return super().call(x) / 2


class Named(layers.Dense):
    def get_config(self):
        return {**super().get_config(), "note": "mine"}


def test_a_subclass_has_the_traits_of_its_base_while_it_computes_as_that_does():
    assert traits_of(Named(3)) == traits_of(layers.Dense(3))
    assert not traits_of(Halved(3)).kernel


def test_a_layer_registered_as_training_only_gets_a_row():
    @training_only()
    class Jitter(layers.Layer):
        def call(self, x):
            return x

    assert traits_of(Jitter()).training_only and traits_of(Jitter()).same_scale
    assert Jitter in classes_that(lambda traits: traits.training_only)


def test_families_of_kernels():
    assert layers_with("conv") == (layers.Conv1D, layers.Conv2D, layers.Conv3D)
    assert layers_with("depthwise", "dense") == (layers.Dense, layers.DepthwiseConv1D, layers.DepthwiseConv2D)
    four = {kind.__name__ for kind in classes_that(lambda traits: traits.four_bits)}
    assert four == {"Dense", "Conv1D", "Conv2D"}


def test_names_of_functions():
    def relu(x):
        return x + 1

    assert function_name(keras.activations.relu) == "relu"
    assert function_name(keras.activations.linear) is None
    assert function_name(layers.ReLU(6)) == "relu6"
    assert function_name(layers.LeakyReLU(0.2)) == "leaky_relu"
    assert function_name(relu).endswith(".relu") and not function_traits(relu).elementwise
    assert function_traits(None).moves == "identity"


def test_operations_that_read_whole_numbers():
    i = keras.Input((4,))
    for x, reads in ((ops.cast(i, "int32"), True), (ops.cast(i, "float16"), False)):
        assert traits_of(x._keras_history.operation).reads_integers == reads
