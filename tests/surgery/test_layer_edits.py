"""Layers deleted, inserted, replaced: the new model computes what a model built by hand with the same layers does."""

import json

import keras
import numpy as np
import pytest
from keras import layers
from zoo import build, randomise, sample_inputs

from tfstruct.errors import ModelError
from tfstruct.surgery import delete_layer, delete_layers, insert_layer, replace_layer


def same(model, expected, inputs):
    for a, b in zip(keras.tree.flatten(model(inputs)), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def run(model, x, *names):
    for name in names:
        x = model.get_layer(name)(x)
    return x


def several_ways():
    """A squeeze-and-excitation block, an attention layer, a layer with two outputs and one with open sizes."""
    inputs = keras.Input((None, None, 4), name="image")
    x = layers.Conv2D(4, 3, padding="same", name="keeps")(inputs)
    x = layers.Conv2D(4, 3, strides=2, padding="same", name="halves")(x)
    gate = layers.Dense(4, activation="sigmoid", name="gate")(
        layers.GlobalAveragePooling2D(keepdims=True, name="gap")(x)
    )
    x = layers.Multiply(name="scale")([x, gate])
    x = layers.ReLU(name="relu")(x)
    return randomise(keras.Model(inputs, layers.Conv2D(2, 1, name="head")(x), name="several_ways"))


def lstm_with_states():
    inputs = keras.Input((5, 3), name="sequence")
    _, h, c = layers.LSTM(4, return_state=True, name="lstm")(inputs)
    return keras.Model(inputs, layers.Dense(2, name="head")(layers.Add(name="add")([h, c])), name="states")


# Deleting.


def test_delete_by_name_object_and_predicate():
    model = build("conv_bn")
    x = sample_inputs(model, 3)
    before = [w.numpy() for w in model.weights]
    expected = run(model, x, "stem", "stem_bn", "pool", "conv", "gap", "head")
    by_name = delete_layer(model, "stem_relu")
    by_object = delete_layer(model, model.get_layer("stem_relu"))
    by_predicate = delete_layers(model, lambda layer: isinstance(layer, layers.ReLU | layers.Dropout))
    for done in (by_name, by_object, by_predicate):
        same(done.model, expected, x)
        assert isinstance(done.model, keras.Sequential)
    assert by_name.changes == (("stem_relu", "ReLU deleted"),)
    assert [name for name, _ in by_predicate.changes] == ["stem_relu", "dropout"]
    assert [layer.name for layer in model.layers][2] == "stem_relu"
    for a, b in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert "stem_relu" in str(by_name) and json.dumps(by_name.to_dict())


def test_delete_inside_nested_models():
    model = build("nested")
    x = sample_inputs(model, 2)
    h = model.get_layer("conv")(x)
    same(delete_layer(model, "block/conv").model, model.get_layer("tail")(2 * h), x)
    same(delete_layer(model, "block").model, model.get_layer("tail")(h), x)


def test_delete_the_output_of_a_nested_model():
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(3, name="a"), layers.ReLU(name="b")], name="inner")
    model = keras.Sequential([keras.Input((3,)), inner, layers.Dense(2, name="head")])
    x = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    same(delete_layer(model, "inner/b").model, model.get_layer("head")(inner.get_layer("a")(x)), x)
    with pytest.raises(ModelError, match=r"Nothing would be left of `inner`\. Delete it as a whole"):
        delete_layers(model, ["inner/a", "inner/b"])
    delete_layers(model, ["inner", "inner/a", "inner/b"])


def test_delete_a_shared_layer_everywhere():
    model = build("shared")
    x = sample_inputs(model, 4)
    done = delete_layer(model, "twice")
    same(done.model, model.get_layer("head")(x["left"] - x["right"]), x)
    assert done.changes == (("twice", "Dense deleted in each of its 3 calls"),)


def test_delete_several_outputs_and_inputs():
    model = build("several")
    model_with = insert_layer(model, layers.ReLU(name="extra_relu"), after="join").model
    done = delete_layer(model_with, "extra_relu")
    x = sample_inputs(model, 2)
    same(done.model, [model(x)[key] for key in ("kind", "size")], x)


def test_delete_a_join_of_unlike_inputs():
    model = several_ways()
    x = np.random.default_rng(0).normal(size=(2, 12, 12, 4)).astype("float32")
    done = delete_layer(model, "scale")
    same(done.model, run(model, x, "keeps", "halves", "relu", "head"), x)
    assert done.changes == (("scale", "Multiply deleted; the output of halves passes on"),)
    assert "gate" not in [layer.name for layer in done.model.layers]


