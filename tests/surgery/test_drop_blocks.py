"""Residual blocks: found, ranked, and dropped, against models computed by hand."""

import json

import custom_layers
import keras
import numpy as np
import pytest
from keras import layers, ops
from zoo import build, randomise, sample_inputs

from tfstruct import legacy
from tfstruct.errors import DataError, ModelError, PlanError
from tfstruct.surgery import drop_blocks, open_layers, residual_blocks

SCALES = (0.5, 0.01, 2.0)


def same(model, expected, inputs):
    np.testing.assert_allclose(model(inputs), expected, rtol=1e-5, atol=1e-5)


def run(model, x, *names):
    for name in names:
        x = model.get_layer(name)(x)
    return x


def dense_blocks(scales=SCALES):
    """x <- x + W_i x, by scale of W_i."""
    x = inputs = keras.Input((6,), name="x")
    for i, _ in enumerate(scales):
        x = layers.Add(name=f"add{i}")([x, layers.Dense(6, use_bias=False, name=f"d{i}")(x)])
    model = randomise(keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x)), seed=1)
    for i, scale in enumerate(scales):
        model.get_layer(f"d{i}").kernel.assign(model.get_layer(f"d{i}").kernel * scale)
    return model


def projected():
    """A block with a projection behind one with an identity, then a pre-activation block, as in ResNet v1 and v2."""
    x = inputs = keras.Input((8, 8, 4), name="x")
    x = y = layers.Conv2D(4, 3, padding="same", activation="relu", name="stem")(x)
    y = layers.Conv2D(8, 3, strides=2, padding="same", name="a1")(y)
    y = layers.Conv2D(8, 3, padding="same", name="a2")(layers.ReLU(name="a_relu")(y))
    s = layers.BatchNormalization(name="p_bn")(layers.Conv2D(8, 1, strides=2, name="p")(x))
    x = layers.ReLU(name="relu")(layers.Add(name="add_a")([y, s]))
    y = layers.ReLU(name="pre_relu")(layers.BatchNormalization(name="pre")(x))
    x = layers.Conv2D(8, 3, padding="same", name="b1")(y) + x
    return randomise(keras.Model(inputs, layers.Conv2D(2, 1, name="head")(x), name="projected"))


def unet():
    x = inputs = keras.Input((8, 8, 4))
    y = layers.Conv2D(4, 3, padding="same", activation="relu", name="down")(x)
    y = layers.Add(name="inner")([y, layers.Conv2D(4, 3, padding="same", name="deep")(y)])
    x = layers.Add(name="outer")([x, layers.Conv2D(4, 1, name="up")(y)])
    return randomise(keras.Model(inputs, layers.Conv2D(2, 1, name="head")(x)))


def wide():
    """The shortcut is broadcast over the branch."""
    inputs = keras.Input((1, 4))
    x = layers.Add(name="add")([inputs, layers.UpSampling1D(5)(layers.Dense(4)(inputs))])
    return keras.Model(inputs, layers.Dense(2)(x))


# Finding.


def test_found():
    one, two = residual_blocks(projected())
    assert (one.join, one.kind, one.shortcut, one.branch) == ("add_a", "projection", 1, ("a1", "a_relu", "a2"))
    assert (two.kind, two.shortcut, two.branch) == ("identity", 1, ("pre", "pre_relu", "b1"))
    assert [b.join for b in residual_blocks(build("attention"))] == ["add1", "add2"]
    assert [(b.join, b.shortcut) for b in residual_blocks(build("nested"))] == [("block/add", 1)]
    assert [b.join for b in residual_blocks(build("residual"))] == ["join"]
    for name in ("conv_bn", "concat", "several", "shared", "lstm"):
        assert residual_blocks(build(name)) == ()


def test_joins_that_are_no_blocks():
    inputs, other = keras.Input((4,)), keras.Input((4,))
    a, b = layers.Dense(4)(inputs), layers.Dense(4)(inputs)
    two_ways = layers.Add()([a, b])
    parts = [two_ways, layers.Add()([a, layers.Dense(4)(other)]), layers.Add()([b, b]), a * 2.0 + 1.0]
    assert residual_blocks(keras.Model([inputs, other], parts)) == ()


