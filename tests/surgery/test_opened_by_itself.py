"""Custom layers are opened where they would be walls: by every call that looks at channels or at work inside."""

import contextlib
import json

import custom_layers
import keras
import numpy as np
import pytest
import tensorflow as tf
from oracle import assert_equal

import tfstruct
from tfstruct import analyze, callbacks, surgery
from tfstruct.analyze.masking import masked
from tfstruct.errors import ArgumentError, EmptyPlanError, ModelError, PlanError
from tfstruct.graph import open_and_trace, trace
from tfstruct.graph.opening import by_itself
from tfstruct.schedules import PolynomialRatio
from tfstruct.surgery.grow.bottlenecks import Finding
from tfstruct.surgery.pruning.plan import units_of

# Without statistics over channels, which a mask leaves in.
PLAIN = ("own variables", "attention", "class token", "squeeze", "two outputs", "tied", "nested model")


def arrays(outputs) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(x) for x in keras.tree.flatten(outputs)]


def test_time_distributed_counts_every_step():
    inner = keras.Sequential([keras.Input((8,)), keras.layers.Dense(5)])
    model = keras.Model(x := keras.Input((4, 8)), keras.layers.TimeDistributed(inner, name="each")(x))
    costs = tfstruct.profile(model)
    assert costs.macs == 4 * 40 and costs.opened == ("each",)


