"""What every regularizer has to do: its value, its gradient, its configuration, and every way to train."""

import functools

import contracts
import keras
import numpy as np
import pytest
import tensorflow as tf

from tfstruct import regularizers

STRENGTH = 0.05
# Row -> what makes a strong one of it (L1 makes a tensor), and its value without the strength in NumPy.
ROWS = {
    "L1": (lambda: regularizers.L1(STRENGTH), lambda w: np.abs(w).sum()),
    "L2": (lambda: regularizers.L2(STRENGTH), lambda w: (w**2).sum()),
    "L1L2": (lambda: regularizers.L1L2(STRENGTH, STRENGTH), lambda w: np.abs(w).sum() + (w**2).sum()),
    "GroupLasso": (
        lambda: regularizers.GroupLasso(STRENGTH),
        lambda w: np.sqrt(w[..., 0].size) * sum(np.linalg.norm(w[..., i]) for i in range(w.shape[-1])),
    ),
    "GroupLasso row": (
        lambda: regularizers.GroupLasso(STRENGTH, by="row"),
        lambda w: np.sqrt(w[..., 0, :].size) * sum(np.linalg.norm(w[..., i, :]) for i in range(w.shape[-2])),
    ),
    "BatchNormScale": (lambda: regularizers.BatchNormScale(STRENGTH), lambda w: np.abs(w).sum()),
    "Orthogonal": (
        lambda: regularizers.Orthogonal(STRENGTH),
        lambda w: ((w.reshape(-1, w.shape[-1]).T @ w.reshape(-1, w.shape[-1]) - np.eye(w.shape[-1])) ** 2).sum(),
    ),
    "HoyerSquare": (lambda: regularizers.HoyerSquare(STRENGTH), lambda w: np.abs(w).sum() ** 2 / (w**2).sum()),
    "HoyerSquare filter": (
        lambda: regularizers.HoyerSquare(STRENGTH, by="filter"),
        lambda w: sum(np.linalg.norm(w[..., i]) for i in range(w.shape[-1])) ** 2 / (w**2).sum(),
    ),
    "Entropy": (
        lambda: regularizers.Entropy(STRENGTH),
        lambda w: -sum(p * np.log(p) for p in (np.abs(w) / np.abs(w).sum()).ravel() if p > 0),
    ),
}
OURS = [name for name in ROWS if not name.startswith("L")]
CHANNEL = "GroupLasso channel"
# By default all run at once (`everything`), and these alone.
QUICK = {("GroupLasso", "fit"), (CHANNEL, "fit"), (CHANNEL, "tape")}
SHAPES = {"BatchNormScale": [(5,)]}


def network(row: str) -> keras.Model:
    """The suite's network with the regularizer on one layer more; on the whole model for channel groups."""
    keras.utils.set_random_seed(1)  # a layer draws the seed of its initial weights when it is made
    if row == CHANNEL:
        model = contracts.network(keras.layers.Conv2D(6, 3, padding="same", name="more"))
        regularizers.apply(model, regularizers.GroupLasso(STRENGTH, by="channel"))
        return model
    regularizer = ROWS[row][0]()
    if row == "BatchNormScale":
        return contracts.network(keras.layers.BatchNormalization(gamma_regularizer=regularizer, name="more"))
    return contracts.network(keras.layers.Conv2D(6, 3, padding="same", kernel_regularizer=regularizer, name="more"))


def ways():
    for row in [*ROWS, CHANNEL]:
        for way in contracts.WAYS:
            marks = [] if (row, way) in QUICK else [pytest.mark.slow]
            yield pytest.param(row, way, id=f"{row}-{way}", marks=marks)


def test_every_public_regularizer_is_a_row():
    classes = {name for name in regularizers.__all__ if isinstance(getattr(regularizers, name), type)}
    assert classes == {row.split()[0] for row in ROWS}


@pytest.mark.parametrize("row", ROWS)
def test_value_is_that_of_numpy(row):
    regularizer, value = ROWS[row][0](), ROWS[row][1]
    for shape in SHAPES.get(row, [(4, 3), (3, 4), (3, 2, 4, 5)]):
        w = np.random.default_rng(0).normal(size=shape).astype("float32")
        w[0] = 0
        np.testing.assert_allclose(regularizer(tf.constant(w)), STRENGTH * value(w.astype(float)), rtol=1e-5)


