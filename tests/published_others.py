"""Architectures for tables, graphs, pictures that are made, and games as in Keras's published examples, small and in
this project's own words.

`MODELS[name]()` builds one: the model, and the shapes that a subclassed one is opened with (None for others).
"""

import keras
import numpy as np
from keras import layers, ops
from published_registry import registry

MODELS, _add, _functional = registry()


class GatedLinearUnit(layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.linear, self.sigmoid = layers.Dense(units), layers.Dense(units, activation="sigmoid")

    def call(self, x):
        return self.linear(x) * self.sigmoid(x)


class GatedResidual(layers.Layer):
    def __init__(self, units, rate=0.1, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.elu, self.linear = layers.Dense(units, activation="elu"), layers.Dense(units)
        self.dropout, self.gate = layers.Dropout(rate), GatedLinearUnit(units)
        self.norm, self.project = layers.LayerNormalization(), layers.Dense(units)

    def call(self, inputs):
        x = self.dropout(self.linear(self.elu(inputs)))
        if inputs.shape[-1] != self.units:
            inputs = self.project(inputs)
        return self.norm(inputs + self.gate(x))


class VariableSelection(layers.Layer):
    def __init__(self, features, units, **kwargs):
        super().__init__(**kwargs)
        self.each = [GatedResidual(units) for _ in range(features)]
        self.joined, self.softmax = GatedResidual(units), layers.Dense(features, activation="softmax")

    def call(self, inputs):
        weights = ops.expand_dims(self.softmax(self.joined(ops.concatenate(inputs, axis=-1))), axis=-1)
        x = ops.stack([layer(x) for layer, x in zip(self.each, inputs, strict=True)], axis=1)
        return ops.squeeze(ops.matmul(ops.transpose(weights, (0, 2, 1)), x), axis=1)


@_functional
def gated_residual():
    inputs = [keras.Input((1,)) for _ in range(3)]
    x = VariableSelection(3, 10, name="selection")([layers.Dense(10)(x) for x in inputs])
    return keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x))


@_functional
def wide_and_deep():
    numbers, kinds = keras.Input((5,)), keras.Input((3,), dtype="int32")
    embedded = layers.Flatten()(layers.Embedding(12, 6)(kinds))
    wide = layers.BatchNormalization()(layers.Flatten()(layers.CategoryEncoding(12, output_mode="multi_hot")(kinds)))
    deep = layers.concatenate([numbers, embedded])
    for units in (16, 12):
        deep = layers.Dropout(0.1)(layers.ReLU()(layers.BatchNormalization()(layers.Dense(units)(deep))))
    return keras.Model([numbers, kinds], layers.Dense(3, activation="softmax")(layers.concatenate([wide, deep])))


