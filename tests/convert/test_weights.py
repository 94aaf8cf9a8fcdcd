"""Patches against the convolution itself; rounded files by their grid, by GPTQ redone here, and by what they output."""

import tempfile
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfstruct.convert import flatbuffer, weights
from tfstruct.convert.flatbuffer import schema
from tfstruct.convert.runtime import Runtime
from tfstruct.errors import ConversionError
from tfstruct.quantize import rounding


def options(padding, strides=(1, 1), dilation=(1, 1)):
    return types.SimpleNamespace(
        padding=getattr(schema.Padding, padding),
        strideH=strides[0],
        strideW=strides[1],
        dilationHFactor=dilation[0],
        dilationWFactor=dilation[1],
    )


def convolution(images, kernel, padding, strides, dilation, groups):
    """TensorFlow's own, a group at a time; kernel (height, width, channels of a group, outputs)."""
    parts = zip(np.split(images, groups, axis=3), np.split(kernel, groups, axis=3), strict=True)
    return np.concatenate([tf.nn.conv2d(x, w, strides, padding, dilations=dilation).numpy() for x, w in parts], axis=3)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(
    ("strides", "dilation"), [((1, 1), (1, 1)), ((2, 2), (1, 1)), ((3, 2), (1, 1)), ((1, 1), (2, 3))]
)
@pytest.mark.parametrize("size", [(9, 12), (8, 11), (7, 7)])
@pytest.mark.parametrize("window", [(3, 3), (2, 3), (1, 1)])
@pytest.mark.parametrize("groups", [1, 2])
def test_patches_times_kernel_is_the_convolution(padding, strides, dilation, size, window, groups):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, *size, 4))
    kernel = rng.normal(size=(*window, 4 // groups, 6))
    expected = convolution(images, kernel, padding, strides, dilation, groups)
    # A file holds kernels as (outputs, height, width, channels).
    parts = weights._patches(images, kernel.transpose(3, 0, 1, 2).shape, options(padding, strides, dilation))
    assert len(parts) == groups
    flat = [k.reshape(-1, 6 // groups) for k in np.split(kernel, groups, axis=3)]
    got = np.concatenate([p @ k for p, k in zip(parts, flat, strict=True)], axis=1)
    np.testing.assert_allclose(got, expected.reshape(-1, 6), atol=1e-12)


def test_patches_of_a_window_larger_than_the_image():
    images = np.random.default_rng(1).normal(size=(1, 3, 2, 1))
    kernel = np.random.default_rng(2).normal(size=(5, 5, 1, 2))
    (rows,) = weights._patches(images, (2, 5, 5, 1), options("SAME", (2, 2)))
    expected = tf.nn.conv2d(images, kernel, 2, "SAME").numpy()
    np.testing.assert_allclose(rows @ kernel.reshape(-1, 2), expected.reshape(-1, 2), atol=1e-12)


def to_file(model):
    with tempfile.TemporaryDirectory() as folder:
        signature = [tf.TensorSpec((1, *model.inputs[0].shape[1:]), "float32", name="x")]
        model.export(folder, format="tf_saved_model", verbose=False, input_signature=signature)
        content = tf.lite.TFLiteConverter.from_saved_model(folder).convert()
    # As the library writes it; what is compared is rounded against not rounded.
    return flatbuffer.write(flatbuffer.read(content))


def rounded_operators(content):
    model = flatbuffer.read(content)
    return model, [
        op for op in model.subgraphs[0].operators if flatbuffer.operator_name(model, op) in weights.ROUNDED_OPERATORS
    ]


def outputs(content):
    """The output tensors of convolutions and dense layers, in order."""
    model, found = rounded_operators(content)
    return [model.subgraphs[0].tensors[op.outputs[0]].name.decode() for op in found]


def kernels(content):
    """Their kernels (outputs, inputs), in order."""
    model, found = rounded_operators(content)
    values = [flatbuffer.constant(model, model.subgraphs[0].tensors[op.inputs[1]]) for op in found]
    return [v.reshape(len(v), -1) for v in values]


def with_kernels(content, change):
    """The file with every kernel replaced by `change(kernel)`."""
    model, found = rounded_operators(content)
    for op in found:
        tensor = model.subgraphs[0].tensors[op.inputs[1]]
        old = flatbuffer.constant(model, tensor)
        new = change(old.reshape(len(old), -1)).astype(np.float32)
        flatbuffer.set_constant(model, tensor, new.reshape(old.shape))
    return flatbuffer.write(model)


def nearest_of_the_largest(kernel, bits):
    scale = np.abs(kernel).max(axis=1) / (2 ** (bits - 1) - 1)
    return rounding.nearest(kernel, scale, bits) * scale[:, None]


def integers_of(kernel, bits):
    """What a quantizer makes that takes max|w| for Q; not whole numbers where the weights are on no such grid."""
    return kernel.astype(np.float64) / (np.abs(kernel).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1))


def run(content, samples):
    runtime = Runtime(content)
    return np.concatenate([next(iter(runtime.run(s).values())) for s in samples])


def squared_error(content, other, samples):
    return float(np.square(run(content, samples) - run(other, samples), dtype=np.float64).sum())


def images(count, seed):
    """Smooth images, as real ones are: neighbouring inputs of a kernel are correlated."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(count, 3, 3, 3))
    smooth = tf.image.resize(coarse, (8, 8), "bicubic").numpy() + 0.1 * rng.normal(size=(count, 8, 8, 3))
    return [{"x": image[None].astype(np.float32)} for image in smooth]


@pytest.fixture(scope="module")
def content():
    """A convolution, a grouped convolution with strides, a dense layer."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 3), name="x")
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="conv")(x)
    x = keras.layers.Conv2D(8, 3, strides=2, groups=2, activation="relu", name="grouped")(x)
    x = keras.layers.Flatten()(x)
    return to_file(keras.Model(inputs, keras.layers.Dense(4, name="dense")(x)))


@pytest.fixture(scope="module")
def samples():
    return images(128, seed=0)


@pytest.fixture(scope="module")
def rounded(content, samples):
    """By bits: the file with every layer rounded."""
    return {b: weights.round_weights(content, dict.fromkeys(outputs(content), b), samples) for b in (3, 4, 8)}


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_weights_lie_on_their_grid(bits, content, rounded):
    top = 2 ** (bits - 1) - 1
    assert len(kernels(rounded[bits])) == 3
    for old, new in zip(kernels(content), kernels(rounded[bits]), strict=True):
        q = integers_of(new, bits)
        np.testing.assert_allclose(q, np.round(q), atol=1e-4)
        assert (np.abs(np.round(q)).max(axis=1) == top).all()
        assert new.shape == old.shape and new.dtype == np.float32 and not np.array_equal(old, new)
        # More than a few of the levels are in use: it is a grid of `bits`, not of fewer.
        assert len(np.unique(np.round(q))) > 2 ** (bits - 1)


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_the_output_changes_less_than_by_rounding_to_nearest(bits, content, rounded, samples):
    plain = with_kernels(content, lambda kernel: nearest_of_the_largest(kernel, bits))
    for held in (samples, images(128, seed=1)):
        assert squared_error(content, rounded[bits], held) < 0.7 * squared_error(content, plain, held)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_each_layer_alone_changes_the_output_less(place, content, samples):
    name = outputs(content)[place]
    done = weights.round_weights(content, {name: 4}, samples)
    old, new = kernels(content), kernels(done)
    for i in range(3):
        assert np.array_equal(old[i], new[i]) == (i != place)
    todo = iter(range(3))
    plain = with_kernels(content, lambda k: nearest_of_the_largest(k, 4) if next(todo) == place else k)
    assert squared_error(content, done, samples) < squared_error(content, plain, samples)


def test_what_is_not_named_stays_bit_equal(content, samples):
    first, _, last = outputs(content)
    done = weights.round_weights(content, {first: 4, last: 8, "no such tensor": 4}, samples)
    before, after = flatbuffer.read(content), flatbuffer.read(done)
    changed = [
        i
        for i, (a, b) in enumerate(zip(before.subgraphs[0].tensors, after.subgraphs[0].tensors, strict=True))
        if flatbuffer.is_constant(before, a)
        and bytes(before.buffers[a.buffer].data) != bytes(after.buffers[b.buffer].data)
    ]
    _, found = rounded_operators(content)
    assert sorted(changed) == sorted([found[0].inputs[1], found[2].inputs[1]])
    for place, bits in ((0, 4), (2, 8)):
        q = integers_of(kernels(done)[place], bits)
        np.testing.assert_allclose(q, np.round(q), atol=1e-4)


def test_nothing_named_changes_nothing(content, samples):
    assert weights.round_weights(content, {}, samples) == content


def test_the_file_does_not_grow(content, rounded):
    for done in rounded.values():
        assert len(done) <= len(content)
        before, after = flatbuffer.read(content), flatbuffer.read(done)
        assert len(after.buffers) == len(before.buffers)
        assert [t.buffer for t in after.subgraphs[0].tensors] == [t.buffer for t in before.subgraphs[0].tensors]


def test_a_convolution_is_rounded_by_gptq_on_its_patches(content, samples):
    # extract_patches is TensorFlow's own way to the rows that `_patches` makes.
    x = np.concatenate([s["x"] for s in samples]).astype(np.float64)
    rows = tf.image.extract_patches(x, (1, 3, 3, 1), (1, 1, 1, 1), (1, 1, 1, 1), "SAME").numpy().reshape(-1, 27)
    hessian = rows.T @ rows / len(rows)
    kernel = kernels(content)[0]
    scale = rounding.symmetric_scale(kernel, hessian, 4)
    expected = rounding.gptq(kernel, hessian, scale, 4)
    got = kernels(weights.round_weights(content, {outputs(content)[0]: 4}, samples))[0]
    np.testing.assert_allclose(got, expected * scale[:, None], rtol=1e-6)
    assert not np.array_equal(expected, rounding.nearest(kernel, scale, 4))


def test_large_layers_use_the_diagonal(monkeypatch, content, samples):
    x = np.concatenate([s["x"] for s in samples]).astype(np.float64)
    rows = tf.image.extract_patches(x, (1, 3, 3, 1), (1, 1, 1, 1), (1, 1, 1, 1), "SAME").numpy().reshape(-1, 27)
    kernel = kernels(content)[0]
    scale = rounding.symmetric_scale(kernel, np.square(rows).mean(axis=0), 4)
    monkeypatch.setattr(weights, "LARGEST_HESSIAN", 26)
    got = kernels(weights.round_weights(content, {outputs(content)[0]: 4}, samples))[0]
    np.testing.assert_allclose(got, rounding.nearest(kernel, scale, 4) * scale[:, None], rtol=1e-6)


def test_few_samples_do_for_large_models(monkeypatch, content, samples):
    named = {outputs(content)[0]: 4}
    every = weights.round_weights(content, named, samples)
    few = weights.round_weights(content, named, samples[: weights.FEWEST_SAMPLES])
    monkeypatch.setattr(weights, "MOST_VALUES", 1)
    assert weights.round_weights(content, named, samples) == few != every


@pytest.mark.parametrize(("passes", "steps"), [(32, [1, 2, 3]), (2, [2, 3]), (1, [3])])
def test_progress_and_passes(monkeypatch, passes, steps, content, samples):
    monkeypatch.setattr(weights, "MOST_PASSES", passes)
    seen = []
    done = weights.round_weights(
        content, dict.fromkeys(outputs(content), 4), samples, lambda now, total: seen.append((now, total))
    )
    assert seen == [(n, 3) for n in steps]
    for kernel in kernels(done):
        q = integers_of(kernel, 4)
        np.testing.assert_allclose(q, np.round(q), atol=1e-4)


def dense(name, seed):
    return keras.layers.Dense(
        6, use_bias=False, name=name, kernel_initializer=keras.initializers.RandomNormal(seed=seed)
    )


def rows(count=24, seed=3):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 2)) @ rng.normal(size=(2, 6)) + 0.2 * rng.normal(size=(count, 6))
    return [{"x": row[None].astype(np.float32)} for row in x]


