"""What edits make runs and trains on TensorFlow's own CPU kernels, which refuse what oneDNN's take."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo
from keras import layers

from tfstruct.errors import ModelError, PlanError
from tfstruct.graph.cpu_kernels import refused
from tfstruct.surgery import (
    deepen,
    downsample_early,
    factorize,
    fold_batch_norm,
    merge_linear,
    merge_parallel,
    optimize_inference,
    remove_redundant,
    shrink,
    widen,
)  # fmt: skip

_SETTINGS = ("strides", "dilation_rate", "padding", "data_format", "groups", "pool_size")
SIZES = {1: (8,), 2: (8, 6), 3: (6, 5, 4)}


def _layers():
    for first in ("channels_first", "channels_last"):
        own = {"data_format": first, "padding": "same"}
        for rank in (1, 2, 3):
            conv, transposed = (getattr(layers, f"Conv{rank}D{kind}") for kind in ("", "Transpose"))
            for options in ({}, {"strides": 2}, {"dilation_rate": 2}):
                yield rank, conv(6, 3, **own, **options)
                yield rank, transposed(6, 3, **own, **options)
            yield rank, conv(6, 3, groups=2, dilation_rate=2, **own)
            yield rank, getattr(layers, f"MaxPooling{rank}D")(2, **own)
            yield rank, getattr(layers, f"AveragePooling{rank}D")(2, **own)
        yield 2, layers.MaxPooling2D(2, strides=(2, 1), **own)
        for strides in (1, 2, (2, 1)):
            yield 2, layers.Conv2D(6, 3, strides=strides, **own)
            yield 2, layers.DepthwiseConv2D(3, strides=strides, **own)
            yield 2, layers.SeparableConv2D(6, 3, strides=strides, **own)


def _trains(layer, x) -> bool:
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = keras.ops.mean(layer(x) ** 2)
        return tape.gradient(loss, [x, *(w.value for w in layer.trainable_variables)])

    try:
        layer(x)
        return all(np.isfinite(np.asarray(g)).all() for g in step(tf.convert_to_tensor(x)))
    except (tf.errors.OpError, ValueError):
        return False


def _positions(layer, rank, channels=4):
    sizes = (channels, *SIZES[rank]) if layer.data_format == "channels_first" else (*SIZES[rank], channels)
    return np.random.default_rng(0).normal(size=(2, *sizes)).astype("float32")


def test_what_is_refused():
    """By what this processor does: with oneDNN all of them run, without those that are not refused do, and no other."""
    found = {}
    for rank, layer in _layers():
        shown = {k: v for k, v in layer.get_config().items() if k in ("strides", "dilation_rate", "data_format")}
        found[type(layer).__name__, str(shown)] = _trains(layer, _positions(layer, rank)), refused(layer) is None
    plain = not _trains(layers.Conv2D(2, 1, data_format="channels_first"), np.ones((1, 2, 3, 3), "float32"))
    wrong = {key for key, (trains, says) in found.items() if (trains != says if plain else says and not trains)}
    assert not wrong


def columns():
    """Strides by axis: in a convolution, a separable one and a pooling, behind depthwise and separable layers."""
    x = inputs = keras.Input((16, 8, 4))
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.SeparableConv2D(6, 3, padding="same", activation="relu", name="separable")(x)
    x = layers.Conv2D(16, (3, 3), strides=(2, 1), padding="same", use_bias=False, name="conv")(x)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x))
    x = layers.Conv2D(16, 3, padding="same", dilation_rate=(2, 1), name="dilated")(x)
    y = layers.Conv2D(16, (1, 3), strides=(2, 1), padding="same", name="row")(x)
    z = layers.Conv2D(16, (3, 1), strides=(2, 1), padding="same", name="column")(x)
    x = layers.Conv2D(16, 3, strides=(1, 2), padding="same", groups=4, name="grouped")(layers.Add()([y, z]))
    x = layers.Conv2D(8, 1, name="point")(layers.MaxPooling2D((2, 1), name="pool")(x))
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(x)))


def squares():
    """Equal strides, padding of every kind, a point behind and before each."""
    x = inputs = keras.Input((17, 14, 4))
    x = layers.Conv2D(12, 3, strides=2, padding="same", name="a")(x)
    x = layers.Conv2D(12, 1, name="b")(x)
    x = layers.Conv2D(12, 4, strides=2, name="c")(layers.ZeroPadding2D(1, name="pad")(x))
    x = layers.DepthwiseConv2D(3, strides=2, padding="same", name="d")(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.GlobalMaxPooling2D()(x)))


def channels_first():
    """Layers of which plain kernels take the channels first."""
    first = {"data_format": "channels_first"}
    x = inputs = keras.Input((4, 7, 6))  # no size is one of channels: Keras would add a bias along that
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="depthwise", **first)(x)
    x = layers.BatchNormalization(axis=1, name="norm")(x)
    x = layers.MaxPooling2D(2, name="pool", **first)(x)
    x = layers.Reshape((8, 3, 3, 1), name="volume")(x)
    x = layers.Conv3D(8, 2, padding="same", activation="relu", name="conv", **first)(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.GlobalAveragePooling3D(**first)(x)))


def _edits(model):
    """By name, a function that makes an `Result`."""
    names = [layer.name for layer in model.layers[1:]]
    every = {f.__name__: f for f in (fold_batch_norm, optimize_inference, remove_redundant, shrink)}
    every |= {f"{f.__name__} always": functools.partial(f, always=True) for f in (merge_linear, merge_parallel)}
    for method in ("svd", "tucker", "cp", "spatial", "depthwise"):
        every[method] = functools.partial(factorize, rank=1, method=method)
    for name in names:
        every[f"early {name}"] = functools.partial(downsample_early, layer=name)
        every[f"widen {name}"] = functools.partial(widen, layer=name, to=32)
        for kind in (None, "conv", "depthwise"):
            every[f"deepen {name} {kind}"] = functools.partial(deepen, after=name, kind=kind)
    return every


@pytest.mark.parametrize("build", [columns, squares, channels_first])
@pytest.mark.sweep(1)
def test_edits_of_a_model_that_runs(build):
    model = zoo.randomise(build())
    x = np.random.default_rng(0).normal(size=(2, *model.input_shape[1:])).astype("float32")
    assert not any(refused(layer) for layer in model.layers)
    made, known = set(), set()
    for name, edit in _edits(model).items():
        try:
            new = edit(model).model
        except (PlanError, ModelError):
            continue
        assert not [layer.name for layer in new.layers if refused(layer)], name
        # What runs of a layer depends on these: not every model of a hundred has to run.
        kinds = {str([type(layer), *map(layer.get_config().get, _SETTINGS)]) for layer in new.layers}
        if kinds - known:
            known |= kinds
            assert _trains(new, x), name
        made.add(name.split()[0])
    assert {"svd", "tucker", "cp", "depthwise", "deepen", "widen", "shrink", "optimize_inference"} <= made


def test_deepen_does_not_leave_what_the_model_runs_on():
    model = channels_first()
    for after in ("depthwise", "norm", "pool"):
        with pytest.raises(PlanError, match=r'would not run everywhere: .* no channels first. Give kind="depthwise"'):
            deepen(model, after)
        assert deepen(model, after, kind="depthwise").max_difference.relative < 1e-6
    assert deepen(model, "conv").model.get_layer("conv_deeper").data_format == "channels_first"
    inputs = keras.Input((4, 8, 8))
    first = layers.Conv2D(5, 3, data_format="channels_first", name="first")(inputs)
    assert deepen(keras.Model(inputs, first), "first").model.get_layer("first_deeper").data_format == "channels_first"
