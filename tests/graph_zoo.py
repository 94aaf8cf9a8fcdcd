"""Small models for channel surgery: one for each way in which channels pass through a layer.

`MODELS[name]()` builds one, not randomised. `WHOLE` names those of which nothing can go, and why.
"""

import keras
from keras import layers, ops

MODELS = {}
WHOLE = {}


def _add(function=None, *, whole=""):
    def register(function):
        MODELS[function.__name__] = function
        if whole:
            WHOLE[function.__name__] = whole
        return function

    return register(function) if function else register


def _chain(shape, *steps, dtype=None):
    x = inputs = keras.Input(shape, dtype=dtype)
    for step in steps:
        x = step(x)
    return keras.Model(inputs, x)


def _between(shape, *steps, units=8):
    """`steps` behind a dense layer that makes channels, and before one that reads them."""
    return _chain(shape, layers.Dense(units, name="made"), *steps, layers.Dense(3, name="head"))


def _family(prefix, table, build):
    """One model for each entry of `table`."""
    for key, value in table.items():
        MODELS[f"{prefix}_{key}"] = lambda value=value: build(value)


# Layers that make channels.


@_add
def dense():
    return _chain((5,), layers.Dense(8, "relu"), layers.Dense(6, use_bias=False), layers.Dense(3))


@_add
def dense_on_a_sequence():
    return _chain((4, 5), layers.Dense(8, "relu"), layers.Dense(6, "tanh"), layers.Dense(3))


_SHAPES = {1: (9, 3), 2: (7, 6, 3), 3: (5, 4, 5, 2)}
for _n, _shape in _SHAPES.items():
    for _kind in ("Conv{}D", "Conv{}DTranspose"):
        _layer = getattr(layers, _kind.format(_n))

        def _conv(layer=_layer, shape=_shape):
            return _chain(
                shape,
                layer(6, 3, padding="same", activation="relu"),
                layer(8, 2, strides=2, use_bias=False),
                layers.BatchNormalization(),
                layer(2, 2, padding="same"),
            )

        MODELS[_kind.format(_n).lower()] = _conv


@_add
def dilated_and_causal():
    return _chain(
        (12, 3),
        layers.Conv1D(6, 3, padding="causal", dilation_rate=2, activation="relu"),
        layers.Conv1D(3, 3, dilation_rate=3),
    )


def _depthwise(multiplier):
    return _chain(
        (6, 6, 3),
        layers.Conv2D(6, 1),
        layers.DepthwiseConv2D(3, depth_multiplier=multiplier, padding="same", activation="relu"),
        layers.BatchNormalization(),
        layers.DepthwiseConv2D(3, strides=2, use_bias=False),
        layers.Conv2D(4, 1),
    )


_family("depthwise", {"once": 1, "twice": 2}, _depthwise)


@_add
def depthwise_of_the_input():
    return _chain((6, 6, 3), layers.DepthwiseConv2D(3, depth_multiplier=4), layers.Conv2D(6, 1), layers.Conv2D(2, 1))


@_add
def depthwise_1d():
    return _chain((8, 3), layers.Conv1D(6, 1), layers.DepthwiseConv1D(3, depth_multiplier=2), layers.Conv1D(2, 1))


def _separable(multiplier):
    return _chain(
        (7, 7, 3),
        layers.SeparableConv2D(6, 3, depth_multiplier=multiplier, activation="relu"),
        layers.SeparableConv2D(8, 3, depth_multiplier=multiplier, use_bias=False),
        layers.Conv2D(2, 1),
    )


_family("separable", {"once": 1, "twice": 2}, _separable)


@_add
def separable_1d():
    return _chain(
        (9, 3), layers.SeparableConv1D(6, 3), layers.SeparableConv1D(4, 3, depth_multiplier=2), layers.Dense(2)
    )


def _grouped(groups):
    return _chain(
        (6, 6, 3),
        layers.Conv2D(8, 1),
        layers.BatchNormalization(),
        layers.Conv2D(16, 3, groups=groups, padding="same", activation="relu"),
        layers.Conv2D(2, 1),
    )


