"""`remove_redundant`: what goes, what has to stay, and that the outputs are the same."""

import keras
import numpy as np
import pytest
from keras import layers
from sweeps import sweep
from zoo import MODELS, build, randomise, sample_inputs

from tfstruct.errors import ModelError
from tfstruct.graph import trace
from tfstruct.surgery import remove_redundant


def check(model, gone, **options):
    """These layers go, no others, and the outputs stay."""
    x = sample_inputs(model, 3)
    done = remove_redundant(model, **options)
    for a, b in zip(keras.tree.flatten(model(x)), keras.tree.flatten(done.model(x)), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert np.abs(a - b).max() <= 1e-5 * max(np.abs(a).max(), 1e-3)
    had, left = (
        {call.path for call in trace(m).calls if isinstance(call.op, layers.Layer)} for m in (model, done.model)
    )
    assert had - left == set(gone)
    ends = [getattr(m, "_functional", m).output_names for m in (model, done.model)]
    assert ends[0] == ends[1]
    assert type(done.model) is type(model)
    return done


def chain(*parts, shape=(6, 6, 4), end=True):
    tail = [layers.Conv2D(2, 1, name="head")] if end else []
    return randomise(keras.Sequential([keras.Input(shape), layers.Conv2D(4, 1, name="conv"), *parts, *tail]))


NAMES = sorted(set(MODELS) - {"subclassed"})


@pytest.mark.parametrize("name", sweep(NAMES, quick=["conv_bn", "conv1d", "attention", "lstm", "several", "nested"]))
def test_the_zoo(name):
    goes = {"conv_bn": {"dropout"}, "grouped": {"prelu"}}  # behind a ReLU it does nothing
    check(build(name), goes.get(name, ()))


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.Identity(name="x"),
        lambda: layers.Activation("linear", name="x"),
        lambda: layers.Dropout(0.5, name="x"),
        lambda: layers.SpatialDropout2D(0.5, name="x"),
        lambda: layers.GaussianNoise(0.5, name="x"),
        lambda: layers.ZeroPadding2D(0, name="x"),
        lambda: layers.Cropping2D(0, name="x"),
        lambda: layers.MaxPooling2D(1, 1, name="x"),
        lambda: layers.AveragePooling2D(1, name="x"),
        lambda: layers.UpSampling2D(1, name="x"),
        lambda: layers.Rescaling(1.0, 0.0, name="x"),
        lambda: layers.Reshape((6, 6, 4), name="x"),
        lambda: layers.Reshape((6, -1, 4), name="x"),
        lambda: layers.Permute((1, 2, 3), name="x"),
    ],
)
def test_what_does_nothing(layer):
    done = check(chain(layer()), {"x"})
    assert [path for path, _ in done.changes] == ["x"]


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.ReLU(name="x"),
        lambda: layers.ZeroPadding2D(((0, 0), (0, 1)), name="x"),
        lambda: layers.MaxPooling2D(2, 1, padding="same", name="x"),
        lambda: layers.Rescaling([1.0, 1.0, 2.0, 1.0], name="x"),
        lambda: layers.Rescaling(1.0, 0.5, name="x"),
        lambda: layers.Permute((2, 1, 3), name="x"),
        lambda: layers.Dropout(0.5, name="x", activity_regularizer="l2"),
        lambda: layers.Activation("linear", name="x", dtype="float16"),
    ],
)
def test_what_stays(layer):
    check(chain(layer()), ())


def test_dropout_that_trains():
    check(chain(layers.Dropout(0.5, name="a"), layers.Dropout(0.0, name="b")), {"b"}, keep_dropout=True)


def test_dropout_called_in_training_mode_stays():
    x = inputs = keras.Input((4,))
    x = layers.Dropout(0.0, name="always")(x, training=True)
    model = keras.Model(inputs, layers.Dense(2)(x))
    check(model, ())


