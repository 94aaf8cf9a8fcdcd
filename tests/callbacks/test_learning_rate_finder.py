import math

import contracts
import keras
import numpy as np
import pytest
import tensorflow as tf
from sweeps import sweep

from tfstruct.callbacks import LearningRateFinder
from tfstruct.callbacks.range_test import read

DROPOUT = keras.layers.Dropout


def state(model):
    variables = [*model.variables, *model.optimizer.variables]
    return [(v.path, keras.ops.convert_to_numpy(v)) for v in variables if "metric" not in v.path]


def assert_same(before, after):
    for (path, a), (_, b) in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=path)


def searched(model, finder, epochs=10, **options):
    x, y = contracts.data()
    options = {"batch_size": contracts.BATCH, "verbose": 0, "shuffle": False, **options}
    return model.fit(x, y, epochs=epochs, callbacks=[finder], **options)


def finder(**options):
    return LearningRateFinder(**{"lowest": 1e-5, "highest": 100.0, "steps": 40, **options})


OPTIMIZERS = {
    "number": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
    "schedule": lambda: keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.01, 50)),
    "averages": lambda: keras.optimizers.SGD(0.05, use_ema=True),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.sweep(1)
def test_everything_is_as_before(optimizer):
    """A training with a test in its middle ends where one without it does, to the last bit: dropout's seeds too."""

    def build():
        return contracts.network(DROPOUT(0.3, seed=1), optimizer=OPTIMIZERS[optimizer]())

    plain, disturbed = build(), build()
    rate = disturbed.optimizer._learning_rate
    for model in (plain, disturbed):
        contracts.go_on(model, epochs=1)
    before = state(disturbed)
    test = finder()
    searched(disturbed, test)
    assert disturbed.optimizer._learning_rate is rate
    assert_same(before, state(disturbed))
    assert test.report.rates[-1] > 0.1 and test.suggestion is not None
    for model in (plain, disturbed):
        contracts.go_on(model, epochs=1)
    assert_same(state(plain), state(disturbed))


def test_rates_and_losses_are_those_of_the_batches():
    """Against a loop that sets each rate by hand."""
    model, by_hand = contracts.network(), contracts.network()
    test = finder(steps=10, highest=1e-2)
    searched(model, test, epochs=3)
    rates = 1e-5 * (1e-2 / 1e-5) ** (np.arange(10) / 9)
    np.testing.assert_allclose(test.report.rates, rates, rtol=1e-6)
    x, y = contracts.data()
    losses = []
    for i, rate in enumerate(rates):
        by_hand.optimizer.learning_rate = rate
        part = slice(16 * (i % 4), 16 * (i % 4) + 16)
        losses.append(by_hand.train_on_batch(x[part], y[part]))
        by_hand.reset_metrics()
    np.testing.assert_allclose(test.report.losses, losses, rtol=1e-4)
    assert test.report.stopped == "the highest rate was reached"


