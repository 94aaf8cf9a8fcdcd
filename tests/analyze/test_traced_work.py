"""The work of layers that no rule knows: counted on what they trace to, or unknown by name; never 0 in silence."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo
from keras import layers, ops

import tfstruct
from tfstruct.analyze import Costs
from tfstruct.analyze.traced_work import traced_work
from tfstruct.errors import BudgetError, EmptyPlanError, ModelError
from tfstruct.graph import Call, trace
from tfstruct.graph.labels import Labels


def _whole(model):
    """A model as one operation of another one."""
    inputs = [keras.Input(batch_shape=x.shape, dtype=x.dtype) for x in model.inputs]
    outer = keras.Model(inputs, model(inputs if len(inputs) > 1 else inputs[0]))
    node = keras.tree.flatten(outer.outputs)[0]._keras_history.operation._inbound_nodes[-1]
    return Call(model, model.name, node, [], [x.shape for x in node.outputs], Labels(), {})


@pytest.mark.parametrize("name", [n for n in sorted(zoo.MODELS) if n not in ("subclassed", "several")])
def test_what_is_traced_is_what_the_rules_say(name):
    model = zoo.build(name)
    assert traced_work(_whole(model)).macs == Costs(trace(model), ("macs",))()["macs"]


class Own(layers.Layer):
    """8 -> 16 -> 16 -> 8, in a list and a dict; adds a loss and counts its calls."""

    def __init__(self, **options):
        super().__init__(**options)
        self.up = [layers.Dense(16, activation="relu"), layers.Dense(16)]
        self.ends = {"down": layers.Dense(8), "norm": layers.BatchNormalization()}

    def build(self, shape):
        for layer, width in zip((*self.up, *self.ends.values()), (8, 16, 16, 8), strict=True):
            layer.build((*shape[:-1], width))
        super().build(shape)

    def call(self, x, training=None):
        y = x
        for layer in self.up:
            y = layer(y)
        y = self.ends["norm"](self.ends["down"](y), training=training)
        self.add_loss(ops.mean(y))
        return x + y

    def compute_output_shape(self, shape):
        return shape


class Looped(layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.inner = layers.Dense(8)

    def build(self, shape):
        self.inner.build(shape)
        super().build(shape)

    def call(self, x):
        return ops.fori_loop(0, 5, lambda i, y: self.inner(y), x)


class Either(Looped):
    def call(self, x):
        return ops.cond(ops.sum(x) > 0, lambda: self.inner(x), lambda: self.inner(self.inner(x)))


class Until(Looped):
    def call(self, x):
        return ops.while_loop(lambda y: ops.sum(y) < 10, lambda y: (self.inner(y),), (x,))[0]


class Hidden(Looped):
    def call(self, x):
        return tf.ensure_shape(tf.numpy_function(lambda a: a, [self.inner(x)], tf.float32), x.shape)


class Cell(layers.Layer):
    state_size = 5

    def __init__(self, **options):
        super().__init__(**options)
        self.came, self.held = layers.Dense(5), layers.Dense(5)

    def call(self, x, states):
        state = self.came(x) + self.held(states[0])
        return state, [state]

    def build(self, shape):
        self.came.build(shape)
        self.held.build((None, 5))
        super().build(shape)


class Inner(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.dense = layers.Dense(6)

    def call(self, x):
        return self.dense(x)

    def build(self, shape):
        self.dense.build(shape)
        super().build(shape)

    def compute_output_shape(self, shape):
        return (*shape[:-1], 6)


def _inner():
    return keras.Sequential([keras.Input((8,)), layers.Dense(5)])


OWN = 8 * 16 + 16 * 16 + 16 * 8
COUNTED = {
    "own": ((8,), Own, OWN),
    "loop": ((8,), Looped, 5 * 64),
    "branches": ((8,), Either, 2 * 64),
    "cell": ((7, 3), lambda: layers.RNN(Cell()), 7 * (3 * 5 + 5 * 5)),
    "time_distributed": ((4, 8), lambda: layers.TimeDistributed(Own()), 4 * OWN),
    "time_distributed_model": ((4, 8), lambda: layers.TimeDistributed(_inner()), 4 * 40),
    "spectral": ((8, 8, 3), lambda: layers.SpectralNormalization(layers.Conv2D(4, 3)), 6 * 6 * 27 * 4),
    "subclassed": ((8,), Inner, 48),
    "lambda": ((4, 8), lambda: layers.Lambda(lambda x: tf.einsum("bij,bkj->bik", x, x)), 4 * 4 * 8),
    "grouped": ((6, 6, 4), lambda: layers.TimeDistributed(layers.Lambda(lambda x: x)), 0),
    "map_fn": ((6, 8), lambda: layers.Lambda(lambda x: tf.map_fn(lambda r: r @ tf.ones((8, 3)), x)), 6 * 24),
}


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("name", COUNTED)
def test_work_without_a_rule_is_counted_inside(name, batch):
    shape, make, macs = COUNTED[name]
    model = keras.Model(x := keras.Input(shape, batch_size=batch), layers.Flatten()(make()(x)))
    before = [w.numpy() for w in model.weights]
    made = tfstruct.profile(model)
    assert (made.macs, made.unknown) == (macs, ())
    assert Costs(trace(model), ("macs",))()["macs"] == macs
    assert Costs(trace(model), ("params",))()["params"] == model.count_params()
    assert Costs(trace(model))()["peak_memory"] >= int(np.prod(shape))
    assert all(np.array_equal(a, w) for a, w in zip(before, model.weights, strict=True))
    assert not model.losses


@pytest.mark.parametrize(
    ("kind", "why"), [(Until, "a loop whose number of rounds"), (Hidden, "its operation .*PyFunc")]
)
def test_hidden_work_refuses_the_budget_and_names_the_layer(kind, why):
    x = layers.Dense(8)(inputs := keras.Input((8,)))
    model = keras.Model(inputs, layers.Dense(2)(layers.Dense(16)(kind(name="strange")(x))))
    with pytest.raises(BudgetError, match=f"no rule knows the work of `strange`: .*{why}"):
        tfstruct.plan_channels(model, {"macs": 0.9})
    plan = tfstruct.plan_channels(model, {"params": 0.8})
    assert set(plan.after) >= {"params"}
    assert "macs" not in plan.after
    with pytest.raises(ModelError, match="`strange`"):
        Costs(trace(model), ("macs",))()
    assert tfstruct.profile(model).unknown == ("strange",)


def test_open_sizes_inside_are_unknown_too():
    model = keras.Model(x := keras.Input((None, 8)), Own()(x))
    with pytest.raises(ModelError, match="sizes open"):
        tfstruct.profile(model)
    assert tfstruct.profile(model, (3, 8)).macs == 3 * OWN


def test_a_rule_that_says_nothing_of_the_work_does_not_hide_it():
    @tfstruct.graph.rule(Inner)
    def holds(call):
        call.freeze(call.input.axes[-1], "holds it")
        return call.untouched()[0]

    try:
        model = keras.Model(x := keras.Input((8,)), Inner()(x))
        assert tfstruct.profile(model).macs == 48
    finally:
        from tfstruct.graph.rules import registry

        del registry._RULES[Inner]


def test_a_budget_is_not_met_by_what_was_not_counted():
    x = Own(name="one")(inputs := keras.Input((8,)))
    model = keras.Model(inputs, layers.Dense(4)(layers.Dense(32, activation="relu")(x)))
    with pytest.raises(BudgetError, match=r"macs.*least reachable.*`one/dense") as caught:
        tfstruct.plan_channels(model, {"macs": 0.4}, open_layers=False)
    assert caught.value.least["macs"] == OWN + 8 + 4
    plan = tfstruct.plan_channels(model, {"macs": 0.8}, open_layers=False)
    assert plan.before["macs"] == OWN + 8 * 32 + 32 * 4
    assert tfstruct.profile(tfstruct.apply(model, plan)).macs == plan.after["macs"] <= 0.8 * plan.before["macs"]


WHOLE = {
    "own": (lambda: Own(name="w"), (4, 8), {"w/dense", "w/dense_1", "w/dense_2"}, "no rule knows the layer Own"),
    "time_distributed": (
        lambda: layers.TimeDistributed(Inner(name="in"), name="w"), (4, 8), {"w/in/dense"}, "w holds a model",
    ),
    "spectral": (
        lambda: layers.SpectralNormalization(layers.Dense(5, name="in"), name="w"),
        (4, 8), {"w/in"}, "a norm over all channels",
    ),
    "bidirectional": (
        lambda: layers.Bidirectional(layers.LSTM(3), backward_layer=layers.LSTM(4, go_backwards=True), name="w"),
        (4, 8), {"w/forward_lstm/lstm_cell", "w/lstm_1/lstm_cell"}, "two layers of different shapes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_explain_and_plan_list_what_stays_whole(name):
    keras.utils.clear_session()
    make, shape, paths, reason = WHOLE[name]
    y = make()(inputs := keras.Input(shape))
    y = layers.Dense(16, name="free")(layers.Flatten()(y))
    model = keras.Model(inputs, layers.Dense(2, name="end")(y))
    report = tfstruct.explain(model, open_layers=False)
    assert {path for path in report.whole if path.startswith("w")} >= paths
    assert all(reason in why for path, why in report.whole.items() if path.startswith("w"))
    assert report.whole["end"] == "the model's own output"
    assert all(path in str(report) for path in paths)
    plan = tfstruct.plan_channels(model, 0.5, open_layers=False)
    assert plan.whole == report.whole
    assert all(path in str(plan) for path in paths)
    assert tfstruct.Plan.from_json(plan.to_json()).whole == plan.whole


def test_a_plan_that_removes_nothing_is_an_error_that_says_why():
    model = keras.Model(x := keras.Input((8,)), layers.Dense(2, name="end")(Inner(name="in")(x)))
    with pytest.raises(
        EmptyPlanError, match=r"removes nothing.*none of its channels can go.*`in/dense.*`end`: the model's own"
    ):
        tfstruct.plan_channels(model, 0.5, open_layers=False)
    assert tfstruct.plan_channels(model, 0.5).removed == {"in/dense": 3}  # opened
    free = keras.Model(x := keras.Input((8,)), layers.Dense(2)(layers.Dense(8)(x)))
    with pytest.raises(EmptyPlanError, match=r"meets the budget as it is \(macs 80 of 100\)"):
        tfstruct.plan_channels(free, {"macs": 100})
    with pytest.raises(EmptyPlanError, match="no step is that small"):
        tfstruct.plan_channels(free, 0.3, round_to=8)
    with pytest.warns(UserWarning, match="removes nothing of .* score below the threshold"):
        assert tfstruct.plan_channels(free, threshold=0.0).removed == {}