def gptq(kernel, x, bits):
    hessian = x.T @ x / len(x)
    scale = rounding.symmetric_scale(kernel, hessian, bits)
    damping = max(0.01, 0.4 * kernel.shape[1] / len(x))
    return rounding.gptq(kernel, hessian, scale, bits, damping) * scale[:, None]


@pytest.mark.parametrize("shared", [False, True])
def test_a_layer_is_rounded_on_what_the_rounded_ones_before_it_make(shared):
    first, second = dense("first", 1), dense("second", 2)
    inputs = keras.Input((6,), name="x")
    y = second(keras.ops.tanh(first(inputs)))
    y = first(keras.ops.tanh(y)) if shared else y  # used twice, rounded once, on its first use
    content = to_file(keras.Model(inputs, y))
    data = rows()
    x = np.concatenate([s["x"] for s in data]).astype(np.float64)
    done = kernels(weights.round_weights(content, dict.fromkeys(outputs(content), 3), data))
    one = gptq(first.kernel.numpy().T, x, 3)
    np.testing.assert_allclose(done[0], one, rtol=1e-6)
    two = gptq(second.kernel.numpy().T, np.tanh(x @ one.T), 3)
    # The input that the layer before makes unrounded would have given other integers.
    assert not np.allclose(two, gptq(second.kernel.numpy().T, np.tanh(x @ first.kernel.numpy()), 3))
    np.testing.assert_allclose(done[1], two, rtol=1e-6)
    if shared:
        np.testing.assert_array_equal(done[2], done[0])


