"""Random functional models, for looking for graphs that nobody thought of.

`random_model(seed)` builds one of 5 to 20 operations: residuals, concatenations, splits, slices, shuffles, reshapes,
broadcasts, convolutions of all kinds, normalizations, shared layers, nested models, several inputs and outputs.
"""

import keras
import numpy as np
from keras import layers, ops

WIDTHS = (2, 3, 4, 6, 8)
SMALL = 800  # numbers in a tensor of one sample


class _Maker:
    def __init__(self, rng, depth=0):
        self.rng, self.depth = rng, depth
        self.tensors = []
        self.layers = []  # (layer, the shape it was called on), to be shared

    def pick(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def width(self):
        return int(self.pick(*WIDTHS))

    def chance(self, p):
        return self.rng.random() < p

    def layer(self, layer, x):
        self.layers.append((layer, tuple(x.shape[1:])))
        return layer(x)

    def other(self, x, same):
        """Another tensor with `same(its shape)`, or None."""
        found = [t for t in self.tensors if t is not x and same(tuple(t.shape))]
        return found[self.rng.integers(len(found))] if found else None

    def divisor(self, n):
        return int(self.pick(*[d for d in range(1, n + 1) if n % d == 0]))


OPERATIONS = []


def operation(*ranks, weight=1):
    def register(function):
        OPERATIONS.extend([(ranks, function)] * weight)
        return function

    return register


@operation(2, 3, 4, weight=3)
def dense(m, x):
    act = m.pick(None, None, "relu", "tanh", "softmax", "sigmoid")
    return m.layer(layers.Dense(m.width(), act, use_bias=m.chance(0.7)), x)


@operation(4, weight=4)
def conv(m, x):
    c = x.shape[-1]
    groups = m.divisor(c) if m.chance(0.5) else 1
    strides = m.pick(1, 1, 2)
    filters = groups * m.pick(1, 2) if groups > 1 else m.width()
    size = m.pick(1, 3)
    return m.layer(
        layers.Conv2D(
            filters,
            size,
            strides,
            padding="same",
            groups=groups,
            activation=m.pick(None, "relu"),
            use_bias=m.chance(0.7),
        ),
        x,
    )


@operation(4)
def depthwise(m, x):
    return m.layer(layers.DepthwiseConv2D(3, padding="same", depth_multiplier=m.pick(1, 1, 2)), x)


@operation(4)
def separable(m, x):
    return m.layer(layers.SeparableConv2D(m.width(), 3, padding="same", depth_multiplier=m.pick(1, 2)), x)


@operation(4)
def transposed(m, x):
    return m.layer(layers.Conv2DTranspose(m.width(), 2, strides=m.pick(1, 2), padding="same"), x)


@operation(3, weight=2)
def conv1d(m, x):
    c = x.shape[-1]
    groups = m.divisor(c) if m.chance(0.4) else 1
    return m.layer(layers.Conv1D(groups * m.pick(1, 2, 3), 3, padding="same", groups=groups), x)


@operation(3)
def einsum_dense(m, x):
    equation = m.pick("abc,cd->abd", "abc,cd->abd", "abc,cde->abde", "abc,bd->acd")
    n = {"abc,cd->abd": (None, m.width()), "abc,cde->abde": (None, 2, m.width())}.get(equation, (None, m.width()))
    if equation == "abc,bd->acd":
        n = (x.shape[-1], m.width())
    return m.layer(layers.EinsumDense(equation, n, bias_axes=m.pick(None, equation[-1])), x)


@operation(4)
def einsum_heads(m, x):
    """Two axes are summed over, as at the end of attention."""
    return m.layer(layers.EinsumDense("abcd,cde->abe", (None, m.width()), bias_axes="e"), x)


@operation(2, 3, 4, weight=2)
def batch_normalization(m, x):
    return m.layer(layers.BatchNormalization(), x)


@operation(2, 3, 4)
def layer_normalization(m, x):
    axis = m.pick(-1, -1, -1, list(range(1, len(x.shape))))
    return m.layer(m.pick(layers.LayerNormalization(axis=axis), layers.RMSNormalization()), x)


@operation(2, 3, 4)
def unit_normalization(m, x):
    return layers.UnitNormalization()(x)


@operation(3, 4)
def group_normalization(m, x):
    return m.layer(layers.GroupNormalization(groups=m.divisor(x.shape[-1])), x)


@operation(2, 3, 4, weight=2)
def activation(m, x):
    return layers.Activation(m.pick("relu", "gelu", "sigmoid", "tanh", "softmax", "log_softmax"))(x)


@operation(2, 3, 4)
def prelu(m, x):
    shared = m.pick(None, [1]) if len(x.shape) > 2 else None
    return m.layer(layers.PReLU(shared_axes=shared), x)


@operation(2, 3, 4)
def softmax(m, x):
    return layers.Softmax(axis=m.pick(-1, 1))(x)


@operation(2, 3, 4, weight=4)
def merge(m, x):
    other = m.other(x, lambda shape: shape == tuple(x.shape))
    kind = m.pick(layers.Add, layers.Add, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum)
    if other is None:
        other = m.layer(layers.Dense(x.shape[-1]), x)
    return kind()([x, other])


@operation(2, 3, 4, weight=2)
def operators(m, x):
    other = m.other(x, lambda shape: shape == tuple(x.shape))
    if other is not None and m.chance(0.6):
        return m.pick(x + other, x * other, x - other, ops.maximum(x, other))
    return m.pick(x * 0.5 + 1.0, -x, ops.relu(x), 1.0 - x, ops.abs(x) + 0.1)


@operation(2, 3, 4, weight=3)
def concatenate(m, x):
    axis = m.pick(-1, -1, -1, 1)
    here = axis % len(x.shape)
    other = m.other(
        x,
        lambda shape: (
            len(shape) == len(x.shape)
            and all(a == b for i, (a, b) in enumerate(zip(shape, x.shape, strict=True)) if i != here)
        ),
    )
    parts = [x, x if other is None else other]
    return m.pick(layers.Concatenate(axis=axis)(parts), ops.concatenate(parts, axis=axis))


@operation(2, 3, 4, weight=2)
def split(m, x):
    c = x.shape[-1]
    count = m.divisor(c)
    if count == 1:
        return None
    parts = ops.split(x, count, axis=-1)
    m.tensors += parts[1:]
    return parts[0]


@operation(2, 3, 4, weight=2)
def slices(m, x):
    c = x.shape[-1]
    if c < 3:
        return None
    begin = int(m.rng.integers(0, c - 1))
    return m.pick(x[..., begin:], x[..., ::2], x[..., : begin + 1], x[:, :1])


@operation(2, 3, 4)
def reduce(m, x):
    axis = m.pick(-1, 1) if len(x.shape) > 2 else -1
    function = m.pick(ops.mean, ops.sum, ops.max, ops.var)
    return function(x, axis=axis, keepdims=len(x.shape) == 2 or m.chance(0.5))


@operation(2, 3, 4)
def flip_or_roll(m, x):
    return m.pick(ops.flip(x, axis=-1), ops.roll(x, 1, axis=-1))


@operation(3, 4)
def transpose(m, x):
    order = [0, *(1 + m.rng.permutation(len(x.shape) - 1))]
    order = [int(i) for i in order]
    return layers.Permute(order[1:])(x) if m.chance(0.5) else ops.transpose(x, order)


@operation(3, 4, weight=2)
def shuffle(m, x):
    c = x.shape[-1]
    groups = m.divisor(c)
    here = tuple(x.shape[1:-1])
    rank = len(x.shape)
    if m.chance(0.5):
        y = layers.Reshape((*here, groups, c // groups))(x)
        y = layers.Permute((*range(1, rank - 1), rank, rank - 1))(y)
        return layers.Reshape((*here, c))(y)
    y = ops.reshape(x, (-1, *here, groups, c // groups))
    return ops.reshape(ops.swapaxes(y, -1, -2), (-1, *here, c))


@operation(4)
def depth_to_space(m, x):
    _, h, w, c = x.shape
    if c % 4:
        return None
    y = layers.Reshape((h, w, 2, 2, c // 4))(x)
    y = layers.Permute((1, 3, 2, 4, 5))(y)
    return layers.Reshape((2 * h, 2 * w, c // 4))(y)


@operation(4)
def space_to_depth(m, x):
    _, h, w, c = x.shape
    if h % 2 or w % 2:
        return None
    y = ops.reshape(x, (-1, h // 2, 2, w // 2, 2, c))
    return ops.reshape(ops.transpose(y, (0, 1, 3, 2, 4, 5)), (-1, h // 2, w // 2, 4 * c))


@operation(2, 3, 4, weight=2)
def reshape(m, x):
    shape = tuple(x.shape[1:])
    size = int(np.prod(shape))
    last = m.divisor(shape[-1])
    targets = [(size,), (*shape[:-1], shape[-1] // last, last), (size // shape[-1], shape[-1])]
    first = m.divisor(size)
    targets += [(first, size // first), (*shape[::-1],)]
    target = tuple(int(n) for n in m.pick(*[t for t in targets if len(t) <= 3]))
    return layers.Reshape(target)(x) if m.chance(0.5) else ops.reshape(x, (-1, *target))


@operation(3, 4)
def flatten(m, x):
    return layers.Flatten()(x)


@operation(4, weight=2)
def squeeze_excite(m, x):
    c = x.shape[-1]
    y = layers.GlobalAveragePooling2D(keepdims=True)(x)
    y = m.layer(layers.Conv2D(m.width(), 1, activation="relu"), y)
    y = m.layer(layers.Conv2D(c, 1, activation="sigmoid"), y)
    return layers.Multiply()([x, y])


@operation(4)
def squeeze_excite_dense(m, x):
    c = x.shape[-1]
    y = layers.GlobalMaxPooling2D()(x)
    y = m.layer(layers.Dense(m.width(), activation="relu"), y)
    y = m.layer(layers.Dense(c, activation="sigmoid"), y)
    return x * layers.Reshape((1, 1, c))(y)


@operation(3, 4)
def gate(m, x):
    """One channel that scales all others."""
    return x * m.layer(layers.Dense(1, activation="sigmoid"), x)


@operation(4, weight=2)
def pooling(m, x):
    if min(x.shape[1:3]) < 2:
        return None
    return m.pick(layers.MaxPooling2D, layers.AveragePooling2D)(2)(x)


@operation(4)
def spatial(m, x):
    if m.chance(0.5) and min(x.shape[1:3]) > 2:
        return layers.Cropping2D(((1, 0), (0, 1)))(x)
    return m.pick(layers.ZeroPadding2D(1), layers.UpSampling2D(2))(x)


@operation(4)
def global_pooling(m, x):
    return m.pick(layers.GlobalAveragePooling2D(), layers.GlobalMaxPooling2D())(x)


@operation(3)
def pooling1d(m, x):
    return m.pick(layers.GlobalAveragePooling1D(), layers.MaxPooling1D(2, padding="same"))(x)


@operation(2)
def repeat_vector(m, x):
    return layers.RepeatVector(m.pick(2, 3))(x)


@operation(3)
def matmul(m, x):
    """Attention by hand: scores of positions, summed over channels."""
    q, k = (m.layer(layers.Dense(x.shape[-1]), x) for _ in range(2))
    scores = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 2, 1))) * 0.5, axis=-1)
    return ops.matmul(scores, x)


@operation(3)
def recurrent(m, x):
    kind = m.pick(layers.LSTM, layers.GRU, layers.SimpleRNN)
    layer = kind(m.width(), return_sequences=m.chance(0.6))
    return m.layer(layers.Bidirectional(layer) if m.chance(0.3) else layer, x)


@operation(3)
def attention(m, x):
    layer = layers.MultiHeadAttention(m.pick(1, 2, 3), m.pick(2, 4), value_dim=m.pick(None, 3))
    return layer(x, x)


@operation(3, 4)
def time_distributed(m, x):
    inner = layers.Conv1D(m.width(), 2, padding="same") if len(x.shape) == 4 else layers.Dense(m.width())
    return m.layer(layers.TimeDistributed(inner), x)


@operation(2, 3)
def stack(m, x):
    other = m.other(x, lambda shape: shape == tuple(x.shape))
    return ops.stack([x, x if other is None else other], axis=m.pick(1, -1, -2) if len(x.shape) > 2 else m.pick(1, -1))


@operation(2, 3, 4)
def moves(m, x):
    return m.pick(
        ops.expand_dims(x, 1),
        ops.squeeze(ops.expand_dims(x, -1), -1),
        ops.repeat(x, 2, axis=-1),
        ops.tile(x, [1] * (len(x.shape) - 1) + [2]),
        ops.pad(x, [[0, 0]] * (len(x.shape) - 1) + [[1, 0]]),
        ops.take(x, m.rng.permutation(x.shape[-1]).tolist(), axis=-1),
        ops.where(x > 0, x, 0.1 * x),
    )


@operation(3)
def einsum(m, x):
    y = m.layer(layers.Dense(x.shape[-1]), x)
    return m.pick(ops.einsum("abc,abc->ab", x, y), ops.einsum("abc,adc->abd", x, y), ops.einsum("abc,abd->acd", x, y))


@operation(2, 3, 4, weight=2)
def shared(m, x):
    found = [layer for layer, shape in m.layers if shape == tuple(x.shape[1:])]
    return found[m.rng.integers(len(found))](x) if found else None


@operation(2, 3, 4, weight=2)
def nested(m, x):
    if m.depth > 1:
        return None
    inner = _Maker(m.rng, m.depth + 1)
    inputs = keras.Input(x.shape[1:])
    inner.tensors = [inputs]
    _grow(inner, int(m.rng.integers(1, 4)))
    outputs = inner.tensors[-1]
    if outputs is inputs:
        return None
    model = keras.Model(inputs, outputs)
    if m.chance(0.5):
        m.layers.append((model, tuple(x.shape[1:])))  # may be called again
    return model(x)


def _grow(m, count):
    tries = 0
    while count > 0 and tries < 200:
        tries += 1
        newest = m.chance(0.6)
        x = m.tensors[-1] if newest else m.tensors[m.rng.integers(len(m.tensors))]
        ranks, function = OPERATIONS[m.rng.integers(len(OPERATIONS))]
        if len(x.shape) not in ranks:
            continue
        y = function(m, x)
        if y is None or not 2 <= len(y.shape) <= 4 or None in y.shape[1:] or np.prod(y.shape[1:]) > SMALL:
            continue
        m.tensors.append(y)
        count -= 1


def random_model(seed: int) -> keras.Model:
    """A model of 5 to 20 operations, always the same for a seed."""
    rng = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed % 2**31)
    m = _Maker(rng)
    inputs = [keras.Input(m.pick((4, 4, 3), (6, 4, 2), (6, 5), (8,)), name="in0")]
    if m.chance(0.3):
        inputs.append(keras.Input(m.pick((4, 4, 3), (6,)), name="in1"))
    # Most operations need channels that can go: so each input first gets some.
    m.tensors = [m.layer(layers.Dense(m.width() * 2), x) for x in inputs]
    first = list(m.tensors)
    _grow(m, int(rng.integers(5, 21)))
    ends = [m.tensors[-1]]
    if m.chance(0.3):
        ends.append(m.tensors[rng.integers(len(m.tensors))])
    if m.chance(0.7):
        # All that was made meets in the end, so that nothing is dropped.
        flat = [layers.Flatten()(t) for t in {id(t): t for t in [*first, *m.tensors[-6:]]}.values()]
        ends[0] = layers.Dense(3, name="head")(layers.Concatenate()(flat) if len(flat) > 1 else flat[0])
    if m.chance(0.2) and len(ends) > 1:
        ends = {"first": ends[0], "second": ends[1]}
    return keras.Model(inputs if len(inputs) > 1 else inputs[0], ends, name=f"random{seed}")
