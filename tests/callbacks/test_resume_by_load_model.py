"""A file that was saved in training is loaded, and `fit` with a new callback of the same kind: training goes on."""

import subprocess
import sys
import warnings

import h5py
import keras
import numpy as np
import pytest
from compressors import COMPRESSORS, figures, is_plain, relu_network
from small import EachStep, L, asked, data, fit, shares, values

from tfstruct.callbacks import Cluster, Prune, PruneChannels, QuantizeAware, release
from tfstruct.distill import Distill
from tfstruct.schedules import AutomaticRatio, PolynomialRatio

OTHERS = {
    "Prune globally": lambda: Prune(PolynomialRatio(0.0, 0.75, 0, 14), scope="global", frequency=2),
    "Prune automatic": lambda: Prune(AutomaticRatio(0.75, 0, 14), frequency=2),
    "PruneChannels lasso": lambda: PruneChannels(
        {"macs": 0.5}, PolynomialRatio(0.0, 0.5, 0, 14), frequency=2, regularize="group_lasso", strength=0.5
    ),
    "PruneChannels by fit": lambda: PruneChannels({"macs": 0.5}, frequency=2),
    "QuantizeAware later": lambda: QuantizeAware(start=4, freeze_ranges=12),
    "QuantizeAware learned": lambda: QuantizeAware("int4", start=2),
    "Cluster by hash": lambda: Cluster(6, share="hash"),
    "Cluster by channel": lambda: Cluster(2, per="channel"),
}
SLOW = set(OTHERS) - {"PruneChannels by fit"}
ALL = {**{name: new for name, new in COMPRESSORS.items() if name != "Distill"}, **OTHERS}


@pytest.fixture
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


class StopAfter(keras.callbacks.Callback):
    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch + 1 == self.epochs