_family("grouped", {"2": 2, "4": 4, "as_channels": 8}, _grouped)


@_add
def grouped_after_grouped():
    """Blocks that cross: 2 of 6 and 3 of 4 share their channels."""
    return _chain(
        (6, 6, 3),
        layers.Conv2D(12, 1),
        layers.Conv2D(12, 3, groups=2),
        layers.Conv2D(12, 3, groups=3),
        layers.Conv2D(2, 1),
    )


@_add
def grouped_of_the_input():
    return _chain((6, 6, 4), layers.Conv2D(8, 3, groups=2), layers.Conv2D(2, 1))


@_add
def grouped_1d():
    return _chain((9, 3), layers.Conv1D(8, 1), layers.Conv1D(8, 3, groups=4), layers.Conv1D(2, 1))


@_add
def embedding():
    return _chain((5,), layers.Embedding(20, 8), layers.Conv1D(6, 2), layers.Dense(2), dtype="int32")


_EQUATIONS = {
    "dense": ("abc,cd->abd", (None, 6), "d"),
    "without_bias": ("abc,cd->abd", (None, 6), None),
    "ellipsis": ("...x,xy->...y", (6,), "y"),
    "heads": ("abc,cde->abde", (None, 2, 4), "de"),
    "bias_on_one_axis": ("abc,cde->abde", (None, 2, 4), "e"),
    "heads_first": ("abc,cde->adbe", (2, None, 4), "e"),
    "transposed_kernel": ("abc,dc->abd", (None, 6), "d"),
}


def _einsum(given):
    equation, shape, bias = given
    return _between((4, 5), layers.EinsumDense(equation, shape, bias_axes=bias))


_family("einsum", _EQUATIONS, _einsum)


@_add
def einsum_heads_joined():
    return _chain(
        (4, 5),
        layers.Dense(6),
        layers.EinsumDense("abc,cde->abde", (None, 3, 4), bias_axes="de"),
        layers.EinsumDense("abde,def->abf", (None, 6), bias_axes="f"),
        layers.Dense(2),
    )


@_add
def einsum_each():
    """The kernel's axis c stays in the result: a weight for each channel."""
    return _between((4, 5), layers.EinsumDense("abc,cd->abcd", (None, 8, 3), bias_axes="d"))


# Layers that channels pass one by one, or together.

_NORMS = {
    "batch": lambda: layers.BatchNormalization(),
    "batch_plain": lambda: layers.BatchNormalization(center=False, scale=False),
    "layer": lambda: layers.LayerNormalization(),
    "layer_plain": lambda: layers.LayerNormalization(center=False, scale=False),
    "layer_over_all": lambda: layers.LayerNormalization(axis=[1, 2, 3]),
    "layer_over_space": lambda: layers.LayerNormalization(axis=[1, 2]),
    "rms": lambda: layers.RMSNormalization(),
    "unit": lambda: layers.UnitNormalization(),
    "unit_over_all": lambda: layers.UnitNormalization(axis=[1, 2, 3]),
    "group_1": lambda: layers.GroupNormalization(1),
    "group_2": lambda: layers.GroupNormalization(2),
    "group_4": lambda: layers.GroupNormalization(4),
    "group_instance": lambda: layers.GroupNormalization(-1),
    "softmax": lambda: layers.Softmax(),
    "softmax_over_space": lambda: layers.Softmax(axis=[1, 2]),
    "softmax_over_all": lambda: layers.Softmax(axis=[1, 2, 3]),
    "log_softmax": lambda: layers.Activation("log_softmax"),
    "sparsemax": lambda: layers.Activation("sparsemax"),
}
_family("norm", _NORMS, lambda make: _between((3, 4, 5), make()))


@_add
def softmax_inside():
    return _chain((5,), layers.Dense(8, "softmax"), layers.Dense(6, "log_softmax"), layers.Dense(2))