def test_delete_attention_called_on_one_tensor():
    model = build("attention")
    x = sample_inputs(model, 2)
    done = delete_layer(model, "attention")
    twice = model.get_layer("norm1")(2 * x)
    second = model.get_layer("norm2")(twice + run(model, twice, "ff1", "ff2"))
    same(done.model, run(model, second, "gap", "head"), x)


@pytest.mark.parametrize(
    ("name", "which", "message"),
    [
        ("conv_bn", "stem", r"stem \(Conv2D\) cannot be deleted: its input has the shape \(12, 12, 3\), its output "
         r"\(12, 12, 8\)"),
        ("conv_bn", "head", "head makes an output of the model and cannot be deleted. Replace it"),
        ("several", "size_head", "size_head makes an output"),
        ("nested", "tail/fc", "tail/fc makes an output"),
        ("nested", "tail", "tail makes an output"),
        ("conv_bn", "image", "image is an input of the model"),
        ("residual", "join", r"join \(Add\) joins 2 inputs of shape \(10, 10, 8\): which of them passes on is"),
        ("several", "join", r"none of its inputs \[.*, \(4\)\] has the shape of its output"),
        ("conv_bn", "steam", "has no layer steam. Did you mean stem"),
        ("nested", "add", "has no layer add. Did you mean block/add"),
        ("conv_bn", 3, "Expected a layer of `conv_bn`: .* Received: int"),
        ("conv_bn", [], "at least one layer. Received an empty list"),
        ("conv_bn", lambda layer: False, "picks none of the layers"),
        ("conv_bn", lambda layer: layer.name in ("stem", "gap"), "stem .* gap "),
        ("subclassed", "conv", "functional"),
    ],
)  # fmt: skip
def test_what_cannot_be_deleted(name, which, message):
    with pytest.raises(ModelError, match=message):
        delete_layers(build(name), which)


def test_what_cannot_be_deleted_of_other_models():
    with pytest.raises(ModelError, match=r"The given ReLU stem_relu is not in .* Another one of that name is"):
        delete_layer(build("conv_bn"), layers.ReLU(name="stem_relu"))
    with pytest.raises(ModelError, match="makes 3 outputs"):
        delete_layer(lstm_with_states(), "lstm")
    # Its shapes are (?, ?, 4) in and out; a stride shows on a fixed size only.
    with pytest.raises(ModelError, match=r"halves .* the shape \(61, 61, 4\), its output \(31, 31, 4\)"):
        delete_layer(several_ways(), "halves")
    assert delete_layer(several_ways(), "keeps").model.count_params() < several_ways().count_params()
    table = keras.Sequential([keras.Input((4,), dtype="int32"), layers.Rescaling(2.0, name="r"), layers.Dense(2)])
    with pytest.raises(ModelError, match=r"r .* turns int32 into float32"):
        delete_layer(table, "r")


def test_parts_of_a_shuffle():
    model = keras.Sequential(
        [
            keras.Input((4, 4, 4)), layers.Reshape((4, 4, 2, 2), name="split"),
            layers.Permute((1, 2, 4, 3), name="turn"), layers.Reshape((4, 4, 4), name="merge"),
            layers.Conv2D(2, 1, name="head"),
        ]
    )  # fmt: skip
    with pytest.raises(ModelError, match=r"turn is part of a channel shuffle \(split, turn, merge\)"):
        delete_layer(model, "turn")


# Inserting.


def test_insert_after_and_before():
    model = build("conv_bn")
    x = sample_inputs(model, 3)
    expected = keras.ops.tanh(run(model, x, "stem", "stem_bn"))
    expected = run(model, expected, "stem_relu", "pool", "conv", "gap", "head")
    for where in ({"after": "stem_bn"}, {"before": model.get_layer("stem_relu")}):
        done = insert_layer(model, layers.Activation("tanh", name="new"), **where)
        same(done.model, expected, x)
        assert isinstance(done.model, keras.Sequential)
        assert [layer.name for layer in done.model.layers][2] == "new"


def test_insert_keeps_built_weights_and_makes_new_ones():
    model = build("residual")
    x = sample_inputs(model, 2)
    norm = layers.BatchNormalization(name="new")
    norm.build((None, 10, 10, 8))
    randomise_layer(norm)
    done = insert_layer(model, norm, after="conv1")
    h = norm(run(model, x, "stem", "conv1"))
    joined = model.get_layer("relu")(model.get_layer("bn1")(h) + model.get_layer("stem")(x))
    same(done.model, run(model, joined * 0.5 + 1.0, "pool", "flat", "head"), x)
    fresh = insert_layer(model, layers.Dense(8, name="new"), after="conv1")
    assert fresh.parameters[1] - fresh.parameters[0] == 8 * 8 + 8