def quadratic(curvature):
    """Loss curvature/2 w^2: gradient descent diverges from a rate of 2 / curvature on."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")])
    model.compile("sgd", "mse")
    x = np.full((64, 1), math.sqrt(curvature / 2), "float32")
    return model, x, np.zeros((64, 1), "float32")


@pytest.mark.parametrize("curvature", [0.1, 10.0, 1000.0])
def test_finds_a_rate_that_is_known(curvature):
    """The suggestion scales as 1 / curvature does."""
    model, x, y = quadratic(curvature)
    test = LearningRateFinder(1e-7, 1e4, steps=110)
    model.fit(x, y, batch_size=8, epochs=14, verbose=0, callbacks=[test])
    limit = 2 / curvature
    assert limit / 100 < test.report.steepest < limit
    assert limit / 2 < test.report.divergence < limit * 10
    assert test.suggestion == test.report.steepest
    assert "times its beginning" in test.report.stopped or "the loss was" in test.report.stopped
    assert model.layers[0].get_weights()[0] == 1


def curve(loss, steps=100):
    rates = np.geomspace(1e-6, 10, steps)
    return rates, read(rates, loss(np.log10(rates)), 2.0, "ended", "steepest")


def test_reads_a_curve():
    """A fall around 1e-3, a rise around 1: steepest at the fall, divergence where the beginning is passed."""

    def loss(decades):
        return 2 - 1.5 / (1 + np.exp(-4 * (decades + 3))) + 4 / (1 + np.exp(-8 * decades))

    _, report = curve(loss)
    assert report.steepest == pytest.approx(1e-3, rel=0.25)
    assert 0.7 < report.divergence < 1.5
    assert report.suggestion == report.steepest
    noise = np.random.default_rng(0).normal(scale=0.05, size=100)
    _, noisy = curve(lambda decades: loss(decades) + noise)
    assert noisy.steepest == pytest.approx(1e-3, rel=1.0)


def test_says_where_there_is_nothing():
    noise = np.random.default_rng(0).normal(scale=0.05, size=100)
    _, flat = curve(lambda decades: 2 + noise)
    assert flat.steepest is None and flat.divergence is None and flat.suggestion is None
    assert "No suggestion" in str(flat)
    _, rising = curve(lambda decades: np.where(decades > -1, 5.0, 2.0) + noise)
    assert rising.steepest is None
    assert rising.divergence == pytest.approx(0.1, rel=0.5)
    assert rising.suggestion == rising.divergence / 10
    assert "did not fall" in str(rising)


def test_a_loss_that_is_no_number_ends_the_test():
    model, x, y = quadratic(1.0)
    x[40] = np.nan
    test = LearningRateFinder(1e-7, 1.0, steps=10)
    model.fit(x, y, batch_size=8, epochs=4, shuffle=False, verbose=0, callbacks=[test])
    assert len(test.report.rates) == 6 and test.report.stopped == "the loss was nan at 0.00077"
    assert test.report.to_dict()["losses"][-1] is None
    assert model.layers[0].get_weights()[0] == 1


WAYS = [(way, kind) for way in ("fit", "jit", "mixed_float16", "mirrored") for kind in ("number", "schedule")]
QUICK = [("fit", "number"), ("mixed_float16", "schedule"), ("mirrored", "schedule")]


@pytest.mark.parametrize("way, optimizer", sweep(WAYS, QUICK))
@pytest.mark.sweep(1)
def test_ways(way, optimizer, second_device):
    model = contracts.built(lambda: contracts.network(optimizer=OPTIMIZERS[optimizer]()), way)
    contracts.go_on(model)
    before = state(model)
    test = finder()
    searched(model, test)
    assert_same(before, state(model))
    assert test.suggestion is not None
    losses = contracts.go_on(model, epochs=4)
    assert losses[-1] < losses[0]
    if way == "mirrored":
        contracts.assert_replicas_agree(model)


def test_rates_are_held_for_an_update_and_an_execution():
    model = contracts.network(optimizer=keras.optimizers.SGD(0.1, gradient_accumulation_steps=4))
    test = finder(steps=10, highest=1.0)
    searched(model, test, epochs=10)
    assert len(test.report.rates) == 10
    assert int(model.optimizer.iterations) == 0
    model = contracts.network(steps_per_execution=2)
    searched(model, finder(steps=10, highest=1.0), epochs=5)
    with pytest.raises(ValueError, match=r"Expected at least 10 batches .* Received: 2 in each of 4 .*epochs=5"):
        searched(model, finder(steps=10), epochs=4)


def test_fit_goes_on_with_data_of_unknown_length():
    model = contracts.network()
    data = tf.data.Dataset.from_tensor_slices(contracts.data()).batch(16).repeat()
    test = finder()
    model.fit(data, epochs=1, steps_per_epoch=60, verbose=0, callbacks=[test])
    assert len(test.report.rates) <= 40
    short = finder()
    data = tf.data.Dataset.from_tensor_slices(contracts.data()).batch(16).filter(lambda *_: True)
    model.fit(data, epochs=2, verbose=0, callbacks=[short])
    assert "`fit` ended after" in short.report.stopped


def test_report(tmp_path):
    test = LearningRateFinder(1e-7, 1e4, steps=110, suggest="decade")
    assert test.suggestion is None
    with pytest.raises(ValueError, match="Expected a test to plot"):
        test.plot()
    model, x, y = quadratic(10.0)
    model.fit(x, y, batch_size=8, epochs=14, verbose=0, callbacks=[test])
    report = test.report
    assert report.suggestion == report.divergence / 10
    assert f"Suggestion: {report.suggestion:.2g}, a tenth of where the loss diverges" in " ".join(str(report).split())
    assert report.to_dict()["suggestion"] == report.suggestion
    assert report.table().row_count <= 20
    test.plot(tmp_path / "test.png")
    assert (tmp_path / "test.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("`lowest` must be a finite number above 0. Received: -1", {"lowest": -1}),
        ("Expected 0 < `lowest` < `highest`. Received: 1e-07 and 1e-08", {"highest": 1e-8}),
        ("`steps` must be a whole number, 10 or larger. Received: 5", {"steps": 5}),
        ("`smoothing` must be a number in (0, 0.5). Received: 0", {"smoothing": 0}),
        ("`divergence` must be a finite number above 1. Received: 1", {"divergence": 1}),
        ("`suggest` must be one of steepest, decade. Received: 'valley'", {"suggest": "valley"}),
    ],
)
def test_bad_arguments(message, arguments):
    with pytest.raises(ValueError) as error:
        LearningRateFinder(**arguments)
    assert message in str(error.value)


def test_too_few_batches():
    with pytest.raises(ValueError, match=r"Expected at least 40 batches .* Received: 4 in each of 2 epochs.*epochs=10"):
        searched(contracts.network(), finder(), epochs=2)
