"""Every criterion against NumPy on small models, and what must not change a score."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo
from keras import layers
from sweeps import sweep

from tfstruct.analyze import importance, unit_scores
from tfstruct.analyze.scores import criteria
from tfstruct.errors import DataError, ModelError
from tfstruct.graph import groups, trace

WITH_DATA = ("gradient", "gradient_abs", "hessian", "activation", "apoz", "entropy")


@pytest.fixture(scope="module")
def model():
    """conv -> bn -> relu -> depthwise -> flatten -> dense: one group of 4 channels."""
    x = inputs = keras.Input((5, 5, 2), name="image")
    x = layers.Conv2D(4, 3, name="conv")(x)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(x))
    x = layers.DepthwiseConv2D(2, use_bias=False, name="dw")(x)
    x = layers.Flatten(name="flat")(x)
    made = keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x), name="small")
    made.compile("sgd", "sparse_categorical_crossentropy")
    return zoo.randomise(made, 3)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(20, 5, 5, 2)).astype("float32"), rng.integers(0, 3, 20)


def _kernels(model):
    conv = model.get_layer("conv").kernel.numpy().astype(float)
    dw = model.get_layer("dw").kernel.numpy().astype(float)
    return conv.reshape(-1, 4).T, dw.reshape(-1, 4).T


def _scores(model, criterion, *args, **options):
    return importance(model, criterion, *args, **options).groups["conv"]


def test_l1_l2_by_numpy(model):
    conv, dw = _kernels(model)
    np.testing.assert_allclose(_scores(model, "l1"), np.abs(conv).sum(1) + np.abs(dw).sum(1))
    norms = np.linalg.norm(conv, axis=1), np.linalg.norm(dw, axis=1)
    np.testing.assert_allclose(_scores(model, "l2"), norms[0] + norms[1])
    np.testing.assert_allclose(_scores(model, "l2", reduction="mean"), (norms[0] + norms[1]) / 2)
    np.testing.assert_allclose(_scores(model, "l2", reduction="max"), np.maximum(*norms))
    np.testing.assert_allclose(_scores(model, "l2", reduction="product"), norms[0] * norms[1])


def test_normalizations(model):
    plain = _scores(model, "l2")
    for name, by in (("mean", plain.mean()), ("max", plain.max()), ("sum", plain.sum())):
        np.testing.assert_allclose(_scores(model, "l2", normalization=name), plain / by)
    standard = _scores(model, "l2", normalization="standard")
    np.testing.assert_allclose(standard, (plain - plain.mean()) / plain.std())


def test_geometric_median_by_numpy(model):
    expected = sum(np.linalg.norm(w[:, None] - w[None], axis=2).sum(1) for w in _kernels(model))
    np.testing.assert_allclose(_scores(model, "geometric_median"), expected)


def test_lamp_by_numpy(model):
    def lamp(w):
        energy = (w**2).sum(1)
        return np.array([e / energy[energy >= e].sum() for e in energy])

    np.testing.assert_allclose(_scores(model, "lamp"), sum(lamp(w) for w in _kernels(model)))
    assert _scores(model, "lamp", reduction="max").max() == pytest.approx(1)  # the largest of a layer


def test_sparsity_by_numpy(model):
    layer = model.get_layer("conv")
    before = layer.kernel.numpy()
    try:
        changed = before.copy()
        changed[..., 1] *= 0
        changed[0, :, :, 2] = 1e-6
        layer.kernel.assign(changed)
        np.testing.assert_allclose(_scores(model, "sparsity"), [2, 1, 1 + 2 / 3, 2])
    finally:
        layer.kernel.assign(before)


def test_bn_scale_is_gamma(model):
    np.testing.assert_allclose(_scores(model, "bn_scale"), np.abs(model.get_layer("bn").gamma.numpy()))


def test_a_function_gets_the_slot_and_one_row_a_channel(model):
    seen = []

    def largest(slot, rows):
        seen.append((slot.path, rows.shape))
        return rows.max(axis=1)

    conv, dw = _kernels(model)
    made = importance(model, largest)
    np.testing.assert_allclose(made.groups["conv"], conv.max(1) + dw.max(1))
    assert made.criterion == "largest"
    assert seen == [("conv", (4, 18)), ("dw", (4, 4)), ("head", (3, 16))]
    with pytest.raises(ValueError, match="one number for each of the 4 channels of conv/kernel"):
        importance(model, lambda slot, rows: rows)


def _after_relu(model, x):
    return keras.Model(model.inputs, model.get_layer("relu").output)(x).numpy().astype(float)


def test_activation_and_apoz_by_numpy(model, data):
    a = _after_relu(model, data[0])
    np.testing.assert_allclose(_scores(model, "activation", data), np.abs(a).mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(_scores(model, "apoz", data), 1 - (a == 0).mean((0, 1, 2)), rtol=1e-6)


def test_entropy_by_numpy(model, data):
    means = _after_relu(model, data[0]).mean((1, 2))
    expected = []
    for column in means.T:
        p = np.histogram(column, 32)[0] / len(column)
        expected.append(-(p[p > 0] * np.log(p[p > 0])).sum())
    np.testing.assert_allclose(_scores(model, "entropy", data), expected, rtol=1e-3)


def test_gradient_by_samples(model, data):
    variables = [model.get_layer("conv").kernel, model.get_layer("conv").bias, model.get_layer("bn").gamma]
    variables += [model.get_layer("bn").beta, model.get_layer("dw").kernel]
    effects = []
    for x, y in zip(*data, strict=True):
        with tf.GradientTape() as tape:
            p = model(x[None], training=False)
            loss = -tf.math.log(p[0, y])
        slopes = tape.gradient(loss, [v.value for v in variables])
        effects.append(
            sum((v.numpy() * g.numpy()).reshape(-1, 4).sum(0) for v, g in zip(variables, slopes, strict=True))
        )
    effects = np.array(effects)
    np.testing.assert_allclose(_scores(model, "gradient", data), (effects**2).mean(0), rtol=1e-3)
    np.testing.assert_allclose(_scores(model, "gradient_abs", data), np.abs(effects).mean(0), rtol=1e-3)
    half = _scores(model, "gradient", data, reduction="mean")
    np.testing.assert_allclose(half, (effects**2).mean(0) / 25, rtol=1e-3)


def test_hessian_of_a_quadratic_is_exact():
    # One-hot inputs and a linear layer: L = mean of a_ij^2, whose Hessian is diagonal, so that one probe is exact.
    inputs = keras.Input((3,))
    x = layers.Dense(2, use_bias=False, name="a")(inputs)
    a = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    model = keras.Model(inputs, x)
    model.get_layer("a").kernel.assign(a)
    x, y = np.eye(3, dtype="float32"), np.zeros((3, 2), "float32")
    scores = unit_scores(trace(model), "hessian", data=(x, y), loss="mse", probes=1)
    np.testing.assert_allclose(scores[1:], 0.5 * (a**2).sum(0) * 2 / 6, rtol=1e-5)


def test_hessian_is_hutchinsons_estimate(model, data):
    """The whole Hessian, times the same signs."""
    variables = [model.get_layer(name).kernel for name in ("conv", "dw", "head")]
    tensors = [v.value for v in variables]
    with tf.GradientTape(persistent=True) as outer:
        with tf.GradientTape() as inner:
            loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(data[1], model(data[0], training=False)))
        slopes = tf.concat([tf.reshape(g, [-1]) for g in inner.gradient(loss, tensors)], 0)
    blocks = [tf.reshape(b, (len(slopes), -1)) for b in outer.jacobian(slopes, tensors)]
    hessian = tf.concat(blocks, 1).numpy().astype(float)
    rng, estimate = np.random.default_rng(5), np.zeros(len(hessian))
    for _ in range(3):
        z = np.concatenate([rng.choice([-1.0, 1.0], v.shape).ravel() for v in variables])
        estimate += z * (hessian @ z) / 3
    w = np.concatenate([v.numpy().ravel() for v in variables])
    value = 0.5 * w**2 * estimate
    expected = value[:72].reshape(-1, 4).sum(0) + value[72:88].reshape(-1, 4).sum(0)
    got = _scores(model, "hessian", data, probes=3, seed=5)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("criterion", sweep(criteria(), quick=["l2", "gradient", "hessian", "entropy", "random"]))
def test_seeds_repeat(model, data, criterion):
    given = data if criterion in WITH_DATA else None
    np.testing.assert_array_equal(_scores(model, criterion, given), _scores(model, criterion, given))
    if criterion in ("random", "hessian"):
        assert not np.array_equal(_scores(model, criterion, given), _scores(model, criterion, given, seed=1))


@pytest.mark.parametrize("criterion", sweep(WITH_DATA, quick=["gradient_abs", "hessian", "entropy"]))
def test_order_and_batches_do_not_matter(model, data, criterion):
    x, y = data
    order = np.random.default_rng(1).permutation(len(x))
    dataset = tf.data.Dataset.from_tensor_slices((x[order], y[order])).batch(7)
    pairs = ((x[i : i + 3], y[i : i + 3]) for i in range(0, 20, 3))
    expected = _scores(model, criterion, data)
    np.testing.assert_allclose(_scores(model, criterion, dataset), expected, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(_scores(model, criterion, pairs), expected, rtol=1e-3, atol=1e-6)


def test_heads_and_widths_of_a_product_get_scores():
    x = inputs = keras.Input((5, 6))
    x = layers.Dense(12, name="dense")(x)
    x = layers.Reshape((5, 3, 4), name="split")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.Reshape((5, 12), name="join")(x)
    model = zoo.randomise(keras.Model(inputs, layers.Dense(2, name="head")(x)))
    graph = trace(model)
    kernel = model.get_layer("dense").kernel.numpy().astype(float).reshape(6, 3, 4)
    scores = unit_scores(graph, "l2")
    heads, widths = (g for g in groups(graph) if g.prunable)
    np.testing.assert_allclose(scores[heads.units], np.sqrt((kernel**2).sum((0, 2))))
    np.testing.assert_allclose(scores[widths.units], np.sqrt((kernel**2).sum((0, 1))))
    named = importance(model, "l1").groups
    np.testing.assert_allclose(named["split.axis0"], np.abs(kernel).sum((0, 2)))
    np.testing.assert_allclose(named["split.axis1"], np.abs(kernel).sum((0, 1)))
    seen = importance(model, "activation", np.ones((2, 5, 6), "float32")).groups
    assert np.isfinite(seen["split.axis0"]).all()


SCORED = [
    "residual", "concat", "grouped", "depthwise", "several", "nested", "shared", "transposed", "lstm", "gru",
]  # fmt: skip


@pytest.mark.parametrize("name", sweep(SCORED, quick=["residual", "grouped", "depthwise", "several", "nested", "lstm"]))
def test_groups_of_the_zoo_are_all_scored(name):
    model = zoo.build(name)
    graph = trace(model)
    for criterion in ("l2", "lamp", "activation", "entropy"):
        x = zoo.sample_inputs(model, 5) if criterion in WITH_DATA else None
        scores = unit_scores(graph, criterion, data=x)
        assert scores.shape == (graph.units.count,)
        for group in groups(graph):
            assert np.isfinite(scores[group.free]).all(), (criterion, group.name)


def test_attention_is_scored_by_weights_and_by_activations_inside():
    graph = trace(zoo.build("attention"))
    x = zoo.sample_inputs(graph.model, 4)
    for criterion in ("l1", "activation"):
        scores = unit_scores(graph, criterion, data=x)
        assert all(np.isfinite(scores[g.free]).all() for g in groups(graph))
    attention = graph.model.get_layer("attention")
    widths = next(g for g in groups(graph) if g.name == "attention.value_dim")
    expected = np.abs(attention._value_dense(x)).mean((0, 1, 2))
    np.testing.assert_allclose(scores[widths.units], expected, rtol=1e-5)


def test_a_group_that_the_criterion_cannot_see():
    model = zoo.build("residual")
    with pytest.raises(ModelError, match=r"bn_scale cannot see the channels of .*missing='keep'"):
        importance(keras.Sequential([keras.Input((3,)), layers.Dense(4, name="a"), layers.Dense(2)]), "bn_scale")
    assert np.isinf(importance(zoo.build("conv1d"), "bn_scale", missing="keep").groups["causal"]).all()
    assert np.isfinite(importance(model, "bn_scale").groups["stem"]).all()


def test_it_is_plain_data(model):
    made = importance(model, "l2")
    assert json.loads(json.dumps(made.to_dict()))["groups"]["conv"] == made.groups["conv"].tolist()
    assert np.isinf(made.by_unit[0])


def test_the_model_stays_as_it_was(model, data):
    before = [w.numpy() for w in model.weights]
    for criterion in WITH_DATA:
        importance(model, criterion, data)
    for a, w in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(a, w.numpy())


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"criterion": "l3"}, ValueError, "`criterion` must be one of l1, l2"),
        ({"reduction": "min"}, ValueError, "`reduction` must be one of sum"),
        ({"normalization": "l2"}, ValueError, "`normalization` must be one of none"),
        ({"missing": "drop"}, ValueError, "`missing` must be one of raise"),
        ({"probes": 0}, ValueError, "`probes` must be a positive integer"),
        ({"criterion": "activation"}, DataError, r"activation looks at data\. Expected data=x\."),
        ({"criterion": "activation", "data": np.zeros((2, 5, 5, 3))}, DataError, "expected shape"),
        ({"criterion": "activation", "data": 3}, DataError, "received int"),
        ({"criterion": "activation", "data": iter(())}, DataError, "holds no samples"),
        ({"criterion": "gradient", "data": np.zeros((2, 5, 5, 2))}, DataError, "needs labels"),
        ({"criterion": "hessian"}, DataError, r"criterion hessian looks at data\. Expected data=\(x, y\)"),
        (
            {"criterion": "hessian", "data": (np.zeros((2, 5, 5, 2)), np.zeros(3))},
            DataError,
            "as many labels as samples",
        ),
        ({"criterion": "apoz", "data": [np.zeros((2, 5, 5, 2))] * 2}, DataError, "inputs"),
    ],
)
def test_bad_input(model, options, error, message):
    with pytest.raises(error, match=message):
        importance(model, **options)


def test_a_loss_is_needed(data):
    model = keras.Sequential([keras.Input((5, 5, 2)), layers.Flatten(), layers.Dense(3)])
    with pytest.raises(DataError, match=r"needs a loss. Give loss="):
        importance(model, "gradient", data)
    endless = tf.data.Dataset.from_tensors((data[0], data[1])).repeat()
    with pytest.raises(DataError, match="without end"):
        importance(model, "activation", endless)