class Cross(layers.Layer):
    """Deep and cross: x0 * (W x) + x."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)

    def build(self, shapes):
        self.dense = layers.Dense(shapes[0][-1], name="dense")
        self.dense.build(shapes[1])

    def call(self, inputs):
        first, x = inputs
        return first * self.dense(x) + x


@_functional
def deep_and_cross():
    numbers, kinds = keras.Input((5,)), keras.Input((3,), dtype="int32")
    first = layers.Dense(12)(layers.concatenate([numbers, layers.Flatten()(layers.Embedding(12, 6)(kinds))]))
    x = first
    for i in range(2):
        x = Cross(name=f"cross{i}")([first, x])
    deep = layers.Dropout(0.1)(layers.ReLU()(layers.BatchNormalization()(layers.Dense(16)(first))))
    return keras.Model([numbers, kinds], layers.Dense(3, activation="softmax")(layers.concatenate([x, deep])))


class ColumnPositions(layers.Layer):
    def __init__(self, columns, width, **kwargs):
        super().__init__(**kwargs)
        self.columns, self.table = columns, layers.Embedding(columns, width)

    def call(self, x):
        return x + self.table(ops.arange(self.columns))


@_functional
def tab_transformer():
    numbers, kinds = keras.Input((4,)), keras.Input((3,), dtype="int32")
    columns = [layers.Embedding(9, 8, name=f"column{i}")(kinds[:, i]) for i in range(3)]
    x = ColumnPositions(3, 8, name="positions")(ops.stack(columns, axis=1))
    for _ in range(2):
        y = layers.Add()([layers.MultiHeadAttention(2, 8, dropout=0.1)(x, x), x])
        y = layers.LayerNormalization(epsilon=1e-6)(y)
        z = keras.Sequential([layers.Dense(16, activation="gelu"), layers.Dropout(0.1), layers.Dense(8)])(y)
        x = layers.LayerNormalization(epsilon=1e-6)(layers.Add()([z, y]))
    x = layers.concatenate([layers.Flatten()(x), layers.LayerNormalization(epsilon=1e-6)(numbers)])
    for units in (16, 12):
        x = layers.Dropout(0.2)(layers.Dense(units, activation="selu")(layers.BatchNormalization()(x)))
    return keras.Model([numbers, kinds], layers.Dense(1, activation="sigmoid")(x))


class DecisionTree(layers.Layer):
    """A tree of which each node decides softly; the leaves hold scores of classes."""

    def __init__(self, depth, features, classes, used=0.5, **kwargs):
        super().__init__(**kwargs)
        self.depth, self.leaves, self.classes = depth, 2**depth, classes
        chosen = np.random.default_rng(0).choice(features, int(features * used), replace=False)
        self.chosen = np.eye(features, dtype="float32")[chosen]
        self.decide = layers.Dense(self.leaves, activation="sigmoid", name="decide")

    def build(self, shape):
        self.scores = self.add_weight(shape=(self.leaves, self.classes), name="scores")
        self.built = True

    def call(self, x):
        batch = ops.shape(x)[0]
        x = ops.matmul(x, ops.transpose(self.chosen))
        decisions = ops.expand_dims(self.decide(x), axis=2)
        decisions = ops.concatenate([decisions, 1 - decisions], axis=2)
        reached, begin, end = ops.ones([batch, 1, 1]), 1, 2
        for level in range(self.depth):
            reached = ops.tile(ops.reshape(reached, [batch, -1, 1]), (1, 1, 2))
            reached = reached * decisions[:, begin:end, :]
            begin, end = end, end + 2 ** (level + 1)
        return ops.matmul(ops.reshape(reached, [batch, self.leaves]), ops.softmax(self.scores))


@_functional
def decision_forest():
    numbers = keras.Input((6,))
    x = layers.BatchNormalization()(layers.Dense(12, activation="relu")(numbers))
    trees = [DecisionTree(3, 12, 3, name=f"tree{i}")(x) for i in range(2)]
    return keras.Model(numbers, layers.Average()(trees))


class GraphLayer(layers.Layer):
    """Messages along the edges of one citation graph, added up by node."""

    def __init__(self, edges, nodes, units, **kwargs):
        super().__init__(**kwargs)
        self.edges, self.nodes = edges, nodes
        self.prepare = keras.Sequential([layers.BatchNormalization(), layers.Dense(units, activation="gelu")])
        self.update = keras.Sequential([layers.BatchNormalization(), layers.Dense(units, activation="gelu")])

    def call(self, x):
        messages = self.prepare(ops.take(x, self.edges[1], axis=0))
        added = ops.segment_sum(messages, self.edges[0], num_segments=self.nodes)
        return ops.normalize(self.update(ops.concatenate([x, added], axis=1)), axis=-1)


class NodeClassifier(keras.Model):
    def __init__(self, units=10, **kwargs):
        super().__init__(**kwargs)
        rng = np.random.default_rng(0)
        self.features = rng.normal(size=(8, 5)).astype("float32")
        edges = rng.integers(0, 8, (2, 20)).astype("int32")
        self.before = keras.Sequential([layers.Dense(units, activation="gelu")])
        self.first, self.second = GraphLayer(edges, 8, units), GraphLayer(edges, 8, units)
        self.after, self.head = keras.Sequential([layers.Dense(units, activation="gelu")]), layers.Dense(3)

    def call(self, ids):
        x = self.before(ops.convert_to_tensor(self.features))
        x = self.first(x) + x
        x = self.second(x) + x
        return self.head(ops.take(self.after(x), ids, axis=0))


@_add
def citation_graph():
    model = NodeClassifier()
    model(np.zeros((2,), "int32"))
    return model, keras.KerasTensor((None,), "int32")


class Recommender(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.users, self.user_bias = layers.Embedding(20, 10), layers.Embedding(20, 1)
        self.films, self.film_bias = layers.Embedding(15, 10), layers.Embedding(15, 1)

    def call(self, pairs):
        users, films = pairs[:, 0], pairs[:, 1]
        match = ops.sum(self.users(users) * self.films(films), axis=1, keepdims=True)
        return ops.sigmoid(match + self.user_bias(users) + self.film_bias(films))


@_add
def recommender():
    model = Recommender()
    model(np.zeros((1, 2), "int32"))
    return model, keras.KerasTensor((None, 2), "int32")


@_functional
def behaviour_sequence():
    films, ratings, target = (keras.Input((n,), dtype="int32") for n in (5, 5, 1))
    table, project = layers.Embedding(15, 8, name="films"), layers.Dense(8, activation="relu", name="project")
    x = layers.Add()([project(table(films)), layers.Embedding(6, 8)(ratings)])
    x = layers.Concatenate(axis=1)([x, project(table(target))])
    y = layers.Dropout(0.1)(layers.MultiHeadAttention(2, 8)(x, x))
    y = layers.LeakyReLU()(layers.LayerNormalization()(layers.Add()([x, y])))
    x = layers.LayerNormalization()(layers.Add()([y, layers.Dropout(0.1)(layers.Dense(8)(y))]))
    x = layers.Flatten()(x)
    for units in (16, 12):
        x = layers.Dropout(0.1)(layers.LeakyReLU()(layers.BatchNormalization()(layers.Dense(units)(x))))
    return keras.Model([films, ratings, target], layers.Dense(1)(x))


# Generative.


class Autoencoder(keras.Model):
    """A variational one; in inference the code is the mean."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.encoder = keras.Sequential(
            [layers.Conv2D(8, 3, 2, "same", activation="relu"), layers.Conv2D(12, 3, 2, "same", activation="relu"),
             layers.Flatten(), layers.Dense(12, activation="relu")]
        )  # fmt: skip
        self.mean, self.log_variance = layers.Dense(4), layers.Dense(4)
        self.decoder = keras.Sequential(
            [layers.Dense(4 * 4 * 8, activation="relu"), layers.Reshape((4, 4, 8)),
             layers.Conv2DTranspose(12, 3, 2, "same", activation="relu"),
             layers.Conv2DTranspose(8, 3, 2, "same", activation="relu"),
             layers.Conv2DTranspose(1, 3, activation="sigmoid", padding="same")]
        )  # fmt: skip

    def call(self, x):
        x = self.encoder(x)
        mean, log_variance = self.mean(x), self.log_variance(x)
        return self.decoder(mean), mean, log_variance


