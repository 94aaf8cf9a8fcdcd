"""`merge_linear`, `merge_parallel`, `fuse_activation`: fewer layers, the same function."""

import keras
import numpy as np
import pytest
import zoo
from edit_cases import chain, check, functional, names, outputs_named
from keras import layers
from sweeps import sweep

from tfstruct.errors import ModelError
from tfstruct.surgery import fold_batch_norm, fuse_activation, merge_linear, merge_parallel

conv, transposed = layers.Conv2D, layers.Conv2DTranspose
# The recurrent ones are in test_optimize_inference.
NAMES = [n for n in zoo.MODELS if n not in ("subclassed", "lstm", "gru", "bidirectional")]


@pytest.mark.parametrize("name", sweep(NAMES, quick=["residual", "grouped", "attention", "embedding", "nested"]))
@pytest.mark.sweep(2)
def test_the_zoo(name):
    model = zoo.build(name)
    inputs = zoo.sample_inputs(model, 3)
    check(merge_linear, model, inputs, always=True)
    check(merge_parallel, model, inputs)
    made = check(fuse_activation, model, inputs)
    assert outputs_named(made.model) == outputs_named(model)


# Layers in a row.


def test_dense_layers():
    model = chain(layers.Dense(8, name="a"), layers.Dense(8, use_bias=False, name="b"), layers.Dense(2, name="c"))
    made = check(merge_linear, model)
    assert names(made.model) == ["c"] and made.parameters == (122, 10)
    assert made.changes == (("b", "merged with `a` before it"), ("c", "merged with `b` before it"))
    assert names(check(merge_linear, model, layers=("b", "c")).model) == ["a", "c"]


def test_growth_is_left_unless_asked_for():
    model = chain(layers.Dense(2, name="a"), layers.Dense(9, activation="relu", name="b"), shape=(8,))
    made = check(merge_linear, model)
    assert "81 parameters, the two have 45" in dict(made.skipped)["b"]
    with pytest.raises(ModelError, match="81 parameters"):
        merge_linear(model, ("a", "b"))
    made = check(merge_linear, model, layers=("a", "b"), always=True)
    assert names(made.model) == ["b"] and made.model.get_layer("b").activation.__name__ == "relu"
    # Fewer parameters, but at more positions.
    model = chain(conv(4, 3, strides=3, name="a"), transposed(8, 3, strides=3, name="b"))
    assert "with a 1x1 convolution" in dict(check(merge_linear, model).skipped)["b"]
    model = chain(conv(6, 1, name="a"), conv(7, 1, strides=4, name="b"), shape=(9, 9, 6))
    assert names(check(merge_linear, model).model) == ["b"]


PAIRS = {
    "1x1 behind": (conv(8, 3, padding="same", name="a"), conv(3, 1, name="b")),
    "1x1 behind a stride": (conv(8, 3, strides=2, padding="same", name="a"), conv(3, 1, padding="same", name="b")),
    "strides": (conv(8, 3, strides=2, name="a"), conv(3, 1, strides=2, name="b")),
    "1x1 behind a dilation": (conv(8, 3, dilation_rate=2, name="a"), conv(3, 1, name="b")),
    "1x1 before": (conv(8, 1, name="a"), conv(3, 3, name="b")),
    "before a dilation": (conv(8, 1, use_bias=False, name="a"), conv(3, 3, padding="same", dilation_rate=2, name="b")),
    "valid": (conv(8, 2, strides=2, name="a"), conv(3, (3, 2), strides=2, name="b")),
    "equal groups": (conv(8, 2, groups=2, name="a"), conv(4, 2, groups=2, use_bias=False, name="b")),
    "groups": (conv(8, 3, groups=2, name="a"), conv(4, 1, name="b")),
    "both 1x1": (conv(8, 1, strides=2, name="a"), conv(3, 1, strides=2, name="b")),
    "transposed": (transposed(8, 3, strides=2, padding="same", name="a"), conv(3, 1, activation="relu", name="b")),
    "before transposed": (conv(8, 1, use_bias=False, name="a"), transposed(3, 3, strides=2, name="b")),
    "rectangle": (conv(8, (1, 3), name="a"), conv(3, (3, 1), name="b")),
}  # fmt: skip