def test_values_by_hand():
    w = tf.constant([[3.0, 0.0], [4.0, 0.0]])
    assert float(regularizers.GroupLasso(1.0)(w)) == pytest.approx(2**0.5 * 5)
    assert float(regularizers.GroupLasso(1.0, by="row")(w)) == pytest.approx(2**0.5 * 7)
    assert float(regularizers.GroupLasso(1.0, by=(0, 1))(w)) == pytest.approx(7)
    assert float(regularizers.Orthogonal(1.0)(w)) == pytest.approx(24**2 + 1)
    assert float(regularizers.HoyerSquare(1.0)(w)) == pytest.approx(49 / 25)
    assert float(regularizers.HoyerSquare(1.0, by="filter")(w)) == pytest.approx(1)
    assert float(regularizers.Entropy(1.0)(tf.constant([1.0, -1.0, 0.0]))) == pytest.approx(np.log(2))
    assert float(regularizers.BatchNormScale(0.5)(tf.constant([1.0, -3.0]))) == pytest.approx(2)


@pytest.mark.parametrize("row", OURS)
def test_gradient_is_that_of_differences(row):
    regularizer = ROWS[row][0]()
    for shape in SHAPES.get(row, [(4, 3), (2, 3, 5)]):
        w = np.random.default_rng(1).normal(size=shape)
        x = tf.constant(w)
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = regularizer(x)
        assert value.dtype == tf.float64
        step, found = 1e-6, np.zeros(shape)
        for place in np.ndindex(shape):
            moved = np.zeros(shape)
            moved[place] = step
            found[place] = (regularizer(tf.constant(w + moved)) - regularizer(tf.constant(w - moved))) / (2 * step)
        np.testing.assert_allclose(tape.gradient(value, x), found, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("row", OURS)
def test_zero_weights_have_value_and_gradient(row):
    regularizer = ROWS[row][0]()
    for w in (np.zeros(SHAPES.get(row, [(3, 4)])[0], "float32"), np.eye(5, dtype="float32")[:4]):
        x = tf.constant(w if row != "BatchNormScale" else w.ravel())
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = regularizer(x)
        gradient = tape.gradient(value, x).numpy()
        assert np.isfinite(value) and np.isfinite(gradient).all()
        assert not gradient[x.numpy() == 0].any()  # what is zero stays zero


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("row", OURS)
def test_short_floats_are_summed_in_float32(row, dtype):
    regularizer, value = ROWS[row][0](), ROWS[row][1]
    shape = (3000,) if row == "BatchNormScale" else (300, 10)
    w = tf.cast(np.random.default_rng(2).normal(size=shape) * 0.1, dtype)
    found = regularizer(w)
    assert found.dtype == w.dtype
    wanted = tf.cast(STRENGTH * value(tf.cast(w, "float64").numpy()), dtype)
    np.testing.assert_allclose(tf.cast(found, "float64"), tf.cast(wanted, "float64"), rtol=0.01)


@pytest.mark.parametrize("row", [*ROWS, CHANNEL])
def test_configuration(row):
    regularizer = ROWS[row][0]() if row in ROWS else regularizers.GroupLasso(STRENGTH, by="channel")
    again = contracts.round_trip(regularizer)
    if row in ROWS:
        w = tf.constant(np.random.default_rng(3).normal(size=SHAPES.get(row, [(3, 4)])[0]), tf.float32)
        assert float(again(w)) == float(regularizer(w))


@pytest.mark.parametrize("by", [-2, (-2, -1), [0, 1]])
def test_configuration_of_axes(by):
    for kind in (regularizers.GroupLasso, regularizers.HoyerSquare):
        assert contracts.round_trip(kind(0.1, by)).by == ((by,) if isinstance(by, int) else tuple(by))


@keras.saving.register_keras_serializable("tests")
class StillNorm(keras.layers.BatchNormalization):
    """By its running statistics in training too, so that two replicas compute what one does."""

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=False, mask=mask)


def everything(channels: bool = True) -> keras.Model:
    """All of ours at once: one on each layer."""
    rows = [row for row in OURS if row != "BatchNormScale"]
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            keras.layers.Conv2D(6, 3, use_bias=False),
            StillNorm(),
            *(keras.layers.Conv2D(6, 1, name=f"more{i}") for i in range(len(rows))),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(5, activation="relu", name="hidden"),
            keras.layers.Dense(4),
        ]
    )
    for i, row in enumerate(rows):
        regularizers.apply(model, ROWS[row][0](), layers=f"more{i}")
    regularizers.apply(model, ROWS["BatchNormScale"][0]())
    if channels:
        regularizers.apply(model, regularizers.GroupLasso(STRENGTH, by="channel"), layers="hidden")
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    return model