@_add
def variational_autoencoder():
    model = Autoencoder()
    model(np.zeros((1, 16, 16, 1), "float32"))
    return model, (None, 16, 16, 1)


@_functional
def dcgan_generator():
    x = inputs = keras.Input((8,))
    x = layers.Reshape((4, 4, 8))(layers.Dense(4 * 4 * 8)(x))
    for filters in (8, 12):
        x = layers.LeakyReLU(negative_slope=0.2)(layers.Conv2DTranspose(filters, 4, strides=2, padding="same")(x))
    return keras.Model(inputs, layers.Conv2D(3, 5, padding="same", activation="sigmoid")(x))


@_functional
def dcgan_discriminator():
    x = inputs = keras.Input((16, 16, 3))
    for filters in (8, 12):
        x = layers.LeakyReLU(negative_slope=0.2)(layers.Conv2D(filters, 4, strides=2, padding="same")(x))
    x = layers.Dropout(0.2)(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x))


class NoiseLevel(layers.Layer):
    def call(self, x):
        angular = (2.0 * np.pi * np.exp(np.linspace(0.0, 3.0, 4))).astype("float32")
        return ops.concatenate([ops.sin(angular * x), ops.cos(angular * x)], axis=3)


def _noisy_block(x, width):
    residual = x if x.shape[3] == width else layers.Conv2D(width, 1)(x)
    x = layers.BatchNormalization(center=False, scale=False)(x)
    x = layers.Conv2D(width, 3, padding="same")(layers.Conv2D(width, 3, padding="same", activation="swish")(x))
    return layers.Add()([x, residual])


