"""Wider and deeper models that compute what the original computes."""

import graph_zoo
import keras
import numpy as np
import pytest
import zoo
from keras import layers
from oracle import assert_equal
from random_models import random_model
from sweeps import sweep

from tfstruct import graph as graphs
from tfstruct.errors import ModelError, PlanError
from tfstruct.surgery import deepen, widen

pytestmark = pytest.mark.usefixtures("channels_first_anywhere")
ZOO = [n for n in zoo.MODELS if n != "subclassed"]
# Something sums over the channels of all their groups, or splits them into several axes.
HELD = {
    "norm_unit", "norm_unit_over_all", "norm_softmax", "norm_softmax_over_all", "norm_log_softmax", "norm_sparsemax",
    "softmax_inside", "softmax_in_a_convolution", "reshape_split", "reshape_split_and_joined",
}  # fmt: skip
HARD = [
    "grouped_4", "grouped_after_grouped", "channel_shuffle", "shuffle_between_grouped", "concatenation_added",
    "flatten_channels_first", "norm_layer", "norm_group_2", "nested_called_twice", "shared_reshape",
    "depth_to_space", "einsum_heads_joined", "squeeze_excite", "dense_connections", "space_to_depth",
]  # fmt: skip
# Sums, several axes of one layer, gates, blocks, joins, shuffles, flattening, statistics, calls of one layer twice:
# every branch of `widen` that the others run too.
QUICK = [
    "residual", "attention", "lstm", "norm_group_2", "concatenation_added", "channel_shuffle", "flatten_channels_first",
    "einsum_heads_joined", "nested_called_twice", "depth_to_space", "squeeze_excite",
]  # fmt: skip


def _built(name):
    if name in ZOO:
        return zoo.build(name)
    keras.backend.clear_session(free_memory=False)  # their layers get their names from a counter
    return zoo.randomise(graph_zoo.MODELS[name]())


def _outputs(model, x):
    return [keras.ops.convert_to_numpy(y) for y in keras.tree.flatten(model(x, training=False))]


def grow(model, every=True):
    """Widens one group after the other, by one step and by about half or to the double; says what could not be."""
    graph, held, grown = graphs.trace(model), [], 0
    for group in graphs.groups(graph):
        if not group.prunable or group.name not in graph.makes:
            continue
        width, done = len(graph.makes[group.name]), 0
        for to in (width + 1, width + (width + 1) // 2, 2 * width)[None if every else 1 :]:
            try:
                made = widen(model, group.name, to)
            except PlanError as error:
                held.append(str(error))
                continue
            done += 1
            assert len(graphs.trace(made.model).makes[group.name]) == to
            assert made.max_difference.relative <= made.max_difference.allowed
            if not every:
                break
        grown += bool(done)
    return grown, held


@pytest.mark.parametrize("name", sweep(["residual", "several", "lstm", "attention", *HARD], quick=QUICK))
@pytest.mark.sweep(6)
def test_widen(name):
    grown, held = grow(_built(name), every=False)
    assert grown or name in ("depth_to_space",), held


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ZOO, *(n for n in graph_zoo.MODELS if n not in graph_zoo.WHOLE)])
def test_widen_every_group(name):
    model = _built(name)
    grown, held = grow(model)
    assert grown or held or not any(g.prunable for g in graphs.groups(graphs.trace(model)))


def _random(seed):
    keras.backend.clear_session()
    grow(zoo.randomise(random_model(seed), seed), every=False)


@pytest.mark.parametrize("seed", sweep(range(3), quick=[0]))
def test_random_graphs(seed):
    _random(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 200))
def test_many_random_graphs(seed):
    _random(seed)


def test_a_step_by_hand():
    inputs = keras.Input((2,))
    model = keras.Sequential([inputs, layers.Dense(2, name="a"), layers.Dense(1, use_bias=False, name="b")])
    model.set_weights([np.array([[1.0, 2], [3, 4]]), np.array([5.0, 6]), np.array([[8.0], [10]])])
    done = widen(model, "a", 4)
    kernel, bias, reads = done.model.get_weights()
    np.testing.assert_array_equal(kernel, [[1, 1, 2, 2], [3, 3, 4, 4]])
    np.testing.assert_array_equal(bias, [5, 5, 6, 6])
    np.testing.assert_array_equal(reads, [[4], [4], [5], [5]])
    assert done.details["origins"] == {"a": [0, 0, 1, 1]}
    assert done.changes == (("a", "2 -> 4 channels"),)


def test_saved_loaded_and_trained(tmp_path):
    model = _built("attention")
    done = widen(widen(model, "attention.heads", 3).model, "attention.key_dim", 6).model
    done = widen(done, "attention.value_dim", 5).model
    x = zoo.sample_inputs(model, 3)
    assert_equal(_outputs(model, x), _outputs(done, x))
    done.save(tmp_path / "wide.keras")
    again = keras.saving.load_model(tmp_path / "wide.keras")
    assert_equal(_outputs(done, x), _outputs(again, x), 1e-6)
    done.compile("sgd", "sparse_categorical_crossentropy")
    done.fit(x, np.array([0, 1, 2]), verbose=0)


