"""Layers that become one: values, sizes, gradients; and which could."""

import json
import os

import keras
import numpy as np
import pytest
import zoo
from keras import layers
from sweeps import sweep

from tfstruct.errors import DataError, ModelError, PlanError
from tfstruct.surgery import share_layers, suggest_sharing

WIDTH = 8
PARTS = ("attention", "norm1", "up", "down", "norm2")


def _block(x, i, names="{part}{i}"):
    name = lambda part: names.format(part=part, i=i)  # noqa: E731
    y = layers.MultiHeadAttention(2, 4, name=name("attention"))(x, x)
    x = layers.LayerNormalization(name=name("norm1"))(layers.Add(name=name("add"))([x, y]))
    y = layers.Dense(2 * WIDTH, activation="gelu", name=name("up"))(x)
    y = layers.Dense(WIDTH, name=name("down"))(y)
    return layers.LayerNormalization(name=name("norm2"))(layers.Add(name=name("join"))([x, y]))


def _encoder(nested: bool, blocks=4, seed=0):
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((5, WIDTH), name="tokens")
    for i in range(blocks):
        if nested:
            own = keras.Input((5, WIDTH))
            x = keras.Model(own, _block(own, i, "{part}"), name=f"block{i}")(x)
        else:
            x = _block(x, i)
    x = layers.GlobalAveragePooling1D(name="gap")(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x), name="encoder")


def _groups(nested: bool, blocks: int):
    if nested:
        return [[f"block{i}" for i in range(blocks)]]
    return [[f"{part}{i}" for i in range(blocks)] for part in PARTS]


def _block_size():
    own = keras.Input((5, WIDTH))
    return keras.Model(own, _block(own, 0)).count_params()


def _data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(16, 5, WIDTH)).astype("float32"), rng.normal(size=(16, 3)).astype("float32")


# ALBERT has 12 blocks.
DEPTHS = [(False, 4), (True, 4), (False, 12), (True, 12)]


@pytest.mark.parametrize("nested, blocks", sweep(DEPTHS, quick=DEPTHS[:2]))
@pytest.mark.sweep(1)
def test_alberts_pattern(nested, blocks, tmp_path):
    model = zoo.randomise(_encoder(nested, blocks))
    done = share_layers(model, _groups(nested, blocks))
    small = done.model
    assert small.count_params() == model.count_params() - (blocks - 1) * _block_size()
    assert done.macs[0] == done.macs[1]
    first = [name for name, *_ in _groups(nested, blocks)]
    assert set(done.details) == set(first) <= {layer.name for layer in small.layers}
    assert sum(d["parameters"][1] for d in done.details.values()) == _block_size()
    # The mean, as NumPy has it.
    layer = lambda m, i: m.get_layer(f"block{i}").get_layer("up") if nested else m.get_layer(f"up{i}")  # noqa: E731
    expected = np.mean([layer(model, i).kernel.numpy() for i in range(blocks)], axis=0)
    np.testing.assert_allclose(layer(small, 0).kernel, expected, rtol=1e-5, atol=1e-7)
    # The file.
    x, y = _data()
    model.save(tmp_path / "large.keras")
    small.save(tmp_path / "small.keras")
    share = 0.3 if blocks == 12 else 0.6
    assert os.path.getsize(tmp_path / "small.keras") < share * os.path.getsize(tmp_path / "large.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    assert loaded.count_params() == small.count_params()
    np.testing.assert_allclose(loaded(x), small(x), rtol=1e-5, atol=1e-5)
    # Training.
    small.compile(keras.optimizers.Adam(1e-3), "mse", run_eagerly=True)  # no tracing: faster here
    before = small.evaluate(x, y, verbose=0)
    small.fit(x, y, epochs=1, batch_size=16, verbose=0)  # one step
    assert small.evaluate(x, y, verbose=0) < before
    json.dumps(done.to_dict())


@pytest.mark.parametrize("nested, blocks", sweep(DEPTHS, quick=DEPTHS[:2]))
def test_equal_weights_stay_equal_and_gradients_sum(nested, blocks):
    import tensorflow as tf

    model = zoo.randomise(_encoder(nested, blocks))
    units = [[model.get_layer(name) for name in group] for group in _groups(nested, blocks)]
    for group in units:
        for other in group[1:]:
            other.set_weights(group[0].get_weights())
    done = share_layers(model, _groups(nested, blocks))
    assert done.max_difference.relative <= 1e-5
    x, _ = _data()
    np.testing.assert_allclose(done.model(x), model(x), rtol=1e-4, atol=1e-5)
    assert all(detail["change"] == 0.0 for detail in done.details.values())

    def gradients(one, of):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(one(x) ** 2)
        return tape.gradient(loss, [layer.trainable_variables for layer in of])

    each = gradients(model, [layer for group in units for layer in group])
    shared = gradients(done.model, [done.model.get_layer(group[0].name) for group in units])
    for place, own in enumerate(shared):
        for i, gradient in enumerate(own):
            expected = sum(uses[i].numpy() for uses in each[place * blocks : (place + 1) * blocks])
            # A key's bias has no gradient but noise.
            np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max() + 1e-3)