@_functional
def denoising_diffusion():
    images, variance = keras.Input((16, 16, 3)), keras.Input((1, 1, 1))
    e = layers.UpSampling2D(16, interpolation="nearest")(NoiseLevel(name="level")(variance))
    x = layers.Concatenate()([layers.Conv2D(8, 1)(images), e])
    skips = []
    for width in (8, 12):
        x = _noisy_block(x, width)
        skips.append(x)
        x = layers.AveragePooling2D(2)(x)
    x = _noisy_block(x, 16)
    for width in (12, 8):
        x = layers.Concatenate()([layers.UpSampling2D(2, interpolation="bilinear")(x), skips.pop()])
        x = _noisy_block(x, width)
    return keras.Model([images, variance], layers.Conv2D(3, 1, kernel_initializer="zeros")(x))


class PixelConv(layers.Layer):
    """A convolution that sees earlier pixels only: its kernel is multiplied by a mask."""

    def __init__(self, kind, filters, size, activation=None, **kwargs):
        super().__init__(**kwargs)
        self.kind = kind
        self.conv = layers.Conv2D(filters, size, padding="same", activation=activation)

    def build(self, shape):
        self.conv.build(shape)
        mask = np.zeros(self.conv.kernel.shape, "float32")
        middle = mask.shape[0] // 2
        mask[:middle] = 1.0
        mask[middle, : middle + (self.kind == "B")] = 1.0
        self.mask = mask
        self.built = True

    def call(self, x):
        kernel = self.conv.kernel * self.mask
        return self.conv.activation(ops.conv(x, kernel, strides=1, padding="same") + self.conv.bias)


@_functional
def pixel_cnn():
    inputs = keras.Input((8, 8, 1))
    x = PixelConv("A", 12, 5, "relu", name="first")(inputs)
    for i in range(2):
        y = layers.Conv2D(6, 1, activation="relu")(x)
        y = layers.Conv2D(12, 1, activation="relu")(PixelConv("B", 6, 3, "relu", name=f"block{i}")(y))
        x = layers.add([x, y])
    x = PixelConv("B", 10, 1, "relu", name="last")(x)
    return keras.Model(inputs, layers.Conv2D(1, 1, activation="sigmoid")(x))


class ReflectionPadding(layers.Layer):
    def __init__(self, padding=(1, 1), **kwargs):
        super().__init__(**kwargs)
        self.padding = padding

    def call(self, x):
        width, height = self.padding
        return ops.pad(x, [[0, 0], [height, height], [width, width], [0, 0]], mode="reflect")


@_functional
def cycle_gan():
    def norm():
        return layers.GroupNormalization(groups=-1, gamma_initializer=keras.initializers.RandomNormal(0.0, 0.02))

    inputs = keras.Input((12, 12, 3))
    x = layers.Activation("relu")(norm()(layers.Conv2D(8, 3, use_bias=False)(ReflectionPadding()(inputs))))
    x = layers.Activation("relu")(norm()(layers.Conv2D(12, 3, 2, padding="same", use_bias=False)(x)))
    for _ in range(2):
        y = layers.Conv2D(12, 3, use_bias=False)(ReflectionPadding()(x))
        y = layers.Conv2D(12, 3, use_bias=False)(ReflectionPadding()(layers.Activation("relu")(norm()(y))))
        x = layers.add([x, norm()(y)])
    x = layers.Activation("relu")(norm()(layers.Conv2DTranspose(8, 3, 2, padding="same", use_bias=False)(x)))
    x = layers.Conv2D(3, 3)(ReflectionPadding()(x))
    return keras.Model(inputs, layers.Activation("tanh")(x))