def test_noise_parts_the_copies():
    model = _built("conv_bn")
    done = widen(model, "stem", 16, noise=0.05)
    kernel, places = done.model.get_layer("stem").kernel.numpy(), np.array(done.details["origins"]["stem"])
    first = np.unique(places, return_index=True)[1]
    np.testing.assert_array_equal(kernel[..., first], model.get_layer("stem").kernel)
    assert (kernel[..., 0] != kernel[..., 1]).all()
    assert 1e-5 < done.max_difference.relative < 0.5
    assert [layer.name for layer in done.model.layers] == [layer.name for layer in model.layers]


def test_the_original_and_the_width_stay():
    model = _built("residual")
    before = [w.numpy() for w in model.weights]
    same = widen(model, "stem", 8)
    assert same.changes == () and same.parameters[0] == same.parameters[1]
    widen(model, "stem", 20)
    for a, b in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_cannot_grow_is_refused():
    residual = _built("residual")
    with pytest.raises(PlanError, match="has 8 channels"):
        widen(residual, "stem", 7)
    with pytest.raises(PlanError, match="model's own output"):
        widen(residual, "head", 7)
    with pytest.raises(PlanError, match="steps of 4 channels"):
        widen(_built("grouped_4"), "conv2d", 9)
    with pytest.raises(PlanError, match="equally many"):
        widen(_built("norm_layer"), "made", 9)
    with pytest.raises(PlanError, match="sums over channels"):
        widen(_built("norm_softmax"), "made", 16)
    with pytest.raises(ModelError, match=r"both\.forward"):
        widen(_built("bidirectional"), "both", 6)
    with pytest.raises(ModelError, match="No layer `nonsense`"):
        widen(residual, "nonsense", 4)
    with pytest.raises(PlanError, match="whole number"):
        widen(residual, "stem", 8.5)
    with pytest.raises(PlanError, match="`noise`"):
        widen(residual, "stem", 9, noise=-1)


@pytest.mark.parametrize(
    "name, after, options, kind",
    [
        ("conv_bn", "stem_relu", {}, layers.Conv2D),
        ("conv_bn", "stem", {"batch_norm": True}, layers.Conv2D),
        ("conv_bn", "conv", {"batch_norm": True, "kind": "depthwise"}, layers.DepthwiseConv2D),
        ("conv_bn", "pool", {"kind": "dense"}, layers.Dense),
        ("conv1d", "causal", {}, layers.Conv1D),
        ("nested", "block/conv", {}, layers.Conv2D),
        ("nested", "block", {}, layers.Conv2D),
        ("shared", "twice", {}, layers.Dense),
        ("several", "kind_head", {"activation": "relu"}, layers.Dense),
    ],
)
def test_deepen(name, after, options, kind, tmp_path):
    model = _built(name)
    x = zoo.sample_inputs(model, 3)
    done = deepen(model, after, **options)
    assert_equal(_outputs(model, x), _outputs(done.model, x))
    added = {layer.name: layer for layer in done.model._flatten_layers() if "_deeper" in layer.name}
    assert isinstance(added[f"{after.rsplit('/', 1)[-1]}_deeper"], kind)
    assert len(added) == 1 + bool(options.get("batch_norm")) * (1 + (after == "conv"))
    assert isinstance(done.model, keras.Sequential) == isinstance(model, keras.Sequential)
    done.model.save(tmp_path / "deep.keras")
    assert_equal(_outputs(model, x), _outputs(keras.saving.load_model(tmp_path / "deep.keras"), x))


def test_relu_follows_relu_only():
    model = _built("conv_bn")
    assert deepen(model, "stem_relu").model.get_layer("stem_relu_deeper").activation.__name__ == "relu"
    assert deepen(model, "stem").model.get_layer("stem_deeper").activation.__name__ == "linear"
    with pytest.raises(PlanError, match="negative"):
        deepen(model, "stem", activation="relu")
    with pytest.raises(PlanError, match="`activation`"):
        deepen(model, "stem", activation="tanh")


def test_what_cannot_be_deepened_is_refused():
    with pytest.raises(PlanError, match="recurrent"):
        deepen(_built("lstm"), "lstm_layer")
    model = _built("conv_bn")
    with pytest.raises(PlanError, match="`kind`"):
        deepen(model, "stem", kind="lstm")
    with pytest.raises(PlanError, match="needs 3 or 4 or 5 axes"):
        deepen(model, "head", kind="conv")
    with pytest.raises(ModelError, match="no layer `nonsense`"):
        deepen(model, "nonsense")
    twice = deepen(model, "stem").model
    with pytest.raises(PlanError, match="has a layer `stem_deeper` already"):
        deepen(twice, "stem")


def test_copies_that_meet_at_the_ends_of_joined_tensors():
    """`[x, flip(relu(x))]` holds the last channel twice in a row: from two tensors, not from one run."""
    inputs = keras.Input((3,))
    x = layers.Dense(4, name="a")(inputs)
    x = layers.Concatenate()([x, keras.ops.flip(keras.ops.relu(x), axis=-1)])
    model = zoo.randomise(keras.Model(inputs, layers.Dense(2)(x)))
    with pytest.raises(PlanError, match="do not tell apart"):
        widen(model, "a", 8)
