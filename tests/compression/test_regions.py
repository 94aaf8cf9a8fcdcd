"""Regions of a model: one tensor in, one out; alone they compute what they compute in the whole."""

import graph_zoo
import keras
import numpy as np
import pytest
import zoo
from keras import layers

from tfstruct import graph as graphs
from tfstruct.analyze.data_criteria import run
from tfstruct.compression.alternatives.regions import Region, region_model, region_of, regions, whole_model

pytestmark = pytest.mark.usefixtures("channels_first_anywhere")


def unet():
    x = inputs = keras.Input((8, 8, 3))
    skip = layers.Conv2D(4, 3, padding="same", activation="relu", name="e1")(x)
    x = layers.MaxPooling2D(name="pool")(skip)
    x = layers.Conv2D(8, 3, padding="same", name="e2")(x)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.UpSampling2D(name="up")(x)
    x = layers.Concatenate(name="cat")([skip, x])
    x = layers.Conv2D(4, 3, padding="same", name="d1")(x)
    return keras.Model(inputs, layers.Conv2D(2, 1, name="out")(x), name="unet")


def masked():
    x = inputs = keras.Input((7,), dtype="int32")
    x = layers.Embedding(20, 6, mask_zero=True, name="embed")(x)
    x = layers.LSTM(5, name="lstm")(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x), name="masked")


def tied():
    """One layer within two branches, and the weights of a third one used again."""
    x = inputs = keras.Input((6,))
    twice = layers.Dense(6, activation="relu", name="twice")
    x = layers.Dense(6, name="first")(twice(x))
    x = layers.Dense(6, name="between")(x)
    return keras.Model(inputs, layers.Dense(2, name="head")(twice(x)), name="tied")


BUILDERS = {
    **{name: build for name, build in zoo.MODELS.items() if name != "subclassed"},
    **{
        name: graph_zoo.MODELS[name]
        for name in ("vit_block", "squeeze_excite", "nested_in_nested", "nested_called_twice", "channel_shuffle",
                     "dense_connections", "dict_inputs_and_outputs", "unknown_height_and_width", "shared_dense")
    },
    "unet": unet, "masked": masked, "tied": tied,
}  # fmt: skip


def built(name):
    keras.utils.set_random_seed(0)
    return zoo.randomise(BUILDERS[name]())


def values_of(graph, inputs):
    """Every tensor of a model, by its number."""
    values = {c.key: np.asarray(x) for c, x in zip(graph.body.inputs, inputs, strict=True)}

    def visit(call, outputs):
        values.update({c.key: np.asarray(y) for c, y in zip(call.outputs, outputs, strict=True)})

    run(graph, inputs, visit)
    return values


def made(name, seed=0):
    model = built(name)
    graph = graphs.trace(model)
    rng = np.random.default_rng(seed)
    inputs = []
    for x in graph.body.functional.inputs:
        shape = (2, *(8 if n is None else n for n in x.shape[1:]))
        inputs.append(rng.integers(0, 15, shape) if "int" in x.dtype else rng.normal(size=shape).astype("float32"))
    return graph, inputs, values_of(graph, inputs)


def ends(graph, region: Region):
    """The numbers of the tensors that a region lies between."""
    tensors = {id(x): c.key for x, c in zip(graph.body.functional.inputs, graph.body.inputs, strict=True)}

    def walk(body):
        for node, step in body.steps:
            if isinstance(step, graphs.Call):
                tensors.update({id(x): c.key for x, c in zip(node.outputs, step.outputs, strict=True)})
            else:
                given = [tensors[id(x)] for x in node.input_tensors]
                tensors.update({id(x): key for x, key in zip(step.functional.inputs, given, strict=False)})
                walk(step)
                ends = [tensors[id(x)] for x in step.functional.outputs]
                tensors.update({id(x): key for x, key in zip(node.outputs, ends, strict=True)})

    walk(graph.body)
    (entry,), (exit_,) = region.inputs, region.outputs
    return tensors[id(entry)], tensors[id(exit_)]


@pytest.mark.parametrize("name", BUILDERS)
def test_a_region_alone_computes_what_it_computes_in_the_whole(name):
    graph, _, values = made(name)
    for region in regions(graph):
        entry, exit_ = ends(graph, region)
        alone = region_model(graph, region)
        np.testing.assert_allclose(alone(values[entry]), values[exit_], rtol=1e-5, atol=1e-6, err_msg=region.name)
        paths = {call.path for call in graphs.trace(alone).calls}
        assert paths == {call.path for call in region.calls}, region.name
        ours = {id(weight) for weight in graph.model.weights}
        assert not any(id(weight) in ours for weight in alone.weights)


def names(found):
    return [region.name for region in found]


def test_residual_blocks_are_regions_and_the_layers_of_their_branches_too():
    found = names(regions(graphs.trace(built("residual"))))
    assert found[:4] == ["stem", "conv1 to join", "conv1", "bn1"]


def test_a_skip_is_spanned():
    graph = graphs.trace(built("unet"))
    assert region_of(graph, ["e2", "bn"]).name == "e2 to bn"
    assert region_of(graph, ["up", "cat"]).name == "pool to cat"
    assert region_of(graph, ["e1", "d1"]).name == "e1 to d1"
    spanning = region_model(graph, region_of(graph, ["e1", "d1"]))
    assert spanning.output_shape == (None, 8, 8, 4) and len(spanning.inputs) == 1


def test_a_branch_of_a_model_of_two_inputs_is_a_region():
    graph = graphs.trace(built("several"))
    assert region_of(graph, ["conv", "flat"]).name == "conv to flat"
    assert region_of(graph, ["conv", "fc"]).whole


@pytest.mark.parametrize(
    "layers_of_it, expected",
    [(["block/conv"], "block/conv"), (["block/add"], "block/conv to block/add"), (["conv", "block/conv"], None),
     (["tail/fc"], "tail/fc"), (["conv", "block/add"], "conv to block/add"), (["tail/fc", "conv"], "conv to tail/fc")],
)  # fmt: skip
def test_nested_models(layers_of_it, expected):
    found = region_of(graphs.trace(built("nested")), layers_of_it)
    assert found.name == (expected or "conv to block/add")


def test_a_shared_layer_is_never_cut_off_from_its_other_calls():
    graph = graphs.trace(built("tied"))
    assert names(regions(graph)) == ["first", "between", "head"]
    assert region_of(graph, ["twice"]).name == "twice to twice"
    assert region_of(graph, ["first", "between"]).name == "first to between"
    assert region_of(graphs.trace(built("nested_called_twice")), []).whole


def test_a_mask_is_not_cut_off():
    graph = graphs.trace(built("masked"))
    assert region_of(graph, ["embed"]).name == "embed to lstm" == region_of(graph, ["lstm"]).name
    assert region_of(graph, ["head"]).name == "head"


def test_layers_inside_of_layers_and_what_they_make():
    graph = graphs.trace(built("bidirectional"))
    assert region_of(graph, ["both/forward_cell"]).name == region_of(graph, ["both"]).name == "both"
    assert region_of(graphs.trace(built("attention")), ["attention.heads"]).name == "attention"


def test_the_whole_model_is_one_of_any_number_of_inputs():
    graph, inputs, values = made("several")
    whole = whole_model(graph)
    alone = region_model(graph, whole)
    outputs = alone(dict(zip(("extra", "image"), sorted(inputs, key=np.ndim), strict=True)))
    ours = [values[c.key] for c in graph.outputs]
    for a, b in zip(keras.tree.flatten(outputs), ours, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
