"""Architectures for text, sound and series as in Keras's published examples, small and in this project's own words.

`MODELS[name]()` builds one: the model, and the shapes that a subclassed one is opened with (None for others).
"""

import keras
import numpy as np
from keras import layers, ops
from published_registry import registry

MODELS, _add, _functional = registry()
WORDS = 30


def _built(model, *shapes, dtype="int32"):
    """A subclassed model that was called once, and what it is opened with."""
    dtypes = [dtype] * len(shapes) if isinstance(dtype, str) else dtype
    given = [np.zeros(shape, kind) for shape, kind in zip(shapes, dtypes, strict=True)]
    model(given if len(given) > 1 else given[0])
    specs = [keras.KerasTensor((None, *x.shape[1:]), x.dtype.name) for x in given]
    return model, specs if len(specs) > 1 else specs[0]


class TransformerBlock(layers.Layer):
    def __init__(self, width, heads, hidden, rate=0.1, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(heads, width // heads)
        self.ffn = keras.Sequential([layers.Dense(hidden, activation="relu"), layers.Dense(width)])
        self.norm1 = layers.LayerNormalization(epsilon=1e-6)
        self.norm2 = layers.LayerNormalization(epsilon=1e-6)
        self.drop1, self.drop2 = layers.Dropout(rate), layers.Dropout(rate)

    def call(self, x, training=None):
        x = self.norm1(x + self.drop1(self.attention(x, x), training=training))
        return self.norm2(x + self.drop2(self.ffn(x), training=training))


class TokenAndPosition(layers.Layer):
    def __init__(self, length, words, width, **kwargs):
        super().__init__(**kwargs)
        self.tokens = layers.Embedding(words, width)
        self.places = layers.Embedding(length, width)

    def call(self, x):
        return self.tokens(x) + self.places(ops.arange(0, ops.shape(x)[-1], 1))


@_functional
def text_transformer():
    inputs = keras.Input((10,), dtype="int32")
    x = TransformerBlock(16, 2, 24, name="block")(TokenAndPosition(10, WORDS, 16, name="embed")(inputs))
    x = layers.Dropout(0.1)(layers.GlobalAveragePooling1D()(x))
    x = layers.Dropout(0.1)(layers.Dense(20, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(2, activation="softmax")(x))


class EntityModel(keras.Model):
    def __init__(self, tags=5, **kwargs):
        super().__init__(**kwargs)
        self.embed = TokenAndPosition(12, WORDS, 16)
        self.block = TransformerBlock(16, 2, 24)
        self.drop1, self.drop2 = layers.Dropout(0.1), layers.Dropout(0.1)
        self.ff, self.head = layers.Dense(20, activation="relu"), layers.Dense(tags, activation="softmax")

    def call(self, x, training=False):
        x = self.drop1(self.block(self.embed(x), training=training), training=training)
        return self.head(self.drop2(self.ff(x), training=training))


@_add
def named_entities():
    return _built(EntityModel(), (1, 12))


def _seq2seq(kind, states):
    source, target = keras.Input((7, 9)), keras.Input((6, 8))
    _, *state = kind(16, return_state=True)(source)
    assert len(state) == states
    x, *_ = kind(16, return_sequences=True, return_state=True)(target, initial_state=state)
    return keras.Model([source, target], layers.Dense(8, activation="softmax")(x))


@_functional
def characters_lstm():
    return _seq2seq(layers.LSTM, 2)


@_functional
def translation_gru():
    source, target = keras.Input((7,), dtype="int32"), keras.Input((6,), dtype="int32")
    x = layers.Embedding(WORDS, 12, mask_zero=True)(source)
    x = layers.Bidirectional(layers.GRU(14), merge_mode="sum")(x)
    y = layers.Embedding(WORDS, 12, mask_zero=True)(target)
    y = layers.GRU(14, return_sequences=True)(y, initial_state=x)
    return keras.Model([source, target], layers.Dense(WORDS, activation="softmax")(layers.Dropout(0.5)(y)))


class PositionalEmbedding(layers.Layer):
    def __init__(self, length, words, width, **kwargs):
        super().__init__(**kwargs)
        self.tokens = layers.Embedding(words, width)
        self.places = layers.Embedding(length, width)

    def call(self, x):
        return self.tokens(x) + self.places(ops.arange(0, ops.shape(x)[-1], 1))

    def compute_mask(self, inputs, mask=None):
        return ops.not_equal(inputs, 0)


class Encoder(layers.Layer):
    def __init__(self, width, hidden, heads, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(heads, width)
        self.dense = keras.Sequential([layers.Dense(hidden, activation="relu"), layers.Dense(width)])
        self.norms = [layers.LayerNormalization(), layers.LayerNormalization()]
        self.supports_masking = True

    def call(self, inputs, mask=None):
        padding = None if mask is None else ops.cast(mask[:, None, :], "int32")
        x = self.norms[0](inputs + self.attention(inputs, inputs, attention_mask=padding))
        return self.norms[1](x + self.dense(x))


class Decoder(layers.Layer):
    def __init__(self, width, hidden, heads, **kwargs):
        super().__init__(**kwargs)
        self.attention = [layers.MultiHeadAttention(heads, width) for _ in range(2)]
        self.dense = keras.Sequential([layers.Dense(hidden, activation="relu"), layers.Dense(width)])
        self.norms = [layers.LayerNormalization() for _ in range(3)]
        self.supports_masking = True

    def call(self, inputs, mask=None):
        inputs, encoded = inputs
        inputs_mask, encoded_mask = (None, None) if mask is None else mask
        x = self.attention[0](inputs, inputs, attention_mask=self.causal(inputs), query_mask=inputs_mask)
        x = self.norms[0](inputs + x)
        y = self.attention[1](x, encoded, query_mask=inputs_mask, key_mask=encoded_mask)
        x = self.norms[1](x + y)
        return self.norms[2](x + self.dense(x))

    def causal(self, inputs):
        batch, length = ops.shape(inputs)[0], ops.shape(inputs)[1]
        mask = ops.cast(ops.arange(length)[:, None] >= ops.arange(length), "int32")
        mask = ops.reshape(mask, (1, length, length))
        return ops.tile(mask, [batch, 1, 1])


@_functional
def translation_transformer():
    source, target = keras.Input((7,), dtype="int32"), keras.Input((6,), dtype="int32")
    encoded = Encoder(12, 20, 2, name="encoder")(PositionalEmbedding(7, WORDS, 12, name="source")(source))
    x = PositionalEmbedding(6, WORDS, 12, name="target")(target)
    x = layers.Dropout(0.5)(Decoder(12, 20, 2, name="decoder")([x, encoded]))
    return keras.Model([source, target], layers.Dense(WORDS, activation="softmax")(x))


class CausalBlock(layers.Layer):
    def __init__(self, width, heads, hidden, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(heads, width)
        self.ffn = keras.Sequential([layers.Dense(hidden, activation="relu"), layers.Dense(width)])
        self.norms = [layers.LayerNormalization(epsilon=1e-6) for _ in range(2)]
        self.drops = [layers.Dropout(0.1) for _ in range(2)]

    def call(self, x):
        length = x.shape[1]
        rows, columns = np.arange(length)[:, None], np.arange(length)
        mask = np.broadcast_to(rows >= columns, (1, length, length))
        y = self.norms[0](x + self.drops[0](self.attention(x, x, attention_mask=mask)))
        return self.norms[1](y + self.drops[1](self.ffn(y)))


@_functional
def miniature_gpt():
    inputs = keras.Input((10,), dtype="int32")
    x = CausalBlock(12, 2, 20, name="block")(TokenAndPosition(10, WORDS, 12, name="embed")(inputs))
    return keras.Model(inputs, [layers.Dense(WORDS, name="logits")(x), x])


class Router(layers.Layer):
    def __init__(self, experts, **kwargs):
        super().__init__(**kwargs)
        self.experts, self.route = experts, layers.Dense(experts)

    def call(self, x):
        scores = ops.softmax(self.route(x), axis=-1)
        gate, which = ops.top_k(scores, k=1)
        return ops.one_hot(ops.squeeze(which, axis=-1), self.experts) * gate


class Switch(layers.Layer):
    """Every expert runs; the router's choice weighs them."""

    def __init__(self, experts, hidden, width, **kwargs):
        super().__init__(**kwargs)
        self.router = Router(experts)
        self.experts = [
            keras.Sequential([layers.Dense(hidden, activation="relu"), layers.Dense(width)]) for _ in range(experts)
        ]

    def call(self, x):
        gates = self.router(x)
        results = ops.stack([expert(x) for expert in self.experts], axis=-2)
        return ops.sum(results * ops.expand_dims(gates, -1), axis=-2)


class SwitchBlock(layers.Layer):
    def __init__(self, width, heads, **kwargs):
        super().__init__(**kwargs)
        self.attention, self.ffn = layers.MultiHeadAttention(heads, width), Switch(3, 16, width)
        self.norms = [layers.LayerNormalization(epsilon=1e-6) for _ in range(2)]

    def call(self, x):
        x = self.norms[0](x + self.attention(x, x))
        return self.norms[1](x + self.ffn(x))


@_functional
def switch_transformer():
    inputs = keras.Input((8,), dtype="int32")
    x = SwitchBlock(12, 2, name="block")(TokenAndPosition(8, WORDS, 12, name="embed")(inputs))
    x = layers.Dense(20, activation="relu")(layers.GlobalAveragePooling1D()(x))
    return keras.Model(inputs, layers.Dense(2, activation="softmax")(x))


@_functional
def word_vectors_cnn():
    inputs = keras.Input((24,), dtype="int32")
    x = layers.Embedding(WORDS, 12, trainable=False)(inputs)
    for _ in range(2):
        x = layers.MaxPooling1D(2)(layers.Conv1D(12, 3, activation="relu")(x))
    x = layers.GlobalMaxPooling1D()(layers.Conv1D(12, 3, activation="relu")(x))
    x = layers.Dropout(0.5)(layers.Dense(12, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(4, activation="softmax")(x))


@_functional
def bidirectional_lstm():
    inputs = keras.Input((9,), dtype="int32")
    x = layers.Embedding(WORDS, 12)(inputs)
    x = layers.Bidirectional(layers.LSTM(8, return_sequences=True))(x)
    return keras.Model(inputs, layers.Dense(1, activation="sigmoid")(layers.Bidirectional(layers.LSTM(8))(x)))


@_functional
def memory_network():
    story, question = keras.Input((10,), dtype="int32"), keras.Input((5,), dtype="int32")
    memory = layers.Dropout(0.3)(layers.Embedding(WORDS, 12)(story))
    answers = layers.Dropout(0.3)(layers.Embedding(WORDS, 5)(story))
    asked = layers.Dropout(0.3)(layers.Embedding(WORDS, 12)(question))
    match = layers.Activation("softmax")(layers.dot([memory, asked], axes=(2, 2)))
    response = layers.Permute((2, 1))(layers.add([match, answers]))
    x = layers.Dropout(0.3)(layers.LSTM(12)(layers.concatenate([response, asked])))
    return keras.Model([story, question], layers.Dense(WORDS, activation="softmax")(x))


class MaskedLanguage(keras.Model):
    """An encoder whose logits come from its own table of words."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.words = layers.Embedding(WORDS, 12)
        self.places = layers.Embedding(10, 12)
        self.blocks = [TransformerBlock(12, 2, 20) for _ in range(2)]
        self.bias = self.add_weight(shape=(WORDS,), initializer="zeros", name="bias")

    def call(self, ids):
        x = self.words(ids) + self.places(ops.arange(10))
        for block in self.blocks:
            x = block(x)
        return ops.matmul(x, ops.transpose(self.words.embeddings)) + self.bias


@_add
def masked_language():
    return _built(MaskedLanguage(), (1, 10))


@_functional
def speech_ctc():
    inputs = keras.Input((20, 9))
    x = layers.Reshape((20, 9, 1))(inputs)
    for filters, strides in ((6, (2, 2)), (6, (1, 2))):
        x = layers.Conv2D(filters, (5, 3), strides=strides, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Reshape((-1, x.shape[-2] * x.shape[-1]))(x)
    for i in range(2):
        gru = layers.GRU(10, return_sequences=True, reset_after=True, name=f"gru{i}")
        x = layers.Bidirectional(gru, name=f"both{i}")(x)
        x = layers.Dropout(0.5)(x) if i == 0 else x
    x = layers.Dropout(0.5)(layers.ReLU()(layers.Dense(20)(x)))
    return keras.Model(inputs, layers.Dense(11, activation="softmax")(x))


@_functional
def captcha_ctc():
    inputs = keras.Input((16, 8, 1))
    x = layers.Conv2D(8, 3, activation="relu", padding="same")(inputs)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Reshape((8, 32))(layers.Conv2D(8, 3, activation="relu", padding="same")(x))
    x = layers.Dropout(0.2)(layers.Dense(16, activation="relu")(x))
    x = layers.Bidirectional(layers.LSTM(10, return_sequences=True, dropout=0.2))(x)
    return keras.Model(inputs, layers.Dense(12, activation="softmax")(x))


@_functional
def speaker():
    def block(x, filters, count):
        s = layers.Conv1D(filters, 1, padding="same")(x)
        for _ in range(count - 1):
            x = layers.Activation("relu")(layers.Conv1D(filters, 3, padding="same")(x))
        x = layers.Conv1D(filters, 3, padding="same")(x)
        x = layers.Activation("relu")(layers.Add()([x, s]))
        return layers.MaxPooling1D(pool_size=2, strides=2)(x)

    inputs = keras.Input((32, 1))
    x = block(block(block(inputs, 8, 2), 12, 2), 16, 3)
    x = layers.Flatten()(layers.AveragePooling1D(pool_size=3, strides=3, padding="same")(x))
    x = layers.Dense(16, activation="relu")(layers.Dense(24, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(4, activation="softmax")(x))


class SpeechTransformer(keras.Model):
    """Convolutions over sound, an encoder, and a decoder of characters."""

    def __init__(self, width=12, **kwargs):
        super().__init__(**kwargs)
        self.convolutions = [layers.Conv1D(width, 5, 2, "same", activation="relu") for _ in range(2)]
        self.encoder = TransformerBlock(width, 2, 20)
        self.embed = TokenAndPosition(6, WORDS, width)
        self.own, self.cross = layers.MultiHeadAttention(2, width), layers.MultiHeadAttention(2, width)
        self.norms = [layers.LayerNormalization(epsilon=1e-6) for _ in range(3)]
        self.ffn = keras.Sequential([layers.Dense(20, activation="relu"), layers.Dense(width)])
        self.head = layers.Dense(WORDS)

    def call(self, inputs):
        sound, text = inputs
        for layer in self.convolutions:
            sound = layer(sound)
        sound = self.encoder(sound)
        x = self.embed(ops.cast(text, "int32"))
        x = self.norms[0](x + self.own(x, x, use_causal_mask=True))
        x = self.norms[1](x + self.cross(x, sound))
        return self.head(self.norms[2](x + self.ffn(x)))


@_add
def speech_transformer():
    return _built(SpeechTransformer(), (1, 16, 5), (1, 6), dtype=("float32", "int32"))


@_functional
def weather_lstm():
    inputs = keras.Input((12, 7))
    return keras.Model(inputs, layers.Dense(1)(layers.LSTM(16)(inputs)))


@_functional
def series_transformer():
    inputs = keras.Input((16, 1))
    x = inputs
    for _ in range(2):
        y = layers.Dropout(0.2)(layers.MultiHeadAttention(2, 8, dropout=0.2)(x, x))
        res = layers.LayerNormalization(epsilon=1e-6)(y) + x
        y = layers.Dropout(0.2)(layers.Conv1D(4, 1, activation="relu")(res))
        x = layers.LayerNormalization(epsilon=1e-6)(layers.Conv1D(1, 1)(y)) + res
    x = layers.GlobalAveragePooling1D(data_format="channels_last")(layers.Conv1D(10, 3, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(2, activation="softmax")(layers.Dropout(0.4)(layers.Dense(12, "relu")(x))))


class GraphConv(layers.Layer):
    """Neighbours on a road network: a constant adjacency matrix, a weight of its own."""

    def __init__(self, adjacency, width, **kwargs):
        super().__init__(**kwargs)
        self.adjacency, self.width = adjacency, width

    def build(self, shape):
        self.weight = self.add_weight(shape=(shape[-1], self.width), name="weight")

    def call(self, x):
        nodes = ops.matmul(x, self.weight)
        around = ops.matmul(self.adjacency, nodes)
        return ops.relu(ops.concatenate([nodes, around], axis=-1))


class GraphLSTM(layers.Layer):
    def __init__(self, adjacency, width, horizon, **kwargs):
        super().__init__(**kwargs)
        self.convolution = GraphConv(adjacency, width)
        self.lstm, self.dense = layers.LSTM(12, activation="relu"), layers.Dense(horizon)
        self.horizon = horizon

    def call(self, x):
        x = self.convolution(x)
        batch, steps, nodes, width = ops.shape(x)
        x = ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (batch * nodes, steps, width))
        x = ops.reshape(self.dense(self.lstm(x)), (batch, nodes, self.horizon))
        return ops.transpose(x, (0, 2, 1))


@_functional
def traffic_graph():
    rng = np.random.default_rng(0)
    adjacency = (rng.random((5, 5)) < 0.5).astype("float32") + np.eye(5, dtype="float32")
    inputs = keras.Input((6, 5, 3))
    return keras.Model(inputs, GraphLSTM(adjacency / adjacency.sum(1, keepdims=True), 8, 3, name="graph")(inputs))


@_functional
def anomaly_autoencoder():
    inputs = keras.Input((32, 1))
    x = layers.Dropout(0.2)(layers.Conv1D(12, 7, padding="same", strides=2, activation="relu")(inputs))
    x = layers.Conv1D(8, 7, padding="same", strides=2, activation="relu")(x)
    x = layers.Dropout(0.2)(layers.Conv1DTranspose(8, 7, padding="same", strides=2, activation="relu")(x))
    x = layers.Conv1DTranspose(12, 7, padding="same", strides=2, activation="relu")(x)
    return keras.Model(inputs, layers.Conv1DTranspose(1, 7, padding="same")(x))


@_functional
def series_cnn():
    inputs = keras.Input((20, 1))
    x = inputs
    for _ in range(3):
        x = layers.ReLU()(layers.BatchNormalization()(layers.Conv1D(12, 3, padding="same")(x)))
    return keras.Model(inputs, layers.Dense(2, activation="softmax")(layers.GlobalAveragePooling1D()(x)))


class GroupedQueries(layers.Layer):
    """Causal attention by hand: rotary positions, two heads of queries to each of keys and values."""

    def __init__(self, heads=4, shared=2, size=6, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.shared, self.size = heads, shared, size

    def build(self, shape):
        width = shape[-1]
        self.query = layers.EinsumDense("btd,dhk->bthk", (None, self.heads, self.size), name="query")
        self.key = layers.EinsumDense("btd,dhk->bthk", (None, self.shared, self.size), name="key")
        self.value = layers.EinsumDense("btd,dhk->bthk", (None, self.shared, self.size), name="value")
        self.out = layers.EinsumDense("bthk,hkd->btd", (None, width), name="out")
        for layer in (self.query, self.key, self.value):
            layer.build(shape)
        self.out.build((*shape[:-1], self.heads, self.size))

    def call(self, x):
        length = x.shape[1]
        key, value = (ops.repeat(layer(x), self.heads // self.shared, axis=2) for layer in (self.key, self.value))
        scores = ops.einsum("bthk,bshk->bhts", self.query(x), key) / np.sqrt(self.size)
        scores = ops.where(np.tril(np.ones((length, length), bool)), scores, -1e9)
        return self.out(ops.einsum("bhts,bshk->bthk", ops.softmax(scores), value))


class GatedFeed(layers.Layer):
    def __init__(self, hidden, **kwargs):
        super().__init__(**kwargs)
        self.hidden = hidden

    def build(self, shape):
        self.gate = layers.Dense(self.hidden, activation="silu", use_bias=False, name="gate")
        self.up = layers.Dense(self.hidden, use_bias=False, name="up")
        self.down = layers.Dense(shape[-1], use_bias=False, name="down")
        self.gate.build(shape)
        self.up.build(shape)
        self.down.build((*shape[:-1], self.hidden))

    def call(self, x):
        return self.down(self.gate(x) * self.up(x))


class LanguageModel(keras.Model):
    """A decoder of today's kind, pre-norm, with a mean over positions at its end."""

    def __init__(self, width=12, blocks=2, **kwargs):
        super().__init__(**kwargs)
        self.embed = layers.Embedding(WORDS, width)
        self.norms = [layers.RMSNormalization() for _ in range(2 * blocks)]
        self.attention = [GroupedQueries() for _ in range(blocks)]
        self.feed = [GatedFeed(20) for _ in range(blocks)]
        self.last, self.head = layers.RMSNormalization(), layers.Dense(WORDS)

    def call(self, ids):
        x = self.embed(ids)
        for i, (attention, feed) in enumerate(zip(self.attention, self.feed, strict=True)):
            x = x + attention(self.norms[2 * i](x))
            x = x + feed(self.norms[2 * i + 1](x))
        return self.head(self.last(x))


@_add
def grouped_query_decoder():
    return _built(LanguageModel(), (1, 8))
