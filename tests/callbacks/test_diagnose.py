"""`Diagnose`: planted faults are named, healthy runs are not, and nothing is changed by looking."""

import json

import contracts
import faulty_runs
import keras
import numpy as np
import pytest
import tensorflow as tf

from tfstruct.callbacks import Diagnose
from tfstruct.callbacks.probe import Probe
from tfstruct.errors import DataError, ModelError

# One of each kind is fast enough for every run of the tests.
QUICK = (
    "rate_too_high_sgd", "rate_too_low_sgd", "vanishing_sigmoid", "exploding_tanh", "dead_by_bias", "nan_at_once",
    "nan_later",
)  # fmt: skip
QUIET = ("convnet", "quarters")


def _marked(names, quick):
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", _marked(faulty_runs.FAULTS, QUICK))
@pytest.mark.sweep(2)
def test_a_planted_fault_is_named_first(name):
    run, symptom = faulty_runs.FAULTS[name]
    keras.utils.set_random_seed(0)
    report = run(Diagnose(verbose=0))
    assert report.symptoms[:1] == (symptom,), str(report)
    if symptom == "nan":
        assert report.findings[0].layer == "logarithm"


@pytest.mark.parametrize("name", _marked(faulty_runs.HEALTHY, QUIET))
@pytest.mark.sweep(1)
def test_no_alarm_on_a_healthy_run(name):
    keras.utils.set_random_seed(0)
    report = faulty_runs.HEALTHY[name](Diagnose(verbose=0))
    assert report.findings == (), str(report)
    assert len(report.probes) >= 3 and not report.notes


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", [*faulty_runs.FAULTS, *faulty_runs.HEALTHY])
def test_other_seeds(name, seed):
    keras.utils.set_random_seed(seed)
    run, symptom = faulty_runs.FAULTS.get(name) or (faulty_runs.HEALTHY[name], None)
    report = run(Diagnose(verbose=0))
    assert report.symptoms[:1] == ((symptom,) if symptom else ()), str(report)


def _dropping():
    return contracts.network(keras.layers.Dropout(0.3, seed=5), metrics=["accuracy"], optimizer="adam")


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.sweep(1)
def test_a_run_is_the_same_with_and_without(given):
    plain, losses = contracts.trained(_dropping)
    x, y = contracts.data(128, seed=3)
    callback = Diagnose(*([(x, y)] if given else []), frequency=2, verbose=0)
    watched, seen = contracts.trained(_dropping, callbacks=[callback])
    assert losses == seen
    for a, b in zip(plain.variables, watched.variables, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=a.path)
    for a, b in zip(plain.optimizer.variables, watched.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=a.path)
    assert [f.step for f in callback.report.probes] == [0, 2, 4, 6, 8]
    assert callback._probe.traces() == 1


def test_the_first_batch_is_the_one_trained_on_and_nothing_is_traced_again():
    model = contracts.network()
    callback = Diagnose(verbose=0)
    x, y = contracts.data()
    traces = []
    step = model.train_step
    model.train_step = lambda data: (traces.append(1), step(data))[1]
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(24)  # the last one is smaller
    model.fit(dataset, epochs=2, verbose=0, callbacks=[callback])
    assert len(traces) <= 2  # Keras itself traces once more for the smaller batch, relaxing the shape
    np.testing.assert_array_equal(callback._probe.batch[0], x[:24])
    assert [e[0] for e in callback.report.epochs] == [3, 6]
    assert not isinstance(model.train_function, type(callback._first_batch))


