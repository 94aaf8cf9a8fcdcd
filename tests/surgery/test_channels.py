"""Planning and applying: budgets, options, plans as data, and the smaller model."""

import json

import keras
import numpy as np
import pytest
import zoo
from keras import layers
from oracle import masked_outputs
from sweeps import sweep

from tfstruct import budgets
from tfstruct import graph as graphs
from tfstruct.analyze import profile
from tfstruct.analyze.costs import Costs
from tfstruct.errors import BudgetError, ModelError, PlanError
from tfstruct.surgery import Plan, apply, plan_channels
from tfstruct.surgery.pruning.plan import units_of


def _net(width=16, bn=True):
    x = inputs = keras.Input((12, 12, 3), name="image")
    x = layers.Conv2D(width, 3, padding="same", name="stem")(x)
    for i in range(2):
        y = layers.Conv2D(2 * width, 1, name=f"wide{i}")(x)
        y = layers.BatchNormalization(name=f"bn{i}")(y) if bn else y
        y = layers.DepthwiseConv2D(3, padding="same", activation="relu", name=f"depthwise{i}")(y)
        y = layers.Conv2D(width, 1, name=f"narrow{i}")(y)
        x = layers.Add(name=f"add{i}")([x, y])
    x = layers.Concatenate(name="both")([x, layers.Conv2D(8, 1, name="side")(x)])
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    return zoo.randomise(keras.Model(inputs, layers.Dense(5, name="head")(x), name="net"))


@pytest.fixture(scope="module")
def net():
    return _net()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(4, 12, 12, 3)).astype("float32")


@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.parametrize(
    "budget",
    [{"macs": 0.5}, {"params": 0.3}, {"tflite_bytes": 0.7}, {"peak_memory": 0.6}, {"macs": 0.6, "params": 700}],
    ids=str,
)
def test_the_budget_is_met_and_one_step_fewer_would_not(net, budget, scope):
    plan = plan_channels(net, budget, scope=scope)
    limits = {name: budgets.absolute(name, limit, plan.before[name]) for name, limit in budget.items()}
    assert all(plan.after[name] <= limit for name, limit in limits.items())
    graph = graphs.trace(net)
    keep, costs = units_of(graph, plan), Costs(graph)
    assert {name: costs(keep)[name] for name in plan.after} == plan.after
    # Some channel given back breaks the budget.
    broken = []
    for unit in np.flatnonzero(~keep).tolist():
        larger = keep.copy()
        larger[unit] = True
        broken.append(any(costs(larger)[name] > limit for name, limit in limits.items()))
    assert any(broken)


def test_the_smaller_model_is_what_the_plan_says(net, images):
    plan = plan_channels(net, {"macs": 0.5})
    smaller = apply(net, plan)
    assert smaller.count_params() == plan.after["params"]
    for name, indices in plan.keep.items():
        layer = smaller.get_layer(name)
        assert len(indices) == (layer.units if name == "head" else layer.filters)
    graph = graphs.trace(net)
    (expected,) = masked_outputs(graph, units_of(graph, plan), images)
    np.testing.assert_allclose(smaller(images), expected, rtol=1e-5, atol=1e-6)
    assert [layer.name for layer in smaller.layers] == [layer.name for layer in net.layers]
    assert smaller.name == net.name
    assert [x.name for x in smaller.inputs] == [x.name for x in net.inputs]


def test_the_original_is_not_touched(net, images):
    before, weights = net(images).numpy(), net.get_weights()
    nodes = [len(layer._inbound_nodes) for layer in net.layers]
    apply(net, plan_channels(net, 0.5))
    np.testing.assert_array_equal(net(images), before)
    assert all((a == b).all() for a, b in zip(net.get_weights(), weights, strict=True))
    assert nodes == [len(layer._inbound_nodes) for layer in net.layers]


def test_a_share_goes_from_every_prunable_group(net):
    plan = plan_channels(net, 0.25)
    widths = {name: len(indices) for name, indices in plan.keep.items()}
    assert widths == {"stem": 12, "wide0": 24, "narrow0": 12, "wide1": 24, "narrow1": 12, "side": 6, "head": 5}