class EqualizedDense(layers.Layer):
    def __init__(self, units, gain=2.0, rate=1.0, **kwargs):
        super().__init__(**kwargs)
        self.units, self.gain, self.rate = units, gain, rate

    def build(self, shape):
        self.w = self.add_weight(shape=[shape[-1], self.units], name="kernel")
        self.b = self.add_weight(shape=(self.units,), initializer="zeros", name="bias")
        self.scale = float(np.sqrt(self.gain / shape[-1]))

    def call(self, x):
        return ops.add(ops.matmul(x, self.scale * self.w), self.b) * self.rate


class EqualizedConv(layers.Layer):
    def __init__(self, filters, size=3, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.size = filters, size

    def build(self, shape):
        taps = self.size * self.size * shape[-1]
        self.w = self.add_weight(shape=[self.size, self.size, shape[-1], self.filters], name="kernel")
        self.b = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")
        self.scale = float(np.sqrt(2.0 / taps))

    def call(self, x):
        return ops.conv(x, self.w * self.scale, strides=1, padding="same") + self.b


class AdaptiveNorm(layers.Layer):
    """The style w sets scale and shift of normalized channels."""

    def build(self, shapes):
        channels, width = shapes[0][-1], shapes[1][-1]
        self.scale, self.shift = EqualizedDense(channels, gain=1), EqualizedDense(channels, gain=1)
        self.scale.build((None, width))
        self.shift.build((None, width))
        self.channels = channels

    def call(self, inputs):
        x, w = inputs
        mean, variance = ops.mean(x, axis=(1, 2), keepdims=True), ops.var(x, axis=(1, 2), keepdims=True)
        x = (x - mean) / ops.sqrt(variance + 1e-5)
        scale = ops.reshape(self.scale(w), (-1, 1, 1, self.channels))
        return scale * x + ops.reshape(self.shift(w), (-1, 1, 1, self.channels))


@_functional
def style_gan():
    z = keras.Input((8,))
    w = z / ops.sqrt(ops.mean(ops.square(z), axis=-1, keepdims=True) + 1e-8)
    for i in range(2):
        w = layers.LeakyReLU(0.2)(EqualizedDense(10, name=f"mapping{i}")(w))
    x = layers.Reshape((4, 4, 8))(layers.Dense(4 * 4 * 8)(w))
    for i, filters in enumerate((12, 8)):
        x = layers.UpSampling2D(2)(x)
        x = layers.LeakyReLU(0.2)(EqualizedConv(filters, name=f"conv{i}")(x))
        x = AdaptiveNorm(name=f"style{i}")([x, w])
    return keras.Model(z, EqualizedConv(3, 1, name="rgb")(x))


@_functional
def wasserstein_critic():
    x = inputs = keras.Input((16, 16, 1))
    x = layers.ZeroPadding2D((2, 2))(x)
    for filters in (8, 12, 16):
        x = layers.LeakyReLU(0.2)(layers.Conv2D(filters, 5, strides=2, padding="same")(x))
    return keras.Model(inputs, layers.Dense(1)(layers.Dropout(0.2)(layers.Flatten()(x))))


class Coupling(layers.Layer):
    """Real NVP: half of the values are scaled and shifted by what the others say."""

    def __init__(self, mask, **kwargs):
        super().__init__(**kwargs)
        self.mask = np.asarray(mask, "float32")
        self.scale = keras.Sequential([layers.Dense(12, "relu"), layers.Dense(12, "relu"), layers.Dense(4, "tanh")])
        self.shift = keras.Sequential([layers.Dense(12, "relu"), layers.Dense(12, "relu"), layers.Dense(4)])

    def call(self, x):
        seen, others = x * self.mask, 1 - self.mask
        scale, shift = self.scale(seen) * others, self.shift(seen) * others
        return others * (x * ops.exp(-scale) - shift * ops.exp(-scale)) + seen, ops.sum(-scale, axis=1)


@_functional
def real_nvp():
    inputs = keras.Input((4,))
    x, total = inputs, 0.0
    for i in range(3):
        x, logarithm = Coupling([0, 1, 0, 1] if i % 2 else [1, 0, 1, 0], name=f"coupling{i}")(x)
        total = total + logarithm
    return keras.Model(inputs, [x, total])


class Codebook(layers.Layer):
    """VQ-VAE: each position takes the nearest of a few learned vectors."""

    def __init__(self, count, width, **kwargs):
        super().__init__(**kwargs)
        self.count, self.width = count, width
        self.codes = self.add_weight(shape=(width, count), initializer="random_uniform", name="codes")

    def call(self, x):
        flat = ops.reshape(x, (-1, self.width))
        apart = ops.sum(flat**2, axis=1, keepdims=True) + ops.sum(self.codes**2, axis=0) - 2 * (flat @ self.codes)
        nearest = ops.one_hot(ops.argmin(apart, axis=1), self.count)
        return ops.reshape(nearest @ ops.transpose(self.codes), ops.shape(x))


@_functional
def vector_quantized():
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(12, 3, strides=2, padding="same", activation="relu")(inputs)
    x = Codebook(10, 6, name="codes")(layers.Conv2D(6, 1, padding="same")(x))
    x = layers.Conv2DTranspose(12, 3, strides=2, padding="same", activation="relu")(x)
    return keras.Model(inputs, layers.Conv2DTranspose(1, 3, padding="same")(x))


class StyleTransfer(layers.Layer):
    """AdaIN without weights: content with the statistics of a style."""

    def call(self, content, style):
        def moments(x):
            mean, variance = ops.moments(x, axes=[1, 2], keepdims=True)
            return mean, ops.sqrt(variance + 1e-5)

        mean, deviation = moments(content)
        its_mean, its_deviation = moments(style)
        return its_deviation * (content - mean) / deviation + its_mean


@_functional
def style_transfer():
    encoder = keras.Sequential(
        [keras.Input((12, 12, 3)), layers.Conv2D(8, 3, padding="same", activation="relu"), layers.MaxPooling2D(),
         layers.Conv2D(12, 3, padding="same", activation="relu")], name="encoder",
    )  # fmt: skip
    content, style = keras.Input((12, 12, 3)), keras.Input((12, 12, 3))
    x = StyleTransfer(name="transfer")(encoder(content), encoder(style))
    x = layers.UpSampling2D()(layers.Conv2D(8, 3, padding="same", activation="relu")(x))
    return keras.Model([content, style], layers.Conv2D(3, 3, padding="same")(x))


# Reinforcement.


@_functional
def actor_critic():
    inputs = keras.Input((4,))
    x = layers.Dense(24, activation="relu")(inputs)
    return keras.Model(inputs, [layers.Dense(2, activation="softmax")(x), layers.Dense(1)(x)])


@_functional
def deep_q():
    inputs = keras.Input((20, 20, 4))
    x = layers.Rescaling(1 / 255)(inputs)
    for filters, size, strides in ((8, 4, 2), (12, 3, 2), (12, 3, 1)):
        x = layers.Conv2D(filters, size, strides=strides, activation="relu")(x)
    x = layers.Dense(24, activation="relu")(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(4, activation="linear")(x))


@_functional
def deterministic_policy_critic():
    state, action = keras.Input((3,)), keras.Input((1,))
    x = layers.Dense(12, activation="relu")(layers.Dense(8, activation="relu")(state))
    x = layers.Concatenate()([x, layers.Dense(12, activation="relu")(action)])
    for _ in range(2):
        x = layers.Dense(20, activation="relu")(x)
    return keras.Model([state, action], layers.Dense(1)(x))