def _chain(sequential=True, **second):
    stack = [
        layers.Dense(6, activation="relu", name="a"),
        layers.Dense(6, **{"activation": "relu", "name": "b", **second}),
        layers.Dense(6, activation="relu", name="c"),
        layers.BatchNormalization(name="norm1"),
        layers.ReLU(name="relu"),
        layers.BatchNormalization(name="norm2"),
        layers.Dense(2, name="head"),
    ]
    return zoo.randomise(keras.Sequential([keras.Input((6,)), *stack], name="chain"))


def test_how():
    model = _chain()
    w = [model.get_layer(name).kernel.numpy() for name in "abc"]
    kernel = lambda *args, **kw: share_layers(model, [["b", "a", "c"]], *args, **kw).model.get_layer("b").kernel  # noqa: E731
    np.testing.assert_allclose(kernel(), (w[0] + w[1] + w[2]) / 3, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(kernel("first"), w[1])
    expected = (3 * w[1] + w[0]) / 4
    np.testing.assert_allclose(kernel("weighted", weights=[3, 1, 0]), expected, rtol=1e-5, atol=1e-6)
    done = share_layers(model, [["a", "b"], ["norm1", "norm2"]], "weighted", weights=[[1, 1], [0, 1]])
    np.testing.assert_array_equal(
        done.model.get_layer("norm1").moving_variance, model.get_layer("norm2").moving_variance
    )
    assert done.model.get_layer("c").kernel.numpy() == pytest.approx(w[2])


def test_a_sequential_model_comes_back_from_its_file(tmp_path):
    done = share_layers(_chain(), [["a", "b"]])
    done.model.save(tmp_path / "m.keras")
    x = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(loaded(x), done.model(x), rtol=1e-5, atol=1e-6)


def test_inside_a_nested_model_and_with_several_outputs():
    own = keras.Input((6,))
    inner = keras.Model(own, layers.Dense(6, name="b")(layers.Dense(6, name="a")(own)), name="inner")
    left, right = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    model = keras.Model({"left": left, "right": right}, {"x": inner(left), "y": layers.Add()([inner(right), left])})
    zoo.randomise(model)
    before = [w.numpy() for w in model.weights]
    done = share_layers(model, [["inner/b", "inner/a"]])
    assert done.model.count_params() == 42
    small = done.model.get_layer("inner")
    assert [layer.name for layer in small.layers[1:]] == ["b"]
    x = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    got = done.model({"left": x, "right": x})
    np.testing.assert_allclose(got["x"], small.get_layer("b")(small.get_layer("b")(x)), rtol=1e-5, atol=1e-6)
    for a, b in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert share_layers(model, [["a", "b"]]).model.count_params() == 42  # names that are unique do


def test_recurrent_and_wrapped_layers():
    x = inputs = keras.Input((5, 8))
    for i in range(2):
        x = layers.Bidirectional(layers.LSTM(4, return_sequences=True), name=f"both{i}")(x)
    model = zoo.randomise(keras.Model(inputs, x))
    model.get_layer("both1").set_weights(model.get_layer("both0").get_weights())
    done = share_layers(model, [["both0", "both1"]])
    assert done.model.count_params() * 2 == model.count_params()
    assert done.max_difference.relative <= 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "tanh"}, "`a` has activation='relu', `b` activation='tanh'"),
        ({"units": 5}, r"`a` has weights of shapes \[\(6, 6\), \(6,\)\], `b` \[\(6, 5\)"),
        ({"use_bias": False}, "`a` has weights of shapes"),
        ({"trainable": False}, "of `a` and `b` only one is trainable"),
        ({"kernel_regularizer": "l2"}, "`b` kernel_regularizer='L2'"),
    ],
)
def test_unequal_layers(change, message):
    units = change.pop("units", 6)
    stack = [
        layers.Dense(6, activation="relu", name="a"),
        layers.Dense(units, **{"activation": "relu", **change}, name="b"),
    ]
    model = keras.Sequential([keras.Input((6,)), *stack])
    with pytest.raises(PlanError, match=message):
        share_layers(model, [["a", "b"]])


def test_unequal_models():
    def block(name, activation):
        own = keras.Input((6,))
        return keras.Model(own, layers.Dense(6, activation=activation, name=f"d{name}")(own), name=name)

    inputs = keras.Input((6,))
    model = keras.Model(inputs, block("q", "relu")(block("p", "tanh")(inputs)))
    with pytest.raises(PlanError, match=r"`p` and `q` differ in layers\[1\].config.activation: 'tanh' and 'relu'"):
        share_layers(model, [["p", "q"]])
    with pytest.raises(PlanError, match="`p/dp` and `q/dq` are in different nested models"):
        share_layers(model, [["p/dp", "q/dq"]])
    twins = keras.Model(inputs, block("q", "relu")(block("p", "relu")(inputs)))
    assert share_layers(twins, [["p", "q"]]).model.count_params() == 42
    with pytest.raises(PlanError, match="is inside `p`, which is shared too"):
        own = keras.Input((6,))
        two = lambda n: keras.Model(own, layers.Dense(6, name="y")(layers.Dense(6, name="x")(own)), name=n)  # noqa: E731
        share_layers(keras.Model(inputs, two("q")(two("p")(inputs))), [["p", "q"], ["p/x", "p/y"]])