@pytest.mark.parametrize(
    ("first", "second", "gone"),
    [
        ("relu", layers.ReLU, True),
        ("relu6", layers.ReLU, True),
        ("softmax", layers.ReLU, True),
        ("sigmoid", lambda name: layers.Activation("relu6", name=name), True),
        ("relu", lambda name: layers.LeakyReLU(name=name), True),
        ("relu", lambda name: layers.ReLU(6.0, name=name), False),
        ("relu6", lambda name: layers.ReLU(6.0, name=name), True),
        ("relu6", lambda name: layers.ReLU(5.0, name=name), False),
        ("relu", lambda name: layers.ReLU(threshold=0.5, name=name), False),
        ("tanh", layers.ReLU, False),
        ("leaky_relu", layers.ReLU, False),
        ("relu", lambda name: layers.Activation("sigmoid", name=name), False),
    ],
)
def test_rectifiers_of_what_is_not_negative(first, second, gone):
    check(chain(layers.Activation(first, name="a"), second(name="b")), {"b"} if gone else ())
    conv = layers.Conv2D(4, 1, activation=first, name="a")
    check(chain(conv, layers.MaxPooling2D(name="pool"), layers.Dropout(0.5, name="d"), second(name="b")),
          {"b", "d"} if gone else {"d"})  # fmt: skip


def test_rectifiers_behind_joins():
    inputs = keras.Input((5,), name="x")
    a = layers.Dense(3, activation="relu", name="a")(inputs)
    b = layers.Dense(3, activation="sigmoid", name="b")(inputs)
    c = layers.Dense(3, name="c")(inputs)
    parts = [
        layers.ReLU(name="r_add")(layers.Add()([a, b])),
        layers.ReLU(name="r_product")(layers.Multiply()([a, b])),
        layers.ReLU(name="r_all")(layers.Concatenate()([a, b])),
        layers.ReLU(name="r_open")(layers.Add()([a, c])),
        layers.ReLU(6.0, name="r_capped")(layers.Add()([b, b])),
    ]
    model = randomise(keras.Model(inputs, layers.Dense(2)(layers.Concatenate()(parts))))
    check(model, {"r_add", "r_product", "r_all", "r_capped"})


def test_reshapes_collapse_to_the_last():
    check(
        chain(layers.Reshape((36, 4), name="a"), layers.Reshape((9, 16), name="b"), layers.Flatten(name="c"),
              layers.Flatten(name="d"), layers.Dense(3, name="e"), end=False),
        {"a", "b", "d"},
    )  # fmt: skip
    # There and back again.
    check(chain(layers.Reshape((36, 4), name="a"), layers.Reshape((6, 6, 4), name="b")), {"a", "b"})
    # A channels-first Flatten moves entries.
    first = layers.Flatten(data_format="channels_first", name="b")
    check(chain(layers.Reshape((12, 12), name="a"), first, layers.Dense(2, name="c"), end=False), ())


def test_a_reshape_with_another_reader_stays():
    inputs = keras.Input((4, 6))
    a = layers.Reshape((24,), name="a")(inputs)
    b = layers.Reshape((3, 8), name="b")(a)
    model = randomise(keras.Model(inputs, [layers.Dense(2, name="p")(a), layers.Dense(2, name="q")(b)]))
    done = check(model, ())
    assert done.changes == (("b", "Reshape reads what a reshaped"),)


def test_permutations_that_cancel():
    check(chain(layers.Permute((3, 1, 2), name="a"), layers.Permute((2, 3, 1), name="b")), {"a", "b"})
    check(chain(layers.Permute((3, 1, 2), name="a"), layers.Permute((3, 1, 2), name="b"), end=False), ())
    parts = (layers.Permute((3, 1, 2), name="a"), layers.Dropout(0.1, name="d"), layers.Permute((2, 3, 1), name="b"))
    check(chain(layers.Reshape((6, 24), name="r"), layers.Reshape((6, 6, 4), name="s"), *parts), set("adbrs"))


def test_joins_of_one_input_and_casts():
    x = inputs = keras.Input((5,))
    x = layers.Dense(4)(x)
    x = layers.Concatenate(name="a")([x])
    x = layers.Add(name="b")([x])
    x = keras.ops.cast(x, "float32")
    model = randomise(keras.Model(inputs, layers.Dense(2)(x)))
    done = check(model, {"a", "b"})
    assert "cast" not in " ".join(op.name for op in done.model.operations)
    assert len(done.changes) == 3