def randomise_layer(layer, seed=0):
    rng = np.random.default_rng(seed)
    for weight in layer.weights:
        weight.assign(rng.uniform(0.5, 1.5, weight.shape))


def test_insert_at_inputs_and_outputs():
    model = build("several")
    x = sample_inputs(model, 2)
    done = insert_layer(model, layers.Rescaling(2.0, name="twice"), after="extra")
    same(done.model, [model({**x, "extra": 2 * x["extra"]})[key] for key in ("kind", "size")], x)
    end = insert_layer(model, layers.Rescaling(3.0, name="end"), after="size_head")
    same(end.model, [model(x)["kind"], 3 * model(x)["size"]], x)
    assert end.changes == (("end", "Rescaling inserted after size_head as the model's output"),)
    first = insert_layer(build("conv_bn"), layers.Rescaling(2.0, name="twice"), after="image")
    assert isinstance(first.model, keras.Sequential) and first.model.layers[0].name == "twice"


def test_insert_once_behind_an_input_with_several_readers():
    model = build("concat")
    x = sample_inputs(model, 2)
    done = insert_layer(model, layers.Rescaling(2.0, name="twice"), after="image")
    same(done.model, model(2 * x), x)
    assert len(done.model.get_layer("twice")._inbound_nodes) == 1
    nested = build("nested")
    x = sample_inputs(nested, 2)
    same(
        insert_layer(nested, layers.Rescaling(2.0, name="twice"), after="block/block_in").model,
        nested.get_layer("tail")(nested.get_layer("block")(2 * nested.get_layer("conv")(x))), x,
    )  # fmt: skip


def test_insert_next_to_a_shared_layer():
    model = build("shared")
    x = sample_inputs(model, 4)
    twice, head = model.get_layer("twice"), model.get_layer("head")
    before = insert_layer(model, layers.Rescaling(2.0, name="new"), before="twice")
    same(before.model, head(twice(2 * (twice(2 * x["left"]) - twice(2 * x["right"])))), x)
    after = insert_layer(model, layers.Rescaling(2.0, name="new"), after="twice")
    assert after.changes == (("new", "Rescaling inserted after twice in each of its 3 calls"),)


@pytest.mark.parametrize(
    ("name", "layer", "where", "message"),
    [
        ("conv_bn", layers.ReLU, {}, "one of `after` and `before`. Received: none"),
        ("conv_bn", layers.ReLU, {"after": "stem", "before": "pool"}, "Received: both"),
        ("conv_bn", lambda: layers.Dense(3), {"after": "stem"}, r"inputs of shape \(12, 12, 8\) into \(12, 12, 3\), "
         r"where \(12, 12, 8\) is expected after stem"),
        ("conv_bn", lambda: layers.Conv2D(4, 1), {"after": "gap"}, r"cannot be called on inputs of shape \(12\)"),
        ("conv_bn", lambda: layers.ReLU(name="pool"), {"after": "stem"}, "has a layer called pool already"),
        ("conv_bn", lambda: layers.ReLU, {"after": "stem"}, "Expected a Keras layer. Received: the class ReLU"),
        ("conv_bn", lambda: np.tanh, {"after": "stem"}, "Expected a Keras layer. Received: ufunc"),
        ("conv_bn", layers.ReLU, {"after": "strm"}, "Did you mean stem"),
        ("residual", layers.ReLU, {"before": "join"}, "join has 2 inputs, so before it is no single place"),
        ("conv_bn", lambda: layers.Lambda(lambda x: x[:, 1:]), {"after": "stem"}, r"into \(11, 12, 8\)"),
        ("embedding", lambda: layers.Rescaling(2.0), {"after": "ids"}, "makes float32, where int32 is expected"),
    ],
)  # fmt: skip
def test_what_cannot_be_inserted(name, layer, where, message):
    with pytest.raises(ModelError, match=message):
        insert_layer(build(name), layer(), **where)


def test_new_layers_that_belong_elsewhere():
    used = layers.ReLU(name="used")
    keras.Sequential([keras.Input((3,)), used])
    with pytest.raises(ModelError, match="used is already used in a model"):
        insert_layer(build("conv_bn"), used, after="stem")
    built = layers.LayerNormalization(name="built")
    built.build((None, 5))
    with pytest.raises(ModelError, match=r"built was built for other inputs: .*\(5,\).* need .*\(8,\)"):
        insert_layer(build("conv_bn"), built, after="stem")
    with pytest.raises(ModelError, match="lstm makes 3 outputs"):
        insert_layer(lstm_with_states(), layers.ReLU(), after="lstm")
    # A refused layer can still be used.
    fresh = layers.Dense(8, name="fresh")
    with pytest.raises(ModelError, match="no layer"):
        insert_layer(build("conv_bn"), fresh, after="nowhere")
    assert not fresh.built
    insert_layer(build("conv_bn"), fresh, after="stem")
    with pytest.raises(ModelError, match=r"into \(31, 31, 4\), where \(61, 61, 4\) is expected"):
        insert_layer(several_ways(), layers.MaxPooling2D(2, padding="same"), before="halves")