def test_obstacles():
    inner, outer = residual_blocks(unet())
    assert inner.obstacle is None and outer.obstacle == "it holds other blocks, such as inner"
    (block,) = residual_blocks(wide())
    assert block.obstacle == "its shortcut has the shape (1, 4), its output (5, 4)"
    x = inputs = keras.Input((4,))
    add = layers.Add(name="add")
    for i in range(2):
        x = add([x, layers.Dense(4, name=f"d{i}")(x)])
    assert [b.obstacle for b in residual_blocks(keras.Model(inputs, x))] == ["its Add joins several blocks"]


def test_blocks_of_the_shared_model(shared):
    model = legacy.load(shared / "models" / "resnet8_cifar10_jpeg.h5")
    found = residual_blocks(model)
    assert [b.kind for b in found] == ["identity", "projection", "projection"]
    x = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)).astype("float32")
    done = drop_blocks(model, x, count=2)
    assert len(done.details["dropped"]) == 2 and done.parameters[1] < done.parameters[0]
    assert done.model.output_shape == model.output_shape
    assert done.macs[1] < done.macs[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "blocks", "projections"),
    [("ResNet50", 16, 4), ("ResNet50V2", 16, 7), ("MobileNetV2", 10, 0), ("ConvNeXtTiny", 18, 0)],
)
def test_blocks_of_applications(name, blocks, projections):
    model = getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3), classes=5)
    found = residual_blocks(model)
    assert len(found) == blocks and not any(b.obstacle for b in found)
    assert sum(b.kind == "projection" for b in found) == projections
    x = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype("float32")
    done = drop_blocks(model, x, ratio=0.25)
    assert len(done.changes) == round(blocks / 4) and done.model.output_shape == (None, 5)
    everything = drop_blocks(model, blocks=[b.join for b in found]).model
    assert residual_blocks_left(everything) == 0


def residual_blocks_left(model):
    return len(residual_blocks(model))


def decoder(times):
    """An encoder with a block of its own, and blocks that attend to what it makes."""
    inputs, other = keras.Input((5, 8), name="text"), keras.Input((6, 8), name="sound")
    encoded = layers.Add(name="encoder")([other, layers.Dense(8)(other)])
    x = inputs
    for i in range(times):
        x = layers.Add(name=f"cross{i}")([x, layers.MultiHeadAttention(2, 4)(x, encoded)])
    return keras.Model([inputs, other], layers.Dense(3)(x))


def test_blocks_that_attend_to_an_encoder():
    found = {b.join: b for b in residual_blocks(decoder(2))}
    assert [b.obstacle for b in found.values()] == [None] * 3 and len(found["cross0"].branch) == 1
    dropped = drop_blocks(decoder(2), blocks=["cross0"]).model
    assert {"encoder", "cross1"} < {op.name for op in dropped.operations}
    (obstacle,) = [b.obstacle for b in residual_blocks(decoder(1)) if b.join == "cross0"]
    assert obstacle == "it holds other blocks, such as encoder"


def opened_transformer():
    """Positions and a class token in front, which are no blocks, and two blocks of custom layers."""
    inputs = keras.Input((6, 5), name="x")
    x = custom_layers.ClassToken(name="token")(layers.Dense(8, name="embed")(inputs))

    class Places(layers.Layer):
        def build(self, shape):
            self.table = self.add_weight(shape=(1, *shape[1:]), name="table")

        def call(self, x):
            return x + self.table

    x = custom_layers.Feed(12, name="feed")(Places(name="places")(x))
    y = custom_layers.Attention(name="attention")(layers.LayerNormalization()(x))
    x = layers.Add(name="sum")([x, y])
    return custom_layers.randomized(keras.Model(inputs, layers.Dense(3)(x), name="transformer"))