@pytest.mark.parametrize("kind", PAIRS)
def test_convolutions(kind):
    pair = [type(x).from_config(x.get_config()) for x in PAIRS[kind]]
    parts = [layers.ZeroPadding2D(((1, 0), (0, 1)), name="pad"), *pair]
    made = check(merge_linear, chain(*parts, shape=(11, 10, 4)), always=True)
    assert names(made.model) == ["pad", "b"]


@pytest.mark.parametrize(
    "first, second, why",
    [
        (conv(4, 1, name="a"), conv(4, 3, padding="same", name="b"), "which lack the bias of `a`"),
        (conv(4, 1, name="a"), transposed(4, 3, name="b"), "meets the bias of `a` equally often"),
        (conv(4, 3, padding="same", name="a"), conv(4, 3, padding="same", name="b"), "one is 1x1"),
        (conv(4, 3, padding="same", name="a"), conv(4, 1, strides=2, name="b"), "another stride"),
        (conv(4, 3, dilation_rate=2, name="a"), conv(4, 1, strides=2, name="b"), "a stride and a dilation"),
        (conv(4, 3, dilation_rate=2, name="a"), conv(4, 3, name="b"), "one is dilated"),
        (conv(4, 1, strides=2, name="a"), conv(4, 3, name="b"), "leaves out positions"),
        (conv(4, 3, name="a"), layers.Dense(2, name="b"), "a dense layer, the other a convolution"),
        (conv(4, 3, name="a"), conv(4, 3, dtype="float64", name="b"), "compute in float32 and float64"),
    ],
)
def test_what_would_not_be_exact_is_left(first, second, why):
    model = chain(*(type(x).from_config(x.get_config()) for x in (first, second)), shape=(11, 11, 4))
    made = check(merge_linear, model, always=True)
    assert made.changes == () and why in dict(made.skipped)["b"]
    with pytest.raises(ModelError, match="cannot be merged"):
        merge_linear(model, ("a", "b"), always=True)


def test_other_readers_and_shared_layers():
    def read_twice(x):
        y = layers.Dense(4, name="a")(x)
        return [layers.Dense(3, name="b")(y), y]

    assert "an output of the model too" in dict(check(merge_linear, functional(read_twice, (5,))).skipped)["b"]
    a, b = layers.Dense(4, name="a"), layers.Dense(5, name="b")

    def shared(x):
        return b(a(layers.ReLU(name="relu")(b(a(x)))))

    assert names(check(merge_linear, functional(shared, (5,))).model) == ["b", "relu"]
    c, d = layers.Dense(4, name="a"), layers.Dense(5, name="b")
    made = check(merge_linear, functional(lambda x: [d(c(x)), d(layers.Dense(4, name="e")(x))], (5,)))
    assert made.changes == () and "do not always follow" in dict(made.skipped)["b"]


def test_inside_and_across_nested_models():
    inner = keras.Sequential([keras.Input((5,)), layers.Dense(6, name="a"), layers.Dense(4, name="b")], name="inner")
    made = check(merge_linear, functional(lambda x: layers.Dense(2, name="c")(inner(x)), (5,)))
    assert names(made.model) == ["c"]
    with pytest.raises(ModelError, match="no layer `nonsense`"):
        merge_linear(functional(lambda x: inner(x), (5,)), ("inner/a", "nonsense"))


