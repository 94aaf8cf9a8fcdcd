"""Recurrent layers and the wrappers around them."""

import keras
import numpy as np
import pytest
from keras import layers
from rule_cases import assert_held, assert_shrinks, groups_of
from sweeps import sweep

KINDS = {
    "lstm": layers.LSTM, "gru": layers.GRU, "simple": layers.SimpleRNN,
    "gru before": lambda n, **k: layers.GRU(n, reset_after=False, **k),
    "lstm bare": lambda n, **k: layers.LSTM(n, use_bias=False, recurrent_dropout=0.2, **k),
    "simple sigmoid": lambda n, **k: layers.SimpleRNN(n, activation="sigmoid", **k),
    "lstm unrolled": lambda n, **k: layers.LSTM(n, activation="softplus", unroll=True, **k),
}  # fmt: skip


def head(x):
    return layers.Dense(2, name="head")(x)


# Each kind once, forwards and backwards in turn.
ROWS = [(kind, backwards) for kind in KINDS for backwards in (False, True)]


@pytest.mark.parametrize("kind, backwards", sweep(ROWS, quick=[(k, bool(i % 2)) for i, k in enumerate(KINDS)]))
def test_two_in_a_row(kind, backwards):
    inputs = keras.Input((5, 4))
    x = layers.Dense(6, name="before")(inputs)
    x = KINDS[kind](7, return_sequences=True, go_backwards=backwards, name="first")(x)
    x = KINDS[kind](6, name="second")(x)
    _, _, smaller = assert_shrinks(inputs, head(x), "before", "first", "second")
    assert smaller.get_layer("second").units < 6


@pytest.mark.parametrize("kind", ["lstm", "gru", "simple"])
def test_encoder_states_start_the_decoder(kind):
    source, target = keras.Input((5, 4)), keras.Input((3, 4))
    x, *states = KINDS[kind](8, return_state=True, name="encoder")(source)
    y = KINDS[kind](8, return_sequences=True, name="decoder")(target, initial_state=states)
    model, _, _ = assert_shrinks([source, target], [head(y), layers.Dense(3)(x)], "encoder", "decoder")
    assert set(groups_of(model, "encoder")[0].makers) == {"encoder", "decoder"}


def test_unknown_length_masking_and_an_embedding():
    inputs = keras.Input((None,), dtype="int32")
    x = layers.Embedding(9, 6, mask_zero=True, name="embed")(inputs)
    x = layers.LSTM(5, name="lstm")(x)
    ids = np.array([[1, 2, 3, 0], [4, 5, 0, 0]], "int32")
    assert_shrinks(inputs, head(x), "embed", "lstm", x=ids)


def test_stateful():
    inputs = keras.Input(batch_shape=(2, 5, 4))
    x = layers.LSTM(6, stateful=True, name="lstm")(inputs)
    model = keras.Model(inputs, head(x))
    from tfstruct import graph as graphs

    graph = graphs.trace(model)
    keep = np.ones(graph.units.count, bool)
    keep[groups_of(model, "lstm")[0].units[:2]] = False
    smaller, _ = graphs.rebuild(graph, keep)
    assert [tuple(v.shape) for v in smaller.get_layer("lstm").states] == [(2, 4), (2, 4)]


def test_a_constant_state_holds_the_units():
    inputs = keras.Input(batch_shape=(2, 5, 4))
    x = layers.GRU(6, name="gru")(inputs, initial_state=np.ones((2, 6), "float32"))
    assert_held(inputs, head(x), "gru", "constant state")


def test_an_activation_over_all_units_holds_them():
    inputs = keras.Input((5, 4))
    assert_held(inputs, head(layers.GRU(6, activation="softmax", name="gru")(inputs)), "gru", "over all units")


# Each kind and each mode.
BOTH_WAYS = [("lstm", "concat"), ("gru", "sum"), ("simple", "mul"), ("lstm", "ave"), ("gru", None)]
ALL_WAYS = [(kind, mode) for kind in ("lstm", "gru", "simple") for mode in ("concat", "sum", "mul", "ave", None)]


@pytest.mark.parametrize("kind, mode", sweep(ALL_WAYS, quick=BOTH_WAYS))
def test_bidirectional(kind, mode):
    inputs = keras.Input((5, 4))
    x = layers.Dense(6, name="before")(inputs)
    x = layers.Bidirectional(KINDS[kind](6, return_sequences=True), merge_mode=mode, name="both")(x)
    if mode is None:
        x = layers.Concatenate()([layers.Dense(3)(x[0]), layers.Dense(2)(x[1])])
    assert_shrinks(inputs, head(x), "before", "both.forward", "both.backward")


def test_bidirectional_of_two_kinds():
    inputs = keras.Input((5, 4))
    both = layers.Bidirectional(layers.LSTM(7), backward_layer=layers.GRU(7, go_backwards=True), name="both")
    _, _, smaller = assert_shrinks(inputs, head(both(inputs)), "both.forward", "both.backward")
    made = smaller.get_layer("both")
    assert (made.forward_layer.units, made.backward_layer.units) == (4, 4)


def test_bidirectional_of_two_sizes_is_held():
    """Keras itself says a wrong output shape for it."""
    inputs = keras.Input((5, 4))
    x = layers.Dense(6, name="before")(inputs)
    both = layers.Bidirectional(layers.LSTM(5), backward_layer=layers.LSTM(7, go_backwards=True), merge_mode=None)
    x, y = both(x)
    assert not groups_of(keras.Model(inputs, [x, y]), "before")[0].prunable


