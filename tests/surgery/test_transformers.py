"""Attention written by hand in every usual way, opened: heads, widths inside heads, feed-forward widths, blocks."""

import custom_layers
import keras
import numpy as np
import pytest
from keras import layers, ops
from oracle import assert_equal, assert_pruned_equals_masked

from tfstruct import analyze, surgery
from tfstruct.graph import groups, trace

LENGTH, WIDTH, HEADS, SHARED, SIZE = 6, 12, 4, 2, 5


class ByHand(layers.Layer):
    """Attention of `heads` heads of queries to `shared` ones of keys and values."""

    def __init__(self, heads=HEADS, shared=SHARED, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.shared = heads, shared

    def build(self, shape):
        self.query = layers.Dense(self.heads * SIZE, name="query")
        self.key = layers.Dense(self.shared * SIZE, use_bias=False, name="key")
        self.value = layers.Dense(self.shared * SIZE, name="value")
        self.out = layers.Dense(WIDTH, name="out")
        for layer in (self.query, self.key, self.value):
            layer.build(shape)
        self.out.build((*shape[:-1], self.heads * SIZE))

    def split(self, x, *sizes):
        return ops.reshape(x, (ops.shape(x)[0], LENGTH, *sizes))

    def call(self, x):
        return self.out(self.split(self.attended(self.query(x), self.key(x), self.value(x)), self.heads * SIZE))


class Repeated(ByHand):
    """Keys and values are repeated for the queries that share them."""

    def attended(self, query, key, value):
        query = self.split(query, self.heads, SIZE)
        key, value = (
            ops.repeat(self.split(x, self.shared, SIZE), self.heads // self.shared, axis=2) for x in (key, value)
        )
        scores = ops.softmax(ops.einsum("bthd,bshd->bhts", query, key) / np.sqrt(SIZE))
        return ops.einsum("bhts,bshd->bthd", scores, value)


class Grouped(ByHand):
    """Queries get an axis of groups."""

    def attended(self, query, key, value):
        query = self.split(query, self.shared, self.heads // self.shared, SIZE)
        key, value = self.split(key, self.shared, SIZE), self.split(value, self.shared, SIZE)
        scores = ops.softmax(ops.einsum("btkgd,bskd->bkgts", query, key) * SIZE**-0.5)
        return ops.einsum("bkgts,bskd->btkgd", scores, value)


class Broadcast(ByHand):
    """Products over an axis of size 1 of keys and values."""

    def attended(self, query, key, value):
        query = self.split(query, self.shared, self.heads // self.shared, SIZE)
        query = ops.transpose(query, (0, 2, 3, 1, 4))
        key, value = (ops.transpose(self.split(x, self.shared, 1, SIZE), (0, 2, 3, 1, 4)) for x in (key, value))
        scores = ops.softmax(ops.matmul(query, ops.swapaxes(key, -1, -2)) / SIZE**0.5)
        return ops.transpose(ops.matmul(scores, value), (0, 3, 1, 2, 4))


class MultiQuery(ByHand):
    """One head of keys and values for all."""

    def __init__(self, **kwargs):
        super().__init__(HEADS, 1, **kwargs)

    def attended(self, query, key, value):
        query = self.split(query, self.heads, SIZE)
        scores = ops.softmax(ops.einsum("bthd,bsd->bhts", query, key) / np.sqrt(SIZE))
        return ops.einsum("bhts,bsd->bthd", scores, value)


class Plain(Repeated):
    def __init__(self, **kwargs):
        super().__init__(HEADS, HEADS, **kwargs)


# By form: how many heads can go one by one.
FORMS = {Plain: 4, Repeated: 2, Grouped: 2, Broadcast: 2, MultiQuery: 4}


def transformer(form, blocks=1):
    inputs = keras.Input((LENGTH,), dtype="int32", name="ids")
    x = layers.Embedding(20, WIDTH, name="embed")(inputs)
    for i in range(blocks):
        x = layers.Add(name=f"attended{i}")([x, form(name=f"attention{i}")(layers.LayerNormalization()(x))])
        x = custom_layers.Feed(16, name=f"feed{i}")(x)
    model = keras.Model(inputs, layers.Dense(3, name="head")(layers.GlobalAveragePooling1D()(x)))
    return custom_layers.randomized(model)


IDS = np.random.default_rng(1).integers(0, 20, (5, LENGTH)).astype("int32")


@pytest.mark.parametrize("form", FORMS)
def test_heads_and_widths(form, tmp_path):
    keras.utils.set_random_seed(0)
    opened = surgery.open_layers(transformer(form)).model
    own = {}
    for group in groups(trace(opened)):
        for maker in group.makers:
            own.setdefault(maker, []).append(len(group.free))
    # Queries of one head of keys go together, and widths inside heads in all heads at once; those of keys and queries
    # are coupled, those of values are their own.
    heads = sorted([FORMS[form], SIZE])
    if form is Grouped or form is Broadcast:
        assert {FORMS[form], SIZE} <= set(own["attention0/query"])
    else:
        assert sorted(own["attention0/query"]) == heads
    assert SIZE in own["attention0/value"] and max(own["feed0/up"]) == 16
    assert max(own["embed"]) == WIDTH

    assert_pruned_equals_masked(opened, inputs=ops.convert_to_tensor(IDS))
    smaller = surgery.apply(opened, surgery.plan_channels(opened, "macs=50%"))
    smaller.save(tmp_path / "smaller.keras")
    loaded = keras.models.load_model(tmp_path / "smaller.keras")
    assert_equal([np.asarray(smaller(IDS))], [np.asarray(loaded(IDS))])


def test_depth_and_width_together():
    """As Minitron does: whole blocks by what they change, then heads and neurons by their activations."""
    keras.utils.set_random_seed(0)
    model = surgery.open_layers(transformer(Repeated, blocks=3)).model
    shallow = surgery.drop_blocks(model, IDS, count=2).model
    assert len(surgery.residual_blocks(shallow)) == 4
    plan = surgery.plan_channels(shallow, "macs=50%", "activation", data=IDS)
    gone = plan.removed
    assert {path.split("/")[-1] for path in gone} & {"query", "key", "value"} and any("feed" in path for path in gone)
    smaller = surgery.apply(shallow, plan)
    assert smaller.count_params() < shallow.count_params() < model.count_params()
    assert smaller(IDS).shape == (5, 3)


ATTENTION = {
    "all heads": (lambda: layers.MultiHeadAttention(4, 5, name="attention"), ("heads", "key_dim", "value_dim")),
    "grouped": (lambda: layers.GroupQueryAttention(5, 4, 2, name="attention"), ("heads", "head_dim")),
}


@pytest.mark.parametrize("criterion", ["activation", "apoz", "entropy"])
@pytest.mark.parametrize("kind", ATTENTION)
def test_heads_by_their_activations(kind, criterion):
    """Queries, keys and values are looked at inside of the layer: what is never large goes first."""
    make, what = ATTENTION[kind]
    inputs = keras.Input((LENGTH, 7))
    x = layers.Dense(8, name="before")(inputs)
    model = custom_layers.randomized(keras.Model(inputs, layers.Dense(2)(make()(x, x))))
    x = np.random.default_rng(0).normal(size=(12, LENGTH, 7)).astype("float32")
    found = analyze.importance(model, criterion, x).groups
    assert {f"attention.{one}" for one in what} <= set(found)
    assert all(np.isfinite(scores).all() for name, scores in found.items() if name.startswith("attention."))
    if criterion == "activation" and kind == "all heads":
        attention, h = model.get_layer("attention"), model.get_layer("before")(x)
        seen = [np.abs(attention._value_dense(h)).mean((0, 1, 2))]
        np.testing.assert_allclose(found["attention.value_dim"], seen[0], rtol=1e-5)
        dense = (attention._query_dense, attention._key_dense, attention._value_dense)
        heads = sum(np.abs(one(h)).mean((0, 1, 3)) for one in dense)
        np.testing.assert_allclose(found["attention.heads"], heads, rtol=1e-5)