def in_training(one, path, model=None):
    """The first of two epochs, with a file behind it. The model, which is plain again."""
    model = relu_network() if model is None else model
    fit(model, one, keras.callbacks.ModelCheckpoint(str(path)), StopAfter(1), epochs=2)
    assert is_plain(model)
    return model


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else []) for n in ALL])
@pytest.mark.sweep(2)
def test_ends_as_if_uninterrupted(name, tmp_path, no_warnings):
    whole, one, again, watch = relu_network(), ALL[name](), ALL[name](), EachStep(figures)
    fit(whole, one, epochs=2)
    in_training(ALL[name](), tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras")
    before = figures(loaded)
    fit(loaded, again, watch, epochs=2, initial_epoch=1)
    assert again.steps == one.steps == 16 and is_plain(loaded)
    for a, b in zip(loaded.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    for (zeros, count), now in zip(before, zip(*watch.seen, strict=True), strict=True):
        assert min(z for z, _ in now) >= zeros
        assert not isinstance(one, Cluster) or {v for _, v in now} == {count}


def test_the_state_of_a_teacher(tmp_path):
    teacher = relu_network()
    in_training(Distill(teacher), tmp_path / "a.keras")
    loaded, again = keras.models.load_model(tmp_path / "a.keras"), Distill(teacher)
    fit(loaded, again, epochs=2, initial_epoch=1)
    assert again.steps == 16
    in_training(Distill(), tmp_path / "b.keras")
    with pytest.warns(UserWarning, match=r"which the file does not have.*Give the model of then: Distill\(teacher\)"):
        fit(keras.models.load_model(tmp_path / "b.keras"), Distill(), epochs=2, initial_epoch=1)


@keras.saving.register_keras_serializable("tests")
class Own(keras.Model):
    """Subclassed, with a model inside."""

    def __init__(self, **options):
        super().__init__(**options)
        self.inside = keras.Sequential([keras.Input((8,)), L.Dense(12, activation="relu", name="one")])
        self.two = L.Dense(4, name="two")

    def build(self, shape):
        self.two.build((None, 12))

    def call(self, x):
        return self.two(self.inside(x))

    def get_layer(self, name):
        return self.two if name == "two" else self.inside.layers[0]


def nested():
    inside = keras.Sequential([keras.Input((8,)), L.Dense(12, activation="relu", name="one")], name="inside")
    inputs = keras.Input((8,))
    return keras.Model(inputs, L.Dense(4, name="two")(inside(inputs)))


MODELS = {"functional": nested, "sequential": relu_network, "subclassed": Own}


@pytest.mark.parametrize("ending", ["keras", "weights.h5"])
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.sweep(2)
def test_models_and_files(kind, ending, tmp_path, no_warnings):
    keras.utils.set_random_seed(0)
    new, path = lambda: Prune(PolynomialRatio(0.0, 0.75, 0, 6), frequency=2), tmp_path / f"a.{ending}"

    def made():
        model = MODELS[kind]()
        model(data()[0])
        model.compile(keras.optimizers.Adam(0.05), "mse", jit_compile=False)
        model.optimizer.build(model.trainable_variables)  # or Keras says that it does not load its slots
        return model

    model = made()
    save = keras.callbacks.ModelCheckpoint(str(path), save_weights_only=ending != "keras")
    fit(model, new(), save, StopAfter(1), epochs=2)
    if ending == "keras":
        loaded = keras.models.load_model(path)
    else:
        loaded = made()
        loaded.load_weights(path)
    layers = [
        (m.get_layer("one") if kind != "functional" else m.get_layer("inside").layers[0]) for m in (model, loaded)
    ]
    np.testing.assert_array_equal(layers[0].kernel.numpy(), layers[1].kernel.numpy())
    again, seen = new(), []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append((layers[1].kernel.numpy() == 0).mean())
    )
    fit(loaded, again, watch, epochs=2, initial_epoch=1)
    assert set(seen) == {0.75} and again.steps == 16 and [step for step, *_ in again.report.history] == [0, 2, 4, 6]


def test_two_compressors(tmp_path, no_warnings):
    file, new = tmp_path / "a.keras", lambda: [Prune(0.5), Cluster(4)]
    fit(relu_network(), *new(), keras.callbacks.ModelCheckpoint(str(file)), epochs=1)
    loaded, watch = keras.models.load_model(file), EachStep(figures)
    before = figures(loaded)
    fit(loaded, *new(), watch, epochs=2, initial_epoch=1)
    assert set(map(tuple, watch.seen)) == {tuple(before)}


def test_in_a_loop_and_for_a_part(tmp_path, no_warnings):
    inner = keras.Sequential([keras.Input((8,)), L.Dense(12, name="one"), L.Dense(4, name="two")])
    outer = keras.Sequential([keras.Input((8,)), inner, L.Dense(2)])
    prune = COMPRESSORS["Prune"]().attach(inner)
    prune.step(8)
    outer.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras").layers[0]
    other = COMPRESSORS["Prune"]().attach(loaded)
    assert other.steps == 8 and shares(loaded) == shares(inner) != [0, 0]
    for a, b in zip(other.masks().values(), prune.masks().values(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_state_that_was_loaded_last_counts(tmp_path, no_warnings):
    """A used compressor goes on from a checkpoint that was loaded since, as a new one does."""
    model, prune = relu_network(), ALL["Prune"]()
    fit(model, prune, keras.callbacks.ModelCheckpoint(str(tmp_path / "{epoch}.weights.h5"), save_weights_only=True))
    assert prune.steps == 16
    model.load_weights(tmp_path / "1.weights.h5")
    fit(model, prune, epochs=2, initial_epoch=1)
    assert prune.steps == 16 and shares(model) == asked(0.75)


def test_other_settings_begin_anew_and_say_so(tmp_path):
    in_training(ALL["Prune"](), tmp_path / "a.keras")
    loaded, prune = keras.models.load_model(tmp_path / "a.keras"), Prune(0.9)
    with pytest.warns(UserWarning, match=r"Prune had schedule=PolynomialRatio\(.*, now ConstantRatio\(ratio=0.9"):
        fit(loaded, prune, epochs=1)
    assert shares(loaded) == asked(0.9) and prune.steps == 8


@pytest.mark.parametrize("name", ["Prune", "PruneChannels", "Cluster"])
@pytest.mark.sweep(1)
def test_a_state_that_belongs_to_other_weights(name, tmp_path):
    in_training(ALL[name](), tmp_path / "a.keras")
    loaded, one = keras.models.load_model(tmp_path / "a.keras"), ALL[name]()
    fit(loaded, epochs=1)  # plain: zeros and shared values are gone
    with pytest.warns(UserWarning, match="not taken up: the weights have changed since"):
        one.attach(loaded)
    assert one.steps == 0
    fit(loaded, one)
    assert one.steps == 16


def test_what_came_with_a_file_goes_by_release_and_by_the_next_file(tmp_path):
    in_training(ALL["Prune"](), tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras")
    loaded.save(tmp_path / "b.keras")  # a plain model, as nothing is attached
    release(loaded)
    for plain in (loaded, keras.models.load_model(tmp_path / "b.keras")):
        with pytest.warns(UserWarning, match="zeros that nothing attached to it holds"):
            assert ALL["Prune"]().attach(plain).steps == 0


def test_files_of_plain_models_have_nothing_of_ours(tmp_path):
    in_training(ALL["Prune"](), tmp_path / "a.keras").save_weights(tmp_path / "a.weights.h5")
    with h5py.File(tmp_path / "a.weights.h5") as file:
        assert not [name for name in file if "compressor" in name]


def sparse():
    model = relu_network()
    fit(model, Prune(0.5), epochs=1)
    return model


LOSING = {
    "prune that begins with less": lambda: Prune(PolynomialRatio(0.0, 0.9, 0, 100)),
    "prune that begins later": lambda: Prune(PolynomialRatio(0.5, 0.9, 10, 100)),
    "prune one layer": lambda: Prune(0.5, layers="two"),
    "channels": lambda: COMPRESSORS["PruneChannels"](),
    "quantization": lambda: QuantizeAware(),
    "distillation": lambda: Distill(),
}


@pytest.mark.parametrize("name", LOSING)
@pytest.mark.sweep(2)
def test_zeros_that_training_would_undo_are_told(name):
    model = sparse()
    with pytest.warns(UserWarning, match=r"one/kernel \(50% zeros\).*Prune\(0.5, scope=\"global\"\) from the start"):
        LOSING[name]().attach(model)
    release(model)
    with pytest.warns(UserWarning, match="nothing attached to it holds"):
        fit(model, LOSING[name](), epochs=1)


KEEPING = {
    "what the warning says": lambda: [Prune(0.5, scope="global")],
    "with quantization": lambda: [QuantizeAware(), Prune(0.5, scope="global")],
    "a schedule from there": lambda: [Prune(PolynomialRatio(0.5, 0.9, 0, 100))],
    "shared values": lambda: [Cluster(4)],
}


@pytest.mark.parametrize("name", KEEPING)
@pytest.mark.sweep(2)
def test_zeros_that_are_held_are_not(name, no_warnings):
    model = sparse()
    before = shares(model)
    fit(model, *KEEPING[name](), epochs=1)
    assert all(now >= then for now, then in zip(shares(model), before, strict=True))


def test_shared_values_that_training_would_undo_are_told():
    model = relu_network()
    fit(model, Prune(0.5), Cluster(4), epochs=1)
    before = figures(model)
    with pytest.warns(UserWarning, match=r"values\).*To keep them as they are, have Cluster\(\d+\) from the start"):
        Prune(0.5).attach(model)
    release(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(model, Prune(0.5, scope="global"), Cluster(4), epochs=1)
        assert figures(model) == before
        fit(relu_network(), Prune(0.25), Cluster(4), QuantizeAware(), epochs=1)


def test_what_an_initializer_makes_is_no_loss(no_warnings):
    for initializer in ("zeros", "ones", "identity"):
        model = keras.Sequential([keras.Input((12,)), L.Dense(12, kernel_initializer=initializer), L.Dense(3)])
        Prune(PolynomialRatio(0.0, 0.5, 4, 8)).attach(model)


@pytest.mark.parametrize("damage", ["gone", "shape", "text"])
def test_a_damaged_state_is_not_believed(damage, tmp_path):
    model, file = relu_network(), tmp_path / "a.weights.h5"
    ALL["Prune"]().attach(model).step(8)
    model.save_weights(file)
    with h5py.File(file, "a") as stored:
        group = stored["compressor_states/vars"]
        name = {"gone": "0.mask_1", "shape": "0.steps", "text": "0.settings"}[damage]
        del group[name]
        if damage == "shape":
            group[name] = np.ones((2, 2))
        if damage == "text":
            group[name] = np.full(9, 200, np.uint8)
    other, prune = relu_network(), ALL["Prune"]()
    other.load_weights(file)
    with pytest.warns(UserWarning, match="not taken up"):
        assert prune.attach(other).steps == 0
    np.testing.assert_array_equal(values(other)[0], values(model)[0])


def test_the_import_of_the_room_is_enough(tmp_path):
    in_training(ALL["Prune"](), tmp_path / "a.keras")
    code = (
        "import keras, tfstruct.callbacks as c; from tfstruct.schedules import PolynomialRatio as P;"
        f"m = keras.models.load_model(r'{tmp_path / 'a.keras'}');"
        "print(c.Prune(P(0.0, 0.75, 0, 14), frequency=2).attach(m).steps)"
    )
    done = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "8", done.stderr[-2000:]