@_add
def softmax_in_a_convolution():
    return _chain((5, 5, 2), layers.Conv2D(8, 3, activation="softmax"), layers.Conv2D(2, 1))


@_add
def group_normalizations_that_cross():
    """2 blocks of 6 and 3 of 4 on the same channels."""
    return _between((4, 4, 3), layers.GroupNormalization(2), layers.GroupNormalization(3), units=12)


@_add
def group_normalization_of_a_grouped_convolution():
    return _chain(
        (4, 4, 3),
        layers.Conv2D(8, 1),
        layers.GroupNormalization(4),
        layers.Conv2D(8, 3, groups=2),
        layers.GroupNormalization(2),
        layers.Conv2D(2, 1),
    )


_ACTIVATIONS = (
    "relu",
    "relu6",
    "elu",
    "selu",
    "gelu",
    "silu",
    "mish",
    "sigmoid",
    "hard_sigmoid",
    "softplus",
    "exponential",
)


@_add
def activations():
    steps = [s for name in _ACTIVATIONS for s in (layers.Dense(6), layers.Activation(name))]
    return _chain((5,), *steps, layers.LeakyReLU(), layers.ELU(), layers.ReLU(2.0, 0.1, 0.2), layers.Dense(2))


_family(
    "prelu",
    {"own": None, "shared": [1, 2], "shared_over_channels": [3]},
    lambda shared: _between((4, 4, 3), layers.PReLU(shared_axes=shared)),
)


@_add
def dropouts():
    return _between(
        (4, 4, 3),
        layers.Dropout(0.5),
        layers.SpatialDropout2D(0.5),
        layers.GaussianNoise(0.1),
        layers.GaussianDropout(0.1),
        layers.AlphaDropout(0.1),
        layers.Dropout(0.5, noise_shape=(None, 1, 1, None)),
        layers.ActivityRegularization(0.1),
        layers.Identity(),
    )


@_add
def rescaling():
    return _between(
        (4, 3), layers.Rescaling([0.5, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0]), layers.Rescaling(2.0), units=4
    )


# Space.

_OVER_SPACE = (
    "MaxPooling", "AveragePooling", "GlobalMaxPooling", "GlobalAveragePooling", "ZeroPadding", "UpSampling", "Cropping",
)  # fmt: skip


def _over_space(given):
    kind, n = given
    layer = getattr(layers, f"{kind}{n}D")
    return _between(_SHAPES[n], layer(*{"AveragePooling": [2], "Cropping": [1]}.get(kind, [])))


_family("space", {f"{kind}{n}d".lower(): (kind, n) for kind in _OVER_SPACE for n in _SHAPES}, _over_space)


@_add
def global_pooling_that_keeps_its_axes():
    return _between((4, 4, 3), layers.GlobalAveragePooling2D(keepdims=True), layers.GlobalMaxPooling2D(keepdims=True))


# Data that moves.


@_add
def flatten():
    return _chain((4, 3, 2), layers.Conv2D(6, 1), layers.Flatten(), layers.Dense(5), layers.Dense(2))


@_add
def flatten_channels_first():
    return _between((4, 3, 2), layers.Flatten(data_format="channels_first"), units=6)


@_add
def flatten_then_batch_normalization():
    return _between((4, 3, 2), layers.Flatten(), layers.BatchNormalization(), layers.LayerNormalization())


_RESHAPES = {
    "space_merged": [(12, 8)],
    "flat": [(96,)],
    "flat_and_back": [(96,), (4, 3, 8)],
    "space_split": [(2, 2, 3, 8)],
    "ones": [(1, 4, 3, 1, 8)],
    "split": [(4, 3, 2, 4)],
    "split_and_joined": [(4, 3, 2, 4), (4, 3, 8)],
    "minus_one": [(-1, 8)],
}
_family("reshape", _RESHAPES, lambda targets: _between((4, 3, 2), *[layers.Reshape(t) for t in targets]))


