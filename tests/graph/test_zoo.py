"""The oracle over small models, one for each way in which channels pass through a layer."""

import graph_zoo
import keras
import numpy as np
import pytest
import zoo
from oracle import assert_equal, assert_pruned_equals_masked, share_prunable
from sweeps import sweep

from tfstruct import graph as graphs
from tfstruct.errors import ModelError

# Statistics are taken over their channels: what is left changes when some go.
LOSSY = {
    "norm_layer", "norm_layer_plain", "norm_layer_over_all", "norm_rms", "norm_unit", "norm_unit_over_all",
    "norm_group_1", "norm_group_2", "norm_group_4", "norm_softmax", "norm_softmax_over_all", "norm_log_softmax",
    "norm_sparsemax", "softmax_inside", "softmax_in_a_convolution", "merge_dot_normalised",
}  # fmt: skip
# Keras cannot load what it saved, the original of these as little as the smaller one.
UNSAVABLE = {"nested_whose_layer_is_called_outside_too"}
LOSSLESS = {
    "dense", "conv2d", "residuals", "norm_batch", "norm_layer_over_space", "norm_group_instance",
    "norm_softmax_over_space", "squeeze_excite", "grouped_4", "channel_shuffle", "flatten", "merge_dot_channels",
}  # fmt: skip
# These run every branch of `tfstruct.graph` that any of the models runs; other ranks and sizes of the same are slow.
QUICK = {
    "dense", "conv2d", "conv3dtranspose", "depthwise_twice", "separable_twice", "grouped_as_channels",
    "grouped_after_grouped", "grouped_of_the_input", "embedding", "einsum_ellipsis", "einsum_without_bias",
    "einsum_bias_on_one_axis", "einsum_heads_joined", "einsum_each", "norm_batch", "norm_layer", "norm_layer_over_all",
    "norm_rms", "norm_unit", "norm_group_1", "norm_group_2", "norm_group_instance", "norm_softmax_over_all",
    "norm_sparsemax", "softmax_inside", "softmax_in_a_convolution", "group_normalizations_that_cross",
    "group_normalization_of_a_grouped_convolution", "activations", "prelu_shared_over_channels", "dropouts",
    "rescaling", "space_maxpooling1d", "space_globalaveragepooling1d", "space_zeropadding2d", "space_upsampling3d",
    "global_pooling_that_keeps_its_axes", "flatten", "flatten_channels_first", "flatten_then_batch_normalization",
    "reshape_flat_and_back", "reshape_split_and_joined", "reshape_minus_one", "reshape_across", "permute",
    "repeat_vector", "shuffle_between_grouped", "depth_to_space", "space_to_depth", "merge_add", "merge_multiply",
    "merge_concatenate_space", "merge_dot_space", "merge_dot_normalised", "dense_connections", "concatenation_added",
    "broadcast", "broadcast_without_an_axis", "residual_on_the_input", "dict_inputs_and_outputs",
    "a_hidden_tensor_is_an_output_too", "an_input_is_an_output", "shared_dense", "shared_reshape",
    "shared_flatten_of_other_shapes", "nested_sequential_in_sequential", "nested_called_twice", "nested_in_nested",
    "nested_with_a_dict", "nested_whose_layer_is_called_outside_too", "channels_first", "unknown_height_and_width",
    "fixed_batch", "vit_block", "squeeze_excite_by_operators",
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("channels_first_anywhere")


def inputs_of(model, n=3, seed=0):
    """As `zoo.sample_inputs`, unknown sizes drawn as 7."""
    rng = np.random.default_rng(seed)
    drawn = {}
    for x in model.inputs:
        shape = (n, *(7 if size is None else size for size in x.shape[1:]))
        drawn[x.name] = rng.integers(0, 20, shape) if "int" in x.dtype else rng.normal(size=shape).astype(x.dtype)
    if isinstance(getattr(model, "_inputs_struct", None), dict):
        return drawn
    flat = list(drawn.values())
    return flat[0] if len(flat) == 1 else flat


def checked(name, share=0.4, **options):
    keras.utils.set_random_seed(0)
    model = zoo.randomise(graph_zoo.MODELS[name]())
    return (model, *assert_pruned_equals_masked(model, share, inputs=inputs_of(model), **options))


@pytest.mark.parametrize("name", sweep(graph_zoo.MODELS, quick=QUICK))
@pytest.mark.sweep(40)
def test_graph_zoo(name, tmp_path):
    model, graph, keep, smaller = checked(name)
    if name in graph_zoo.WHOLE:
        assert not any(group.prunable for group in graphs.groups(graph))
        return
    assert not keep.all() and smaller.count_params() < model.count_params()
    for group in graphs.groups(graph):
        assert group.reason or len(group.free) == group.width

    if name in UNSAVABLE:
        return
    x = inputs_of(model)
    before = [np.asarray(y) for y in keras.tree.flatten(smaller(x))]
    smaller.save(tmp_path / "smaller.keras")
    again = keras.saving.load_model(tmp_path / "smaller.keras")
    assert_equal(before, [np.asarray(y) for y in keras.tree.flatten(again(x))], 1e-6)


@pytest.mark.parametrize("name", sorted(LOSSY | LOSSLESS))
def test_groups_tell_whether_removing_a_channel_changes_the_others(name):
    found = graphs.groups(graphs.trace(graph_zoo.MODELS[name]()))
    assert any(group.lossy for group in found if group.prunable) == (name in LOSSY)


@pytest.mark.parametrize(
    "name", ["dense", "conv2d", "grouped_4", "norm_group_2", "merge_concatenate", "depth_to_space"]
)
def test_almost_all_channels_can_go(name):
    checked(name, share=0.99)


@pytest.mark.parametrize("name", [n for n in zoo.MODELS if n != "subclassed"])
def test_zoo(name):
    model = zoo.build(name)
    graph, *_ = assert_pruned_equals_masked(model, 0.4, inputs=zoo.sample_inputs(model, 3))
    for group in graphs.groups(graph):
        assert group.reason or len(group.free) == group.width


def test_a_subclassed_model_is_refused_clearly():
    with pytest.raises(ModelError, match=r"subclassed model.*functional"):
        graphs.trace(zoo.build("subclassed"))


@pytest.mark.parametrize(
    "name", ["conv2d", "residuals", "squeeze_excite", "norm_layer", "norm_group_2", "norm_softmax"]
)
def test_mixed_float16(name):
    """Equal within the resolution of float16, some layers deep."""
    saved = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        *_, smaller = checked(name, tolerance=4 * np.finfo("float16").eps)
    finally:
        keras.config.set_dtype_policy(saved)
    assert {layer.compute_dtype for layer in smaller.layers if layer.weights} == {"float16"}
    assert {w.dtype for w in smaller.trainable_weights} == {"float32"}


def test_the_original_is_not_touched():
    model = zoo.randomise(graph_zoo.MODELS["residuals"]())
    x = inputs_of(model)
    before, nodes = np.asarray(model(x)), [len(layer._inbound_nodes) for layer in model.layers]
    assert_pruned_equals_masked(model, 0.5, inputs=x)
    np.testing.assert_array_equal(before, model(x))
    assert nodes == [len(layer._inbound_nodes) for layer in model.layers]


def test_trainable_flags_and_names_stay():
    model = graph_zoo.MODELS["residuals"]()
    model.layers[1].trainable = False
    *_, smaller = assert_pruned_equals_masked(model, 0.5, inputs=inputs_of(model))
    assert [layer.name for layer in smaller.layers] == [layer.name for layer in model.layers]
    assert [layer.trainable for layer in smaller.layers] == [layer.trainable for layer in model.layers]


def test_what_can_go_of_a_model_is_counted_over_its_kernels():
    # 4 + 6 channels, and 2 of the output that do not count; the residual's 5 have to stay.
    inputs = keras.Input((5,))
    x = keras.layers.Add()([inputs, keras.layers.Dense(5)(inputs)])
    x = keras.layers.Dense(6)(keras.layers.Dense(4)(x))
    assert share_prunable(keras.Model(inputs, keras.layers.Dense(2)(x))) == 10 / 15


@pytest.mark.parametrize(
    "name, free",
    [
        ("dense", {"dense": 8, "dense_1": 6, "dense_2": 0}),
        ("channel_shuffle", {"conv2d": 8, "conv2d_1": 0}),
        # The places inside a block are space, which has to stay; whole channels can go.
        ("depth_to_space", {"reshape.axis0": 0, "reshape.axis1": 0, "reshape.axis2": 4}),
        ("depth_to_space_channels_outside", {"reshape.axis0": 4, "reshape.axis1": 0, "reshape.axis2": 0}),
        ("a_hidden_tensor_is_an_output_too", {"free": 7, "hidden": 0}),
        ("concatenation_added", {"a": 8, "b": 8, "dense_1": 8, "dense": 0}),
        ("broadcast", {"dense": 6, "dense_1": 6, "gate": 0}),
        ("squeeze_excite", {"features": 8, "excite": 8, "squeeze": 4}),
        ("squeeze_excite_by_operators", {"expand": 8, "excite": 8, "squeeze": 4}),
        # Heads; the widths that queries and keys share; the widths of values; the stream; the hidden layer.
        (
            "vit_block",
            {"reshape.axis0": 3, "reshape.axis1": 4, "reshape_2.axis1": 4, "joined": 12, "hidden": 16},
        ),
    ],
)
def test_free_channels(name, free):
    keras.backend.clear_session()
    found = {}
    for group in graphs.groups(graphs.trace(graph_zoo.MODELS[name]())):
        found.update(dict.fromkeys(group.makers, len(group.free)))
    assert free.items() <= found.items(), found
