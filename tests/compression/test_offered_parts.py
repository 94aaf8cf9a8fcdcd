"""The parts that the kinds of steps offer: each alternative is carried out alone, in its region and in the whole."""

import json
import types

import keras
import numpy as np
import pytest
import zoo
from keras import layers

from tfstruct import graph as graphs
from tfstruct.analyze import profile
from tfstruct.compression import steps
from tfstruct.compression.alternatives.alternative import Part
from tfstruct.compression.alternatives.offered import conflicts_of, parts_of, steps_of
from tfstruct.compression.alternatives.regions import region_model, region_of


def resnet():
    x = inputs = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(16, 3, padding="same", name="stem")(x)
    for i in range(2):
        y = layers.Conv2D(24, 3, padding="same", name=f"inner{i}")(x)
        y = layers.BatchNormalization(name=f"bn{i}")(y)
        y = layers.ReLU(name=f"relu{i}")(y)
        x = layers.Add(name=f"add{i}")([layers.Conv2D(16, 3, padding="same", name=f"outer{i}")(y), x])
    x = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu", name="down")(x)
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    return keras.Model(inputs, layers.Dense(4, activation="softmax", name="head")(x), name="resnet")


def transformer_block(x, hidden, activation):
    width = x.shape[-1]
    y = layers.MultiHeadAttention(num_heads=4, key_dim=width // 4, name="attention")(x, x)
    x = layers.LayerNormalization(name="norm")(layers.Add(name="add1")([x, y]))
    y = layers.Dense(hidden, activation=activation, name="ff1")(x)
    return layers.Add(name="add2")([x, layers.Dense(width, name="ff2")(y)])


def transformer():
    inputs = keras.Input((6, 16), name="tokens")
    x = transformer_block(inputs, hidden=32, activation="gelu")
    x = layers.GlobalAveragePooling1D(name="gap")(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x), name="transformer")


def recurrent():
    x = inputs = keras.Input((8, 4), name="series")
    x = layers.GRU(16, return_sequences=True, name="first")(x)
    x = layers.LSTM(8, name="second")(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x), name="recurrent")


def nested():
    x = inner = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="conv1")(x)
    base = keras.Model(inner, layers.Conv2D(16, 3, padding="same", name="conv2")(x), name="base")
    x = inputs = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D(name="gap")(base(x))
    return keras.Model(inputs, layers.Dense(2, name="head")(x), name="around")


def task_of(model, **figures):
    graph = graphs.trace(model)
    limits = types.SimpleNamespace(figures=figures or {"tflite_bytes": 5_000})
    return types.SimpleNamespace(
        model=model, graph=graph, limits=limits, settings=types.SimpleNamespace(target="mobile"), process=None
    )


@pytest.fixture(scope="module")
def offered():
    found = {}
    for build in (resnet, transformer, recurrent, nested):
        keras.utils.set_random_seed(0)
        task = task_of(zoo.randomise(build()))
        found[build.__name__] = task, parts_of(task)
    return found


def named(parts):
    return {part.name: [one.name for one in part.alternatives[1:]] for part in parts}


def test_a_residual_network(offered):
    found = named(offered["resnet"][1])
    assert found["width of inner0"] == ["20 channels", "16 channels", "12 channels", "8 channels", "4 channels"]
    assert found["width of stem"][-1] == "4 channels"  # shared through the joins
    assert found["block add0"] == found["block add1"] == ["dropped"]
    assert found["positions from stem"] == ["strides of down in stem"]
    assert found["bits of head"] == ["4 bits"]
    assert {name.split(",")[0] for name in found["form of inner0"]} <= {"svd", "tucker", "spatial", "depthwise"}
    assert "width of head" not in found  # the model's own output


def test_transformers_recurrent_and_nested_models(offered):
    found = named(offered["transformer"][1])
    assert found["width of attention.heads"] == ["3 heads", "2 heads", "1 heads"] and "width of ff1" in found
    assert {"block add1", "block add2"} <= found.keys()
    found = named(offered["recurrent"][1])
    assert "8 channels" in found["width of first"] and "4 channels" in found["width of second"]
    found = named(offered["nested"][1])
    assert {"width of base/conv1", "width of base/conv2", "form of base/conv2", "bits of base/conv1"} <= found.keys()


def test_bits_only_where_bytes_are_asked_for(offered):
    model = offered["resnet"][0].model
    assert not any(part.kind == "quantize" for part in parts_of(task_of(model, macs=1e5)))