@_add(whole="rows of the new axis mix channels of several positions, so all hang together")
def reshape_across():
    return _between((4, 3, 2), layers.Reshape((3, 4, 8)), layers.Reshape((24, 4)))


@_add
def permute():
    return _chain(
        (4, 5), layers.Dense(8), layers.Permute((2, 1)), layers.Dense(6), layers.Permute((2, 1)), layers.Dense(2)
    )


@_add
def permute_and_flatten():
    return _between((3, 4, 2), layers.Permute((3, 1, 2)), layers.Flatten(), units=6)


@_add
def repeat_vector():
    return _between((5,), layers.RepeatVector(3))


@_add
def channel_shuffle():
    return _chain(
        (4, 4, 3),
        layers.Conv2D(8, 1, groups=1),
        layers.Reshape((4, 4, 2, 4)),
        layers.Permute((1, 2, 4, 3)),
        layers.Reshape((4, 4, 8)),
        layers.DepthwiseConv2D(3),
        layers.Conv2D(2, 1),
    )


@_add
def shuffle_between_grouped():
    return _chain(
        (4, 4, 3),
        layers.Conv2D(8, 1),
        layers.Conv2D(8, 1, groups=2),
        layers.Reshape((4, 4, 2, 4)),
        layers.Permute((1, 2, 4, 3)),
        layers.Reshape((4, 4, 8)),
        layers.Conv2D(8, 1, groups=2),
        layers.Conv2D(2, 1),
    )


@_add
def depth_to_space():
    return _chain(
        (3, 3, 2),
        layers.Conv2D(16, 1),
        layers.Reshape((3, 3, 2, 2, 4)),
        layers.Permute((1, 3, 2, 4, 5)),
        layers.Reshape((6, 6, 4)),
        layers.Conv2D(3, 3),
    )


@_add
def depth_to_space_channels_outside():
    """As PyTorch's PixelShuffle orders them."""
    return _chain(
        (3, 3, 2),
        layers.Conv2D(16, 1),
        layers.Reshape((3, 3, 4, 2, 2)),
        layers.Permute((1, 4, 2, 5, 3)),
        layers.Reshape((6, 6, 4)),
        layers.Conv2D(3, 3),
    )


@_add
def space_to_depth():
    return _chain(
        (4, 4, 2),
        layers.Conv2D(6, 1),
        layers.Reshape((2, 2, 2, 2, 6)),
        layers.Permute((1, 3, 2, 4, 5)),
        layers.Reshape((2, 2, 24)),
        layers.Conv2D(5, 1),
        layers.Conv2D(2, 1),
    )


# Several tensors.


def _two(join, shape=(4, 4, 3)):
    inputs = keras.Input(shape)
    x = join([layers.Dense(6, name="left")(inputs), layers.Dense(6, name="right")(inputs)])
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


_family(
    "merge",
    {
        "add": lambda: layers.Add(),
        "subtract": lambda: layers.Subtract(),
        "multiply": lambda: layers.Multiply(),
        "average": lambda: layers.Average(),
        "maximum": lambda: layers.Maximum(),
        "minimum": lambda: layers.Minimum(),
        "concatenate": lambda: layers.Concatenate(),
        "concatenate_space": lambda: layers.Concatenate(axis=1),
        "dot_space": lambda: layers.Dot(axes=(1, 1)),
        "dot_channels": lambda: layers.Dot(axes=2),
        "dot_normalised": lambda: layers.Dot(axes=2, normalize=True),
    },
    lambda make: _two(make(), (4, 5)),
)


@_add
def dot_of_vectors():
    return _two(layers.Dot(axes=1), (5,))


@_add
def residuals():
    inputs = keras.Input((5, 5, 3))
    x = layers.Conv2D(6, 3, padding="same")(inputs)
    for _ in range(2):
        y = layers.BatchNormalization()(x)
        y = layers.Conv2D(4, 3, padding="same", activation="relu")(y)
        x = layers.Add()([x, layers.Conv2D(6, 1)(y)])
    return keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))