def test_the_least_important_channels_go():
    net = _net(bn=False)
    for name, axis in (("wide0", -1), ("depthwise0", -2)):
        kernel, bias = net.get_layer(name).get_weights()
        np.moveaxis(kernel, axis, 0)[[3, 7, 20]] *= 1e-3
        net.get_layer(name).set_weights([kernel, bias])
    plan = plan_channels(net, 3 / 32, max_ratio=0.1)
    assert set(range(32)) - set(plan.keep["wide0"]) == {3, 7, 20}


def test_widths_are_multiples(net):
    plan = plan_channels(net, {"macs": 0.5}, round_to=4)
    assert all(len(indices) % 4 == 0 for name, indices in plan.keep.items() if name != "head")
    plan = plan_channels(net, {"macs": 0.5}, round_to={"Conv2D": 8})
    assert {len(plan.keep[name]) for name in ("stem", "narrow0", "wide0", "wide1")} <= {8, 16, 24, 32}


def test_limits_hold(net):
    plan = plan_channels(net, 0.9, min_channels=6, max_ratio={"wide0": 0.25}, exclude="side")
    assert len(plan.keep["stem"]) == 6
    assert len(plan.keep["wide0"]) == 24
    assert len(plan.keep["side"]) == 8


def test_every_part_of_a_concatenation_keeps_a_channel():
    inputs = keras.Input((4, 4, 2))
    a, b = layers.Conv2D(4, 1, name="a")(inputs), layers.Conv2D(4, 1, name="b")(inputs)
    c = layers.Conv2D(8, 1, name="c")(inputs)
    x = layers.Add()([layers.Concatenate()([a, b]), c])
    model = zoo.randomise(keras.Model(inputs, layers.Conv2D(2, 1, name="out")(x)))
    model.get_layer("a").set_weights([w * 1e-6 for w in model.get_layer("a").get_weights()])
    plan = plan_channels(model, 0.8)
    assert len(plan.keep["a"]) >= 1
    assert len(plan.keep["b"]) >= 1
    assert apply(model, plan).count_params() < model.count_params()


def test_an_impossible_budget_says_the_least(net):
    with pytest.raises(BudgetError, match=r"params 10 \(least reachable: [\d,]+ of [\d,]+\)") as caught:
        plan_channels(net, {"params": 10})
    assert 10 < caught.value.least["params"] < net.count_params()


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (1.5, r"in \(0, 1\)"), (0, r"in \(0, 1\)"), ({}, "dict over"), ("half", "a share in"), (True, "a share in"),
        ({"flops": 0.5}, "flops"), ({"macs": -1}, "above 0"), ({"macs": "a lot"}, "a percentage"),
        ({"latency_us": 0.5}, "needs `latency=`"),
    ],
)  # fmt: skip
def test_a_bad_budget(net, budget, message):
    with pytest.raises(BudgetError, match=message):
        plan_channels(net, budget)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scope": "layer"}, "scope"), ({"round_to": 0}, "round_to"), ({"min_channels": 1.5}, "min_channels"),
        ({"max_ratio": 2}, "max_ratio"), ({"exclude": ["nonsense"]}, "nonsense"),
        ({"min_channels": {"nonsense": 2}}, "nonsense"), ({"max_ratio": {"nonsense": 0.5}}, "nonsense"),
        ({"round_to": {"Conv4D": 8}}, "Conv4D"),
    ],
)  # fmt: skip
def test_a_bad_option(net, options, message):
    with pytest.raises(PlanError, match=message):
        plan_channels(net, 0.5, **options)


def test_a_criterion_that_cannot_judge_a_layer_says_so(net):
    with pytest.raises(PlanError, match=r"cannot judge the channels of `stem` \(bn_scale"):
        plan_channels(net, 0.5, "bn_scale")
    plan = plan_channels(net, 0.5, "bn_scale", exclude=["stem", "side"])
    assert (len(plan.keep["stem"]), len(plan.keep["wide0"])) == (16, 16)


def test_a_subclassed_model_is_refused_with_the_reason():
    with pytest.raises(ModelError, match="its graph is hidden in its `call`"):
        plan_channels(zoo.build("subclassed"), 0.5)
    with pytest.raises(ModelError, match="has not been built"):
        plan_channels(keras.Sequential([layers.Dense(3)]), 0.5)


