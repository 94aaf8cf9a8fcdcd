"""Attention: heads, the widths inside them, and the channels of the result."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from rule_cases import assert_held, assert_shrinks, groups_of

WIDTHS = ("attention.heads", "attention.key_dim", "attention.value_dim")


def head(x):
    return layers.Dense(2, name="head")(x)


def before(shape=(6, 5), width=9):
    inputs = keras.Input(shape)
    return inputs, layers.Dense(width, name="before")(inputs)


FORMS = {
    "plain": {}, "value": {"value_dim": 5}, "output": {"output_shape": 11}, "bare": {"use_bias": False},
    "dropout": {"dropout": 0.1}, "gate": {"use_gate": True}, "window": {"sliding_window": 2},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_self_attention(form):
    inputs, x = before()
    y = layers.MultiHeadAttention(5, 7, **FORMS[form], name="attention")(x, x)
    _, _, smaller = assert_shrinks(inputs, head(y), "before", "attention", *WIDTHS)
    made = smaller.get_layer("attention")
    assert made.num_heads == 3
    assert made.key_dim == 4


def test_residual_attention_keeps_the_width_of_its_query():
    inputs, x = before()
    y = layers.Add()([x, layers.MultiHeadAttention(4, 6, name="attention")(x, x)])
    model, _, smaller = assert_shrinks(inputs, head(y), "before", *WIDTHS)
    assert "attention" in groups_of(model, "before")[0].makers
    assert smaller.get_layer("attention").get_config()["output_shape"] is None


def test_cross_attention_with_a_key_of_its_own():
    a, b, c = keras.Input((6, 5)), keras.Input((7, 4)), keras.Input((7, 3))
    q, v, k = (layers.Dense(n, name=name)(x) for n, name, x in ((8, "q", a), (9, "v", b), (10, "k", c)))
    x = layers.MultiHeadAttention(4, 6, value_dim=5, name="attention")(query=q, value=v, key=k, use_causal_mask=True)
    assert_shrinks([a, b, c], head(x), "q", "v", "k", "attention", *WIDTHS)


def test_scores_carry_heads():
    inputs, x = before()
    y, scores = layers.MultiHeadAttention(5, 4, name="attention")(x, x, return_attention_scores=True)
    z = layers.Conv2D(3, 1, name="conv")(ops.transpose(scores, (0, 2, 3, 1)))
    assert_shrinks(inputs, [head(y), layers.Dense(2)(z)], "attention", *WIDTHS)


def test_over_two_axes():
    inputs = keras.Input((3, 4, 5))
    x = layers.Dense(8, name="before")(inputs)
    y = layers.MultiHeadAttention(4, 6, attention_axes=(1, 2), name="attention")(x, x)
    z = layers.MultiHeadAttention(4, 6, attention_axes=(2,), name="rows")(y, y)
    assert_shrinks(inputs, head(z), "before", "attention", *WIDTHS, "rows.heads", "rows.key_dim")


def test_result_of_two_axes_stays():
    inputs, x = before()
    y = layers.MultiHeadAttention(4, 6, output_shape=(3, 2), name="attention")(x, x)
    assert_shrinks(inputs, layers.Dense(2)(y), "before", *WIDTHS)


@pytest.mark.parametrize("kind", ["tensor", "constant"])
def test_masks(kind):
    inputs, x = before()
    causal = np.tril(np.ones((1, 6, 6), bool))
    mask = causal if kind == "constant" else ops.greater(ops.matmul(inputs, ops.swapaxes(inputs, 1, 2)), -9.0)
    y = layers.MultiHeadAttention(4, 6, name="attention")(x, x, attention_mask=mask)
    assert_shrinks(inputs, head(y), "before", *WIDTHS)


def test_a_mask_for_each_head_holds_them():
    inputs, x = before()
    mask = np.random.default_rng(0).random((1, 4, 6, 6)) < 0.7
    y = layers.MultiHeadAttention(4, 6, name="attention")(x, x, attention_mask=mask)
    assert_held(inputs, head(y), "attention.heads", "mask for each head")
    assert_shrinks(inputs, head(y), "attention.key_dim")


def test_padding_masks():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(9, 8, mask_zero=True, name="embed")(inputs)
    x = layers.MultiHeadAttention(4, 6, name="attention")(x, x)
    ids = np.array([[1, 2, 3, 0, 0, 0], [4, 5, 6, 7, 8, 1]], "int32")
    assert_shrinks(inputs, head(ops.sum(x, axis=1)), "embed", "attention", *WIDTHS, x=ids)


def test_shared_attention():
    a, b = keras.Input((6, 5)), keras.Input((6, 5))
    shared = layers.MultiHeadAttention(4, 6, output_shape=8, name="attention")
    assert_shrinks([a, b], head(layers.Add()([shared(a, b), shared(b, a)])), "attention", *WIDTHS)


def test_in_a_nested_model_called_twice():
    block_in = keras.Input((6, 9))
    y = layers.MultiHeadAttention(4, 6, name="attention")(block_in, block_in)
    block = keras.Model(block_in, layers.Add()([block_in, y]), name="block")
    inputs, x = before()
    assert_shrinks(inputs, head(block(block(x))), "before", *(f"block/{name}" for name in WIDTHS))


def test_positions_stay():
    """The channels of a channels-first tensor, attended over, are positions."""
    inputs = keras.Input((6, 5))
    x = layers.Permute((2, 1))(layers.Dense(9, name="before")(inputs))
    y = layers.MultiHeadAttention(4, 6, name="attention")(x, x)
    assert_held(inputs, head(y), "before", "compares its positions")


def test_cost_of_self_attention():
    inputs, x = before()
    model = keras.Model(inputs, layers.MultiHeadAttention(4, 6, value_dim=3, name="attention")(x, x))
    from tfstruct import graph as graphs

    (call,) = (c for c in graphs.trace(model).calls if c.path == "attention")
    macs = sum(f * np.prod([len(x) for x in labels]) for f, labels in call.costs)
    t, d, h, k, v = 6, 9, 4, 6, 3
    assert macs == 2 * t * d * h * k + t * d * h * v + t * t * h * (k + v) + t * h * v * d


GROUPED = {"plain": {}, "gate": {"use_gate": True}, "bare": {"use_bias": False}, "window": {"sliding_window": 2}}


@pytest.mark.parametrize("form", GROUPED)
def test_grouped_queries(form):
    inputs, x = before()
    y = layers.GroupQueryAttention(7, 8, 4, **GROUPED[form], name="attention")(x, x, use_causal_mask=form == "plain")
    _, _, smaller = assert_shrinks(inputs, head(y), "before", "attention.heads", "attention.head_dim")
    made = smaller.get_layer("attention")
    assert (made.num_query_heads, made.num_key_value_heads, made.head_dim) == (4, 2, 4)


def test_grouped_queries_across_with_scores():
    a, b = keras.Input((6, 5)), keras.Input((7, 4))
    q, v = layers.Dense(8, name="q")(a), layers.Dense(8, name="v")(b)
    y, scores = layers.GroupQueryAttention(5, 6, 3, name="attention")(q, v, return_attention_scores=True)
    z = layers.Dense(2)(ops.transpose(scores, (0, 2, 3, 1)))
    assert_shrinks([a, b], [head(y), z], "q", "v", "attention.heads", "attention.head_dim")


SIMPLE = {
    "dot": lambda: layers.Attention(), "scaled": lambda: layers.Attention(use_scale=True),
    "concat": lambda: layers.Attention(score_mode="concat", use_scale=True),
    "additive": lambda: layers.AdditiveAttention(), "additive bare": lambda: layers.AdditiveAttention(use_scale=False),
}  # fmt: skip


@pytest.mark.parametrize("name", SIMPLE)
def test_attention_layers(name):
    a, b = keras.Input((6, 5)), keras.Input((7, 4))
    q, k = layers.Dense(8, name="q")(a), layers.Dense(8, name="k")(b)
    v = layers.Dense(9, name="v")(b)
    model, _, _ = assert_shrinks([a, b], head(SIMPLE[name]()([q, v, k])), "q", "v")
    assert set(groups_of(model, "q")[0].makers) == {"q", "k"}


def test_attention_of_a_value_that_is_the_key():
    inputs = keras.Input((6, 5))
    q, v = layers.Dense(8, name="q")(inputs), layers.Dense(8, name="v")(inputs)
    y, scores = layers.Attention()([q, v], return_attention_scores=True, use_causal_mask=True)
    assert_shrinks(inputs, [head(y), layers.Dense(2)(scores)], "q")
