"""Random models with random custom layers: `random_custom_model(seed)`.

A layer's `call` runs a random program: own variables, sublayers in attributes, lists and dicts, shared ones, custom
ones inside, reshapes that name the batch, branches on shapes, residuals; seldom something that cannot be opened.
"""

import keras
import numpy as np
from keras import layers, ops

STEPS: list = []


def step(*ranks, weight=1):
    """Registers `make(layer, rng, shape) -> (function of a tensor, the new shape)`; ranks and shapes have no batch."""

    def register(function):
        STEPS.extend([(ranks or (1, 2, 3), function)] * weight)
        return function

    return register


@keras.saving.register_keras_serializable("tests")
class Programmed(layers.Layer):
    """Runs the steps that its seed draws."""

    def __init__(self, seed, length=3, depth=1, **kwargs):
        super().__init__(**kwargs)
        self.seed, self.length, self.depth = seed, length, depth
        self.parts, self.listed = {}, []

    def build(self, shape):
        rng = np.random.default_rng(self.seed)
        shape, self.program = tuple(shape[1:]), []
        for _ in range(self.length):
            possible = [function for ranks, function in STEPS if len(shape) in ranks]
            function, shape = possible[rng.integers(len(possible))](self, rng, shape)
            self.program.append(function)
        self.result = shape
        self.built = True

    def part(self, layer, shape, listed=False):
        """A sublayer, kept in a list or a dict."""
        layer.build((None, *shape))
        if listed:
            self.listed.append(layer)
        else:
            self.parts[f"part{len(self.parts)}"] = layer
        return layer

    def own(self, shape, initializer="glorot_uniform"):
        return self.add_weight(shape=shape, name=f"own{len(self.variables)}", initializer=initializer)

    def call(self, x, training=None):
        for function in self.program:
            x = function(x)
        return x

    def compute_output_shape(self, shape):
        return (shape[0], *self.result)


def _width(rng) -> int:
    return int(rng.integers(2, 9))


@step(weight=3)
def dense(layer, rng, shape):
    width = _width(rng)
    activation = [None, "relu", "gelu", "tanh"][rng.integers(4)]
    return layer.part(layers.Dense(width, activation=activation), shape, bool(rng.integers(2))), (*shape[:-1], width)


@step(weight=2)
def own_product(layer, rng, shape):
    width = _width(rng)
    names = {"kernel": layer.own((shape[-1], width)), "bias": layer.own((width,))}
    setattr(layer, f"variables_of_{len(layer.program)}", names)
    place = f"variables_of_{len(layer.program)}"
    return (lambda x: ops.matmul(x, getattr(layer, place)["kernel"]) + getattr(layer, place)["bias"]), (
        *shape[:-1],
        width,
    )


@step()
def scaled(layer, rng, shape):
    place = f"scale_{len(layer.program)}"
    setattr(layer, place, [layer.own((shape[-1],), "ones")])
    return (lambda x: x * getattr(layer, place)[0]), shape


@step(weight=2)
def residual(layer, rng, shape):
    up, down = layer.part(layers.Dense(_width(rng), activation="relu"), shape), None
    down = layer.part(layers.Dense(shape[-1]), (*shape[:-1], up.units))
    drop = layer.part(layers.Dropout(0.3), shape)
    return (lambda x: x + drop(down(up(x)))), shape


@step()
def normalized(layer, rng, shape):
    kind = [layers.LayerNormalization, layers.BatchNormalization, layers.RMSNormalization][rng.integers(3)]
    return layer.part(kind(), shape, True), shape


@step()
def joined(layer, rng, shape):
    a, b = (layer.part(layers.Dense(_width(rng)), shape) for _ in range(2))
    return (lambda x: ops.concatenate([a(x), b(x)], axis=-1)), (*shape[:-1], a.units + b.units)


@step()
def halves(layer, rng, shape):
    width = _width(rng)
    both = layer.part(layers.Dense(2 * width), shape)

    def gated(x):
        a, b = ops.split(both(x), 2, axis=-1)
        return a * ops.sigmoid(b)

    return gated, (*shape[:-1], width)


@step()
def twice(layer, rng, shape):
    same = layer.part(layers.Dense(shape[-1], activation="tanh"), shape)
    return (lambda x: same(same(x))), shape


@step()
def nested(layer, rng, shape):
    if not layer.depth:
        return dense(layer, rng, shape)
    inner = Programmed(int(rng.integers(1 << 20)), 2, layer.depth - 1, name=f"inner{len(layer.program)}")
    layer.part(inner, shape, True)
    return inner, inner.result