def test_a_plan_survives_json(net, tmp_path):
    plan = plan_channels(net, {"macs": 0.5})
    plan.save(tmp_path / "plan.json")
    again = Plan.load(tmp_path / "plan.json")
    assert again == plan
    assert json.loads(plan.to_json())["keep"] == plan.keep
    assert apply(net, again).count_params() == apply(net, plan).count_params()
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


def test_coupled_layers_follow_an_edited_plan(net):
    plan = plan_channels(net, 0.5)
    plan.keep["side"] = [0, 3]
    assert plan.edited
    assert "edited since" in str(plan)
    smaller = apply(net, plan)
    assert smaller.get_layer("side").filters == 2
    bias = net.get_layer("side").get_weights()[1]
    np.testing.assert_array_equal(smaller.get_layer("side").get_weights()[1], bias[[0, 3]])
    smaller = apply(net, Plan(plan.model, {"stem": plan.keep["stem"]}, plan.widths))
    assert smaller.get_layer("narrow1").filters == len(plan.keep["stem"])
    assert smaller.get_layer("wide0").filters == 32


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"nonsense": [0]}, "no layer of that name"),
        ({"stem": []}, "keeps no channel"),
        ({"stem": [0, 0]}, "different integers"),
        ({"stem": [0, 16]}, "different integers"),
        ({"stem": [0.5]}, "different integers"),
        ({"stem": [0, 1], "narrow0": [0, 2]}, "contradicts itself"),
        ({"head": [0]}, "the model's own output"),
    ],
)
def test_a_bad_plan(net, keep, message):
    plan = Plan(graphs.fingerprint(net), keep, {})
    with pytest.raises(PlanError, match=message):
        apply(net, plan)


def test_a_plan_for_another_model(net):
    with pytest.raises(PlanError, match="Plan again with this model"):
        apply(_net(width=8), plan_channels(net, 0.5))
    with pytest.raises(PlanError, match=r"Expected a tfstruct\.surgery\.Plan"):
        apply(net, {"stem": [0]})


def test_what_is_no_plan(tmp_path):
    with pytest.raises(PlanError, match="not a plan"):
        Plan.from_json("{")
    with pytest.raises(PlanError, match="not a plan"):
        Plan.from_json('{"format": 9}')
    with pytest.raises(PlanError, match="map names"):
        Plan.from_json('{"format": 1, "model": "a", "keep": [1], "widths": {}}')


def test_a_nested_model_is_entered(tmp_path):
    model = zoo.build("nested")
    plan = plan_channels(model, {"params": 0.8})
    assert "block/conv" in plan.keep
    smaller = apply(model, plan)
    assert len(plan.keep["block/conv"]) == smaller.get_layer("block").get_layer("conv").filters < 4
    smaller.save(tmp_path / "smaller.keras")
    x = zoo.sample_inputs(model, 2)
    np.testing.assert_allclose(keras.models.load_model(tmp_path / "smaller.keras")(x), smaller(x), rtol=1e-6)


def test_a_latency_budget_measures_models(net):
    measured = []

    def latency(model):
        measured.append(model.count_params())
        return model.count_params() / 10

    plan = plan_channels(net, {"latency_us": 0.5}, latency=latency)
    assert plan.after["latency_us"] <= 0.5 * plan.before["latency_us"]
    assert plan.after["latency_us"] == plan.after["params"] / 10
    assert len(measured) < 15
    assert len(measured) == len(set(measured))  # no model twice: a second measurement would say something else


OPTIMIZERS = ["SGD", "Adam", "RMSprop", "Lion", "AdamW", "Nadam", "Adagrad", "Adamax", "Adadelta", "Ftrl"]


def _trained(optimizer):
    inputs = keras.Input((6,))
    x = layers.BatchNormalization(name="bn")(layers.Dense(8, activation="relu", name="first")(inputs))
    model = keras.Model(inputs, layers.Dense(2, name="head")(layers.Dense(4, name="second")(x)))
    model.compile(optimizer, "mse", metrics=["mae"])
    rng = np.random.default_rng(1)
    data = rng.normal(size=(8, 6)).astype("float32"), rng.normal(size=(8, 2)).astype("float32")
    model.fit(*data, epochs=2, verbose=0)
    return model, data


