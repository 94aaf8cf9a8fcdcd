"""Architectures for images as in Keras's published examples, small and in this project's own words.

`MODELS[name]()` builds one: the model, and the shapes that a subclassed one is opened with (None for others).
"""

import keras
import numpy as np
from keras import layers, ops
from published_registry import registry

MODELS, _add, _functional = registry()


class Patches(layers.Layer):
    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size = size

    def call(self, images):
        batch, height, width, channels = ops.shape(images)
        found = ops.image.extract_patches(images, size=self.size)
        count = (height // self.size) * (width // self.size)
        return ops.reshape(found, (batch, count, self.size * self.size * channels))


class PatchEncoder(layers.Layer):
    def __init__(self, count, width, **kwargs):
        super().__init__(**kwargs)
        self.count = count
        self.projection = layers.Dense(width)
        self.positions = layers.Embedding(count, width)

    def call(self, patches):
        positions = ops.expand_dims(ops.arange(0, self.count, 1), axis=0)
        return self.projection(patches) + self.positions(positions)


def _mlp(x, *widths):
    for width in widths:
        x = layers.Dropout(0.1)(layers.Dense(width, activation="gelu")(x))
    return x


@_functional
def vision_transformer():
    inputs = keras.Input((12, 12, 3))
    x = PatchEncoder(9, 16, name="encoder")(Patches(4, name="patches")(inputs))
    for _ in range(2):
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        x = layers.Add()([layers.MultiHeadAttention(2, 8, dropout=0.1)(y, y), x])
        x = layers.Add()([_mlp(layers.LayerNormalization(epsilon=1e-6)(x), 32, 16), x])
    x = layers.Dropout(0.5)(layers.Flatten()(layers.LayerNormalization()(x)))
    return keras.Model(inputs, layers.Dense(5)(_mlp(x, 24, 12)))


class WindowAttention(layers.Layer):
    def __init__(self, width, window, heads, **kwargs):
        super().__init__(**kwargs)
        self.width, self.window, self.heads = width, window, heads
        self.scale = (width // heads) ** -0.5
        self.qkv = layers.Dense(3 * width)
        self.out = layers.Dense(width)
        side = np.stack(np.meshgrid(np.arange(window), np.arange(window), indexing="ij")).reshape(2, -1)
        apart = (side[:, :, None] - side[:, None, :]).transpose(1, 2, 0) + window - 1
        self.places = (apart[..., 0] * (2 * window - 1) + apart[..., 1]).astype("int32")

    def build(self, shape):
        self.bias_table = self.add_weight(
            shape=((2 * self.window - 1) ** 2, self.heads), initializer="random_normal", name="bias_table"
        )
        self.built = True

    def call(self, x, mask=None):
        _, size, channels = x.shape
        head = channels // self.heads
        qkv = ops.transpose(ops.reshape(self.qkv(x), (-1, size, 3, self.heads, head)), (2, 0, 3, 1, 4))
        query, key, value = qkv[0] * self.scale, qkv[1], qkv[2]
        scores = query @ ops.transpose(key, (0, 1, 3, 2))
        bias = ops.take(self.bias_table, ops.reshape(self.places, (-1,)), axis=0)
        scores = scores + ops.expand_dims(ops.transpose(ops.reshape(bias, (size, size, -1)), (2, 0, 1)), 0)
        if mask is not None:
            windows = mask.shape[0]
            scores = ops.reshape(scores, (-1, windows, self.heads, size, size)) + mask[None, :, None]
            scores = ops.reshape(scores, (-1, self.heads, size, size))
        mixed = ops.transpose(ops.softmax(scores, axis=-1) @ value, (0, 2, 1, 3))
        return self.out(ops.reshape(mixed, (-1, size, channels)))


class SwinBlock(layers.Layer):
    def __init__(self, width, side, window=2, heads=2, shift=0, **kwargs):
        super().__init__(**kwargs)
        self.side, self.window, self.shift = side, window, shift
        self.norms = [layers.LayerNormalization(), layers.LayerNormalization()]
        self.attention = WindowAttention(width, window, heads)
        self.mlp = keras.Sequential([layers.Dense(2 * width, activation="gelu"), layers.Dense(width)])
        self.mask = None
        if shift:
            areas = np.zeros((1, side, side, 1), "float32")
            for n, part in enumerate([slice(0, -window), slice(-window, -shift), slice(-shift, None)]):
                for m, other in enumerate([slice(0, -window), slice(-window, -shift), slice(-shift, None)]):
                    areas[:, part, other] = 3 * n + m
            rows = np.array(ops.reshape(self._windows(areas), (-1, window * window)))
            self.mask = np.where(rows[:, None] != rows[:, :, None], -100.0, 0.0).astype("float32")

    def _windows(self, x):
        _, height, width, channels = x.shape
        n = self.window
        x = ops.reshape(x, (-1, height // n, n, width // n, n, channels))
        return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, n, n, channels))

    def _image(self, windows, channels):
        n, parts = self.window, self.side // self.window
        x = ops.reshape(windows, (-1, parts, parts, n, n, channels))
        return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, self.side, self.side, channels))

    def call(self, x):
        _, positions, channels = x.shape
        y = ops.reshape(self.norms[0](x), (-1, self.side, self.side, channels))
        if self.shift:
            y = ops.roll(y, shift=[-self.shift, -self.shift], axis=[1, 2])
        y = ops.reshape(self._windows(y), (-1, self.window**2, channels))
        y = self._image(
            ops.reshape(self.attention(y, mask=self.mask), (-1, self.window, self.window, channels)), channels
        )
        if self.shift:
            y = ops.roll(y, shift=[self.shift, self.shift], axis=[1, 2])
        x = x + ops.reshape(y, (-1, positions, channels))
        return x + self.mlp(self.norms[1](x))