@_add
def dense_connections():
    x = inputs = keras.Input((5, 5, 3))
    for _ in range(3):
        y = layers.Activation("relu")(layers.BatchNormalization()(x))
        x = layers.Concatenate()([x, layers.Conv2D(4, 3, padding="same")(y)])
    return keras.Model(inputs, layers.Conv2D(2, 1)(x))


@_add
def concatenation_added():
    """The halves of one tensor are united with two others."""
    inputs = keras.Input((5,))
    parts = layers.Concatenate()([layers.Dense(3, name="a")(inputs), layers.Dense(5, name="b")(inputs)])
    return keras.Model(inputs, layers.Dense(2)(layers.Add()([parts, layers.Dense(8)(inputs)])))


@_add
def broadcast():
    """One channel that scales all, and a position that is added to all."""
    inputs = keras.Input((4, 5))
    x = layers.Dense(6)(inputs)
    one = layers.Dense(1, activation="sigmoid", name="gate")(inputs)
    place = layers.GlobalAveragePooling1D(keepdims=True)(layers.Dense(6)(inputs))
    x = layers.Add()([layers.Multiply()([x, one]), place])
    return keras.Model(inputs, layers.Dense(2)(x))


@_add
def broadcast_without_an_axis():
    inputs = keras.Input((3, 5))
    x = layers.Dense(6)(inputs)
    return keras.Model(inputs, layers.Dense(2)(layers.Add()([x, layers.Dense(6)(layers.Reshape((1, 15))(inputs))])))


@_add
def squeeze_excite():
    inputs = keras.Input((5, 5, 3))
    x = layers.Conv2D(8, 3, activation="relu", name="features")(inputs)
    y = layers.GlobalAveragePooling2D()(x)
    y = layers.Reshape((1, 1, 8))(y)
    y = layers.Conv2D(4, 1, activation="relu", name="squeeze")(y)
    y = layers.Conv2D(8, 1, activation="hard_sigmoid", name="excite")(y)
    return keras.Model(inputs, layers.Conv2D(2, 1)(layers.Multiply()([x, y])))


@_add
def several_inputs_and_outputs():
    a, b = keras.Input((4, 4, 3), name="a"), keras.Input((5,), name="b")
    x = layers.Conv2D(6, 3, activation="relu")(a)
    x = layers.GlobalMaxPooling2D()(x)
    y = layers.Dense(6)(b)
    z = layers.Concatenate()([x, y])
    return keras.Model([a, b], [layers.Dense(2)(z), layers.Dense(3)(x), layers.Dense(4)(layers.Dense(7)(z))])


@_add
def dict_inputs_and_outputs():
    a, b = keras.Input((5,), name="a"), keras.Input((4,), name="b")
    x = layers.Add()([layers.Dense(6)(b), layers.Dense(6)(a)])
    return keras.Model({"b": b, "a": a}, {"y": layers.Dense(2)(x), "x": layers.Dense(3)(layers.Dense(5)(x))})


@_add
def a_hidden_tensor_is_an_output_too():
    inputs = keras.Input((5,))
    hidden = layers.Dense(6, name="hidden")(inputs)
    return keras.Model(inputs, [layers.Dense(2)(layers.Dense(7, name="free")(hidden)), hidden])


@_add
def an_input_is_an_output():
    inputs = keras.Input((5,))
    return keras.Model(inputs, [inputs, layers.Dense(2)(layers.Dense(7)(inputs))])


@_add(whole="the only layer is the output")
def nothing_but_the_output():
    return _chain((5,), layers.Dense(4))


@_add(whole="every channel meets the input's")
def residual_on_the_input():
    inputs = keras.Input((5,))
    return keras.Model(inputs, layers.Dense(2)(layers.Add()([inputs, layers.Dense(5)(inputs)])))


# Shared and nested.