def test_figures_by_hand():
    """A linear layer and half squared error: gradient x^T (xw - t) / n, signal the standard deviation of xw."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False, name="line")])
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(20, 3)).astype("float32"), rng.normal(size=(20, 1)).astype("float32")
    w = model.get_weights()[0]
    figures = Probe(model, (x, t), lambda y, out: 0.5 * keras.ops.sum((out - y) ** 2, axis=-1))(7)
    error = x @ w - t
    assert figures.step == 7
    np.testing.assert_allclose(figures.loss, 0.5 * np.mean(error**2), rtol=1e-5)
    line = figures.layers["line"]
    np.testing.assert_allclose(line.gradient, np.linalg.norm(x.T @ error / 20), rtol=1e-5)
    np.testing.assert_allclose(line.weight, np.linalg.norm(w), rtol=1e-5)
    np.testing.assert_allclose(line.signal, np.std(x @ w), rtol=1e-5)
    np.testing.assert_allclose(figures.output_gradient, np.mean(np.abs(error)), rtol=1e-5)


class Twice(keras.Model):
    """Subclassed, with a nested model and one layer called twice."""

    def __init__(self):
        super().__init__()
        self.inner = keras.Sequential([keras.layers.Dense(6, "relu", name="inside")], name="inner")
        self.shared = keras.layers.Dense(6, "tanh", name="shared")
        self.head = keras.layers.Dense(4, name="head")

    def call(self, x):
        x = self.inner(keras.ops.reshape(x, (-1, 128)))
        return self.head(self.shared(self.shared(x)))


def test_subclassed_nested_and_shared_layers_are_seen():
    model = Twice()
    x, y = contracts.data(32)
    model(x)
    model.inner.layers[0].bias.assign([-1e3, -1e3, -1e3, 1e3, 1e3, 1e3])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    figures = Probe(model, (x, y), loss)(0)
    assert list(figures.layers) == ["inner/inside", "shared", "head"]
    assert figures.dead == {"inner/inside": 0.5}
    assert figures.saturated["shared"] > 0
    assert not any("call" in layer.__dict__ for layer in [model.shared, model.head])


def _diagnosed(way):
    callback = Diagnose(contracts.data(32, seed=2), frequency=2, verbose=0)
    model, _ = contracts.trained(contracts.network, way, callbacks=[callback])
    return model, callback.report


@pytest.mark.parametrize("way", ["fit", pytest.param("jit", marks=pytest.mark.slow), "mixed_float16"])
def test_ways_to_train(way):
    _, report = _diagnosed(way)
    assert report.findings == () and report.notes == ()
    assert [f.step for f in report.probes] == [0, 2, 4, 6, 8]
    reference = report.probes[0]
    # float16 gradients come unscaled
    assert all(0.01 < one.gradient < 10 for one in reference.layers.values()), reference


@pytest.mark.slow
def test_two_replicas(second_device):
    _, report = _diagnosed("mirrored")
    _, single = _diagnosed("fit")
    assert report.notes == () and len(report.probes) == len(single.probes)
    np.testing.assert_allclose(
        report.probes[0].layers["conv"].weight, single.probes[0].layers["conv"].weight, rtol=1e-5
    )
    callback = Diagnose(verbose=0)
    contracts.trained(contracts.network, "mirrored", callbacks=[callback])
    assert "give data" in callback.report.notes[0] and callback.report.losses


def test_a_loop_of_ones_own():
    model = contracts.network(optimizer=keras.optimizers.SGD(1e-6))
    callback = Diagnose(contracts.data(32), frequency=10, verbose=0)
    callback.attach(model, steps=64)
    x, y = contracts.data()

    @tf.function
    def step(inputs, labels):
        with tf.GradientTape() as tape:
            loss = model.loss(labels, model(inputs, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    for _ in range(16):
        for inputs, labels in tf.data.Dataset.from_tensor_slices((x, y)).batch(16):
            callback.step(step(inputs, labels))
        callback.epoch(val_loss=1.0)
    report = callback.finish()
    assert report.steps == 64 and report.symptoms == ("learning_rate_too_low",)
    assert len(report.epochs) == 16 and report.losses[-1][0] == 64


def test_report_as_text_table_data_and_picture(tmp_path, capsys):
    x, y = contracts.data(32)
    model = contracts.network()
    x[3] = np.nan
    callback = Diagnose((x, y), verbose=2)
    model.fit(x, y, verbose=0, callbacks=[callback])
    report = callback.report
    assert report.symptoms == ("nan",) and "data given" in str(report)
    assert "nan: the data given" in capsys.readouterr().out
    assert json.loads(report.to_json())["findings"][0]["symptom"] == "nan"
    assert report.table().row_count == 1
    report.plot(tmp_path / "run.png")
    assert (tmp_path / "run.png").stat().st_size > 1000


def test_what_cannot_be_probed_is_trained_all_the_same():
    class Odd(keras.Sequential):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            if keras.backend.backend() and isinstance(x, tf.Tensor) and x.shape[0] == 5:
                raise RuntimeError("five")
            return keras.ops.mean(y_pred**2)

    model = Odd([keras.Input((8, 8, 2)), keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile("sgd")
    x, y = contracts.data(32)
    callback = Diagnose((x[:5], y[:5]), verbose=0)
    with pytest.warns(UserWarning, match="goes on without"):
        model.fit(x, y, verbose=0, callbacks=[callback])
    assert "five" in callback.report.notes[0] and callback.report.losses


def test_a_second_fit_is_a_new_report():
    model = contracts.network()
    x, y = contracts.data()
    callback = Diagnose((x, y), frequency=2, verbose=0)
    for _ in range(2):
        model.fit(x, y, 16, epochs=1, verbose=0, callbacks=[callback])
        assert callback.report.steps == 4
    assert callback._probe.traces() == 1


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"frequency": 0}, ValueError, "frequency.*Received: 0"),
        ({"samples": 1.5}, ValueError, "samples.*1.5"),
        ({"verbose": 3}, ValueError, "verbose.*3"),
        ({"data": None}, DataError, "Received: None"),
        ({"data": np.zeros((4, 2))}, DataError, "ndarray"),
        ({"data": (np.zeros((4, 2)),)}, DataError, "1 parts"),
        ({"data": (np.zeros((4, 2)), np.zeros(3))}, DataError, r"\[3, 4\]"),
    ],
)
def test_bad_settings(settings, error, words):
    with pytest.raises(error, match=words):
        Diagnose(**settings)


def test_a_model_without_weights_yet():
    with pytest.raises(ModelError, match="no weights yet"):
        Diagnose().attach(Twice())