def test_each_makes_its_penalty_smaller():
    def build():
        model = everything()
        regularizers.remove(model)
        return model

    model, _ = contracts.trained(everything, epochs=4)
    plain, _ = contracts.trained(build, epochs=4)
    other = everything()
    other.set_weights(plain.get_weights())
    found, without = (np.array([float(x) for x in m.losses if float(x)]) for m in (model, other))
    assert len(found) == len(OURS) + 1
    assert (found < without).all()


@functools.cache
def losses_of_fit() -> list[float]:
    return contracts.trained(everything)[1]


@pytest.mark.parametrize("way", ["jit", "mixed_float16", "mirrored", "tape"])
@pytest.mark.usefixtures("second_device")
@pytest.mark.sweep(2)
def test_all_ways_are_the_same_training(way):
    """The loss of each epoch, penalties included, is that of `fit`."""
    wanted = losses_of_fit()
    model, found = contracts.trained(everything, way)
    np.testing.assert_allclose(found, wanted, rtol=2e-3 if way == "mixed_float16" else 1e-4)
    if way == "mirrored":
        contracts.assert_replicas_agree(model)


def test_going_on_from_a_file(tmp_path):
    # The penalty over channel groups has its own test, as it has to be applied again.
    resumed = contracts.assert_resumes(lambda: everything(channels=False), tmp_path)
    assert len(resumed.losses) == len(OURS)


@pytest.mark.slow
@pytest.mark.parametrize("row", OURS)
def test_one_alone_goes_on_from_a_file(row, tmp_path):
    resumed = contracts.assert_resumes(lambda: network(row), tmp_path)
    assert len(resumed.losses) == 1


@pytest.mark.usefixtures("second_device")
@pytest.mark.parametrize("row, way", ways())
def test_learns(row, way):
    model = contracts.assert_learns(lambda: network(row), way)
    assert all(np.isfinite(float(x)) for x in model.losses)
    if way == "mirrored":
        contracts.assert_replicas_agree(model)


def test_no_retracing():
    class Counted(keras.regularizers.L2):
        calls = 0

        def __call__(self, x):
            Counted.calls += 1
            return super().__call__(x)

    model = network("GroupLasso")
    regularizers.apply(model, Counted(), layers="conv")
    contracts.go_on(model)
    traced = Counted.calls
    contracts.go_on(model, epochs=2)
    assert Counted.calls == traced > 0
    regularizers.apply(model, regularizers.Entropy(), layers="more")
    contracts.go_on(model, epochs=2)
    assert Counted.calls == 2 * traced


@pytest.mark.parametrize("strength", [-0.1, float("nan"), float("inf"), "much", True, None])
@pytest.mark.parametrize("name", ["GroupLasso", "BatchNormScale", "Orthogonal", "HoyerSquare", "Entropy"])
def test_bad_strength(name, strength):
    with pytest.raises(ValueError, match=r"`strength` must be a finite number, 0 or larger\. Received: "):
        getattr(regularizers, name)(strength)


def test_bad_arguments():
    for by in ("column", "", (), 1.5, (0, 0), True, None):
        with pytest.raises(ValueError, match="`by` must be one of filter, row, channel, an axis"):
            regularizers.GroupLasso(by=by)
    with pytest.raises(ValueError, match="`by` must be one of filter, row, an axis"):
        regularizers.HoyerSquare(by="channel")
    with pytest.raises(ValueError, match=r"which a weight of shape \(3,\) does not have"):
        regularizers.GroupLasso(by="row")(tf.zeros(3))
    with pytest.raises(ValueError, match=r"`axis` must be a whole number\. Received: 0\.5\."):
        regularizers.Orthogonal(axis=0.5)
    with pytest.raises(ValueError, match="at least two axes"):
        regularizers.Orthogonal()(tf.zeros(3))
    with pytest.raises(ValueError, match="expects a gamma of shape"):
        regularizers.BatchNormScale()(tf.zeros((3, 3)))
    with pytest.raises(ValueError, match="belongs to a whole model"):
        regularizers.GroupLasso(by="channel")(tf.zeros((3, 3)))
