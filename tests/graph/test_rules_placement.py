"""Every operation of `keras.ops` has a rule: those that place values by position or ids, those that hold channels."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from rule_cases import assert_held, assert_shrinks

from tfstruct.graph.rules.registry import _RULES
from tfstruct.keras_internals.operation_types import operation_modules

IDS = np.array([0, 2, 2, 1])


def stem(width=12, shape=(4, 3)):
    inputs = keras.Input(shape)
    return inputs, layers.Dense(width, activation="tanh", name="stem")(inputs)


def head(x):
    return layers.Dense(2, name="head")(layers.Flatten()(x))


def by_samples(function, *args, **kwargs):
    """Along the batch axis of (positions, samples, channels)."""
    return lambda x: ops.transpose(function(ops.transpose(x, (1, 0, 2)), *args, **kwargs), (1, 0, 2))


PASSES = {
    "fliplr": ops.fliplr,
    "rot90": lambda x: ops.rot90(x[..., None, None], axes=(3, 4)),
    "full_like": lambda x: x + ops.full_like(x, 2.0),
    "hstack": lambda x: ops.hstack([x, x * 2.0]),
    "dstack": lambda x: ops.dstack([x, x * 2.0]),
    "append": lambda x: ops.append(x, x, axis=1),
    "hsplit": lambda x: ops.hsplit(x, 2)[1],
    "dsplit": lambda x: ops.add(*ops.dsplit(x, 2)),
    "diff": lambda x: ops.diff(x, axis=1),
    "quantile": lambda x: ops.quantile(x, 0.3, axis=1),
    "quantiles": lambda x: ops.transpose(ops.quantile(x, [0.2, 0.5], axis=1), (1, 0, 2)),
    "percentile": lambda x: ops.percentile(x, 30, axis=1, keepdims=True),
    "trapezoid": lambda x: ops.trapezoid(x, axis=1),
    "triangle": lambda x: ops.swapaxes(ops.tril(ops.swapaxes(x[..., None], 1, 2)), 1, 2)[..., 0],
    "diagonal": lambda x: ops.diagonal(x[:, :, None, :], axis1=1, axis2=2),
    "trace": lambda x: ops.trace(x[:, :, None, :], axis1=1, axis2=2),
    "one_hot": lambda x: ops.one_hot(ops.cast(x > 0, "int32"), 3),
    "digitize": lambda x: x * ops.cast(ops.digitize(x, np.array([0.0, 0.4])), "float32"),
    "isin": lambda x: x * ops.cast(ops.isin(ops.cast(x * 3, "int32"), [0, 1]), "float32"),
    "take_along_axis": lambda x: ops.take_along_axis(x, ops.argsort(x, axis=1), axis=1),
    "rows": lambda x: ops.take_along_axis(x, ops.zeros_like(x[:, :1], "int32"), axis=1),
    "top_k": lambda x: ops.transpose(ops.top_k(ops.transpose(x, (0, 2, 1)), 2)[0], (0, 2, 1)),
    "segment_sum": lambda x: ops.transpose(ops.segment_sum(ops.transpose(x, (1, 0, 2)), IDS, 3), (1, 0, 2)),
    "scatter_update": lambda x: ops.transpose(
        ops.scatter_update(ops.transpose(x, (1, 0, 2)), [[1], [2]], ops.transpose(x[:, :2], (1, 0, 2))), (1, 0, 2)
    ),
    "inner": lambda x: ops.inner(x, np.ones((5, 12), "float32")),
    "cumsum": lambda x: ops.cumsum(x, axis=1),
    "roll": lambda x: ops.roll(x, 1, axis=1),
    "flip": ops.flip,
    "logsumexp": lambda x: ops.logsumexp(x, axis=1),
    "logaddexp": lambda x: ops.logaddexp(x, 0.5),
    "unfold": lambda x: ops.unfold(ops.transpose(x[:, :, None, :], (0, 3, 1, 2)), 1),
    "fold": lambda x: ops.fold(ops.unfold(ops.transpose(x[:, :, None, :], (0, 3, 1, 2)), (2, 1)), (4, 1), (2, 1)),
}
RAMP = np.linspace(0.5, 2, 12).astype("float32")
LOSSY = {
    "rms by means": lambda x: x * ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + 1e-6),
    "rms": lambda x: ops.rms_normalization(x, RAMP),
    "layer norm": lambda x: ops.layer_normalization(x, RAMP, np.ones(12, "float32")),
}  # fmt: skip
HELD = {
    "fft": (lambda x: ops.fft((x, x))[0], "transforms whole axes"),
    "top_k": (lambda x: ops.top_k(x, 3)[0], "compares its positions"),
    "svd": (lambda x: ops.svd(x, compute_uv=False), "computes with whole matrices"),
    "allclose": (lambda x: x * ops.cast(ops.allclose(x, x), "float32"), "follows the values"),
    "average": (lambda x: ops.average(x, axis=1), "weighs what it averages"),
    "select": (lambda x: ops.select([x > 0, x < 0], [x, 2 * x]), "selects among several"),
}  # fmt: skip


@pytest.mark.parametrize("name", PASSES)
def test_channels_pass(name):
    inputs, x = stem()
    assert_shrinks(inputs, head(PASSES[name](x)), "stem")


@pytest.mark.parametrize("name", LOSSY)
def test_statistics_over_channels(name):
    inputs, x = stem()
    assert_shrinks(inputs, head(LOSSY[name](x)), "stem", lossy=True)


@pytest.mark.parametrize("name", HELD)
def test_channels_stay(name):
    inputs, x = stem()
    assert_held(inputs, head(HELD[name][0](x)), "stem", HELD[name][1])


def test_batch_normalization_of_tensors():
    inputs, x = stem()
    numbers = [np.linspace(low, 2, 12).astype("float32") for low in (0.1, 0.5, 0.3, 0.7)]
    assert_shrinks(
        inputs, head(ops.batch_normalization(x, *numbers[:2], axis=-1, offset=numbers[2], scale=numbers[3])), "stem"
    )


def test_every_operation_has_a_rule():
    kinds = {
        kind
        for module in operation_modules()
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, keras.Operation) and kind.__module__ == module.__name__
    }
    bases = ("Operation", "Function", "SegmentReduction")
    kinds = {kind for kind in kinds if not issubclass(kind, keras.layers.Layer) and kind.__name__ not in bases}
    assert len(kinds) > 300
    known = {known.__name__ for known in _RULES}
    assert sorted(kind.__name__ for kind in kinds if kind.__name__ not in known) == []


def gelu_approximate(x):
    return keras.activations.gelu(x, approximate=True)


def squared(x):
    return ops.square(ops.relu(x)) * 0.5 + 1.0


def standardized(x):
    return x - ops.mean(x, axis=-1, keepdims=True)


def weighed(x):
    return x * np.arange(12.0, dtype="float32")


@pytest.mark.parametrize("function", [gelu_approximate, squared], ids=lambda f: f.__name__)
def test_activations_of_the_users_that_treat_each_channel_alone(function):
    keras.saving.register_keras_serializable("tests")(function)
    inputs = keras.Input((4, 3))
    x = layers.Dense(12, activation=function, name="stem")(inputs)
    assert_shrinks(inputs, head(layers.Activation(function)(x)), "stem")


def mirrored(x):
    return ops.flip(x, axis=-1)


def ordered(x):
    return ops.sort(x, axis=-1)


@pytest.mark.parametrize("function", [weighed, mirrored, ordered], ids=lambda f: f.__name__)
def test_activations_of_the_users_that_do_not(function):
    keras.saving.register_keras_serializable("tests")(function)
    inputs = keras.Input((4, 3))
    assert_held(inputs, head(layers.Dense(12, activation=function, name="stem")(inputs)), "stem", "")