@step()
def by_shape(layer, rng, shape):
    a, b = (layer.part(layers.Dense(5), shape) for _ in range(2))
    return (lambda x: a(x) if x.shape[-1] % 2 else ops.relu(b(x))), (*shape[:-1], 5)


@step(1)
def heads(layer, rng, shape):
    size = int(rng.integers(2, 4))
    up = layer.part(layers.Dense(3 * size), shape)

    def apart(x):
        x = ops.reshape(up(x), (ops.shape(x)[0], 3, size))
        return ops.mean(ops.softmax(x, axis=-1) * x, axis=1)

    return apart, (size,)


@step(2, weight=2)
def attention(layer, rng, shape):
    count, size = int(rng.integers(1, 3)), int(rng.integers(2, 4))
    dense_of = [layer.part(layers.Dense(count * size), shape, True) for _ in range(3)]
    out = layer.part(layers.Dense(shape[-1]), (shape[0], count * size))

    def attend(x):
        batch, length = ops.shape(x)[0], ops.shape(x)[1]
        q, k, v = (ops.transpose(ops.reshape(one(x), (batch, length, count, size)), (0, 2, 1, 3)) for one in dense_of)
        scores = ops.softmax(ops.matmul(q, ops.swapaxes(k, -1, -2)) / np.sqrt(size))
        mixed = ops.transpose(ops.matmul(scores, v), (0, 2, 1, 3))
        return x + out(ops.reshape(mixed, (batch, length, count * size)))

    return attend, shape


@step(2)
def token(layer, rng, shape):
    place = f"token_{len(layer.program)}"
    setattr(layer, place, layer.own((1, 1, shape[-1])))

    def prepend(x):
        first = ops.broadcast_to(getattr(layer, place), (ops.shape(x)[0], 1, shape[-1]))
        return ops.concatenate([first, x], axis=1)

    return prepend, (shape[0] + 1, shape[1])


@step(2)
def positions(layer, rng, shape):
    table = layer.part(layers.Embedding(shape[0] + 3, shape[-1]), (shape[0],))
    return (lambda x: x + table(ops.arange(ops.shape(x)[1]))), shape


@step(2)
def masked_mean(layer, rng, shape):
    def mean(x):
        mask = ops.cast(ops.arange(ops.shape(x)[1]) % 2 == 0, "float32")[None, :, None]
        return x + ops.sum(x * mask, axis=1, keepdims=True) / ops.sum(mask)

    return mean, shape


@step(3, weight=2)
def conv(layer, rng, shape):
    width = _width(rng)
    return layer.part(layers.Conv2D(width, 3, padding="same", activation="relu"), shape), (*shape[:-1], width)


@step(3)
def excite(layer, rng, shape):
    down = layer.part(layers.Dense(3, activation="relu"), (shape[-1],))
    up = layer.part(layers.Dense(shape[-1], activation="sigmoid"), (3,))
    return (lambda x: x * up(down(ops.mean(x, axis=(1, 2))))[:, None, None, :]), shape


@step()
def unopenable(layer, rng, shape):
    """Seldom: random numbers, other things in training, numbers of a variable."""
    if rng.random() < 0.7:
        return dense(layer, rng, shape)
    layer.seeds = keras.random.SeedGenerator(1)
    return (lambda x: x + 0.0 * keras.random.normal(ops.shape(x), seed=layer.seeds)), shape


def random_custom_model(seed: int) -> keras.Model:
    rng = np.random.default_rng(seed)
    shape = [(7,), (5, 6), (6, 6, 3)][rng.integers(3)]
    x = inputs = keras.Input(shape, name="x")
    x = layers.Dense(6, name="first")(x)
    made = []
    for i in range(int(rng.integers(1, 4))):
        same = [layer for layer, before in made if before == tuple(x.shape) and layer.result == tuple(x.shape[1:])]
        if same and rng.random() < 0.5:
            x = same[0](x)
            continue
        before = tuple(x.shape)
        layer = Programmed(int(rng.integers(1 << 20)), int(rng.integers(1, 5)), name=f"block{i}")
        y = layer(x)
        made.append((layer, before))
        x = layers.Add()([x, y]) if tuple(y.shape) == before and rng.random() < 0.3 else y
    pool = {3: layers.GlobalAveragePooling1D, 4: layers.GlobalAveragePooling2D}.get(len(x.shape))
    x = x if pool is None else pool()(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x), name=f"random{seed}")
