"""What every pipeline keeps: shapes, dtypes, ranges, order; and draws that depend on the seed alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sweeps import sweep

from tfstruct import augment
from tfstruct.errors import DataError

SAMPLES = {
    "images": ((12, 8, 8, 3), "uint8", {"classes": 4}),
    "audio": ((12, 50), "float32", {}),
    "spectrograms": ((12, 20, 10, 1), "float32", {}),
    "text": ((12, 9), "int32", {}),
    "sequences": ((12, 30, 2), "float32", {}),
}


def values(name, dtype=None):
    shape, usual, _ = SAMPLES[name]
    rng = np.random.default_rng(0)
    found = rng.integers(1, 200, shape) if usual != "float32" else rng.uniform(-1, 1, shape)
    return found.astype(dtype or usual)


def made(name, strength="medium", **options):
    return getattr(augment, name)(strength, **{**SAMPLES[name][2], **options})


def batches(*parts, size=6):
    return tf.data.Dataset.from_tensor_slices(parts if len(parts) > 1 else parts[0]).batch(size)


def inputs(dataset):
    found = [batch[0] if isinstance(batch, tuple) else batch for batch in dataset]
    return np.concatenate([np.asarray(x) for x in found])


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8"])
def test_integers_of_any_width_stay_themselves(dtype):
    tokens, pictures = values("text", dtype), values("images").astype(dtype)
    assert set(np.unique(inputs(made("text", unknown=0)(batches(tokens))))) <= {0, *tokens.flat}
    found = inputs(made("images", "light")(batches(pictures)))
    assert found.dtype == dtype and set(np.unique(found)) <= set(pictures.flat)


@pytest.mark.parametrize(
    ("pipeline", "x", "says"),
    [
        (augment.images("light"), np.linspace(0, 1, 768).reshape(4, 8, 8, 3), r"`value_range` is \(0, 255\)"),
        (augment.images("light"), np.linspace(-1, 1.01, 768).reshape(4, 8, 8, 3), r"`value_range` is \(0, 255\)"),
        (augment.images("light", value_range=(0, 1)), np.full((4, 8, 8, 3), 200.0), r"`value_range` is \(0, 1\)"),
        (augment.audio("light"), np.arange(-400, 400).reshape(4, 200).astype("int16"), r"is \(-1\.0, 1\.0\)"),
        (augment.images("medium", classes=3), np.full((4, 8, 8, 3), 200.0), r"`classes` is 3, .*labels of others"),
    ],
)
def test_a_range_or_number_of_classes_that_the_data_has_not_stops_the_dataset(pipeline, x, says):
    with pytest.raises(tf.errors.InvalidArgumentError, match=says):
        inputs(pipeline(batches(x.astype("float32") if x.dtype == float else x, np.arange(4), size=4)))


@pytest.mark.parametrize("x", [np.zeros((4, 8, 8, 3)), np.full((4, 8, 8, 3), 1.0), np.full((4, 8, 8, 3), 260.5)])
def test_dark_pictures_and_overshoot_are_no_other_range(x):
    assert inputs(augment.images("light")(batches(x.astype("float32")))).shape == x.shape


@pytest.mark.parametrize(
    ("name", "strength"),
    sweep(
        [(name, strength) for name in SAMPLES for strength in ("light", "medium", "strong")],
        quick=[
            ("images", "strong"),
            ("audio", "light"),
            ("spectrograms", "strong"),
            ("text", "medium"),
            ("sequences", "strong"),
        ],
    ),
)
@pytest.mark.sweep(2)
def test_shape_dtype_and_length_are_kept(name, strength):
    x, y = values(name), np.arange(12) % 4
    data = batches(x, y)
    changed = made(name, strength)(data)
    assert changed.element_spec[0] == data.element_spec[0] and int(changed.cardinality()) == 2
    found = inputs(changed)
    assert found.shape == x.shape and found.dtype == x.dtype and (found != x).any()
    if name in ("images", "audio"):
        low, high = (0, 255) if name == "images" else (-1, 1)
        assert low <= found.min() and found.max() <= high
    if name != "images" or strength == "light":
        np.testing.assert_array_equal(np.concatenate([np.asarray(labels) for _, labels in changed]), y)


@pytest.mark.parametrize("name", sweep(SAMPLES, ["images", "text"]))
def test_draws_depend_on_seed_and_epoch(name):
    data = batches(values(name), np.arange(12) % 4)
    keras.utils.set_random_seed(1)
    one = made(name, seed=3)(data)
    first, second = inputs(one), inputs(one)
    keras.utils.set_random_seed(2)
    again = made(name, seed=3)(data)
    np.testing.assert_array_equal(inputs(again), first)
    np.testing.assert_array_equal(inputs(again), second)
    assert (first != second).any() and (inputs(made(name, seed=4)(data)) != first).any()


def test_what_surrounds_the_input_is_kept():
    x = {"picture": values("images"), "size": np.arange(12.0)}
    y, weights = np.arange(12) % 4, np.linspace(0, 1, 12)
    pipeline = augment.images("light", input="picture")
    for (found, labels, w), i in zip(pipeline(batches(x, y, weights)), (0, 6), strict=True):
        np.testing.assert_array_equal(found["size"], x["size"][i : i + 6])
        np.testing.assert_array_equal(labels, y[i : i + 6])
        np.testing.assert_array_equal(w, weights[i : i + 6])
        assert (found["picture"].numpy() != x["picture"][i : i + 6]).any()
    pair = tf.data.Dataset.from_tensor_slices(((np.arange(12.0), values("images")), y)).batch(6)
    (size, picture), _ = next(iter(augment.images("light", input=1)(pair)))
    assert size.shape == (6,) and picture.dtype == tf.uint8
    assert next(iter(augment.images("light")(batches(values("images"))))).shape == (6, 8, 8, 3)


def test_endless_and_uneven_batches():
    data = batches(values("images"), np.arange(12), size=5)
    assert [len(x) for x, _ in augment.images("medium", classes=12)(data)] == [5, 5, 2]
    endless = augment.images("light")(data.repeat())
    assert int(endless.cardinality()) == tf.data.INFINITE_CARDINALITY
    unknown = augment.images("light")(data.filter(lambda x, y: True))
    assert len(list(unknown)) == 3


def test_own_changes_and_layers_of_keras():
    noise = keras.layers.GaussianNoise(1.0, seed=0)
    doubled = augment.Pipeline([lambda x, draws: 2 * x, noise], value_range=(0, 255), seed=1)
    before = noise.seed_generator
    x = values("images")
    found = inputs(doubled(batches(x))).astype(int)
    assert np.abs(found - np.minimum(2 * x.astype(int), 255)).max() <= 6 and (found != 2 * x.astype(int)).any()
    np.testing.assert_array_equal(found, inputs(doubled(batches(x))))
    assert noise.seed_generator is before


def test_training_with_it():
    x, y = values("images"), np.arange(12) % 4
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(4, "softmax")])
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"], run_eagerly=True)
    data = augment.images("medium", classes=4)(batches(x, y).map(lambda a, b: (tf.cast(a, tf.float32), b)))
    history = model.fit(data, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()


@pytest.mark.parametrize("name", sweep(SAMPLES, ["images", "spectrograms", "text"]))
def test_plot(name, tmp_path):
    figure = made(name, "medium").plot((values(name), np.arange(12) % 4), count=2, path=tmp_path / "samples.png")
    assert len(figure.axes) == 2 * 4 and "epoch 3" in figure.axes[3].get_title()
    assert (tmp_path / "samples.png").stat().st_size > 5000


def test_plot_of_a_dataset():
    figure = made("sequences", "light").plot(batches(values("sequences"), np.arange(12) % 4), count=3)
    assert figure.axes[0].get_title() == "as it is\n0" and len(figure.axes) == 3 * 4


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: augment.images("huge"), ValueError, "must be one of light, medium, strong. Received: 'huge'"),
        (lambda: augment.images(mix="mashup"), ValueError, "`mix` must be one of mixup, cutmix, either"),
        (lambda: augment.images(value_range=(1, 0)), ValueError, "`value_range` must be"),
        (lambda: augment.Pipeline([augment.Mix()]), ValueError, "Give it as `mix`"),
        (lambda: augment.images()(values("images")), DataError, r"from_tensor_slices\(\(x, y\)\)\.batch\(64\)"),
        (lambda: augment.text()(batches(np.array(["a b"] * 12))), DataError, "TextVectorization first"),
        (lambda: augment.text(padding_side="top"), ValueError, "`padding_side` must be right or left"),
        (lambda: augment.Pipeline([], kind="smells"), ValueError, "`kind` must be one of images"),
        (lambda: augment.Choice([]), ValueError, "Expected changes"),
        (lambda: augment.images()(values("images")), DataError, "Expected a tf.data.Dataset"),
        (lambda: augment.images()(batches(values("images")).unbatch()), DataError, "call batch"),
        (lambda: augment.images("light", input="a")(batches(values("images"))), DataError, "no input 'a'"),
        (lambda: augment.images("light")(batches({"a": values("images")})), DataError, "Give input="),
        (lambda: augment.images()(batches(values("images"))), DataError, "the dataset has none"),
        (lambda: augment.images()(batches(values("images"), np.arange(12))), DataError, "Give classes="),
    ],
)  # fmt: skip
def test_bad_input(call, error, said):
    with pytest.raises(error, match=said):
        call()