def test_a_layer_with_the_same_kernel_that_is_not_named_stays_bit_equal():
    # The converter keeps equal constants once, so both operators read one tensor.
    first, second = dense("first", 1), dense("second", 2)
    inputs = keras.Input((6,), name="x")
    model = keras.Model(inputs, second(keras.ops.tanh(first(inputs))))
    second.kernel.assign(first.kernel)
    content = to_file(model)
    old = kernels(content)
    np.testing.assert_array_equal(old[0], old[1])
    new = kernels(weights.round_weights(content, {outputs(content)[0]: 3}, rows()))
    assert not np.array_equal(new[0], old[0])
    np.testing.assert_array_equal(new[1], old[1])


def test_dense_layers_on_sequences():
    # (1, 5, 6): every position is a row.
    layer = dense("layer", 1)
    inputs = keras.Input((5, 6), name="x")
    content = to_file(keras.Model(inputs, layer(inputs)))
    x = np.concatenate([s["x"] for s in rows(60)])
    data = [{"x": x[i : i + 5][None]} for i in range(0, 60, 5)]
    done = weights.round_weights(content, dict.fromkeys(outputs(content), 4), data)
    np.testing.assert_allclose(kernels(done)[0], gptq(layer.kernel.numpy().T, x.astype(np.float64), 4), rtol=1e-6)


def test_channels_that_are_all_zero_stay_zero():
    layer = dense("layer", 1)
    inputs = keras.Input((6,), name="x")
    model = keras.Model(inputs, layer(inputs))
    layer.kernel.assign(layer.kernel * np.array([1, 0, 1, 1, 0, 1]))
    content = to_file(model)
    (kernel,) = kernels(weights.round_weights(content, dict.fromkeys(outputs(content), 4), rows()))
    assert np.isfinite(kernel).all()
    np.testing.assert_array_equal(np.abs(kernel).max(axis=1) > 0, [True, False, True, True, False, True])


def test_a_tensor_without_values_is_named(content, samples, monkeypatch):
    monkeypatch.setattr(Runtime, "tensor", lambda runtime, name: None)
    with pytest.raises(ConversionError, match=r'does not show the values of .*Recipe\(rounding="nearest"\)'):
        weights.round_weights(content, dict.fromkeys(outputs(content), 4), samples)