def test_in_opened_layers(tmp_path):
    model = opened_transformer()
    opened = open_layers(model).model
    inner, outer = residual_blocks(opened)
    assert inner.join.startswith("feed/") and outer.join == "sum" and not inner.obstacle and not outer.obstacle
    x = custom_layers.inputs_of(model)
    h = run(model, x, "embed", "token", "places", "feed")
    done = drop_blocks(opened, x, count=1, blocks=["sum"]).model
    same(done, model.layers[-1](h), x)
    done.save(tmp_path / "shallow.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "shallow.keras")(x), done(x))


# Dropping.


def test_without_an_identity_block():
    model = build("residual")
    x = sample_inputs(model, 2)
    done = drop_blocks(model, blocks=["join"])
    h = ops.relu(model.get_layer("stem")(x)) * 0.5 + 1.0
    same(done.model, run(model, h, "pool", "flat", "head"), x)
    assert done.changes == (("join", "branch of 2 layers dropped, identity shortcut kept"),)
    assert {"join", "conv1", "bn1"} & {op.name for op in done.model.operations} == set()
    assert "join" in {op.name for op in model.operations}


def test_a_projection_stays():
    model = projected()
    x = sample_inputs(model, 2)
    done = drop_blocks(model, blocks="add_a")
    h = run(model, x, "stem", "p", "p_bn", "relu")
    h = run(model, h, "pre", "pre_relu", "b1") + h
    same(done.model, model.get_layer("head")(h), x)
    both = drop_blocks(model, blocks=[block.join for block in residual_blocks(model)])
    same(both.model, run(model, x, "stem", "p", "p_bn", "relu", "head"), x)


def test_in_a_transformer_and_a_nested_model():
    model = build("attention")
    x = sample_inputs(model, 2)
    h = model.get_layer("norm1")(x)
    h = model.get_layer("norm2")(h + run(model, h, "ff1", "ff2"))
    same(drop_blocks(model, blocks=["add1"]).model, run(model, h, "gap", "head"), x)
    model = build("nested")
    x = sample_inputs(model, 2)
    same(drop_blocks(model, blocks=["block/add"]).model, run(model, x, "conv", "tail"), x)


def test_an_output_keeps_its_name():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Add(name="out")([inputs, layers.Dense(4)(inputs)]))
    done = drop_blocks(model, blocks=["out"]).model
    assert done.output_names == ["out"]
    x = np.ones((1, 4), "float32")
    same(done, x, x)


# Ranking.


def test_by_cosine():
    model = dense_blocks()
    x = sample_inputs(model, 40)
    done = drop_blocks(model, x, count=1, batch_size=16)
    assert done.details["order"][0] == "add1" and done.details["dropped"] == ["add1"]
    h, expected = x, {}
    for i in range(3):
        y = h + h @ model.get_layer(f"d{i}").kernel.numpy()
        cosine = (h * y).sum(-1) / np.linalg.norm(h, axis=-1) / np.linalg.norm(y, axis=-1)
        expected[f"add{i}"], h = 1 - cosine.mean(), y
    assert done.details["importance"] == pytest.approx(expected, abs=1e-6)
    assert done.details["criterion"] == "cosine" and json.dumps(done.to_dict())
    assert "importance" in str(done)
    assert [name for name, _ in drop_blocks(model, x, ratio=0.67).changes] == ["add0", "add1"]


def test_by_cosine_where_nothing_comes_through():
    model = dense_blocks()
    x = np.zeros((4, 6), "float32")
    assert drop_blocks(model, x, count=1).details["importance"] == {f"add{i}": 0.0 for i in range(3)}


def test_by_loss():
    model = dense_blocks()
    x = sample_inputs(model, 40)
    y = np.random.default_rng(0).integers(0, 3, 40)
    done = drop_blocks(model, x, y, count=1, criterion="loss", loss="sparse_categorical_crossentropy", batch_size=16)

    def loss(net):
        return -np.log(np.asarray(net(x))[np.arange(40), y]).mean()

    expected = {f"add{i}": loss(drop_blocks(model, blocks=[f"add{i}"]).model) - loss(model) for i in range(3)}
    assert done.details["importance"] == pytest.approx(expected, abs=1e-5)
    assert done.details["dropped"] == [min(expected, key=expected.get)]
    model.compile(loss="sparse_categorical_crossentropy")
    pairs = [(x[:20], y[:20]), (x[20:], y[20:])]
    again = drop_blocks(model, iter(pairs), count=1, criterion="loss")
    assert again.details["importance"] == pytest.approx(expected, abs=1e-5)


