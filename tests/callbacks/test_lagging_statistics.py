"""Reports of training name statistics of batch norms that lag, with a remedy that works."""

import keras
import numpy as np
import pytest
from keras import layers

from tfstruct.callbacks import Diagnose, PruneChannels
from tfstruct.callbacks.baselines import lagging_statistics
from tfstruct.schedules import ConstantRatio
from tfstruct.surgery import recalibrate_batch_norm


def model(momentum=0.9, norm=True):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((6,))
    x = layers.Dense(8, name="hidden")(x)
    x = layers.BatchNormalization(momentum=momentum, name="norm")(x) if norm else x
    made = keras.Model(inputs, layers.Dense(2, name="head")(layers.ReLU(name="relu")(x)))
    made.compile("adam", "mse")
    return made


X = np.random.default_rng(0).normal(3.0, 2.0, (80, 6)).astype("float32")
Y = X[:, :2]


def trained(callback, **options):
    made = model(**options)
    made.fit(X, Y, batch_size=8, epochs=1, verbose=0, callbacks=[callback])
    return made


def diagnosed(**options):
    callback = Diagnose(verbose=0)
    made = trained(callback, **options)
    return made, callback.report.lagging, str(callback.report)


def pruned(**options):
    callback = PruneChannels(0.5, ConstantRatio(0.5, begin=2, end=4), frequency=1)
    made = trained(callback, **options)
    return made, callback.report.notes, str(callback.report)


@pytest.mark.parametrize(
    "of, since, share",
    [(diagnosed, "training began, 10 steps", 0.9**10), (pruned, "the last channels went, 8 steps", 0.9**8)],
)
def test_lagging_statistics_are_named(of, since, share):
    made, notes, report = of()
    (note,) = [note for note in notes if "lag behind" in note]
    assert f"{share:.0%} of them are from before {since} ago" in note
    assert note in report and "surgery.recalibrate_batch_norm(model, x)" in note
    recalibrate_batch_norm(made, X)
    seen = made.get_layer("hidden")(X).numpy()
    np.testing.assert_allclose(made.get_layer("norm").moving_mean, seen.mean(0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("of", [diagnosed, pruned])
@pytest.mark.parametrize("options", [{"momentum": 0.2}, {"norm": False}], ids=str)
def test_those_that_do_not_are_not(of, options):
    assert not [note for note in of(**options)[1] if "lag behind" in note]


def test_how_much_is_left():
    (said,) = lagging_statistics(model(), 10, "then")
    assert said.startswith("Statistics of batch norms lag behind: 35% of them are from before then, 10 steps ago.")
    assert not lagging_statistics(model(), 50, "then") and not lagging_statistics(model(), 0, "then")