# Replacing.


def test_replace_one_and_many():
    model = build("conv_bn")
    x = sample_inputs(model, 3)
    done = replace_layer(model, "stem_relu", layers.Activation("tanh", name="stem_relu"))
    h = keras.ops.tanh(run(model, x, "stem", "stem_bn"))
    same(done.model, run(model, h, "pool", "conv", "gap", "head"), x)
    assert done.changes == (("stem_relu", "ReLU replaced by Activation"),)
    assert isinstance(done.model, keras.Sequential)
    many = replace_layer(
        build("depthwise"),
        lambda layer: isinstance(layer, layers.Conv2D | layers.ReLU),
        lambda old: layers.Conv2D(8, 1, name=old.name + "_new"),
    )
    assert [name for name, _ in many.changes] == ["dw_relu6", "pw"]
    assert many.changes[1] == ("pw", "Conv2D replaced by Conv2D pw_new")


def test_replace_in_nested_and_shared_models():
    model = build("nested")
    x = sample_inputs(model, 2)
    h = model.get_layer("conv")(x)
    done = replace_layer(model, "block/conv", layers.Rescaling(3.0, name="conv"))
    same(done.model, model.get_layer("tail")(4 * h), x)
    head = replace_layer(model, "tail", keras.Sequential([keras.Input((8, 8, 4)), layers.Flatten(), layers.Dense(3)]))
    assert head.model.output_shape == (None, 3)
    shared = build("shared")
    x = sample_inputs(shared, 3)
    new = layers.Dense(6, name="new")
    done = replace_layer(shared, "twice", new)
    same(done.model, shared.get_layer("head")(new(new(x["left"]) - new(x["right"]))), x)
    assert done.changes == (("twice", "Dense replaced by Dense new in each of its 3 calls"),)


def test_replace_a_join_and_an_output():
    model = build("residual")
    x = sample_inputs(model, 2)
    done = replace_layer(model, "join", layers.Maximum(name="join"))
    stem = model.get_layer("stem")(x)
    h = keras.ops.relu(keras.ops.maximum(run(model, stem, "conv1", "bn1"), stem)) * 0.5 + 1.0
    same(done.model, run(model, h, "pool", "flat", "head"), x)
    end = replace_layer(model, "head", layers.Dense(3, name="logits"))
    assert end.model.output_names == ["logits"]


def same_for_all(layer):
    return lambda old: layer


@pytest.mark.parametrize(
    ("which", "new", "message"),
    [
        ("stem", lambda: layers.Conv2D(9, 3, padding="same"), r"into \(12, 12, 9\), where \(12, 12, 8\) is expected in "
         "place of stem"),
        (["stem", "conv"], lambda: layers.ReLU(), r"2 layers are to be replaced \(stem, conv\)"),
        (["stem_bn", "stem_relu"], lambda: same_for_all(layers.ReLU()), "would share one new layer"),
        (["stem_bn", "stem_relu"], lambda: lambda old: layers.ReLU(name="r"), "Two of the new layers are called r"),
        ("stem_relu", lambda: lambda old: None, "Expected a Keras layer. Received: NoneType"),
        ("stem_relu", lambda: lambda old: old, "is already used in a model"),
        ("image", lambda: layers.ReLU(), "image is an input"),
        ("head", lambda: layers.Dense(4), r"into \(4\), where \(5\)"),
    ],
)  # fmt: skip
def test_what_cannot_be_replaced(which, new, message):
    with pytest.raises(ModelError, match=message):
        replace_layer(build("conv_bn"), which, new())


def test_edited_models_save_load_and_train(tmp_path):
    model = build("nested")
    done = replace_layer(model, "block/conv", layers.Conv2D(4, 1, name="conv")).model
    done = insert_layer(done, layers.BatchNormalization(name="norm"), after="block").model
    x = sample_inputs(model, 8)
    done.save(tmp_path / "m.keras")
    same(keras.saving.load_model(tmp_path / "m.keras"), done(x), x)
    before = done.get_layer("block").get_layer("conv").kernel.numpy()
    done.compile("sgd", "mse")
    done.fit(x, np.ones((8, 3)), verbose=0)
    assert np.abs(before - done.get_layer("block").get_layer("conv").kernel.numpy()).max() > 0