class Windows(keras.layers.Layer):
    """Windows of 2 x 2 as samples, as Swin has them."""

    def build(self, shape):
        self.mix = keras.layers.Dense(5, name="mix")
        self.mix.build((None, 4, shape[-1]))

    def call(self, x):
        height, width, channels = x.shape[1:]
        x = keras.ops.reshape(x, (-1, height // 2, 2, width // 2, 2, channels))
        x = keras.ops.reshape(keras.ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, 4, channels))
        weights = keras.ops.softmax(keras.ops.matmul(x, keras.ops.transpose(x, (0, 2, 1))))
        x = keras.ops.matmul(weights, self.mix(x))
        x = keras.ops.reshape(x, (-1, height // 2, width // 2, 2, 2, 5))
        return keras.ops.reshape(keras.ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, height, width, 5))


def test_what_is_folded_into_the_batch_counts_for_each_sample():
    x = keras.Input((8, 4, 3))
    model = keras.Model(x, keras.layers.Conv2D(2, 1, name="head")(Windows(name="windows")(x)))
    found = tfstruct.profile(model)
    assert found.opened == ("windows",)
    # 8 windows of 4 positions: scores and sums of 4 x 4, a dense layer at each position; then 32 positions.
    assert found.macs == 8 * (4 * 4 * 3 + 4 * 3 * 5 + 4 * 4 * 5) + 32 * 5 * 2
    by_path = {row.path: row for row in found.rows}
    assert by_path["windows/mix"].macs == 32 * 3 * 5
    assert by_path["windows/mix"].activation_bytes == 32 * 5 * 4
    # 32 positions of 5 beside the scores of 8 windows.
    assert found.peak_activation_bytes == 4 * max(32 * 3 + 32 * 5 + 8 * 16, 8 * 16 + 2 * 32 * 5)


@pytest.mark.parametrize("name", custom_layers.OPENED)
@pytest.mark.sweep(5)
def test_planned_applied_saved_and_loaded(name, tmp_path):
    model = custom_layers.build(name)
    x = custom_layers.inputs_of(model)
    before = [w.numpy() for w in model.weights]
    shape = x.shape[1:]  # some leave sizes open
    costs = tfstruct.profile(model, shape)
    assert costs.params == model.count_params() and costs.opened and not costs.opaque and not costs.inside
    plan = tfstruct.plan_channels(model, 0.4, input_shape=shape)
    assert plan.opened == costs.opened and plan.before["macs"] == costs.macs
    plan = tfstruct.Plan.from_json(plan.to_json())
    smaller = tfstruct.apply(model, plan)
    assert smaller.count_params() == plan.after["params"] < model.count_params()
    assert tfstruct.profile(smaller, shape).macs == plan.after["macs"] < costs.macs
    # A plan for the model as it was opened by the user is one for the model, and the other way round.
    opened = surgery.open_layers(model).model
    assert surgery.apply(opened, plan).count_params() == smaller.count_params()
    theirs = tfstruct.plan_channels(opened, 0.4, input_shape=shape)
    assert theirs.keep == plan.keep and not theirs.opened
    assert_equal(arrays(smaller(x)), arrays(tfstruct.apply(model, theirs)(x)))
    smaller.save(tmp_path / "smaller.keras")
    loaded = keras.models.load_model(
        tmp_path / "smaller.keras", custom_objects={"DropPath": custom_layers.DropPath} if name == "drop path" else {}
    )
    assert_equal(arrays(smaller(x)), arrays(loaded(x)))
    assert all(np.array_equal(a, w) for a, w in zip(before, model.weights, strict=True))
    if name in PLAIN:
        graph = open_and_trace(model)
        with masked(graph, units_of(graph, plan)):
            expected = arrays(model(x))  # of the user's own model
        assert_equal(expected, arrays(smaller(x)))


def _pruned(model, x, **options):
    model.compile("sgd", "mse")
    callback = callbacks.PruneChannels(0.4, frequency=1, **options)
    y = model(x)
    model.fit(x, y, epochs=2, verbose=0, batch_size=2, callbacks=[callback])
    zeros = arrays(model(x))
    shrunk = surgery.shrink(model, **options)
    assert_equal(zeros, arrays(shrunk.model(x)))
    assert shrunk.model.count_params() < model.count_params()
    return callback.report


def _sensitivity(model, x, **options):
    return analyze.sensitivity(model, (x, np.asarray(model(x))), metric="loss", loss="mse", ratios=(0.5,), **options)


def _threshold(model, x, **options):
    y = np.asarray(model(x))
    return analyze.choose_threshold(model, (x, y), folds=2, loss="mse", thresholds=3, **options)


# What each finds inside of "block", as its report says it.
ENTRIES = {
    "profile": (lambda m, x, **o: tfstruct.profile(m, **o), "rows"),
    "explain": (lambda m, x, **o: tfstruct.explain(m, **o), "groups"),
    "plan_channels": (lambda m, x, **o: tfstruct.plan_channels(m, 0.4, **o), "keep"),
    "importance": (lambda m, x, **o: analyze.importance(m, **o), "groups"),
    "sensitivity": (_sensitivity, "groups"),
    "choose_threshold": (_threshold, None),
    "shrink": (lambda m, x, **o: surgery.shrink(m, **o).report, None),
    "optimize_inference": (lambda m, x, **o: surgery.optimize_inference(m, **o).report, "changes"),
    "remove_redundant": (lambda m, x, **o: surgery.remove_redundant(m, **o).report, "changes"),
    "fold_batch_norm": (lambda m, x, **o: surgery.fold_batch_norm(m, **o).report, None),
    "merge_linear": (lambda m, x, **o: surgery.merge_linear(m, **o).report, None),
    "merge_parallel": (lambda m, x, **o: surgery.merge_parallel(m, **o).report, None),
    "fuse_activation": (lambda m, x, **o: surgery.fuse_activation(m, **o).report, None),
    "factorize": (lambda m, x, **o: surgery.factorize(m, rank=2, **o).report, "changes"),
    "drop_blocks": (lambda m, x, **o: surgery.drop_blocks(m, x, count=1, **o).report, "changes"),
    "widen": (lambda m, x, **o: surgery.widen(m, "block/up", 14, **o).report, "changes"),
    "deepen": (lambda m, x, **o: surgery.deepen(m, "block/up", **o).report, "changes"),
    "analyze_bottlenecks": (lambda m, x, **o: surgery.analyze_bottlenecks(m, x, **o), "layers"),
    "PruneChannels": (_pruned, "groups"),
}


COMPARED = {"shrink", "optimize_inference", "PruneChannels", "widen", "deepen", "factorize", "drop_blocks"}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.sweep(6)
def test_each_entry_opens_and_says_so(entry):
    call, where = ENTRIES[entry]
    # With random numbers no two models are equal.
    closed = () if entry in COMPARED else (custom_layers.Noisy(name="noisy"),)
    model = custom_layers.randomized(custom_layers._vector(custom_layers.Feed(name="block"), *closed))
    report = call(model, custom_layers.inputs_of(model))
    assert report.opened == ("block",)
    if where is not None:
        assert "block/" in str(getattr(report, where))
    for form in (str(report), report.to_html(), report.to_markdown()):
        assert "opened: block" in form
    if closed:
        assert list(report.opaque) == ["noisy"] and "custom_layers.py" in report.opaque["noisy"]
        assert "stays closed: noisy: it draws random numbers itself" in str(report)
        assert "opens if its `call` computes with Keras layers" in str(report)
    data = json.loads(report.to_json())
    assert data["opened"] == ["block"] and data["opaque"] == dict(report.opaque)


@pytest.mark.parametrize("entry", [name for name in ENTRIES if name not in ("widen", "deepen", "drop_blocks")])
@pytest.mark.sweep(5)
def test_walls_stay_where_they_are_asked_for(entry, monkeypatch):
    call, where = ENTRIES[entry]
    free = (keras.layers.Dense(9, name="free"), keras.layers.Dense(8, name="after"))
    model = custom_layers.randomized(custom_layers._vector(*free, custom_layers.Feed(name="block")))

    def never(model):
        raise AssertionError("it was recorded")

    monkeypatch.setattr(by_itself, "open_model", never)
    report = call(model, custom_layers.inputs_of(model), open_layers=False)
    assert (report.opened, report.opaque) == ((), {}) and "opened:" not in str(report)
    if where is not None:
        assert "block/" not in str(getattr(report, where))
    with pytest.raises(ArgumentError, match="`open_layers` must be 'auto'"):
        call(model, custom_layers.inputs_of(model), open_layers="never")


def test_a_plan_with_walls_is_applied_with_walls():
    model = custom_layers._vector(
        keras.layers.Dense(9, name="free"), keras.layers.Dense(8, name="after"), custom_layers.Scaled(8, name="block")
    )
    smaller = tfstruct.apply(model, tfstruct.plan_channels(model, 0.5, open_layers=False))
    assert type(smaller.get_layer("block")) is custom_layers.Scaled
    smaller = tfstruct.apply(model, tfstruct.plan_channels(model, 0.5, exclude=["free"]))
    assert isinstance(smaller.get_layer("block"), keras.Model) and smaller.get_layer("free").units == 9
    with pytest.raises(PlanError, match="layers or shapes differ"):
        tfstruct.apply(model, tfstruct.plan_channels(model, 0.5), open_layers=False)


def test_layers_are_named_as_before():
    model = custom_layers.build("nested")
    plan = tfstruct.plan_channels(model, 0.4, exclude=["block/first"], min_channels={"block/second/up": 9})
    assert not [path for path in plan.removed if path.startswith("block/first/up")]
    assert len(plan.keep["block/second/up"]) == 9 and "block/last" in str(plan.removed)


@pytest.mark.parametrize(("edit", "target"), [("prune", 7), ("widen", 14), ("delete", ("block/drop",))])
def test_findings_inside_are_applied(edit, target):
    model = custom_layers.build("sublayers")
    layer = "block/drop" if edit == "delete" else "block/up"
    made = Finding(layer, "found", 1.0, "why", edit, "advice", target).apply(model).model
    widths = {path: len(labels) for path, labels in trace(made).makes.items()}
    assert widths["block/up"] == (12 if edit == "delete" else target) and widths["first"] == 8
    assert ("block/drop" in {call.path for call in trace(made).calls}) == (edit != "delete")


def test_why_a_closed_layer_holds_channels():
    model = custom_layers._vector(custom_layers.Noisy(name="noisy"))
    (row, _) = tfstruct.explain(model).groups
    assert "no rule knows the layer Noisy (noisy), which cannot be opened: it draws random numbers" in row.reason
    with pytest.raises(EmptyPlanError, match="which cannot be opened: it draws random numbers itself"):
        tfstruct.plan_channels(model, 0.5)


def test_plans_of_files_are_checked():
    data = tfstruct.plan_channels(custom_layers.build("sublayers"), 0.5).to_dict()
    for wrong in ({"opened": "block"}, {"opened": [1]}, {"opaque": {"block": 1}}, {"opaque": ["block"]}):
        with pytest.raises(PlanError, match=f"`{next(iter(wrong))}` of a plan must"):
            tfstruct.Plan.from_dict({**data, **wrong})


@pytest.mark.parametrize("entry", [tfstruct.profile, tfstruct.explain, surgery.shrink, surgery.open_layers])
def test_a_subclassed_model_is_told_the_two_lines(entry):
    model = custom_layers.Subclassed(name="net")
    with pytest.raises(ModelError, match=r"inputs=\(None, 224, 224, 3\)"):
        entry(model)
    model(np.zeros((1, 8, 8, 3), "float32"))
    with pytest.raises(ModelError) as caught:
        entry(model)
    _, first, second = str(caught.value).splitlines()
    names = {"tfstruct": tfstruct, "model": model}
    exec(first.strip(), names)
    exec(second.strip(), names)
    assert [spec.shape for spec in names["model"].inputs] == [(None, 8, 8, 3)]


@pytest.mark.parametrize("how", ["mirrored", "float16", "behind a twin", "loop"])
@pytest.mark.sweep(2)
def test_channels_inside_go_while_training(how):
    """The user's own model trains; `shrink` opens it for what comes of it."""
    keras.utils.set_random_seed(0)
    scope = tf.distribute.MirroredStrategy(["CPU:0"]).scope() if how == "mirrored" else contextlib.nullcontext()
    if how == "float16":
        keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        with scope:
            model = custom_layers.build("sublayers")
            model.compile("sgd", "mse")
    finally:
        keras.mixed_precision.set_global_policy("float32")
    x = custom_layers.inputs_of(model, batch=8)
    y = np.zeros((8, 3), "float32")
    schedule = PolynomialRatio(0.0, 0.5, begin=0, end=3)
    prune = callbacks.PruneChannels(0.4, schedule, frequency=1)
    if how == "loop":
        optimizer = keras.optimizers.SGD(0.01)
        prune.attach(model)

        @tf.function
        def step():
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
            optimizer.apply_gradients(
                zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True)
            )

        for _ in range(4):
            step()
            prune.step()
        prune.finish()
    else:
        before = [callbacks.QuantizeAware()] if how == "behind a twin" else []
        model.fit(x, y, batch_size=4, epochs=2, verbose=0, callbacks=[*before, prune])
    assert prune.report.opened == ("block",) and not prune.report.opaque
    assert "block/up" in [row.name for row in prune.report.groups]
    assert type(model.get_layer("block")) is custom_layers.Feed
    found = surgery.shrink(model)
    assert set(found.removed) == {"block/up"} and found.opened == ("block",)
    np.testing.assert_allclose(model(x), found.model(x), atol=2e-2 if how == "float16" else 1e-5)


@pytest.mark.parametrize("opened", [False, True])
def test_a_plan_fits_the_model_from_its_own_file(opened, tmp_path):
    inputs = keras.Input((7,))  # without a name, Keras gives another one when it loads
    x = keras.layers.Dense(8, activation="relu", name="first")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3, name="head")(custom_layers.Scaled(10, name="block")(x)))
    model = surgery.open_layers(model).model if opened else model
    plan = tfstruct.plan_channels(model, 0.5)
    model.save(tmp_path / "model.keras")
    smaller = surgery.apply(keras.models.load_model(tmp_path / "model.keras"), plan)
    x = custom_layers.inputs_of(model)
    np.testing.assert_allclose(smaller(x), surgery.apply(model, plan)(x), atol=1e-6)