def test_bidirectional_states():
    inputs = keras.Input((5, 4))
    x, *states = layers.Bidirectional(layers.LSTM(6, return_state=True), name="both")(inputs)
    x = layers.Concatenate()([head(x), *(layers.Dense(2)(s) for s in states)])
    assert_shrinks(inputs, x, "both.forward", "both.backward", share=0.5)


def test_bidirectional_states_start_another():
    inputs = keras.Input((5, 4))
    _, *states = layers.Bidirectional(layers.LSTM(6, return_state=True), name="encoder")(inputs)
    x = layers.Bidirectional(layers.LSTM(6), name="decoder")(inputs, initial_state=states)
    model, _, _ = assert_shrinks(inputs, head(x), "encoder.forward", "decoder.backward")
    assert "decoder.forward" in groups_of(model, "encoder.forward")[0].makers


@pytest.mark.parametrize("cell", [layers.LSTMCell, layers.GRUCell, layers.SimpleRNNCell])
def test_rnn_of_a_cell(cell):
    inputs = keras.Input((5, 4))
    x = layers.RNN(cell(8), return_sequences=True, name="rnn")(inputs)
    assert_shrinks(inputs, head(x), "rnn")


def test_rnn_of_stacked_cells():
    inputs = keras.Input((5, 4))
    x = layers.RNN([layers.LSTMCell(8), layers.GRUCell(6), layers.SimpleRNNCell(5)], name="rnn")(inputs)
    assert_shrinks(inputs, head(x), "rnn.cell0", "rnn.cell1", "rnn.cell2")


@keras.saving.register_keras_serializable("tests.rules")
class OwnCell(layers.SimpleRNNCell):
    def call(self, inputs, states, training=False):
        output, states = super().call(inputs, states, training)
        return output[:, ::-1], states


def test_a_cell_of_its_own_is_held():
    inputs = keras.Input((5, 4))
    x = layers.Dense(6, name="before")(inputs)
    assert_held(inputs, head(layers.RNN(OwnCell(8))(x)), "before", "OwnCell")


CONV = {
    "1d": (layers.ConvLSTM1D, (3, 6, 4), {}), "2d": (layers.ConvLSTM2D, (3, 5, 6, 4), {}),
    "2d valid": (layers.ConvLSTM2D, (3, 5, 6, 4), {"padding": "valid", "strides": 2}),
    "3d": (layers.ConvLSTM3D, (2, 3, 4, 3, 4), {}),
}  # fmt: skip


@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("name", CONV)
def test_conv_lstm(name, sequences):
    kind, shape, given = CONV[name]
    inputs = keras.Input(shape)
    x = layers.Dense(5, name="before")(inputs)
    x = kind(6, 3, return_sequences=sequences, **{"padding": "same", **given}, name="conv")(x)
    assert_shrinks(inputs, head(x), "before", "conv")


def test_conv_lstm_states():
    inputs = keras.Input((3, 5, 6, 4))
    x, *states = layers.ConvLSTM2D(6, 3, padding="same", return_state=True, name="a")(inputs)
    y = layers.ConvLSTM2D(6, 3, padding="same", name="b")(inputs, initial_state=states)
    assert_shrinks(inputs, layers.Concatenate()([head(x), layers.Dense(3)(y)]), "a", "b")


INSIDE = {
    "dense": lambda: layers.Dense(7), "conv": lambda: layers.Conv2D(7, 3, padding="same"),
    "norm": lambda: layers.BatchNormalization(), "pool": lambda: layers.GlobalAveragePooling2D(),
    "flatten": lambda: layers.Flatten(), "dropout": lambda: layers.Dropout(0.3),
}  # fmt: skip


@pytest.mark.parametrize("name", INSIDE)
def test_time_distributed(name):
    inputs = keras.Input((3, 4, 5, 2))
    x = layers.Conv3D(6, 1, name="before")(inputs)
    x = layers.TimeDistributed(INSIDE[name](), name="each")(x)
    _, graph, _ = assert_shrinks(inputs, head(x), "before", *(["each"] if name in ("dense", "conv") else []))
    if name == "dense":
        (call,) = (c for c in graph.calls if c.path == "each")
        assert call.costs[0][0] == 3 * 4 * 5


def test_time_distributed_lstm_and_model():
    inputs = keras.Input((3, 4, 5))
    x = layers.TimeDistributed(layers.LSTM(7), name="each")(inputs)
    assert_shrinks(inputs, head(x), "each")
    inner = keras.Sequential([keras.Input((4, 6)), layers.Dense(3)])
    x = layers.Dense(6, name="before")(inputs)
    assert_held(inputs, head(layers.TimeDistributed(inner)(x)), "before", "a model")


def test_wrappers_inside_wrappers():
    inputs = keras.Input((3, 4, 5))
    x = layers.TimeDistributed(layers.TimeDistributed(layers.Dense(7)), name="each")(inputs)
    assert_shrinks(inputs, head(x), "each")
    x = layers.TimeDistributed(layers.Bidirectional(layers.LSTM(6)), name="both")(inputs)
    assert_shrinks(inputs, head(x), "both.forward", "both.backward")


def test_one_layer_for_two_inputs():
    a, b = keras.Input((5, 4)), keras.Input((7, 4))
    shared = layers.LSTM(6, name="lstm")
    assert_shrinks([a, b], head(layers.Subtract()([shared(a), shared(b)])), "lstm")


def test_in_a_nested_model():
    block_in = keras.Input((5, 6))
    block = keras.Model(block_in, layers.GRU(6, return_sequences=True, name="gru")(block_in), name="block")
    inputs = keras.Input((5, 4))
    x = block(block(layers.Dense(6, name="before")(inputs)))
    assert_shrinks(inputs, head(x), "before", "block/gru")