@pytest.mark.parametrize(
    "named, why",
    [
        (("a", "b"), r"`b` reads `relu` \(ReLU\), not `a`"),
        (("c", "d"), "`c` has the activation tanh"),
        (("b", "a"), "`a` reads an input of the model"),
        (("a", "relu"), "no dense layer or convolution"),
        (("a", "e"), "no layer `e`"),
        (("a",), "must be the names of two layers"),
        ("ab", "must be the names of two layers"),
    ],
)
def test_what_cannot_be_asked_for(named, why):
    parts = [layers.Dense(4, name="a"), layers.ReLU(name="relu"), layers.Dense(4, name="b")]
    model = chain(*parts, layers.Dense(4, activation="tanh", name="c"), layers.Dense(2, name="d"), shape=(4,))
    with pytest.raises(ModelError, match=why):
        merge_linear(model, named)


# Branches.


def repvgg(stride=1, groups=1, dilation=1, padding="same"):
    def block(x):
        same = {"strides": stride, "groups": groups, "use_bias": False}
        left = conv(4, 3, padding=padding, dilation_rate=dilation, name="three", **same)(x)
        branches = [layers.BatchNormalization(name="n1")(left)]
        branches += [layers.BatchNormalization(name="n2")(conv(4, 1, padding=padding, name="one", **same)(x))]
        if stride == 1 and padding == "same":
            branches += [layers.BatchNormalization(name="n3")(x), x]
        return layers.ReLU(name="relu")(layers.Add(name="join")(branches))

    return block


CLOSED, OPEN = (9, 8, 4), (None, None, 4)
REPVGG = [
    (options, shape) for options in ({}, {"stride": 2}, {"groups": 2}, {"dilation": 2}) for shape in (CLOSED, OPEN)
]
QUICK = [({}, OPEN), ({"stride": 2}, CLOSED), ({"stride": 2}, OPEN), ({"groups": 2}, CLOSED), ({"dilation": 2}, CLOSED)]


@pytest.mark.parametrize("options, shape", sweep(REPVGG, quick=QUICK))
def test_repvgg(options, shape):
    model = fold_batch_norm(functional(repvgg(**options), shape)).model
    made = check(merge_parallel, model)
    if options == {"stride": 2} and shape[0] is None:
        assert "do not fit" in dict(made.skipped)["join"]  # where `same` starts depends on the size
        return
    assert names(made.model) == ["join", "relu"]
    assert made.changes[0][1].startswith(f"{len(model.get_layer('join').input)} branches are one layer `join`: `three`")


def test_a_stack_of_blocks_with_a_shared_nested_one():
    inputs = keras.Input((8, 8, 4))
    block = keras.Model(inputs, repvgg()(inputs), name="block")
    model = functional(lambda x: block(layers.MaxPooling2D(3, 1, "same", name="pool")(block(x))), (8, 8, 4))
    made = check(merge_parallel, fold_batch_norm(model).model)
    assert names(made.model) == ["join", "relu", "pool"]


def test_depthwise_dense_and_operators():
    def depthwise(x):
        small = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
        return layers.Add(name="join")([layers.DepthwiseConv2D((3, 5), padding="same")(x), small, x])

    assert names(check(merge_parallel, functional(depthwise)).model) == ["join"]
    made = check(merge_parallel, functional(lambda x: layers.Add(name="join")([layers.Dense(4)(x), x, x])))
    assert names(made.model) == ["join"]
    made = check(merge_parallel, functional(lambda x: conv(5, 3)(x) + conv(5, 3, use_bias=False)(x)))
    assert len(made.model.layers) == 2
    causal = {"padding": "causal"}

    def signal(x):
        return layers.Add(name="join")([layers.Conv1D(5, 3, **causal)(x), layers.Conv1D(5, 2, **causal)(x)])

    assert names(check(merge_parallel, functional(signal, (9, 4))).model) == ["join"]


def test_asymmetric_kernels_only_where_asked():
    def acnet(x):
        return layers.Add(name="join")([conv(4, (1, 3), padding="same")(x), conv(4, (3, 1), padding="same")(x)])

    model = functional(acnet)
    assert "144 elements, those of its branches 96" in dict(check(merge_parallel, model).skipped)["join"]
    assert check(merge_parallel, model, always=True).model.get_layer("join").kernel_size == (3, 3)