@pytest.mark.parametrize("name", ["resnet", "transformer", "recurrent", "nested"])
def test_each_alternative_alone_in_its_region_and_in_the_whole(offered, name):
    task, parts = offered[name]
    graph = task.graph
    before = profile(task.model)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *task.model.input_shape[1:])).astype("float32")
    for part in {part.kind: part for part in parts}.values():  # the last one of each kind
        assert Part.from_dict(json.loads(json.dumps(part.to_dict()))) == part
        region = region_of(graph, part.layers)
        alone = region_model(graph, region)
        for one in part.alternatives[1:][-1:]:
            (step,) = steps_of({part: one})
            assert step.kind == part.kind and steps.Step.from_dict(json.loads(json.dumps(step.to_dict()))) == step
            small, whole = step.edit(alone), step.edit(task.model)
            assert small.output_shape == alone.output_shape, (part.name, one.name)
            after = profile(whole)
            assert whole.output_shape == task.model.output_shape
            if part.kind in ("prune_channels", "factorize", "drop_blocks"):
                assert after.params < before.params and after.macs < before.macs
            if part.kind == "downsample_early":
                assert after.params == before.params and after.macs < 0.6 * before.macs
            if region.whole:
                np.testing.assert_allclose(small(x), whole(x), rtol=1e-4, atol=1e-5)


def test_the_edit_of_a_region_is_that_of_the_whole(offered):
    """Factors and widths of one region: from its inputs on, the edited whole computes what the region alone does."""
    task, parts = offered["resnet"]
    part = next(part for part in parts if part.name == "width of inner0")
    (step,) = steps_of({part: part.alternatives[3]})
    region = region_of(task.graph, part.layers)
    assert region.name == "inner0 to outer0"
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")
    stem = task.model.get_layer("stem")(x)
    whole = step.edit(task.model)
    cut = keras.Model(whole.inputs, whole.get_layer("outer0").output)
    np.testing.assert_allclose(step.edit(region_model(task.graph, region))(stem), cut([x]), rtol=1e-4, atol=1e-5)
    assert step.widths == {"inner0": 12}


def test_several_choices_are_one_strategy_in_order(offered):
    task, parts = offered["resnet"]
    by_name = {part.name: part for part in parts}
    picked = {by_name[name]: by_name[name].alternatives[place] for name, place in (
        ("bits of head", 1), ("width of stem", 1), ("width of inner0", 1), ("block add1", 1), ("form of down", 1),
        ("positions from stem", 1), ("form of inner0", 0))}  # fmt: skip
    made = steps_of(picked)
    assert [step.kind for step in made] == [
        "downsample_early", "drop_blocks", "factorize", "prune_channels", "quantize",
    ]  # fmt: skip
    assert made[3].widths == {"stem": 12, "inner0": 20} and made[4].layers == {"head": "int4"}
    model = task.model
    for step in made:
        model = step.edit(model)
    widths = {path: len(labels) for path, labels in graphs.trace(model).makes.items()}
    assert widths["stem"] == 12 and widths["inner0"] == 20 and "inner1" not in widths
    assert model.get_layer("stem").strides == (2, 2)


def test_nothing_else_is_done_to_the_layers_of_a_dropped_block(offered):
    _, parts = offered["resnet"]
    found = {(one.one[0], one.other[0]) for one in conflicts_of(parts)}
    assert ("block add0", "width of inner0") in found and ("block add0", "bits of outer0") in found
    assert not any("stem" in other or "inner1" in other for block, other in found if block == "block add0")


def test_kernels_in_four_bits_have_at_most_fifteen_values(offered):
    task, parts = offered["resnet"]
    (step,) = steps_of({part: part.alternatives[1] for part in parts if part.name == "bits of head"})
    made = step.edit(task.model)
    kernel = made.get_layer("head").kernel.numpy()
    assert all(len(np.unique(column)) <= 15 for column in kernel.T)
    scale = np.abs(task.model.get_layer("head").kernel.numpy()).max(0) / 7
    expected = np.round(task.model.get_layer("head").kernel.numpy() / scale) * scale
    np.testing.assert_allclose(kernel, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(made.get_layer("stem").kernel, task.model.get_layer("stem").kernel)


def test_forms_that_another_one_is_as_good_as_are_left_out(offered):
    from tfstruct.surgery.factor.targets import by_path, forms_of

    graph = offered["resnet"][0].graph
    forms = forms_of("down", by_path(graph)["down"], ("svd", "tucker", "spatial", "depthwise"), (0.7, 0.5, 0.25))
    assert len({form.method for form in forms}) > 1
    for one in forms:
        for other in forms:
            better = [other.params <= one.params, other.macs <= one.macs, other.error <= one.error + 1e-6]
            assert one is other or not all(better)