@pytest.mark.parametrize("name", sweep(OPTIMIZERS, quick=["SGD", "Adam"]))
@pytest.mark.sweep(1)
def test_optimizer_slots_are_cut_like_their_weights(name):
    options = {"momentum": 0.9} if name in ("SGD", "RMSprop") else {}
    net, data = _trained(getattr(keras.optimizers, name)(0.01, **options))
    plan = plan_channels(net, 0.5)
    smaller = apply(net, plan, compiled=True)
    assert type(smaller.optimizer) is type(net.optimizer)
    assert int(smaller.optimizer.iterations) == int(net.optimizer.iterations) == 2
    old = {v.path: v.numpy() for v in net.optimizer.variables}
    new = {v.path: v.numpy() for v in smaller.optimizer.variables}
    slots = [path for path in old if "second" in path and "kernel" in path]
    assert slots
    for path in slots:
        np.testing.assert_array_equal(new[path], old[path][plan.keep["first"]][:, plan.keep["second"]])
    smaller.fit(*data, epochs=1, verbose=0)
    assert int(smaller.optimizer.iterations) == 3


def test_the_slots_inside_a_loss_scale_optimizer_come_along():
    net, _ = _trained(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), initial_scale=8.0))
    plan = plan_channels(net, 0.5)
    smaller = apply(net, plan, compiled=True)
    momentum = [v for v in net.optimizer.inner_optimizer.variables if "first_kernel_momentum" in v.path]
    cut = [v for v in smaller.optimizer.inner_optimizer.variables if "first_kernel_momentum" in v.path]
    assert momentum
    np.testing.assert_array_equal(cut[0], momentum[0].numpy()[:, plan.keep["first"]])
    assert float(smaller.optimizer.dynamic_scale) == 8.0


def test_compiled_state_that_cannot_come_along():
    net, _ = _trained(keras.optimizers.Adafactor(0.01))
    with pytest.raises(ModelError, match="Adafactor"):
        apply(net, plan_channels(net, 0.5), compiled=True)
    with pytest.raises(ModelError, match="not compiled"):
        apply(_net(width=4), plan_channels(_net(width=4), 0.5), compiled=True)


def test_a_class_of_the_users_is_named_when_it_is_lost():
    class Own(keras.Model):
        def __init__(self, inputs, outputs, extra, **kwargs):
            super().__init__(inputs, outputs, **kwargs)
            self.extra = extra

    inputs = keras.Input((4,))
    model = Own(inputs, layers.Dense(2)(layers.Dense(8, name="first")(inputs)), extra=3)
    with pytest.warns(UserWarning, match="Own, whose constructor takes more"):
        assert apply(model, plan_channels(model, 0.5)).get_layer("first").units == 4


@pytest.mark.parametrize("options", [{}, {"jit_compile": True}], ids=["plain", "jit"])
@pytest.mark.sweep(1)
def test_the_smaller_model_trains(net, images, options):
    smaller = apply(net, plan_channels(net, {"macs": 0.5}))
    smaller.compile(keras.optimizers.SGD(0.01), "mse", **options)
    losses = smaller.fit(images, np.zeros((4, 5), "float32"), epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_a_strategy_takes_the_smaller_model(images):
    import tensorflow as tf

    strategy = tf.distribute.MirroredStrategy(["/cpu:0"])
    with strategy.scope():
        net = _net(width=4)
        smaller = apply(net, plan_channels(net, 0.5))
        smaller.compile("sgd", "mse")
    assert np.isfinite(smaller.fit(images, np.zeros((4, 5), "float32"), verbose=0).history["loss"][0])


def test_a_tape_trains_the_smaller_model(images):
    import tensorflow as tf

    net = _net(width=4)
    smaller = apply(net, plan_channels(net, 0.5))
    optimizer = keras.optimizers.SGD(0.01)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(smaller(images, training=True) ** 2)
        weights = smaller.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return loss

    first = float(step())
    assert float(step()) < first


def test_mixed_precision_survives(images):
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        net = _net(width=4)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    smaller = apply(net, plan_channels(net, 0.5))
    assert smaller.get_layer("stem").compute_dtype == "float16"
    smaller.compile("sgd", "mse")
    assert np.isfinite(smaller.fit(images, np.zeros((4, 5), "float32"), verbose=0).history["loss"][0])


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "either `budget` or `threshold`. Received: budget=None, threshold=None"),
        ({"budget": 0.5, "threshold": 0.1}, "either `budget` or `threshold`"),
        ({"threshold": float("nan")}, "`threshold` must be a finite number. Received: nan"),
        ({"threshold": "low"}, "`threshold` must be a finite number"),
        ({"threshold": True}, "`threshold` must be a finite number"),
    ],
)
def test_a_budget_or_a_threshold(net, options, message):
    with pytest.raises(BudgetError, match=message):
        plan_channels(net, **options)