@_add
def shared_dense():
    dense = layers.Dense(6, "relu")
    inputs = keras.Input((5,))
    x = layers.Dense(6)(inputs)
    return keras.Model(inputs, layers.Dense(2)(layers.Add()([dense(x), dense(dense(x))])))


@_add
def shared_by_two_inputs():
    tower = layers.Dense(6, "relu")
    a, b = keras.Input((5,), name="a"), keras.Input((5,), name="b")
    return keras.Model([a, b], layers.Dense(2)(layers.Concatenate()([tower(a), tower(b)])))


@_add
def shared_normalization():
    norm = layers.BatchNormalization()
    inputs = keras.Input((5,))
    a, b = layers.Dense(6)(inputs), layers.Dense(6)(inputs)
    return keras.Model(inputs, layers.Dense(2)(layers.Concatenate()([norm(a), norm(b)])))


@_add
def shared_reshape():
    """One configuration for two calls: both have to lose as much."""
    reshape = layers.Reshape((2, 2, 6))
    inputs = keras.Input((4, 5))
    a, b = reshape(layers.Dense(6)(inputs)), reshape(layers.Dense(6)(inputs))
    return keras.Model(inputs, layers.Dense(2)(layers.Concatenate()([a, b])))


@_add
def shared_flatten_of_other_shapes():
    flatten = layers.Flatten()
    inputs = keras.Input((4, 5))
    a, b = flatten(layers.Dense(6)(inputs)), flatten(layers.Dense(3)(inputs))
    return keras.Model(inputs, layers.Dense(2)(layers.Concatenate()([a, b])))


def _block(name="block", width=6):
    inputs = keras.Input((5, 5, width))
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="inner")(inputs)
    x = layers.Conv2D(width, 1, name="outer")(x)
    return keras.Model(inputs, layers.Add()([x, inputs]), name=name)


@_add
def nested_functional():
    return _chain((5, 5, 3), layers.Conv2D(6, 1), _block(), layers.Conv2D(2, 1))


@_add
def nested_sequential():
    inner = keras.Sequential([layers.Conv2D(6, 3), layers.BatchNormalization(), layers.ReLU()], name="inner")
    return _chain((5, 5, 3), layers.Conv2D(6, 1), inner, layers.Conv2D(2, 1))


@_add
def nested_sequential_in_sequential():
    inner = keras.Sequential([keras.Input((5, 5, 6)), layers.Conv2D(6, 3), layers.BatchNormalization()], name="inner")
    return keras.Sequential([keras.Input((5, 5, 3)), layers.Conv2D(6, 1), inner, layers.Flatten(), layers.Dense(2)])


@_add
def nested_called_twice():
    block = _block()
    return _chain((5, 5, 3), layers.Conv2D(6, 1), block, block, layers.Conv2D(2, 1))


@_add
def nested_in_nested():
    inputs = keras.Input((5, 5, 6))
    outer = keras.Model(inputs, layers.Conv2D(6, 1)(_block("deep")(inputs)), name="outer")
    return _chain((5, 5, 3), layers.Conv2D(6, 1), outer, layers.Conv2D(2, 1))


@_add
def nested_with_several():
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    inner = keras.Model([a, b], [layers.Dense(4)(a), layers.Add()([layers.Dense(6)(b), a])], name="inner")
    inputs = keras.Input((5,))
    x, y = inner([layers.Dense(6)(inputs), layers.Dense(6)(inputs)])
    return keras.Model(inputs, layers.Dense(2)(layers.Concatenate()([x, y])))


@_add
def nested_with_a_dict():
    a, b = keras.Input((6,), name="a"), keras.Input((4,), name="b")
    inner = keras.Model({"b": b, "a": a}, {"y": layers.Dense(4)(a), "x": layers.Dense(3)(b)}, name="inner")
    inputs = keras.Input((5,))
    made = inner({"a": layers.Dense(6)(inputs), "b": layers.Dense(4)(inputs)})
    return keras.Model(inputs, layers.Dense(2)(layers.Concatenate()([made["x"], made["y"]])))