def test_outputs_keep_their_names():
    done = check(chain(layers.Activation("linear", name="out"), end=False), ())
    assert done.skipped == (("out", "makes an output of the model, which is named after it"),)
    assert done.changes == ()


def test_nested_and_shared():
    inner = keras.Sequential(
        [
            keras.Input((4,)), layers.Dense(4, activation="relu", name="a"), layers.ReLU(name="b"),
            layers.Dropout(0.2, name="c"),
        ],
        name="inner",
    )  # fmt: skip
    x = inputs = keras.Input((4,), name="in")
    drop = layers.Dropout(0.5, name="drop")
    x = layers.ReLU(name="after")(inner(drop(inner(x))))
    model = randomise(keras.Model(inputs, layers.Dense(3, name="head")(drop(x))))
    done = check(model, {"inner/b", "inner/c", "drop", "after"})
    assert len(done.model.get_layer("inner")._inbound_nodes) == 2
    assert len(done.changes) == 4
    # A nested model keeps something to do.
    only = keras.Sequential([keras.Input((4,)), layers.Dropout(0.2, name="c")], name="only")
    check(keras.Sequential([keras.Input((4,)), only, layers.Dense(2, name="head")]), ())


def test_a_rectifier_in_a_nested_model_called_on_two_tensors():
    inner = keras.Sequential([keras.Input((4,)), layers.ReLU(name="r"), layers.Dense(4, name="d")], name="inner")
    inputs = keras.Input((4,))
    positive = layers.Dense(4, activation="relu", name="p")(inputs)
    model = randomise(keras.Model(inputs, layers.Add()([inner(positive), inner(inputs)])))
    check(model, ())


def test_masks_stay():
    x = inputs = keras.Input((5,), dtype="int32", name="ids")
    x = layers.Embedding(20, 4, mask_zero=True, name="embed")(x)
    x = layers.Dropout(0.5, name="drop")(x)
    x = layers.ZeroPadding1D(0, name="pad")(x)  # drops the mask
    model = randomise(keras.Model(inputs, layers.Dense(2)(layers.LSTM(3)(x))))
    check(model, {"drop"})


def test_open_sizes():
    x = inputs = keras.Input((None, None, 4))
    x = layers.Conv2D(4, 3, padding="same")(x)
    x = layers.Reshape((-1, 4), name="a")(x)
    x = layers.Reshape((-1, 4), name="b")(x)
    model = randomise(keras.Model(inputs, layers.Dense(2)(x)))
    done = remove_redundant(model)
    y = np.random.default_rng(0).normal(size=(2, 5, 7, 4)).astype("float32")
    np.testing.assert_allclose(done.model(y), model(y), rtol=1e-5)
    assert [path for path, _ in done.changes] == ["b"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "gone"), [("MobileNetV3Small", 1), ("EfficientNetB0", 10), ("ResNet50V2", 0)])
def test_applications(name, gone):
    model = getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3), classes=5)
    done = remove_redundant(model)
    assert len(done.changes) >= gone
    assert all(what.startswith(("Dropout", "Reshape", "Rescaling", "ReLU", "Activation")) for _, what in done.changes)


def test_saved_loaded_trained(tmp_path):
    model = build("conv_bn")
    done = remove_redundant(model).model
    assert any(layer.name == "dropout" for layer in model.layers)
    x = sample_inputs(model, 4)
    done.save(tmp_path / "m.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "m.keras")(x), done(x))
    before = done.get_layer("stem").kernel.numpy()
    done.compile("sgd", "mse")
    done.fit(x, np.eye(5, dtype="float32")[:4], verbose=0)
    assert np.abs(done.get_layer("stem").kernel.numpy() - before).max() > 0


def test_a_subclassed_model_is_refused():
    with pytest.raises(ModelError, match="functional"):
        remove_redundant(build("subclassed"))
