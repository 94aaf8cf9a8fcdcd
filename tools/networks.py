"""Networks of the benchmarks, as large as those that they are named after, with random weights."""

import keras

layers = keras.layers


def clone(model: keras.Model) -> keras.Model:
    """What a user does without tfstruct to have a model once more."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def chain(count: int) -> keras.Model:
    """`count` layers: residual blocks of two convolutions, batch norm, activation and addition, and a head."""
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 1)(x)
    for _ in range((count - 3) // 5):
        y = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 1)(x)))
        x = layers.Add()([x, layers.Conv2D(8, 1)(y)])
    return keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))


def _blocks(x, depth: int, width: int):
    for _ in range(depth):
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        x = layers.Add()([x, layers.MultiHeadAttention(width // 64, 64)(y, y)])
        y = layers.Dense(4 * width, activation="gelu")(layers.LayerNormalization(epsilon=1e-6)(x))
        x = layers.Add()([x, layers.Dense(width)(y)])
    return layers.GlobalAveragePooling1D()(layers.LayerNormalization(epsilon=1e-6)(x))


def vit() -> keras.Model:
    """Of the size of ViT-B/16: 86 million parameters."""
    inputs = keras.Input((224, 224, 3))
    x = layers.Reshape((196, 768))(layers.Conv2D(768, 16, 16)(inputs))
    return keras.Model(inputs, layers.Dense(1000)(_blocks(x, 12, 768)))


def encoder(depth: int = 12, width: int = 768, words: int = 30_522) -> keras.Model:
    """A transformer encoder, by default of the size of BERT-base: 108 million parameters."""
    inputs = keras.Input((128,), dtype="int32")
    x = layers.LayerNormalization()(layers.Embedding(words, width)(inputs))
    return keras.Model(inputs, layers.Dense(2)(_blocks(x, depth, width)))


class Block(layers.Layer):
    """One of a transformer, as a user writes it, with a product of its own."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = (layers.LayerNormalization(epsilon=1e-6) for _ in range(2))
        self.attention = layers.MultiHeadAttention(width // 32, 32)
        self.narrow = layers.Dense(width)

    def build(self, shape):
        self.wide = self.add_weight(shape=(shape[-1], 4 * shape[-1]), name="wide")
        self.first.build(shape)
        self.second.build(shape)
        self.attention.build(shape, shape)
        self.narrow.build((*shape[:-1], 4 * shape[-1]))

    def call(self, x):
        y = self.first(x)
        x = x + self.attention(y, y)
        return x + self.narrow(keras.ops.gelu(keras.ops.matmul(self.second(x), self.wide)))


def custom_encoder(depth: int, width: int, words: int = 1000) -> keras.Model:
    """A transformer encoder of custom layers on 64 words."""
    inputs = keras.Input((64,), dtype="int32")
    x = layers.Embedding(words, width)(inputs)
    for _ in range(depth):
        x = Block(width)(x)
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling1D()(x)))


def text_encoder() -> keras.Model:
    """Four blocks of 256 on 64 words: small enough to convert in seconds."""
    inputs = keras.Input((64,), dtype="int32")
    x = layers.Embedding(1000, 256)(inputs)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(_blocks(x, 4, 256)))


def resnet8() -> keras.Model:
    """That of MLPerf Tiny, for images of 32 x 32."""
    x = inputs = keras.Input((32, 32, 3))
    for stage, width in enumerate((16, 16, 32, 64)):
        stride = 2 if stage > 1 else 1
        y = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(width, 3, stride, padding="same")(x)))
        if stage:
            y = layers.BatchNormalization()(layers.Conv2D(width, 3, padding="same")(y))
            x = x if stride == 1 else layers.Conv2D(width, 1, stride, padding="same")(x)
            y = layers.ReLU()(layers.Add()([x, y]))
        x = y
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))
