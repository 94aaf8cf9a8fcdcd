"""`shrink`: the same function from fewer channels, and nothing removed that counts."""

import json

import keras
import numpy as np
import pytest
from keras import layers
from random_models import random_model
from sweeps import sweep
from zoo import MODELS, build, randomise, sample_inputs

from tfstruct.errors import ModelError, TfstructError
from tfstruct.graph import trace
from tfstruct.surgery import shrink
from tfstruct.surgery.certificate import difference, draw
from tfstruct.surgery.lossless import shrinking


def kill(layer, channels, bias=0.0):
    """These outputs of a layer are the constant `bias` before its activation."""
    kernel = layer.kernel.numpy()
    kernel[..., channels] = 0
    layer.kernel.assign(kernel)
    if layer.bias is not None:
        value = layer.bias.numpy()
        value[channels] = bias
        layer.bias.assign(value)


def unread(layer, channels):
    """The layer reads these channels with weights of zero."""
    kernel = layer.kernel.numpy()
    kernel[..., channels, :] = 0
    layer.kernel.assign(kernel)


def flatten_norm(layer, channels, beta=0.0):
    for weight, value in ((layer.gamma, 0.0), (layer.beta, beta)):
        array = weight.numpy()
        array[channels] = value
        weight.assign(array)


def chain(*parts, shape=(9, 9, 3), seed=0):
    return randomise(keras.Sequential([keras.Input(shape), *parts]), seed)