@_add
def nested_whose_layer_is_called_outside_too():
    dense = layers.Dense(6, name="both")
    inside = keras.Input((6,))
    inner = keras.Model(inside, layers.ReLU()(dense(inside)), name="inner")
    inputs = keras.Input((5,))
    return keras.Model(inputs, layers.Dense(2)(dense(inner(layers.Dense(6)(inputs)))))


# Other layouts and sizes.


@_add
def channels_first():
    first = {"data_format": "channels_first"}
    return _chain(
        (3, 6, 5),
        layers.Conv2D(6, 3, activation="relu", **first),
        layers.BatchNormalization(axis=1),
        layers.ZeroPadding2D(1, **first),
        layers.DepthwiseConv2D(3, **first),
        layers.GroupNormalization(2, axis=1),
        layers.LayerNormalization(axis=1),
        layers.UpSampling2D(2, **first),
        layers.Flatten(**first),
        layers.Dense(5),
        layers.Dense(2),
    )


@_add
def channels_first_without_convolutions():
    first = {"data_format": "channels_first"}
    return _chain(
        (5, 4),
        layers.Dense(6),
        layers.Permute((2, 1)),
        layers.BatchNormalization(axis=1),
        layers.GroupNormalization(3, axis=1),
        layers.GlobalAveragePooling1D(**first),
        layers.Dense(2),
    )


@_add
def unknown_height_and_width():
    return _chain(
        (None, None, 3),
        layers.Conv2D(6, 3, activation="relu"),
        layers.BatchNormalization(),
        layers.DepthwiseConv2D(3, strides=2),
        layers.Reshape((-1, 6)),
        layers.Dense(5),
        layers.GlobalAveragePooling1D(),
        layers.Dense(2),
    )


@_add
def unknown_length():
    return _chain(
        (None, 3), layers.Conv1D(6, 3, padding="causal"), layers.LayerNormalization(), layers.Dense(4), layers.Dense(2)
    )


@_add
def fixed_batch():
    inputs = keras.Input(batch_shape=(3, 5))
    return keras.Model(inputs, layers.Dense(2)(layers.Reshape((2, 3))(layers.Dense(6)(inputs))))


# Written with operations.


@_add
def vit_block():
    """A transformer block written by hand: the heads, the widths inside them, the stream and the hidden layer."""
    inputs = keras.Input((5, 6))
    x = layers.Dense(12, name="stream")(inputs)
    y = layers.LayerNormalization(name="norm1")(x)

    def heads(name):
        z = ops.reshape(layers.Dense(12, name=name)(y), (-1, 5, 3, 4))
        return ops.transpose(z, (0, 2, 1, 3))

    q, k, v = heads("query"), heads("key"), heads("value")
    scores = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) * 0.5, axis=-1)
    y = ops.reshape(ops.transpose(ops.matmul(scores, v), (0, 2, 1, 3)), (-1, 5, 12))
    x = x + layers.Dense(12, name="joined")(y)
    y = layers.LayerNormalization(name="norm2")(x)
    x = x + layers.Dense(12, name="down")(layers.Dense(16, activation="gelu", name="hidden")(y))
    return keras.Model(inputs, layers.Dense(3, name="head")(layers.GlobalAveragePooling1D()(x)))


@_add
def squeeze_excite_by_operators():
    """As MobileNetV3 writes it."""
    inputs = keras.Input((5, 5, 3))
    x = layers.Conv2D(8, 1, name="expand")(inputs)
    x = x * ops.relu6(x + 3.0) * (1.0 / 6.0)
    y = ops.mean(x, axis=(1, 2), keepdims=True)
    y = layers.Conv2D(4, 1, activation="relu", name="squeeze")(y)
    y = ops.relu6(layers.Conv2D(8, 1, name="excite")(y) + 3.0) / 6.0
    return keras.Model(inputs, layers.Conv2D(2, 1, name="head")(x * y))