@pytest.mark.parametrize(
    ("groups", "options", "message"),
    [
        ([], {}, "`groups` must be lists of names"),
        (["a", "b"], {}, "`groups` must be lists of names"),
        ("ab", {}, "`groups` must be lists of names"),
        ([["a"]], {}, "at least two layers"),
        ([["a", "a"]], {}, "names `a` twice"),
        ([["a", "b"], ["b", "c"]], {}, "names `b` twice"),
        ([["a", "nope"]], {}, "names 'nope', but `chain` has no such layer"),
        ([["a", "norm1"]], {}, "`a` is a Dense, `norm1` a BatchNormalization"),
        ([["a", "b"]], {"how": "sum"}, "`how` must be one of mean, first, weighted"),
        ([["a", "b"]], {"how": "weighted"}, "and it needs them"),
        ([["a", "b"]], {"weights": [1, 1]}, "`weights` go with"),
        ([["a", "b"]], {"how": "weighted", "weights": [1]}, "must be 2 numbers"),
        ([["a", "b"]], {"how": "weighted", "weights": [0, 0]}, "not all 0"),
        ([["a", "b"]], {"how": "weighted", "weights": [-1, 2]}, "numbers >= 0"),
        ([["a", "b"]], {"how": "weighted", "weights": [[1, 1], [1, 1]]}, "each of 1 groups"),
        ([["a", "b"]], {"how": "weighted", "weights": "ab"}, "list of numbers"),
    ],
)
def test_bad_options(groups, options, message):
    with pytest.raises(PlanError, match=message):
        share_layers(_chain(), groups, **options)


def test_layers_without_weights_and_models_without_a_graph():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layers.ReLU(name="r2")(layers.Dense(6)(layers.ReLU(name="r1")(inputs))))
    with pytest.raises(PlanError, match="has no weights to share"):
        share_layers(model, [["r1", "r2"]])
    with pytest.raises(ModelError, match="call"):
        share_layers(zoo.build("subclassed"), [["a", "b"]])


def test_suggested_by_weights():
    model = _chain()
    rng = np.random.default_rng(7)
    kernel = model.get_layer("a").kernel.numpy()
    model.get_layer("c").kernel.assign(kernel + 0.1 * kernel.std() * rng.normal(size=kernel.shape))
    found = suggest_sharing(model)
    assert found.groups == (("a", "c"),)
    a, c = (model.get_layer(n).kernel.numpy().ravel() for n in "ac")
    assert found.similarities[0] == pytest.approx(np.corrcoef(a, c)[0, 1])
    assert found.saved == (42,)
    assert "a, c: 0.9" in str(found) and found.table().row_count == 1
    json.dumps(found.to_dict())
    assert share_layers(model, found.groups).model.count_params() == model.count_params() - 42
    none = suggest_sharing(model, threshold=1.0)
    assert none.groups == () and "the most similar pair has 0.9" in str(none)


def test_suggested_by_what_layers_read():
    x = inputs = keras.Input((5, 6))
    branches = [layers.Dense(4, name=f"{n}")(x) for n in "ab"]
    rest = layers.Dense(6, activation="relu", name="mix")(x)
    branches.append(layers.Dense(4, name="c")(rest))
    model = zoo.randomise(keras.Model(inputs, layers.Concatenate()(branches)))
    data = np.random.default_rng(0).normal(size=(40, 5, 6)).astype("float32")
    found = suggest_sharing(model, data)
    assert found.groups == (("a", "b"),)  # they read the same tensor
    rows = data.reshape(-1, 6).astype("float64")
    read = keras.ops.convert_to_numpy(model.get_layer("mix")(data)).reshape(-1, 6).astype("float64")
    rows, read = rows - rows.mean(0), read - read.mean(0)
    cka = np.sum((read.T @ rows) ** 2) / np.linalg.norm(rows.T @ rows) / np.linalg.norm(read.T @ read)
    assert dict(((a, b), s) for a, b, s in found.pairs)["a", "c"] == pytest.approx(cka, rel=1e-4)
    with pytest.raises(DataError):
        suggest_sharing(model, data[:, :3])


def test_suggested_blocks_come_before_their_layers():
    model = _encoder(nested=True)
    model.get_layer("block3").set_weights(model.get_layer("block1").get_weights())
    found = suggest_sharing(model)
    assert found.groups[0] == ("block1", "block3")
    assert not [name for group in found.groups for name in group if name.startswith(("block1/", "block3/"))]
    assert share_layers(model, found.groups).max_difference is not None
    assert suggest_sharing(model, _data()[0][:4], threshold=0.99).measure == "inputs"


@pytest.mark.parametrize("threshold", [0, 1.1, None, "high", True])
def test_bad_thresholds(threshold):
    with pytest.raises(PlanError, match="`threshold` must be in"):
        suggest_sharing(_chain(), threshold=threshold)