def equal(model, smaller, inputs, tolerance=1e-5):
    before, after = (
        [np.asarray(y, "float64") for y in keras.tree.flatten(m(inputs, training=False))] for m in (model, smaller)
    )
    for a, b in zip(before, after, strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= tolerance * max(np.abs(a).max(), 1e-3)


def images(*shape, n=3, seed=1):
    return np.random.default_rng(seed).normal(size=(n, *(shape or (9, 9, 3)))).astype("float32")


def check(model, removed, inputs=None, **expected):
    """Shrinks, and compares what went and what comes out."""
    weights = [w.numpy().copy() for w in model.weights]
    result = shrink(model)
    assert result.removed == {path: tuple(numbers) for path, numbers in removed.items()}
    equal(model, result.model, images() if inputs is None else inputs)
    assert result.max_difference.relative <= 1e-5
    assert all(np.array_equal(w, v.numpy()) for w, v in zip(weights, model.weights, strict=True))
    for name, value in expected.items():
        assert getattr(result, name) == value
    return result


# Nothing to do.


NAMES = [name for name in MODELS if name != "subclassed"]
QUICK = ["depthwise", "residual", "concat", "grouped", "bidirectional", "attention", "several", "nested", "shared"]


@pytest.mark.parametrize("name", sweep(NAMES, quick=QUICK))
@pytest.mark.sweep(4)
def test_a_model_that_needs_all_its_channels_keeps_them(name):
    model = build(name)
    result = shrink(model)
    assert (result.removed, result.branches, result.vanished) == ({}, (), ())
    assert result.parameters == (model.count_params(), model.count_params())
    assert result.model is not model
    assert "Nothing to shrink" in str(result)


def test_a_subclassed_model_has_no_graph():
    with pytest.raises(ModelError, match="subclassed model"):
        shrink(build("subclassed"))
    with pytest.raises(ModelError, match="`tolerance` must be 0"):
        shrink(build("conv_bn"), tolerance=-1.0)


# Constants into the next layer.


@pytest.mark.parametrize(
    "reader",
    [
        lambda: layers.Conv2D(4, 3, name="next"),
        lambda: layers.Conv2D(4, 3, strides=2, name="next"),
        lambda: layers.Conv2D(4, 3, dilation_rate=2, activation="tanh", name="next"),
        lambda: layers.Conv2D(4, 1, strides=3, padding="same", name="next"),
        lambda: layers.Conv2D(4, 3, strides=3, padding="same", name="next"),  # 9 = 3 * 3: nothing to pad
        lambda: layers.Conv2D(4, (1, 2), use_bias=False, name="next"),
        lambda: layers.SeparableConv2D(4, 3, depth_multiplier=2, name="next"),
        lambda: layers.Dense(4, name="next"),
    ],
)
def test_a_constant_moves_into_the_bias(reader):
    first = layers.Conv2D(6, 1, activation="relu", name="first")
    model = chain(first, reader(), layers.Flatten(), layers.Dense(2, name="head"))
    kill(first, [1], bias=0.7)  # the constant 0.7
    kill(first, [4], bias=-0.7)  # relu makes it 0
    result = check(model, {"first": (1, 4)}, kept={"first": (0, 2, 3, 5)})
    (fold,) = result.folded
    assert (fold.layer, fold.channels) == ("next", 1)
    assert fold.into == ("bias" if model.get_layer("next").use_bias else "new bias")
    assert result.model.get_layer("next").use_bias


@pytest.mark.parametrize(
    "reader",
    [
        lambda: layers.Conv2D(4, 3, padding="same", name="next"),
        lambda: layers.Conv2D(4, 3, strides=2, padding="same", name="next"),
        lambda: layers.Conv2D(4, (1, 3), padding="same", name="next"),
        lambda: layers.Conv2D(4, 2, strides=2, padding="same", name="next"),  # 9 is odd: pads on one side
        lambda: layers.Conv2DTranspose(4, 3, name="next"),
        lambda: layers.SeparableConv2D(4, 3, padding="same", name="next"),
    ],
)
def test_a_constant_does_not_cross_a_padded_border_but_zero_does(reader):
    first = layers.Conv2D(6, 1, activation="relu", name="first")
    model = chain(first, reader(), layers.Flatten(), layers.Dense(2, name="head"))
    kill(first, [1], bias=0.7)
    kill(first, [4], bias=-0.7)
    check(model, {"first": (4,)}, folded=())


@pytest.mark.parametrize("padding", [((1, 0), (0, 2)), 1])
def test_zero_padding_stops_constants_and_lets_zeros_through(padding):
    first, pad = layers.Conv2D(6, 1, activation="relu", name="first"), layers.ZeroPadding2D(padding)
    model = chain(first, pad, layers.Conv2D(4, 3, strides=2, name="next"), layers.GlobalMaxPooling2D())
    kill(first, [1], bias=0.7)
    kill(first, [4], bias=-0.7)
    check(model, {"first": (4,)})


def test_causal_and_dilated_signals():
    first, second = layers.Conv1D(6, 1, name="first"), layers.Conv1D(5, 3, padding="causal", name="second")
    third = layers.Conv1D(4, 3, dilation_rate=2, name="third")
    model = chain(first, second, third, layers.GlobalAveragePooling1D(), shape=(20, 3))
    kill(first, [0], bias=0.5)
    kill(first, [2])
    kill(second, [1, 3], bias=0.25)
    check(model, {"first": (2,), "second": (1, 3)}, images(20, 3))


def test_constants_pass_pooling_flatten_dropout_and_activations():
    first = layers.Conv2D(6, 3, name="first")
    model = chain(
        first, layers.LeakyReLU(negative_slope=0.2), layers.Activation("hard_swish"), layers.PReLU(shared_axes=[1, 2]),
        layers.AveragePooling2D(2, padding="same"), layers.UpSampling2D(2, interpolation="bilinear"),
        layers.Rescaling([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 0.5), layers.Cropping2D(1), layers.MaxPooling2D(2),
        layers.Dropout(0.5), layers.Flatten(), layers.Dense(3, use_bias=False, name="head"),
    )  # fmt: skip
    kill(first, [2, 3], bias=-1.5)
    result = check(model, {"first": (2, 3)})
    # 3 x 3 positions of each, as Flatten lists them.
    assert [(f.layer, f.into, f.channels) for f in result.folded] == [("head", "new bias", 18)]


def test_a_constant_of_each_position():
    first, last = layers.Conv2D(6, 3, name="first"), layers.Dense(2, name="last")
    model = chain(first, layers.PReLU(), layers.Flatten(), last)
    kill(first, [2], bias=-1.5)
    check(model, {"first": (2,)})
    model = chain(first := layers.Conv2D(6, 3, name="first"), layers.PReLU(), layers.Conv2D(2, 1, name="last"))
    kill(first, [2], bias=-1.5)
    check(model, {})  # a bias cannot differ from place to place


def test_constants_pass_reshape_and_permute_and_stop_at_a_product_of_tensors():
    first = layers.Conv2D(6, 1, name="first")
    model = chain(
        first, layers.Reshape((81, 6)), layers.Permute((2, 1)), layers.Permute((2, 1)), layers.Dense(4, name="next"),
    )  # fmt: skip
    kill(first, [5], bias=1.0)
    check(model, {"first": (5,)})
    inputs = keras.Input((4, 3))
    a, b = layers.Dense(5, name="a"), layers.Dense(5, name="b")
    model = randomise(keras.Model(inputs, layers.Dot(axes=2, name="dot")([a(inputs), b(inputs)])))
    for layer in (a, b):
        kill(layer, [1], bias=1.0)
        kill(layer, [3])
    check(model, {"a": (3,), "b": (3,)}, images(4, 3))


def test_the_fold_goes_into_the_next_batch_normalization_where_there_is_no_bias():
    first, norm = layers.Conv2D(6, 1, name="first"), layers.BatchNormalization(name="norm")
    model = chain(first, layers.Conv2D(4, 3, use_bias=False, name="next"), norm, layers.GlobalMaxPooling2D())
    kill(first, [0, 5], bias=2.0)
    result = check(model, {"first": (0, 5)})
    assert [fold.into for fold in result.folded] == ["norm's moving mean"]
    assert not result.model.get_layer("next").use_bias


@pytest.mark.parametrize("beta", [0.0, 0.8])
def test_gamma_of_zero(beta):
    first, norm = layers.Conv2D(6, 3, padding="same", name="first"), layers.BatchNormalization(name="norm")
    model = chain(first, norm, layers.ReLU(), layers.Conv2D(4, 1, name="next"), layers.GlobalMaxPooling2D())
    flatten_norm(norm, [1, 2], beta)
    result = check(model, {"first": (1, 2)})
    assert len(result.folded) == (beta != 0)
    model = chain(first := layers.Conv2D(6, 3, name="first"), norm := layers.BatchNormalization(), layers.ReLU(),
                  layers.Conv2D(4, 3, padding="same", name="next"), layers.GlobalMaxPooling2D())  # fmt: skip
    flatten_norm(norm, [1, 2], beta)
    check(model, {} if beta else {"first": (1, 2)})


# Unread, chained, coupled.


def test_channels_that_nobody_reads():
    first, second, third = (layers.Conv2D(6, 3, padding="same", name=n) for n in ("first", "second", "third"))
    model = chain(first, layers.ReLU(), second, layers.BatchNormalization(), third)
    unread(third, [0, 3])
    result = check(model, {"second": (0, 3)})
    assert result.folded == ()


def test_a_cascade():
    # `second` reads channels 1 and 4 of `first` for its channels 0 and 3 alone, which nobody reads.
    first, second, third = (layers.Conv2D(6, 3, padding="same", name=n) for n in ("first", "second", "third"))
    model = chain(first, layers.ReLU(), second, layers.BatchNormalization(), third)
    unread(third, [0, 3])
    kernel = second.kernel.numpy()
    kernel[:, :, [[1], [4]], [1, 2, 4, 5]] = 0
    second.kernel.assign(kernel)
    check(model, {"first": (1, 4), "second": (0, 3)})


def test_constants_of_constants():
    first, second = layers.Conv2D(4, 1, name="first"), layers.Conv2D(5, 3, name="second")
    model = chain(first, second, layers.ReLU(), layers.Conv2D(3, 3, name="third"))
    kill(first, [0, 1], bias=0.5)
    kernel = second.kernel.numpy()
    kernel[:, :, 2:, 3] = 0  # channel 3 of `second` sees constants only
    second.kernel.assign(kernel)
    bias = second.bias.numpy()
    bias[3] = 5.0
    second.bias.assign(bias)
    check(model, {"first": (0, 1), "second": (3,)})


def test_a_unit_of_a_residual_stream_goes_only_where_all_can_miss_it():
    def make():
        inputs = keras.Input((9, 9, 3))
        stem, conv, last = (layers.Conv2D(6, 3, padding="same", name=n) for n in ("stem", "conv", "last"))
        x = stem(inputs)
        x = layers.Add(name="join")([x, conv(layers.ReLU()(x))])
        return randomise(keras.Model(inputs, last(x))), stem, conv, last

    model, stem, conv, last = make()
    kill(stem, [2])
    check(model, {})  # `conv` fills channel 2
    kill(conv, [2])
    check(model, {"stem": (2,), "conv": (2,)})
    unread(last, [4])
    check(model, {"stem": (2,), "conv": (2,)})  # `conv` reads channel 4
    unread(conv, [4])
    check(model, {"stem": (2, 4), "conv": (2, 4)})
    kill(stem, [0], bias=1.0)
    kill(conv, [0], bias=-1.0)
    check(model, {"stem": (2, 4), "conv": (2, 4)})  # 1 - 1 = 0, but `conv` reads 1 at its border
    unread(conv, [0])
    check(model, {"stem": (0, 2, 4), "conv": (0, 2, 4)})


def test_concatenation_and_several_outputs():
    inputs = keras.Input((9, 9, 3))
    left, right = layers.Conv2D(4, 1, name="left"), layers.Conv2D(5, 3, padding="same", name="right")
    narrow, wide = layers.Conv2D(3, 1, name="narrow"), layers.Conv2D(2, 3, padding="same", name="wide")
    x = layers.Concatenate()([left(inputs), right(inputs)])
    model = randomise(keras.Model(inputs, {"a": narrow(x), "b": wide(x)}))
    kill(left, [0], bias=1.0)  # `wide` pads
    kill(left, [3])
    kill(right, [1, 2])
    unread(narrow, [8])  # `wide` reads it
    result = check(model, {"left": (3,), "right": (1, 2)})
    assert set(result.model.output) == {"a", "b"}
    model = randomise(keras.Model(inputs, [left(inputs), narrow(x)]))
    kill(left, [1])
    check(model, {})  # an output itself


def test_grouped_convolutions_lose_equally_many_of_each_group():
    first = layers.Conv2D(8, 1, name="first")
    grouped = layers.Conv2D(12, 3, groups=2, name="grouped")
    model = chain(first, grouped, layers.ReLU(), layers.Conv2D(3, 1, name="last"))
    kill(first, [0, 1, 6], bias=0.5)  # two of the first group, one of the second
    kill(grouped, [2, 7, 8])  # one of the first, two of the second
    result = check(model, {"first": (0, 6), "grouped": (2, 7)})
    assert result.folded[0].layer == "grouped"
    model = chain(first := layers.Conv2D(8, 1, name="first"), layers.Conv2D(4, 3, groups=2), layers.ReLU())
    kill(first, [0, 1])
    check(model, {})


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_depthwise_convolutions(padding):
    first = layers.Conv2D(6, 1, name="first")
    depthwise = layers.DepthwiseConv2D(3, depth_multiplier=2, padding=padding, name="depthwise")
    model = chain(first, depthwise, layers.ReLU(), layers.Conv2D(3, 1, name="last"))
    kill(first, [0])  # depthwise makes its biases of it
    kill(first, [1], bias=1.0)  # constant again without padding
    kernel = depthwise.kernel.numpy()
    kernel[:, :, 4, 0] = 0  # one of the two
    kernel[:, :, 5, :] = 0
    depthwise.kernel.assign(kernel)
    check(model, {"first": (0, 1, 5) if padding == "valid" else (0, 5)})


def test_shared_layers_fold_only_what_all_calls_agree_on():
    inputs = [keras.Input((5,), name="a"), keras.Input((5,), name="b")]
    left, right, twice = layers.Dense(6, name="left"), layers.Dense(6, name="right"), layers.Dense(4, name="twice")
    made = [twice(left(inputs[0])), twice(right(inputs[1]))]
    model = randomise(keras.Model(inputs, layers.Concatenate()(made)))
    kill(left, [0, 2, 3], bias=0.5)
    kill(right, [2, 3, 4], bias=0.5)
    kill(right, [3], bias=0.75)
    result = check(model, {"left": (2,), "right": (2,)}, [images(5), images(5, seed=2)])
    assert [(f.layer, f.channels) for f in result.folded] == [("twice", 1)]


def test_nested_models():
    part = keras.Sequential([keras.Input((9, 9, 6)), layers.Conv2D(5, 3, use_bias=False, name="conv")], name="part")
    first, last = layers.Conv2D(6, 1, name="first"), layers.Conv2D(3, 1, name="last")
    model = chain(first, part, layers.ReLU(), last)
    kill(first, [2, 3], bias=0.5)
    kill(part.get_layer("conv"), [0])
    result = check(model, {"first": (2, 3), "part/conv": (0,)})
    assert [(f.layer, f.into) for f in result.folded] == [("part/conv", "new bias")]
    unread(last, [1])
    unread(part.get_layer("conv"), [4])
    check(model, {"first": (2, 3, 4), "part/conv": (0, 1)})


# Statistics over channels, products, recurrences.


def test_statistics_over_channels_keep_their_channels():
    for norm in (layers.LayerNormalization(), layers.Softmax(), layers.GroupNormalization(2)):
        first = layers.Dense(6, name="first")
        model = chain(first, norm, layers.Dense(3, name="last"), shape=(4,))
        kill(first, [1])
        unread(model.layers[-1], [2])
        check(model, {}, images(4))


def test_a_recurrent_layer_takes_zeros_away_and_nothing_else():
    first = layers.Dense(6, name="first")
    model = chain(first, layers.Bidirectional(layers.LSTM(3)), layers.Dense(2, name="head"), shape=(7, 4))
    kill(first, [1])
    kill(first, [4], bias=0.5)
    result = shrink(model)
    assert result.removed in ({"first": (1,)}, {})
    equal(model, result.model, images(7, 4))
    model = chain(first := layers.Dense(6, name="first"), layers.GRU(3), shape=(7, 4))
    kill(first, [1])
    kill(first, [4], bias=0.5)
    result = shrink(model)
    assert result.removed in ({"first": (1,)}, {})


def test_embeddings():
    table, first = layers.Embedding(11, 6, name="table"), layers.Conv1D(4, 3, name="first")
    model = keras.Sequential([keras.Input((7,), dtype="int32"), table, first, layers.GlobalMaxPooling1D()])
    randomise(model)
    values = table.embeddings.numpy()
    values[:, 1], values[:, 2] = 0.0, 0.3
    table.embeddings.assign(values)
    check(model, {"table": (1, 2)}, np.random.default_rng(0).integers(0, 11, (3, 7)))


def test_an_einsum_misses_no_zeros():
    first, second = layers.Dense(6, name="first"), layers.EinsumDense("abc,cd->abd", (None, 5), name="second")
    model = chain(first, second, layers.ReLU(), layers.Dense(2, name="last"), shape=(4, 3))
    kill(first, [0])
    kill(first, [1], bias=0.5)
    unread(second, [2])
    unread(model.layers[-1], [3])
    check(model, {"first": (0, 2), "second": (3,)}, images(4, 3))


def test_multiplying_by_zero():
    inputs = keras.Input((9, 9, 3))
    x = layers.Conv2D(6, 3, padding="same", name="conv")(inputs)
    gate = layers.Dense(6, activation="relu", name="gate")
    x = layers.Multiply()([x, gate(layers.GlobalAveragePooling2D(keepdims=True)(x))])
    model = randomise(keras.Model(inputs, layers.Conv2D(3, 3, padding="same", name="last")(x)))
    kill(gate, [1], bias=-1.0)
    check(model, {})  # the gate reads channel 1 of `conv`
    unread(gate, [1])
    check(model, {"conv": (1,), "gate": (1,)})


def test_operators_and_operations():
    pytest.importorskip("tfstruct.graph.rules.operations")
    inputs = keras.Input((9, 9, 3))
    first, gate = layers.Conv2D(6, 3, name="first"), layers.Dense(6, name="gate")
    x = keras.ops.relu(first(inputs)) * 2.0 + 1.0
    x = x * keras.ops.sigmoid(gate(keras.ops.mean(x, axis=(1, 2), keepdims=True)))
    x = keras.ops.transpose(keras.ops.reshape(x, (-1, 49, 6)), (0, 2, 1))
    x = keras.ops.concatenate(keras.ops.split(keras.ops.swapaxes(x, 1, 2), 2, axis=-1)[::-1], axis=-1)
    model = randomise(keras.Model(inputs, layers.Dense(3, name="last")(x[:, 1:])))
    kill(first, [1], bias=0.5)
    kill(gate, [1])
    unread(gate, [2])
    unread(model.get_layer("last"), [5])  # channel 2 before the halves are swapped
    kill(first, [4], bias=-1.0)  # the constant 1, but its gate depends on other channels
    check(model, {"first": (1, 2), "gate": (1, 2)})


# Whole layers and branches.


def test_every_layer_keeps_a_channel():
    first, second = layers.Conv2D(6, 3, activation="relu", name="first"), layers.Conv2D(4, 3, name="second")
    model = chain(first, second, layers.ReLU(), layers.Flatten(), layers.Dense(2, name="head"))
    kill(first, list(range(6)), bias=-0.5)
    result = check(model, {"first": range(1, 6), "second": range(1, 4)})
    assert result.model.get_layer("first").filters == 1


def residual(blocks=3, seed=0):
    """Blocks of two convolutions; the first of them is the stem."""
    inputs = keras.Input((9, 9, 3), name="image")
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="stem")(inputs)
    for i in range(blocks):
        y = layers.Conv2D(5, 3, padding="same", activation="relu", name=f"inner{i}")(x)
        y = layers.Conv2D(6, 3, padding="same", name=f"outer{i}")(y)
        y = layers.BatchNormalization(name=f"norm{i}")(y)
        x = layers.ReLU(name=f"relu{i}")(layers.Add(name=f"join{i}")([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return randomise(keras.Model(inputs, layers.Dense(3, name="head")(x), name="residual"), seed)


def test_an_empty_residual_branch():
    model = residual()
    flatten_norm(model.get_layer("norm1"), slice(None))
    result = check(model, {}, vanished=("inner1", "outer1", "norm1", "join1"))
    assert [(b.join, b.index) for b in result.branches] == [("join1", 1)]
    assert {layer.name for layer in result.model.layers} == {x.name for x in model.layers} - set(result.vanished)
    flatten_norm(model.get_layer("norm0"), slice(None))
    flatten_norm(model.get_layer("norm2"), slice(None))
    kill(model.get_layer("stem"), [5], bias=-1.0)
    result = check(model, {"stem": (5,)})
    assert len(result.branches) == 3 and len(result.model.layers) == 7
    assert ": 1 channel removed, 3 branches cut, 12 layers gone." in str(result)
    json.dumps(result.to_dict())


def test_a_constant_branch_that_is_not_zero_stays():
    model = residual()
    flatten_norm(model.get_layer("norm1"), slice(None), beta=0.1)
    check(model, {}, branches=())


def test_joins_of_three_operators_and_outputs():
    inputs = keras.Input((9, 9, 6), name="image")
    a, b, c = (layers.Conv2D(6, 3, padding="same", name=n) for n in "abc")
    x = layers.Add(name="three")([a(inputs), b(inputs), c(inputs)])
    model = randomise(keras.Model(inputs, layers.Conv2D(3, 1, name="last")(x)))
    kill(b, slice(None))
    result = check(model, {}, images(9, 9, 6), vanished=("b",))
    kill(a, slice(None))
    result = check(model, {}, images(9, 9, 6))
    assert set(result.vanished) == {"a", "b", "three"}
    model = randomise(keras.Model(inputs, c(inputs) + b(inputs)))
    kill(b, slice(None))
    result = check(model, {}, images(9, 9, 6))
    assert result.model.output_names == model.output_names
    kill(c, slice(None))
    result = check(model, {}, images(9, 9, 6))
    one = layers.Conv2D(6, 1, activation="hard_sigmoid", name="one")
    model = randomise(keras.Model(inputs, layers.Conv2D(3, 1)(layers.Multiply(name="by")([c(inputs), one(inputs)]))))
    kill(one, slice(None), bias=9.0)
    assert set(check(model, {}, images(9, 9, 6)).vanished) == {"one", "by"}


def test_a_branch_that_takes_a_mask_away_stays():
    ids, other = keras.Input((7,), dtype="int32", name="ids"), keras.Input((7, 5), name="other")
    zero = layers.Dense(5, name="zero")
    x = layers.Embedding(3, 5, mask_zero=True, name="table")(ids)
    model = randomise(keras.Model([ids, other], layers.GlobalAveragePooling1D()(layers.Add()([x, zero(other)]))))
    kill(zero, slice(None))
    result = shrink(model)
    inputs = [np.random.default_rng(0).integers(0, 3, (4, 7)), images(7, 5, n=4)]
    equal(model, result.model, inputs)
    kept = layers.Add()([x, zero(x)])
    model = randomise(keras.Model(ids, layers.GlobalAveragePooling1D()(kept)))
    kill(zero, slice(None))
    result = shrink(model)
    assert "zero" in result.vanished
    equal(model, result.model, inputs[0])


def test_an_empty_branch_in_a_nested_model():
    model = build("nested")
    kill(model.get_layer("block").get_layer("conv"), slice(None))
    result = check(model, {}, images(8, 8, 3))
    assert result.vanished == ("block/conv",)
    assert [layer.name for layer in result.model.get_layer("block").layers] == ["block_in", "add"]


# Tolerance, precision, sizes, and life after.


def test_tolerance():
    model = chain(layers.Conv2D(6, 3, name="first"), layers.Conv2D(4, 3, padding="same", name="last"))
    kernel, bias = (w.numpy() for w in model.get_layer("first").weights)
    kernel[..., 2] *= 1e-3
    bias[2] = 5e-4
    model.get_layer("first").set_weights([kernel, bias])
    check(model, {})
    result = shrink(model, tolerance=2e-3)
    assert result.removed == {"first": (2,)}
    assert 1e-6 < result.max_difference.relative < 1e-2
    assert result.tolerance == 2e-3


def test_mixed_precision_and_unknown_sizes():
    policy = keras.mixed_precision.DTypePolicy("mixed_float16")
    first = layers.Conv2D(6, 1, dtype=policy, name="first")
    parts = first, layers.Conv2D(4, 3, dtype=policy, name="next"), layers.GlobalMaxPooling2D(dtype=policy)
    model = chain(*parts, layers.Dense(2, name="head"), shape=(None, None, 3))
    kill(first, [1, 2], bias=0.5)
    result = shrink(model)
    assert result.removed == {"first": (1, 2)}
    assert result.max_difference.relative < 1e-2
    assert result.model.get_layer("first").dtype_policy.name == "mixed_float16"


def test_saved_loaded_and_trained(tmp_path):
    model = residual()
    flatten_norm(model.get_layer("norm1"), slice(None))
    flatten_norm(model.get_layer("norm2"), [0, 1], beta=1.0)
    kill(model.get_layer("inner0"), [0])
    smaller = shrink(model).model
    assert smaller.name == model.name
    smaller.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    x = images()
    equal(smaller, again, x, 1e-6)
    again.compile("sgd", "mse")
    before = again.get_weights()
    again.fit(x, np.zeros((3, 3)), verbose=0)
    assert any(np.abs(a - b).max() > 0 for a, b in zip(before, again.get_weights(), strict=True))


def test_a_wrong_model_is_never_handed_out(monkeypatch):
    first = layers.Conv2D(6, 1, name="first")
    model = chain(first, layers.Conv2D(4, 3, name="next"))
    kill(first, [1, 2, 4], bias=0.01)
    monkeypatch.setattr(shrinking, "_fold", lambda *given: [])  # constants that nobody adds
    with pytest.raises(TfstructError, match=r"The new `sequential.*differs from the original by"):
        shrink(model)


def test_two_models_are_compared_on_ids_within_their_tables():
    ids, image = keras.Input((5,), dtype="int32", name="ids"), keras.Input((None, None, 3), name="image")
    x = layers.Embedding(4, 3)(layers.Reshape((5,))(ids))
    x = layers.Concatenate()([layers.Flatten()(x), layers.GlobalMaxPooling2D()(image)])
    graph = trace(keras.Model({"ids": ids, "image": image}, layers.Dense(2)(x)))
    drawn = draw(graph, np.random.default_rng(0))
    by_shape = {x.ndim: x for x in drawn}
    assert by_shape[2].max() == 3 and by_shape[2].dtype == np.int32
    assert by_shape[4].shape == (4, 32, 32, 3)
    assert difference(graph, graph.model).absolute == 0.0


def test_the_report():
    first = layers.Conv2D(6, 1, name="first")
    model = chain(first, layers.Conv2D(4, 3, name="next"))
    kill(first, [1, 2, 4], bias=0.7)
    result = shrink(model)
    assert ": 3 channels removed, 3 constants folded." in str(result)
    table = result.table()
    assert table.row_count == 2
    assert next(iter(table.columns[3].cells)) == "removed 1-2, 4"
    data = json.loads(json.dumps(result.to_dict()))
    assert data["kept"] == {"first": [0, 3, 5]} and data["removed"] == {"first": [1, 2, 4]}
    assert data["parameters"] == list(result.parameters)


@pytest.mark.slow
def test_resnet50_with_zeroed_last_norms():
    keras.utils.set_random_seed(0)
    model = randomise(keras.applications.ResNet50(weights=None, input_shape=(64, 64, 3), classes=10))
    zeroed = ["conv2_block2", "conv3_block4", "conv4_block3", "conv5_block3"]
    for name in zeroed:
        norm = model.get_layer(f"{name}_3_bn")
        norm.gamma.assign(norm.gamma * 0)
        norm.beta.assign(norm.beta * 0)
    result = shrink(model)
    assert [b.join for b in result.branches] == [f"{name}_add" for name in zeroed]
    gone = {x.name for x in model.layers} - {x.name for x in result.model.layers}
    assert gone == {x.name for x in model.layers if any(x.name.startswith(n) for n in zeroed) and "_out" not in x.name}
    equal(model, result.model, images(64, 64, 3, n=2))


# Graphs that nobody thought of.


def deaden(model, seed):
    """Zeros in random rows and columns of kernels, in scales and in biases."""
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        value = variable.numpy()
        if value.ndim > 1 or "gamma" in variable.path:
            for axis in range(max(value.ndim - 2, 0), value.ndim):
                gone = rng.random(value.shape[axis]) < rng.choice([0.0, 0.3, 0.6, 1.0], p=[0.3, 0.35, 0.25, 0.1])
                value[(slice(None),) * axis + (gone,)] = 0
        elif value.ndim and rng.random() < 0.6:
            value[rng.random(value.shape) < 0.7] = 0
        variable.assign(value)
    return model


def shrink_random(seeds):
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    removed = 0
    try:
        for seed in seeds:
            model = deaden(randomise(random_model(seed), seed), seed)
            result = shrink(model)
            equal(model, result.model, sample_inputs(model, 3, seed), 1e-9)
            removed += bool(result.removed)
            keras.backend.clear_session(free_memory=False)
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    return removed


def test_random_graphs():
    assert shrink_random(range(3)) >= 1


@pytest.mark.slow
def test_many_random_graphs():
    assert shrink_random(range(3, 200)) >= 60
