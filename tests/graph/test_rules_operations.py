"""Operations of `keras.ops` and operators in functional models."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.src.ops import numpy
from rule_cases import assert_held, assert_shrinks, groups_of

from tfstruct import graph as graphs
from tfstruct.errors import ModelError

CONSTANT = np.random.default_rng(5).normal(size=12).astype("float32")


def stem(width=12, name="stem", shape=(4, 6, 3)):
    inputs = keras.Input(shape)
    return inputs, layers.Conv2D(width, 1, name=name)(inputs)


def head(x):
    return layers.Dense(2, name="head")(x)


ALONE = {
    "relu": ops.relu, "gelu": ops.gelu, "cosine": ops.cos, "square": ops.square, "negative": lambda x: -x,
    "absolute": lambda x: abs(x), "clip": lambda x: ops.clip(x, -0.3, 0.4), "cast": lambda x: ops.cast(x, "float16"),
    "add": lambda x: x + 3.0, "reversed": lambda x: 1 - x, "divide": lambda x: x / 2, "power": lambda x: x**2,
    "modulo": lambda x: x % 0.5, "compare": lambda x: ops.cast(x > 0.1, "float32"), "self": lambda x: x * x,
    "constant": lambda x: x * CONSTANT + ops.convert_to_tensor(CONSTANT), "left": lambda x: ops.subtract(CONSTANT, x),
    "row": lambda x: x + CONSTANT.reshape(1, 1, 1, 12),
    "rows": lambda x: x + np.ones((4, 6, 12), "float32") * CONSTANT, "where": lambda x: ops.where(x > 0, x, CONSTANT),
    "named": lambda x: numpy.Multiply()(x1=CONSTANT, x2=x), "silu": keras.activations.silu,
    "stop": ops.stop_gradient, "relu6": lambda x: keras.activations.relu(x, max_value=0.5),
    "cumsum": lambda x: ops.cumsum(x, axis=-1), "zeros": lambda x: x + ops.ones_like(x),
}  # fmt: skip


@pytest.mark.parametrize("name", ALONE)
def test_elementwise(name):
    inputs, x = stem()
    assert_shrinks(inputs, head(ALONE[name](x)), "stem", tolerance=3e-3 if name == "cast" else 1e-5)


def test_a_constant_that_adds_axes():
    inputs = keras.Input((3,))
    x = layers.Dense(12, name="stem")(inputs)
    assert_shrinks(inputs, head(ops.add(x, np.ones((2, 2, 12), "float32"))), "stem")


def test_a_gate_of_two_branches():
    inputs, x = stem(12, "a")
    gate = layers.Conv2D(12, 3, padding="same", name="b")(inputs)
    assert_shrinks(inputs, head(x * ops.sigmoid(gate)), "a", "b")


def test_squeeze_and_excite_broadcasts_over_the_image():
    inputs, x = stem()
    gate = ops.mean(x, axis=(1, 2), keepdims=True)
    gate = ops.hard_sigmoid(layers.Dense(12, name="gate")(ops.relu(layers.Dense(5, name="squeeze")(gate))))
    assert_shrinks(inputs, head(x * gate), "stem", "squeeze", "gate")


def test_channels_broadcast_over_others_stay():
    inputs, x = stem()
    one = layers.Conv2D(1, 1, name="one")(inputs)
    assert_shrinks(inputs, head(x * one), "stem")
    inputs, x = stem()
    assert_held(inputs, head(x[..., :1] + layers.Conv2D(5, 1)(inputs)), "head", "output")


def test_a_constant_wider_than_the_tensor_holds_it():
    inputs, x = stem(1)
    assert_held(inputs, head(x + CONSTANT), "stem", "broadcasts")


def test_a_loose_variable_holds_it():
    inputs, x = stem()
    assert_held(inputs, head(x + keras.Variable(CONSTANT)), "stem", "belongs to no layer")


def test_glu_pairs_halves():
    inputs, x = stem()
    _, _, smaller = assert_shrinks(inputs, head(ops.glu(x)), "stem", share=0.5)
    assert smaller.get_layer("stem").filters == 6


OVER_OTHER_AXES = {
    "mean": lambda x: ops.mean(x, axis=1), "max": lambda x: ops.max(x, axis=[1, 2]),
    "std": lambda x: ops.std(x, axis=1),
    "sum": lambda x: ops.sum(x, axis=2, keepdims=True), "softmax": lambda x: ops.softmax(x, axis=1),
    "argmax": lambda x: ops.cast(ops.argmax(x, axis=1), "float32"), "logsumexp": lambda x: ops.logsumexp(x, axis=2),
    "norm": lambda x: ops.norm(x, axis=1), "variance": lambda x: ops.moments(x, axes=[1, 2])[1],
    "any": lambda x: ops.cast(ops.any(x > 1, axis=1), "float32"), "sort": lambda x: ops.sort(x, axis=1),
}  # fmt: skip


@pytest.mark.parametrize("name", OVER_OTHER_AXES)
def test_reduction_over_other_axes(name):
    inputs, x = stem()
    assert_shrinks(inputs, head(OVER_OTHER_AXES[name](x)), "stem")


OVER_CHANNELS = {
    "sum": (False, lambda x: ops.sum(x, axis=-1, keepdims=True)), "norm": (False, lambda x: ops.norm(x, axis=-1)),
    "mean": (True, lambda x: ops.mean(x, axis=-1, keepdims=True)), "max": (True, lambda x: ops.max(x, axis=3)),
    "softmax": (True, ops.softmax), "log_softmax": (True, ops.log_softmax), "all": (True, lambda x: x - ops.var(x)),
    "normalize": (True, lambda x: ops.normalize(x, axis=-1)), "prod": (True, lambda x: ops.prod(x, axis=-1)),
    "standardize": (True, lambda x: (x - ops.mean(x, axis=-1, keepdims=True)) / ops.std(x, axis=-1, keepdims=True)),
}  # fmt: skip


@pytest.mark.parametrize("name", OVER_CHANNELS)
def test_reduction_over_channels(name):
    inputs, x = stem()
    lossy, reduce = OVER_CHANNELS[name]
    assert_shrinks(inputs, head(reduce(x)), "stem", lossy=lossy)


@pytest.mark.parametrize("op", [ops.argmax, ops.sort, ops.cumprod])
def test_positions_of_channels_hold_them(op):
    inputs, x = stem()
    assert_held(inputs, head(ops.cast(op(x, axis=-1), "float32")), "stem", "along it" if op != ops.argmax else "counts")


def test_an_unknown_operation_holds_its_inputs():
    inputs, x = stem()
    assert_held(inputs, head(ops.average(x, axis=1)), "stem", "no rule knows the operation Average")


# Products.


def test_matmul_as_attention():
    """Queries and keys are contracted, values are weighted: three groups."""
    inputs = keras.Input((7, 5))
    q, k = (layers.Dense(8, name=name)(inputs) for name in "qk")
    v = layers.Dense(9, name="v")(inputs)
    scores = ops.softmax(ops.matmul(q, ops.swapaxes(k, 1, 2)) / 8.0)
    model, graph, _ = assert_shrinks(inputs, head(scores @ v), "q", "v")
    assert set(groups_of(model, "q")[0].makers) == {"q", "k"}
    assert any(cost[0] == 7 * 7 for call in graph.calls for cost in call.costs)


def test_einsum_with_heads():
    inputs = keras.Input((7, 5))
    q, k, v = (ops.reshape(layers.Dense(12, name=name)(inputs), (-1, 7, 3, 4)) for name in "qkv")
    scores = ops.softmax(ops.einsum("bqhd,bkhd->bhqk", q, k))
    x = ops.reshape(ops.einsum("bhqk,bkhd->bqhd", scores, v), (-1, 7, 12))
    assert_shrinks(inputs, layers.Dense(3)(x), "q", "k", "v")


def test_a_transformer_block_of_operations():
    """One projection split into queries, keys and values: heads go in all three, the widths of values alone."""
    inputs, x = stem()
    parts = ops.split(layers.Dense(24, name="qkv")(ops.reshape(x, (-1, 24, 12))), 3, axis=-1)
    q, k, v = (ops.transpose(ops.reshape(part, (-1, 24, 2, 4)), (0, 2, 1, 3)) for part in parts)
    scores = ops.softmax(ops.matmul(q * 0.5, ops.transpose(k, (0, 1, 3, 2))))
    x = ops.reshape(ops.transpose(ops.matmul(scores, v), (0, 2, 1, 3)), (-1, 24, 8))
    model, _, _ = assert_shrinks(inputs, head(x), "stem", "qkv")
    assert sorted(len(g.free) for g in groups_of(model, "qkv")) == [2, 4, 4]


@pytest.mark.parametrize("equation", ["bhwc,cd->bhwd", "...c,cd->...d", "bhwc,cd->bhw"])
def test_einsum_with_a_constant(equation):
    inputs, x = stem()
    kernel = np.random.default_rng(0).normal(size=(12, 5)).astype("float32")
    assert_shrinks(inputs, head(ops.einsum(equation, x, kernel)), "stem")


PRODUCTS = {
    "matmul": lambda x, k: ops.matmul(x, k), "vector": lambda x, k: ops.expand_dims(ops.matmul(x, k[:, 0]), -1),
    "dot": lambda x, k: ops.dot(x, k), "tensordot": lambda x, k: ops.tensordot(x, k, axes=1),
    "axes": lambda x, k: ops.tensordot(x, k, axes=[[3], [0]]),
    "left": lambda x, k: ops.matmul(k.T, ops.swapaxes(x, 2, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_product_with_a_constant(name):
    inputs, x = stem()
    kernel = np.random.default_rng(0).normal(size=(12, 5)).astype("float32")
    assert_shrinks(inputs, head(PRODUCTS[name](x, kernel)), "stem")


def test_channels_of_a_constant_matrix_go_with_what_they_are_added_to():
    inputs, x = stem()
    matrix = np.random.default_rng(0).normal(size=(12, 12)).astype("float32")
    model, _, smaller = assert_shrinks(inputs, head(x + ops.matmul(x, matrix)), "stem")
    assert groups_of(model, "stem")[0].makers == ("stem",) and smaller.get_layer("stem").filters < 12


def test_broadcast_matmul():
    """One stack of matrices for all of a batch axis of size 1."""
    inputs = keras.Input((3, 7, 5))
    x = layers.Dense(8, name="x")(inputs)
    y = layers.Dense(8, name="y")(inputs[:, :1])
    assert_shrinks(inputs, head(ops.matmul(ops.matmul(x, ops.swapaxes(y, 2, 3)), y)), "x", "y")


def test_dot_product_attention_keeps_its_scale():
    inputs = keras.Input((7, 5))
    q, k, v = (layers.EinsumDense("btd,dhe->bthe", (7, 3, 4), name=name)(inputs) for name in "qkv")
    x = ops.dot_product_attention(q, k, v)
    assert_shrinks(inputs, layers.EinsumDense("bthe,hed->btd", (7, 2), name="head")(x), "q.axis3", "v.axis3", "v.axis2")


# Moving data.


def _shuffle(x, groups=3):
    _, h, w, c = x.shape
    x = ops.reshape(x, (-1, h, w, groups, c // groups))
    return ops.reshape(ops.transpose(x, (0, 1, 2, 4, 3)), (-1, h, w, c))


MOVES = {
    "flatten": lambda x: ops.reshape(x, (-1, 4 * 6 * 12)), "rows": lambda x: ops.reshape(x, (-1, 12)),
    "fold": lambda x: ops.reshape(x, (-1, 6, 12)), "guess": lambda x: ops.reshape(x, (-1, 24, 12)),
    "shuffle": _shuffle, "transpose": lambda x: ops.transpose(x, (0, 3, 1, 2)),
    "swap": lambda x: ops.swapaxes(x, 1, 3), "move": lambda x: ops.moveaxis(x, -1, 1),
    "moves": lambda x: ops.moveaxis(x, [1, 3], [3, 2]), "expand": lambda x: ops.expand_dims(x, (1, -1)),
    "squeeze": lambda x: ops.squeeze(ops.expand_dims(x, 1), 1), "squeeze all": lambda x: ops.squeeze(x[:, :1]),
    "concatenate": lambda x: ops.concatenate([x, x * 2], axis=-1), "beside": lambda x: ops.concatenate([x, x], axis=1),
    "stack": lambda x: ops.stack([x, x + 1], axis=2), "unstack": lambda x: ops.unstack(x, axis=1)[2],
    "split": lambda x: ops.concatenate(ops.split(x, 3, axis=-1)[::-1], axis=-1),
    "split at": lambda x: ops.concatenate(ops.split(x, [3, 5], axis=-1)[1:], axis=-1),
    "split rows": lambda x: ops.split(x, 2, axis=1)[0], "slice": lambda x: x[..., 2:9], "row": lambda x: x[:, 1],
    "step": lambda x: x[:, :, ::2, ::2], "backward": lambda x: x[..., ::-1], "negative": lambda x: x[..., -5:-1],
    "new axis": lambda x: x[:, None, ..., 1:], "one": lambda x: x[..., 4] + x[..., -1],
    "channel": lambda x: x[..., 4:5] * x,
    "core slice": lambda x: ops.slice(x, (0, 1, 0, 3), (2, 2, 6, 7)),
    "take": lambda x: ops.take(x, [1, 5, 3, 3, -1], axis=-1), "take one": lambda x: ops.take(x, 4, axis=-1) + x[..., 0],
    "take rows": lambda x: ops.take(x, [[0, 1]], axis=1), "pad": lambda x: ops.pad(x, [[0, 0], [1, 1], [0, 0], [2, 1]]),
    "reflect": lambda x: ops.pad(x, [[0, 0], [1, 1], [0, 0], [0, 0]], mode="reflect"),
    "flip": lambda x: ops.flip(x, -1),
    "roll": lambda x: ops.roll(x, 1, axis=2), "tile": lambda x: ops.tile(x, [1, 1, 2, 2]),
    "tile more": lambda x: ops.tile(x, [1, 1, 1, 1, 2])[0], "repeat": lambda x: ops.repeat(x, 2, axis=-1),
    "repeat rows": lambda x: ops.repeat(x, 3, axis=1),
    "broadcast": lambda x: ops.broadcast_to(x[:1, :1], (2, 4, 6, 12)),
}  # fmt: skip


@pytest.mark.parametrize("name", MOVES)
def test_moves(name):
    inputs, x = stem()
    y = MOVES[name](x)
    assert_shrinks(inputs, head(ops.reshape(y, (-1, int(np.prod([n for n in y.shape[1:]]))))), "stem", share=0.3)


HELD = {
    "roll": (lambda x: ops.roll(x, 1, axis=-1), "rolls"),
    "reflect": (lambda x: ops.pad(x, [[0, 0]] * 3 + [[1, 1]], "reflect"), "pads"),
    "repeats": (lambda x: ops.repeat(x, [1] * 11 + [2], axis=-1), "another number"),
    "unstack": (lambda x: ops.unstack(x, axis=-1)[0], "takes it apart"),
    "all": (lambda x: ops.take(x, [1, 2]), "looks up"),
    "indices": (lambda x: ops.take(x, [[1, 2]], axis=-1), "indices"), "ravel": (ops.ravel, "no rule"),
}  # fmt: skip


@pytest.mark.parametrize("name", HELD)
def test_moves_that_hold_channels(name):
    inputs, x = stem()
    move, reason = HELD[name]
    assert_held(inputs, move(x), "stem", reason)


def test_concatenate_with_a_constant():
    inputs = keras.Input(batch_shape=(2, 5))
    x = layers.Dense(12, name="stem")(inputs)
    assert_shrinks(inputs, head(ops.concatenate([np.ones((2, 3), "float32"), x], axis=1)), "stem")


def test_a_number_of_positions_that_is_no_slice():
    """Every third channel, then some of them gone: no slice selects the others."""
    inputs, x = stem(30)
    assert_shrinks(inputs, head(ops.concatenate([x[..., ::3], x[..., 1::3]], -1)), "stem", share=0.5)


def test_unknown_height_and_width():
    inputs, x = stem(shape=(None, None, 3))
    x = ops.reshape(x, (-1, 4, 3))
    assert_shrinks(inputs, head(ops.sum(x, axis=2)), "stem")


WITHOUT_CONFIGURATION = {
    "reshape": lambda x: ops.reshape(x, (np.int64(-1), np.int64(24), np.int64(12))),
    "repeat": lambda x: ops.repeat(x, np.array([1, 2, 1, 1]), axis=1),
    "split": lambda x: ops.split(x, np.array([3, 5]), axis=-1)[1],
}


@pytest.mark.parametrize("name", WITHOUT_CONFIGURATION)
def test_operations_that_keras_cannot_configure(name):
    """NumPy values among the arguments of an operation leave it without `get_config`."""
    inputs, x = stem()
    assert_shrinks(inputs, head(WITHOUT_CONFIGURATION[name](x)), "stem", share=0.3)


def test_clipping_at_arrays_holds_channels():
    inputs, x = stem()
    assert_held(inputs, head(ops.clip(x, np.zeros(12, "float32"), np.ones(12, "float32"))), "stem", "clips at arrays")


def test_a_part_of_a_split_cannot_go_as_a_whole():
    inputs, x = stem()
    graph = graphs.trace(keras.Model(inputs, head(ops.concatenate([x[..., 2:], x[..., :2]], -1))))
    keep = np.ones(graph.units.count, bool)
    keep[graph.units.of(graph.makes["stem"][:2])] = False
    with pytest.raises(ModelError, match="Keep at least one"):
        graphs.rebuild(graph, keep)


def test_depth_to_space_made_of_moves():
    inputs, x = stem(12)
    x = ops.reshape(x, (-1, 4, 6, 2, 2, 3))
    x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, 8, 12, 3))
    _, _, smaller = assert_shrinks(inputs, head(x), "stem")
    assert smaller.get_layer("stem").filters % 4 == 0


def test_operations_in_a_nested_and_shared_model():
    block_in = keras.Input((4, 6, 12))
    y = layers.Conv2D(10, 1, name="conv")(block_in)
    block = keras.Model(block_in, layers.Conv2D(12, 1, name="out")(y[..., ::-1] * CONSTANT[:10]), name="block")
    inputs, x = stem()
    assert_shrinks(inputs, head(block(block(x)) + CONSTANT), "stem", "block/conv")


def test_one_operation_called_twice():
    inputs, x = stem()
    y = layers.Conv2D(12, 1, name="other")(inputs)
    flat = numpy.Reshape((-1, 24, 12))
    assert_shrinks(inputs, head(flat(x) * flat(y)), "stem", "other")