def test_other_inputs_of_the_join_stay():
    def build(x):
        relu = layers.ReLU(name="relu")(x)
        one, three = conv(4, 1, name="one")(x), conv(4, 3, padding="same", name="three")(x)
        return layers.Add(name="join")([one, relu, three, conv(4, 1, name="other")(relu)])

    made = check(merge_parallel, functional(build))
    # The identity of `relu` goes into `other`, and what they make is joined with the others.
    assert sorted(names(made.model)) == ["join", "one", "other", "relu"]


@pytest.mark.parametrize(
    "branches, why",
    [
        (lambda x: [conv(4, 3, padding="same")(x), conv(4, 1, groups=2)(x)], "differ in `groups`"),
        (lambda x: [conv(4, 1)(x), layers.Dense(4)(x)], "of different types"),
        (lambda x: [conv(4, 3, padding="same", dilation_rate=2)(x), conv(4, 3, padding="same")(x)], "do not fit"),
        (lambda x: [conv(1, 1)(x), conv(4, 1)(x)], "broadcasts"),
        (lambda x: [conv(4, 1)(x), layers.BatchNormalization(axis=1)(x)], "does not normalize the channels"),
    ],
)
def test_branches_that_do_not_fit(branches, why):
    made = check(merge_parallel, functional(lambda x: layers.Add(name="join")(branches(x))))
    assert made.changes == () and why in dict(made.skipped)["join"]


# Activations.


@pytest.mark.parametrize(
    "layer, function",
    [
        (layers.ReLU(), "relu"),
        (layers.ReLU(6), "relu6"),
        (layers.LeakyReLU(0.2), "leaky_relu"),
        (layers.ELU(), "elu"),
        (layers.Softmax(), "softmax"),
        (layers.Activation("gelu"), "gelu"),
        (layers.ReLU(3), None),
        (layers.LeakyReLU(0.1), None),
        (layers.ELU(0.5), None),
        (layers.Softmax(axis=1), None),
        (layers.PReLU(), None),
    ],
)
def test_activations(layer, function):
    layer = layer if layer.name.startswith("activation") else type(layer).from_config(layer.get_config())
    made = check(fuse_activation, chain(conv(4, 3, name="conv"), layer, layers.Flatten(name="flat")))
    if function is None:
        assert made.changes == () and len(made.skipped) == 1
    else:
        assert names(made.model) == ["conv", "flat"]
        assert made.model.get_layer("conv").activation.__name__ == function


@keras.saving.register_keras_serializable("tests.merging")
def doubled(x):
    return x * 2


def test_functions_that_can_be_saved(tmp_path):
    made = check(fuse_activation, chain(layers.Dense(4, name="a"), layers.Activation(doubled), shape=(3,)))
    assert len(made.changes) == 1
    made.model.save(tmp_path / "model.keras")
    x = np.ones((1, 3), "float32")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "model.keras")(x), made.model(x))


def test_operators_outputs_and_other_readers():
    def build(x):
        y = conv(4, 3, name="conv")(x)
        one, two = conv(4, 1, name="one")(y), conv(4, 1, name="two")(y)
        return [layers.ReLU(name="named")(one), keras.ops.sigmoid(two), layers.ReLU(name="reader")(y)]

    model = functional(build)
    made = check(fuse_activation, model)
    assert made.model.output_names == model.output_names
    assert sorted(what for _, what in made.changes) == [
        "became the activation of `one`",
        "became the activation of `two`",
    ]
    assert "`conv` is read by" in dict(made.skipped)["reader"]


def test_a_subclassed_model():
    for edit in (merge_linear, merge_parallel, fuse_activation):
        with pytest.raises(ModelError):
            edit(zoo.build("subclassed"))