@pytest.mark.parametrize("nested", [False, True])
def test_open_sizes_are_planned_for_an_input_shape(nested):
    inner = keras.Sequential([keras.Input((None, None, 8)), layers.Conv2D(16, 1), layers.Conv2D(8, 1)])
    x = layers.Conv2D(8, 3, padding="same")(inputs := keras.Input((None, None, 3)))
    x = layers.Conv2D(8, 1)(inner(x) if nested else x)
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    with pytest.raises(ModelError, match="Give input_shape"):
        plan_channels(model, {"macs": 0.5})
    plan = plan_channels(model, {"macs": 0.5}, input_shape=(6, 6, 3))
    whole = 36 * (27 * 8 + 64 + (2 * 8 * 16 if nested else 0)) + 16
    assert plan.before["macs"] == whole
    smaller = apply(model, plan)
    assert profile(smaller, (6, 6, 3)).macs == plan.after["macs"] <= 0.5 * whole
    assert smaller.input_shape == model.input_shape


# Outputs that may change.


def _backbone():
    """A transformer that hands out its hidden states, and a mean of them."""
    inputs = keras.Input((6,), dtype="int32", name="ids")
    x = layers.Embedding(20, 12, name="embed")(inputs)
    for i in range(2):
        y = layers.MultiHeadAttention(3, 4, name=f"attention{i}")(x, x)
        x = layers.LayerNormalization(name=f"norm{i}")(layers.Add()([x, y]))
        y = layers.Dense(12, name=f"down{i}")(layers.Dense(24, "gelu", name=f"up{i}")(x))
        x = layers.LayerNormalization(name=f"last{i}")(layers.Add()([x, y]))
    return zoo.randomise(keras.Model(inputs, {"hidden": x, "pooled": layers.Dense(12, name="pooled")(x[:, 0])}))


def test_a_hidden_size_goes_where_its_output_is_named(tmp_path):
    model = _backbone()
    ids = np.random.default_rng(0).integers(0, 20, (5, 6)).astype("int32")
    assert plan_channels(model, "macs=70%").keep["embed"] == list(range(12))
    hidden = model.output_names[0]
    plan = plan_channels(model, "macs=40%", outputs=[hidden])
    kept = plan.keep["embed"]
    assert len(kept) < 12 and plan.outputs == {hidden: [12, len(kept)]}
    assert f"output {hidden}: width 12 -> {len(kept)}" in str(plan)
    plan.save(tmp_path / "plan.json")
    plan = Plan.load(tmp_path / "plan.json")
    smaller = apply(model, plan)
    graph = graphs.trace(model, resized=[hidden])
    expected = masked_outputs(graph, units_of(graph, plan), ids)
    got = smaller(ids)
    np.testing.assert_allclose(got["hidden"], np.asarray(expected[0])[..., kept], atol=1e-5)
    np.testing.assert_allclose(got["pooled"], expected[1], atol=1e-5)
    with pytest.raises(PlanError, match="names of outputs"):
        plan_channels(model, "macs=50%", outputs=["nothing"])
    with pytest.raises(PlanError, match="has to stay: the model's own output"):
        apply(model, Plan(plan.model, plan.keep, plan.widths))


def test_the_output_of_a_sequential_model_has_the_name_of_its_last_layer():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(9), layers.Dense(8, name="scores")])
    plan = plan_channels(model, 0.5, outputs=["scores"])
    assert plan.outputs == {"scores": [8, 4]} and apply(model, plan).output_shape == (None, 4)
    assert plan_channels(model, 0.5).outputs == {}
