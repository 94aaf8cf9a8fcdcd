"""Which kernels are found, and that the view (taps, inputs, outputs) is what the layer computes."""

import itertools

import keras
import numpy as np
import pytest

from tfstruct.errors import ModelError
from tfstruct.graph.kernels import kernels

L = keras.layers


def names(model, *args, **kwargs):
    return [kernel.name for kernel in kernels(model, *args, **kwargs)]


def around(*layers, shape=(8,), dtype="float32"):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *layers])


def stacked(*cells):
    return L.RNN(L.StackedRNNCells(cells, name="cells"), name="a")


class Attentions(keras.Model):
    """Subclassed, with layers in attributes and in a list."""

    def __init__(self):
        super().__init__()
        self.multi = L.MultiHeadAttention(2, 3, name="multi")
        self.grouped = L.GroupQueryAttention(4, 4, 2, name="grouped")
        self.heads = [L.Dense(2, name=f"head{i}") for i in range(2)]

    def call(self, x):
        x = self.grouped(self.multi(x, x), x)
        return [head(x) for head in self.heads]


# Made when asked for: TensorFlow must not start while tests are collected.
CASES = {
    "dense": (lambda: around(L.Dense(4, name="a")), {"a/kernel": (1, 8, 4)}),
    "conv1d": (lambda: around(L.Conv1D(6, 3, name="a"), shape=(9, 4)), {"a/kernel": (3, 4, 6)}),
    "conv2d": (lambda: around(L.Conv2D(6, (3, 2), name="a"), shape=(9, 9, 4)), {"a/kernel": (6, 4, 6)}),
    "conv3d": (lambda: around(L.Conv3D(6, 2, name="a"), shape=(4, 4, 4, 2)), {"a/kernel": (8, 2, 6)}),
    "grouped": (lambda: around(L.Conv2D(6, 3, groups=2, name="a"), shape=(9, 9, 4)), {"a/kernel": (9, 2, 6)}),
    "transposed1d": (lambda: around(L.Conv1DTranspose(6, 3, name="a"), shape=(9, 4)), {"a/kernel": (3, 4, 6)}),
    "transposed2d": (lambda: around(L.Conv2DTranspose(6, 3, name="a"), shape=(9, 9, 4)), {"a/kernel": (9, 4, 6)}),
    "transposed3d": (lambda: around(L.Conv3DTranspose(6, 2, name="a"), shape=(3, 3, 3, 4)), {"a/kernel": (8, 4, 6)}),
    "separable1d": (lambda: around(L.SeparableConv1D(6, 3, name="a"), shape=(9, 4)), {"a/pointwise_kernel": (1, 4, 6)}),
    "separable2d": (
        lambda: around(L.SeparableConv2D(6, 3, name="a"), shape=(9, 9, 4)),
        {"a/pointwise_kernel": (1, 4, 6)},
    ),
    "embedding": (
        lambda: around(L.Embedding(10, 5, name="a"), shape=(3,), dtype="int32"),
        {"a/embeddings": (1, 10, 5)},
    ),
    "lstm": (
        lambda: around(L.LSTM(3, name="a"), shape=(5, 4)),
        {"a/lstm_cell/kernel": (1, 4, 12), "a/lstm_cell/recurrent_kernel": (1, 3, 12)},
    ),
    "gru": (
        lambda: around(L.GRU(3, name="a"), shape=(5, 4)),
        {"a/gru_cell/kernel": (1, 4, 9), "a/gru_cell/recurrent_kernel": (1, 3, 9)},
    ),
    "simple_rnn": (
        lambda: around(L.SimpleRNN(3, name="a"), shape=(5, 4)),
        {"a/simple_rnn_cell/kernel": (1, 4, 3), "a/simple_rnn_cell/recurrent_kernel": (1, 3, 3)},
    ),
    "stacked": (
        lambda: around(stacked(L.GRUCell(3, name="one"), L.GRUCell(2, name="two")), shape=(5, 4)),
        {
            "a/cells/one/kernel": (1, 4, 9), "a/cells/one/recurrent_kernel": (1, 3, 9),
            "a/cells/two/kernel": (1, 3, 6), "a/cells/two/recurrent_kernel": (1, 2, 6),
        },
    ),
    "bidirectional": (
        lambda: around(L.Bidirectional(L.LSTM(3, name="r"), name="a"), shape=(5, 4)),
        {
            f"a/{way}_r/lstm_cell/{weight}": (1, size, 12)
            for way in ("forward", "backward")
            for weight, size in (("kernel", 4), ("recurrent_kernel", 3))
        },
    ),
    "time_distributed": (lambda: around(L.TimeDistributed(L.Dense(3, name="b"), name="a"), shape=(5, 4)), {
        "a/b/kernel": (1, 4, 3),
    }),
    "einsum": (lambda: around(L.EinsumDense("abc,bcd->abd", (5, 3), name="a"), shape=(5, 4)), {"a/kernel": (5, 4, 3)}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_found(case):
    make, wanted = CASES[case]
    model = make()
    found = kernels(model)
    assert {kernel.name: kernel.shape for kernel in found} == wanted
    for kernel in found:
        assert any(kernel.variable is weight for weight in model.trainable_weights)
        assert kernel.sums == (case != "embedding")
        value = np.random.default_rng(0).normal(size=kernel.variable.shape)
        assert kernel.view(value).shape == kernel.shape
        np.testing.assert_array_equal(kernel.unview(kernel.view(value)), value)


def test_attention_in_a_subclassed_model():
    model = Attentions()
    model(np.zeros((1, 5, 8), "float32"))
    shapes = {kernel.name: kernel.shape for kernel in kernels(model)}
    assert shapes == {
        "multi/query/kernel": (1, 8, 6), "multi/key/kernel": (1, 8, 6), "multi/value/kernel": (1, 8, 6),
        "multi/attention_output/kernel": (1, 6, 8),
        "grouped/query/kernel": (1, 8, 16), "grouped/key/kernel": (1, 8, 8), "grouped/value/kernel": (1, 8, 8),
        "grouped/attention_output/kernel": (1, 16, 8),
        "head0/kernel": (1, 8, 2), "head1/kernel": (1, 8, 2),
    }  # fmt: skip


def depthwise_net():
    return around(
        L.DepthwiseConv2D(3, depth_multiplier=2, name="deep"),
        L.SeparableConv2D(6, 3, name="both"),
        L.Conv2D(2, 1, name="wide"),
        shape=(9, 9, 4),
    )


def test_depthwise_only_on_request():
    plain, deep = ["both/pointwise_kernel", "wide/kernel"], ["deep/kernel", "both/depthwise_kernel"]
    assert names(depthwise_net()) == plain
    assert sorted(names(depthwise_net(), depthwise=True)) == sorted(plain + deep)
    assert names(depthwise_net(), layers="deep") == ["deep/kernel"]
    shapes = {k.name: k.shape for k in kernels(depthwise_net(), depthwise=True)}
    assert shapes["deep/kernel"] == (9, 1, 8) and shapes["both/depthwise_kernel"] == (9, 1, 8)
    one = around(L.DepthwiseConv1D(3, name="deep"), shape=(9, 4))
    assert [k.shape for k in kernels(one, depthwise=True)] == [(3, 1, 4)]


# The views as oracles: the layer's output computed from (taps, inputs, outputs) alone.


def only(layer, shape):
    model = around(layer, shape=shape)
    (kernel,) = kernels(model, depthwise=True)
    x = np.random.default_rng(1).normal(size=(2, *shape)).astype("float32")
    return x, kernel.view(kernel.variable.numpy()), np.asarray(model(x))


@pytest.mark.parametrize("make, rank", [(L.Conv1D, 1), (L.Conv2D, 2), (L.Conv3D, 3)])
def test_a_convolution_is_a_sum_over_taps(make, rank):
    x, view, wanted = only(make(5, 2), (4,) * rank + (3,))
    got = 0
    for tap, offset in enumerate(itertools.product(range(2), repeat=rank)):
        window = x[(slice(None), *(slice(o, o + 3) for o in offset))]
        got = got + window @ view[tap]
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_a_transposed_convolution_spreads_each_tap():
    x, view, wanted = only(L.Conv2DTranspose(5, 2, strides=2), (3, 3, 4))
    got = np.zeros(wanted.shape)
    for tap, (row, column) in enumerate(itertools.product(range(2), repeat=2)):
        got[:, row::2, column::2] = x @ view[tap]
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_a_depthwise_convolution_reads_one_channel_each():
    x, view, wanted = only(L.DepthwiseConv1D(3, depth_multiplier=2), (5, 4))
    got = sum(np.repeat(x[:, t : t + 3], 2, axis=2) * view[t, 0] for t in range(3))
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_embedding_rows_are_inputs():
    model = around(L.Embedding(10, 5), shape=(3,), dtype="int32")
    (kernel,) = kernels(model)
    view = kernel.view(kernel.variable.numpy())
    np.testing.assert_array_equal(np.asarray(model(np.array([[1, 7, 1]]))), view[0][[[1, 7, 1]]])


@pytest.mark.parametrize(
    "equation, shape, data, sums",
    [
        ("abc,cd->abd", (None, 6), (5, 4), "c"),
        ("abc,cde->abde", (None, 3, 2), (5, 4), "c"),
        ("abcd,cde->abe", (None, 6), (5, 3, 4), "cd"),
        ("...x,xy->...y", (5, 6), (5, 4), "x"),
        ("abc,dc->abd", (None, 6), (5, 4), "c"),
        ("abc,dcb->abd", (5, 7), (5, 4), "c"),
    ],
)
def test_einsum_by_matrix_products(equation, shape, data, sums):
    x, view, wanted = only(L.EinsumDense(equation, shape), data)
    taps, inputs, _ = view.shape
    # With taps there is one matrix for each place in the sequence.
    by_place = [x[:, t] @ view[t] for t in range(taps)] if taps > 1 else [x.reshape(-1, inputs) @ view[0]]
    got = np.stack(by_place, axis=1)
    np.testing.assert_allclose(got.ravel(), wanted.ravel(), atol=1e-5)


def tree():
    block = keras.Sequential([keras.Input((8,)), L.Dense(8, name="one"), L.Dense(8, name="two")], name="block")
    inputs = keras.Input((8,))
    shared = L.Dense(8, name="shared")
    x = shared(block(shared(inputs)))
    return keras.Model(inputs, L.Dense(2, name="head")(x))


def test_nested_and_shared_count_once():
    assert names(tree()) == ["shared/kernel", "block/one/kernel", "block/two/kernel", "head/kernel"]


def test_choice_of_layers():
    model = tree()
    block = model.get_layer("block")
    for layers, wanted in [
        ("head", ["head"]),
        ("block/one", ["block/one"]),
        ("block", ["block/one", "block/two"]),
        ("block/*", ["block/one", "block/two"]),
        ("*", ["shared", "block/one", "block/two", "head"]),
        ("?hared", ["shared"]),
        ("one", ["block/one"]),
        (["head", "shared"], ["shared", "head"]),
        (["block", "block/one"], ["block/one", "block/two"]),
        (block, ["block/one", "block/two"]),
        (block.get_layer("two"), ["block/two"]),
        ([block.get_layer("two"), "head"], ["block/two", "head"]),
        (lambda layer: getattr(layer, "units", 0) == 2, ["head"]),
    ]:
        assert names(model, layers) == [f"{path}/kernel" for path in wanted]


@pytest.mark.parametrize(
    "layers, message",
    [
        ("tail", "has no layer tail. Its layers: shared, block, block/one, block/two, head"),
        ("three", "has no layer three"),
        (["head", "nothing*"], r"has no layer nothing\*"),
        (L.Dense(3, name="stranger"), "has no layer stranger"),
        (lambda layer: False, "no layer with a kernel that can be pruned among those chosen by `layers`"),
        ([], "among those chosen by `layers`"),
    ],
)
def test_bad_choices(layers, message):
    with pytest.raises(ModelError, match=message):
        kernels(tree(), layers)


def test_no_kernel_at_all():
    with pytest.raises(ModelError, match="has no layer with a kernel that can be pruned: dense, convolution"):
        kernels(around(L.BatchNormalization(), L.ReLU()))