def test_by_a_function_among_given_blocks():
    model = dense_blocks()
    seen = []

    def importance(without):
        seen.append([layer.name for layer in without.layers if layer.name.startswith("add")])
        return -len(seen)

    done = drop_blocks(model, count=1, criterion=importance, blocks=["add2", "add0"])
    assert seen == [["add1", "add2"], ["add0", "add1"]]
    assert done.details["dropped"] == ["add2"] and done.details["criterion"] == "importance"


def test_what_cannot_go_is_reported():
    done = drop_blocks(unet(), np.ones((2, 8, 8, 4), "float32"), count=1)
    assert done.skipped == (("outer", "it holds other blocks, such as inner"),)
    assert done.details["dropped"] == ["inner"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, PlanError, "Expected `count`, `ratio` or `blocks`"),
        ({"count": 1, "ratio": 0.5}, PlanError, "one of `count` and `ratio`"),
        ({"count": 4}, PlanError, r"`count` must be an integer from 1 to 3.* Received: 4"),
        ({"count": 0}, PlanError, r"`count` must be an integer from 1 to 3.* Received: 0"),
        ({"count": 1.5}, PlanError, r"Received: 1\.5"),
        ({"ratio": 1.2}, PlanError, r"`ratio` must be in \(0, 1\]. Received: 1\.2"),
        ({"ratio": 0.1}, PlanError, r"less than one of 3 blocks. Give 0\.33 or more"),
        ({"blocks": ["ad1"]}, PlanError, "no residual block ad1.* Did you mean add1"),
        ({"blocks": []}, PlanError, "at least one block"),
        ({"count": 1, "criterion": "taylor"}, PlanError, "'cosine', 'loss', or a function.* Received: 'taylor'"),
        ({"count": 1}, DataError, "criterion='cosine' needs samples"),
        ({"count": 1, "criterion": "loss", "data": np.ones((2, 6))}, DataError, "needs labels"),
        ({"count": 1, "criterion": "loss", "data": np.ones((2, 6)), "labels": [0, 1]}, DataError, "needs a loss"),
        ({"count": 1, "data": np.ones((2, 5))}, DataError, r"expected shape \(6,\)"),
        ({"count": 1, "data": np.full((2, 6), np.nan)}, DataError, "add0 is not a number"),
        (
            {"count": 1, "criterion": "loss", "data": np.ones((2, 6)), "labels": np.ones((2, 4)), "loss": "mse"},
            DataError, "cannot be computed with these labels",
        ),
    ],
)  # fmt: skip
def test_bad_input(options, error, message):
    with pytest.raises(error, match=message):
        drop_blocks(dense_blocks(), **options)


def test_models_without_blocks():
    with pytest.raises(ModelError, match="has no residual block that can be dropped"):
        drop_blocks(build("conv_bn"), count=1)
    with pytest.raises(ModelError, match=r"add: its shortcut has the shape"):
        drop_blocks(wide(), count=1)
    with pytest.raises(PlanError, match=r"outer cannot be dropped: it holds other blocks"):
        drop_blocks(unet(), blocks=["outer"])
    with pytest.raises(ModelError, match="functional"):
        drop_blocks(build("subclassed"), count=1)


def test_saved_loaded_trained(tmp_path):
    model = projected()
    done = drop_blocks(model, sample_inputs(model, 2), count=1).model
    x = sample_inputs(model, 4)
    done.save(tmp_path / "m.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "m.keras")(x), done(x))
    before = done.get_layer("stem").kernel.numpy()
    done.compile("sgd", "mse")
    done.fit(x, np.ones((4, 4, 4, 2)), verbose=0)
    assert np.abs(done.get_layer("stem").kernel.numpy() - before).max() > 0