class PatchMerging(layers.Layer):
    def __init__(self, side, width, **kwargs):
        super().__init__(**kwargs)
        self.side, self.dense = side, layers.Dense(2 * width, use_bias=False)

    def call(self, x):
        channels = x.shape[-1]
        x = ops.reshape(x, (-1, self.side, self.side, channels))
        parts = [x[:, i::2, j::2, :] for j in (0, 1) for i in (0, 1)]
        return self.dense(ops.reshape(ops.concatenate(parts, axis=-1), (-1, (self.side // 2) ** 2, 4 * channels)))


@_functional
def swin_transformer():
    inputs = keras.Input((8, 8, 3))
    x = PatchEncoder(16, 8, name="embed")(Patches(2, name="patches")(inputs))
    x = SwinBlock(8, 4, shift=0, name="block")(x)
    x = SwinBlock(8, 4, shift=1, name="shifted")(x)
    x = layers.GlobalAveragePooling1D()(PatchMerging(4, 8, name="merge")(x))
    return keras.Model(inputs, layers.Dense(4)(x))


class MixerLayer(layers.Layer):
    def __init__(self, count, width, **kwargs):
        super().__init__(**kwargs)
        self.tokens = keras.Sequential([layers.Dense(10, activation="gelu"), layers.Dense(count), layers.Dropout(0.1)])
        self.channels = keras.Sequential(
            [layers.Dense(20, activation="gelu"), layers.Dense(width), layers.Dropout(0.1)]
        )
        self.norm = layers.LayerNormalization(epsilon=1e-6)

    def call(self, inputs):
        x = ops.transpose(self.norm(inputs), (0, 2, 1))
        x = ops.transpose(self.tokens(x), (0, 2, 1)) + inputs
        return x + self.channels(self.norm(x))


def _of_patches(*blocks, width=12):
    inputs = keras.Input((8, 8, 3))
    x = PatchEncoder(16, width, name="embed")(Patches(2, name="patches")(inputs))
    for block in blocks:
        x = block(x)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling1D()(x))
    return keras.Model(inputs, layers.Dense(5)(x))


@_functional
def mlp_mixer():
    return _of_patches(MixerLayer(16, 12, name="first"), MixerLayer(16, 12, name="second"))


class FourierMixing(layers.Layer):
    """FNet's mixing: the real part of a Fourier transform over positions and channels, as two products."""

    def __init__(self, count, width, **kwargs):
        super().__init__(**kwargs)
        self.parts = []
        for n in (count, width):
            angle = -2 * np.pi * np.outer(np.arange(n), np.arange(n)) / n
            self.parts.append((np.cos(angle).astype("float32"), np.sin(angle).astype("float32")))
        self.dense = keras.Sequential([layers.Dense(24, activation="gelu"), layers.Dense(width)])
        self.norms = [layers.LayerNormalization(), layers.LayerNormalization()]

    def call(self, x):
        (row_cos, row_sin), (cos, sin) = self.parts
        mixed = ops.matmul(row_cos, ops.matmul(x, cos)) - ops.matmul(row_sin, ops.matmul(x, sin))
        x = self.norms[0](x + mixed)
        return self.norms[1](x + self.dense(x))


@_functional
def fnet():
    return _of_patches(FourierMixing(16, 12, name="first"), FourierMixing(16, 12, name="second"))


class SpatialGating(layers.Layer):
    def __init__(self, count, width, **kwargs):
        super().__init__(**kwargs)
        self.up = keras.Sequential([layers.Dense(4 * width, activation="gelu"), layers.Dropout(0.1)])
        self.mix = layers.Dense(count, bias_initializer="ones")
        self.down = layers.Dense(width)
        self.norms = [layers.LayerNormalization(), layers.LayerNormalization()]

    def call(self, inputs):
        u, v = ops.split(self.up(self.norms[0](inputs)), 2, axis=2)
        v = ops.transpose(self.mix(ops.transpose(self.norms[1](v), (0, 2, 1))), (0, 2, 1))
        return inputs + self.down(u * v)


@_functional
def gmlp():
    return _of_patches(SpatialGating(16, 12, name="first"), SpatialGating(16, 12, name="second"))


@_functional
def convmixer():
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(12, 2, strides=2)(layers.Rescaling(1 / 255)(inputs))
    x = layers.BatchNormalization()(layers.Activation("gelu")(x))
    for _ in range(2):
        y = layers.BatchNormalization()(layers.Activation("gelu")(layers.DepthwiseConv2D(3, padding="same")(x)))
        x = layers.Conv2D(12, 1)(layers.Add()([y, x]))
        x = layers.BatchNormalization()(layers.Activation("gelu")(x))
    return keras.Model(inputs, layers.Dense(4, activation="softmax")(layers.GlobalAveragePooling2D()(x)))


class ExternalAttention(layers.Layer):
    """EANet: heads look at two small memories that all samples share."""

    def __init__(self, width, heads=2, memory=6, **kwargs):
        super().__init__(**kwargs)
        self.width, self.heads = width, heads
        self.expand = layers.Dense(4 * width)
        self.keys = layers.Dense(memory)
        self.values = layers.Dense(4 * width // heads)
        self.out = layers.Dense(width)

    def call(self, x):
        _, count, _ = x.shape
        heads = ops.reshape(self.expand(x), (-1, count, self.heads, 4 * self.width // self.heads))
        scores = self.keys(ops.transpose(heads, (0, 2, 1, 3)))
        scores = ops.softmax(scores, axis=2)
        scores = scores / (1e-9 + ops.sum(scores, axis=-1, keepdims=True))
        mixed = ops.transpose(self.values(scores), (0, 2, 1, 3))
        return x + self.out(ops.reshape(mixed, (-1, count, 4 * self.width)))


@_functional
def eanet():
    return _of_patches(ExternalAttention(12, name="first"), ExternalAttention(12, name="second"))


class StochasticDepth(layers.Layer):
    def __init__(self, rate, **kwargs):
        super().__init__(**kwargs)
        self.rate, self.seeds = rate, keras.random.SeedGenerator(1)

    def call(self, x, training=None):
        if training:
            keep = 1 - self.rate
            shape = (ops.shape(x)[0],) + (1,) * (len(x.shape) - 1)
            return x / keep * ops.floor(keep + keras.random.uniform(shape, 0, 1, seed=self.seeds))
        return x


class SequencePooling(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.weigh = layers.Dense(1)

    def call(self, x):
        weights = ops.transpose(ops.softmax(self.weigh(x), axis=1), (0, 2, 1))
        return ops.squeeze(ops.matmul(weights, x), axis=1)


@_functional
def compact_convolutional_transformer():
    inputs = keras.Input((16, 16, 3))
    x = inputs
    for filters in (8, 12):
        x = layers.Conv2D(filters, 3, padding="valid", use_bias=False, activation="relu")(layers.ZeroPadding2D(1)(x))
        x = layers.MaxPooling2D(3, 2, "same")(x)
    x = layers.Reshape((16, 12))(x)
    for i in range(2):
        y = layers.LayerNormalization(epsilon=1e-5)(x)
        y = layers.MultiHeadAttention(2, 12, dropout=0.1)(y, y)
        x = layers.Add()([StochasticDepth(0.1, name=f"depth{i}")(y), x])
        y = _mlp(layers.LayerNormalization(epsilon=1e-5)(x), 16, 12)
        x = layers.Add()([StochasticDepth(0.1, name=f"depth{i}b")(y), x])
    x = SequencePooling(name="pool")(layers.LayerNormalization(epsilon=1e-5)(x))
    return keras.Model(inputs, layers.Dense(5)(x))


def _cross_attention(width, latents):
    latent, data = keras.Input((latents, width)), keras.Input((16, width))
    x, y = layers.LayerNormalization()(latent), layers.LayerNormalization()(data)
    query, key, value = layers.Dense(width)(x), layers.Dense(width)(y), layers.Dense(width)(y)
    x = layers.LayerNormalization()(
        layers.Add()([layers.Attention(use_scale=True, dropout=0.1)([query, key, value]), x])
    )
    return keras.Model([latent, data], layers.Add()([_mlp(x, 24, width), x]), name="cross")


class Perceiver(keras.Model):
    def __init__(self, width=12, latents=6, **kwargs):
        super().__init__(**kwargs)
        self.shape_of_latents = (latents, width)
        self.patches, self.embed = Patches(2), PatchEncoder(16, width)
        self.cross = _cross_attention(width, latents)
        self.mix = MixerLayer(latents, width)
        self.pool, self.head = layers.GlobalAveragePooling1D(), layers.Dense(4)

    def build(self, shape):
        self.latents = self.add_weight(shape=self.shape_of_latents, initializer="random_normal", name="latents")
        self.built = True

    def call(self, images):
        data = self.embed(self.patches(images))
        latents = ops.repeat(ops.expand_dims(self.latents, 0), ops.shape(data)[0], axis=0)
        for _ in range(2):
            latents = self.mix(self.cross([latents, data]))
        return self.head(self.pool(latents))


@_add
def perceiver():
    model = Perceiver()
    model(np.zeros((1, 8, 8, 3), "float32"))
    return model, (None, 8, 8, 3)


@_functional
def mobilevit():
    x = inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, 2, "same", activation="swish")(x)
    y = layers.Conv2D(16, 1, padding="same", use_bias=False)(x)
    y = layers.Activation("swish")(layers.BatchNormalization()(y))
    y = layers.Activation("swish")(layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same")(y)))
    x = layers.Add()([x, layers.BatchNormalization()(layers.Conv2D(8, 1)(y))])
    local = layers.Conv2D(12, 1, activation="swish")(layers.Conv2D(12, 3, padding="same", activation="swish")(x))
    y = layers.Reshape((4, 16, 12))(local)
    for _ in range(2):
        z = layers.LayerNormalization()(y)
        y = layers.Add()([layers.MultiHeadAttention(2, 6, attention_axes=(2,))(z, z), y])
        y = layers.Add()([_mlp(layers.LayerNormalization()(y), 24, 12), y])
    y = layers.Conv2D(8, 1, activation="swish")(layers.Reshape((8, 8, 12))(y))
    y = layers.Conv2D(12, 3, padding="same", activation="swish")(layers.Concatenate()([x, y]))
    return keras.Model(inputs, layers.Dense(4, activation="softmax")(layers.GlobalAveragePooling2D()(y)))


class Involution(layers.Layer):
    """A kernel for each position, made from it, shared by the channels of a group."""

    def __init__(self, channels, groups=2, size=3, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.groups, self.size = channels, groups, size
        self.reduce = keras.Sequential([layers.Conv2D(4, 1), layers.BatchNormalization(), layers.ReLU()])
        self.span = layers.Conv2D(size * size * groups, 1)

    def call(self, x):
        _, height, width, channels = x.shape
        taps = self.size * self.size
        kernel = ops.reshape(self.span(self.reduce(x)), (-1, height, width, taps, 1, self.groups))
        patches = ops.image.extract_patches(x, self.size, strides=1, padding="same")
        patches = ops.reshape(patches, (-1, height, width, taps, channels // self.groups, self.groups))
        return ops.reshape(ops.sum(kernel * patches, axis=3), (-1, height, width, channels))


@_functional
def involution():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    x = layers.MaxPooling2D()(layers.ReLU()(Involution(8, name="involution")(x)))
    x = layers.Flatten()(layers.Conv2D(6, 1, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(4)(layers.Dense(16, activation="relu")(x)))


class Orthogonal(keras.regularizers.Regularizer):
    def __init__(self, size, weight=1e-3):
        self.size, self.weight = size, weight

    def __call__(self, x):
        x = ops.reshape(x, (-1, self.size, self.size))
        return ops.sum(self.weight * ops.square(ops.einsum("bij,bkj->bik", x, x) - ops.eye(self.size)))


def _turned(x, size):
    y = layers.GlobalMaxPooling1D()(layers.Activation("relu")(layers.BatchNormalization()(layers.Conv1D(8, 1)(x))))
    y = layers.Dense(size * size)(layers.Dense(12, activation="relu")(y))
    return layers.Dot(axes=(2, 1))([x, layers.Reshape((size, size))(y)])


@_functional
def pointnet():
    inputs = keras.Input((20, 3))
    x = layers.Activation("relu")(layers.BatchNormalization(momentum=0.0)(layers.Conv1D(8, 1)(_turned(inputs, 3))))
    x = _turned(x, 8)
    for width in (12, 16):
        x = layers.Activation("relu")(layers.BatchNormalization(momentum=0.0)(layers.Conv1D(width, 1)(x)))
    x = layers.Dropout(0.3)(layers.Dense(12, activation="relu")(layers.GlobalMaxPooling1D()(x)))
    return keras.Model(inputs, layers.Dense(4, activation="softmax")(x))


@_functional
def segmentation_unet():
    inputs = keras.Input((16, 16, 3))
    x = layers.Activation("relu")(layers.BatchNormalization()(layers.Conv2D(8, 3, strides=2, padding="same")(inputs)))
    before = x
    for filters in (12, 16):
        for _ in range(2):
            x = layers.SeparableConv2D(filters, 3, padding="same")(layers.Activation("relu")(x))
            x = layers.BatchNormalization()(x)
        x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
        x = before = layers.add([x, layers.Conv2D(filters, 1, strides=2, padding="same")(before)])
    for filters in (16, 12, 8):
        for _ in range(2):
            x = layers.Conv2DTranspose(filters, 3, padding="same")(layers.Activation("relu")(x))
            x = layers.BatchNormalization()(x)
        x = layers.UpSampling2D(2)(x)
        x = before = layers.add([x, layers.Conv2D(filters, 1, padding="same")(layers.UpSampling2D(2)(before))])
    return keras.Model(inputs, layers.Conv2D(3, 3, activation="softmax", padding="same")(x))


@_functional
def deeplab():
    def block(x, filters=12, size=3, rate=1):
        x = layers.Conv2D(filters, size, dilation_rate=rate, padding="same", use_bias=False)(x)
        return ops.nn.relu(layers.BatchNormalization()(x))

    inputs = keras.Input((16, 16, 3))
    low = block(layers.Conv2D(8, 3, 2, "same")(inputs))
    x = layers.MaxPooling2D(2)(block(low, 16))
    pooled = block(layers.AveragePooling2D((4, 4))(x), size=1)
    parts = [layers.UpSampling2D((4, 4), interpolation="bilinear")(pooled)]
    parts += [block(x, size=1 if rate == 1 else 3, rate=rate) for rate in (1, 2)]
    x = block(layers.Concatenate()(parts), size=1)
    x = layers.UpSampling2D(2, interpolation="bilinear")(x)
    x = block(layers.Concatenate()([x, block(low, 6, 1)]))
    x = layers.UpSampling2D(2, interpolation="bilinear")(x)
    return keras.Model(inputs, layers.Conv2D(4, 1)(x))


class DepthToSpace(layers.Layer):
    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size = size

    def call(self, x):
        batch, height, width, depth = ops.shape(x)
        depth = depth // self.size**2
        x = ops.reshape(x, (batch, height, width, self.size, self.size, depth))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (batch, height * self.size, width * self.size, depth))


@_functional
def super_resolution():
    inputs = keras.Input((8, 8, 1))
    x = inputs
    for filters, size in ((12, 5), (12, 3), (8, 3)):
        x = layers.Conv2D(filters, size, padding="same", activation="relu")(x)
    x = DepthToSpace(2, name="up")(layers.Conv2D(16, 3, padding="same")(x))
    return keras.Model(inputs, layers.Conv2D(1, 3, padding="same")(x))


class Contrastive(keras.Model):
    """NNCLR: an encoder, a projection head, unit vectors; a queue that inference does not read."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.encoder = keras.Sequential(
            [layers.Conv2D(8, 3, 2, activation="relu"), layers.Conv2D(8, 3, 2, activation="relu"), layers.Flatten()]
        )
        self.projection = keras.Sequential([layers.Dense(12, activation="relu"), layers.Dense(8)])
        self.queue = self.add_weight(shape=(10, 8), trainable=False, name="queue")

    def call(self, x):
        return ops.normalize(self.projection(self.encoder(x)), axis=1)


@_add
def contrastive():
    model = Contrastive()
    model(np.zeros((1, 12, 12, 3), "float32"))
    return model, (None, 12, 12, 3)


class Distance(layers.Layer):
    def call(self, anchor, positive, negative):
        near = ops.sum(ops.square(anchor - positive), -1)
        return near, ops.sum(ops.square(anchor - negative), -1)


@_functional
def siamese():
    embedding = keras.Sequential(
        [layers.Conv2D(8, 3, activation="relu"), layers.MaxPooling2D(), layers.Flatten(), layers.Dense(12, "relu"),
         layers.BatchNormalization(), layers.Dense(6)], name="embedding",
    )  # fmt: skip
    inputs = [keras.Input((10, 10, 3), name=name) for name in ("anchor", "positive", "negative")]
    return keras.Model(inputs, Distance(name="distance")(*(embedding(x) for x in inputs)))


class EncodedPosition(layers.Layer):
    def __init__(self, steps=4, **kwargs):
        super().__init__(**kwargs)
        self.steps = steps

    def call(self, x):
        parts = [x]
        for i in range(self.steps):
            parts += [ops.sin(2.0**i * x), ops.cos(2.0**i * x)]
        return ops.concatenate(parts, axis=-1)


@_functional
def radiance_field():
    inputs = keras.Input((10, 3))
    x = rays = EncodedPosition(name="encoded")(inputs)
    for i in range(4):
        x = layers.Dense(16, activation="relu")(x)
        if i == 2:
            x = layers.concatenate([x, rays])
    return keras.Model(inputs, layers.Dense(4)(x))


@_functional
def zero_dce():
    inputs = keras.Input((8, 8, 3))
    conv = [layers.Conv2D(8, 3, activation="relu", padding="same", name=f"conv{i}") for i in range(4)]
    a = conv[0](inputs)
    b = conv[1](a)
    c = conv[2](layers.Concatenate()([b, conv[3](b)]))
    curves = layers.Conv2D(6, 3, activation="tanh", padding="same")(layers.Concatenate()([a, c]))
    x = inputs
    for i in range(2):
        x = x + curves[:, :, :, 3 * i : 3 * i + 3] * (ops.square(x) - x)
    return keras.Model(inputs, x)


class BagAttention(layers.Layer):
    """Attention over the images of a bag, with weights of its own."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width

    def build(self, shapes):
        width = shapes[0][-1]
        self.v = self.add_weight(shape=(width, self.width), name="v", regularizer="l2")
        self.u = self.add_weight(shape=(width, self.width), name="u")
        self.w = self.add_weight(shape=(self.width, 1), name="w")

    def call(self, inputs):
        scores = [self._score(x) for x in inputs]
        stacked = ops.softmax(ops.stack(scores), axis=0)
        return [stacked[i] for i in range(len(scores))]

    def _score(self, x):
        gate = ops.sigmoid(ops.tensordot(x, self.u, axes=1))
        return ops.tensordot(ops.tanh(ops.tensordot(x, self.v, axes=1)) * gate, self.w, axes=1)


@_functional
def multiple_instances():
    inputs = [keras.Input((6, 6)) for _ in range(3)]
    first, second = layers.Dense(12, activation="relu"), layers.Dense(8, activation="relu")
    embedded = [second(first(layers.Flatten()(x))) for x in inputs]
    weights = BagAttention(6, name="bag")(embedded)
    joined = layers.concatenate([layers.multiply([w, x]) for w, x in zip(weights, embedded, strict=True)])
    return keras.Model(inputs, layers.Dense(2, activation="softmax")(joined))


class RetinaHead(keras.Model):
    """A feature pyramid with a head that all its levels share."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.stages = [layers.Conv2D(n, 3, 2, "same", activation="relu") for n in (8, 12, 16)]
        self.sides = [layers.Conv2D(8, 1) for _ in range(2)]
        self.smooth = [layers.Conv2D(8, 3, padding="same") for _ in range(2)]
        self.up = layers.UpSampling2D(2)
        self.head = keras.Sequential(
            [keras.Input((None, None, 8)), layers.Conv2D(8, 3, padding="same", activation="relu"),
             layers.Conv2D(6, 3, padding="same")]
        )  # fmt: skip

    def call(self, x):
        a = self.stages[0](x)
        b = self.stages[1](a)
        small = self.sides[1](b)
        large = self.sides[0](a) + self.up(small)
        levels = [self.head(smooth(level)) for smooth, level in zip(self.smooth, (large, small), strict=True)]
        batch = ops.shape(x)[0]
        return ops.concatenate([ops.reshape(level, (batch, -1, 3)) for level in levels], axis=1)


@_add
def retinanet():
    model = RetinaHead()
    model(np.zeros((1, 16, 16, 3), "float32"))
    return model, (None, 16, 16, 3)


class Tubelets(layers.Layer):
    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.projection = layers.Conv3D(width, 2, 2)
        self.flatten = layers.Reshape((-1, width))

    def build(self, shape):
        count = int(np.prod([n // 2 for n in shape[1:4]]))
        self.positions = layers.Embedding(count, self.width)
        self.places = ops.arange(0, count, 1)

    def call(self, videos):
        x = self.flatten(self.projection(videos))
        return x + self.positions(self.places)


@_functional
def video_transformer():
    inputs = keras.Input((4, 8, 8, 1))
    x = Tubelets(12, name="tubelets")(inputs)
    y = layers.LayerNormalization(epsilon=1e-6)(x)
    x = layers.Add()([layers.MultiHeadAttention(2, 6)(y, y), x])
    y = layers.LayerNormalization(epsilon=1e-6)(x)
    x = layers.Add()([keras.Sequential([layers.Dense(24, "gelu"), layers.Dense(12, "gelu")])(y), x])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization(epsilon=1e-6)(x))
    return keras.Model(inputs, layers.Dense(4, activation="softmax")(x))


class TokenLearner(layers.Layer):
    """Few tokens for an image: weighted means, weights from convolutions."""

    def __init__(self, tokens=4, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.LayerNormalization()
        self.maps = keras.Sequential(
            [layers.Conv2D(8, 3, activation="gelu", padding="same"),
             layers.Conv2D(tokens, 3, activation="sigmoid", padding="same")]
        )  # fmt: skip
        self.tokens = tokens

    def call(self, x):
        _, height, width, channels = x.shape
        maps = ops.transpose(ops.reshape(self.maps(self.norm(x)), (-1, height * width, self.tokens)), (0, 2, 1))
        flat = ops.reshape(x, (-1, height * width, channels))
        return ops.mean(ops.expand_dims(maps, -1) * ops.expand_dims(flat, 1), axis=2)


@_functional
def token_learner():
    inputs = keras.Input((8, 8, 3))
    x = TokenLearner(name="learner")(layers.Conv2D(12, 3, padding="same", activation="relu")(inputs))
    x = layers.Add()([layers.MultiHeadAttention(2, 6)(x, x), x])
    return keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling1D()(x)))


class ShiftedPixels(layers.Layer):
    """ShiftViT: parts of the channels move by one pixel."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.LayerNormalization()
        self.mlp = keras.Sequential([layers.Dense(2 * width, "gelu"), layers.Dense(width)])

    def call(self, x):
        part = x.shape[-1] // 4
        left, right = x[..., :part], x[..., part : 2 * part]
        moved = [
            ops.pad(left[:, :, 1:], [[0, 0], [0, 0], [0, 1], [0, 0]]),
            ops.pad(right[:, :, :-1], [[0, 0], [0, 0], [1, 0], [0, 0]]),
            x[..., 2 * part :],
        ]
        x = ops.concatenate(moved, axis=-1)
        return x + self.mlp(self.norm(x))


@_functional
def shift_transformer():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(12, 2, 2)(inputs)
    x = ShiftedPixels(12, name="second")(ShiftedPixels(12, name="first")(x))
    return keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))
