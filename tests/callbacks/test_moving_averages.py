"""Moving averages of the optimizer beside masks and shared values: every file and every figure agrees."""

import keras
import numpy as np
import pytest
from compressors import figures, relu_network
from contracts import policy
from small import asked, data, fit, shares

from tfstruct import optimizers
from tfstruct.callbacks import Cluster, Prune, PruneChannels
from tfstruct.schedules import PolynomialRatio


def averaging(every=None):
    return keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=every)


OPTIMIZERS = {
    "plain": averaging,
    "overwritten": lambda: averaging(3),
    "lookahead": lambda: optimizers.Lookahead(averaging()),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(averaging()),
}
COMPRESSORS = {
    "Prune": lambda: Prune(PolynomialRatio(0.0, 0.75, 0, 20), frequency=4),
    "PruneChannels": lambda: PruneChannels(
        {"macs": 0.5}, PolynomialRatio(0.0, 0.5, 0, 20), frequency=4, regularize="group_lasso", strength=0.5
    ),
    "Cluster": lambda: Cluster(4),
}


class Watch(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.tested, self.stepped = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.now = figures(self.model)

    def on_test_batch_end(self, batch, logs=None):
        self.tested.append((figures(self.model), self.now))


def agree(name, averaged, weights):
    for (zeros, values), (wanted, most) in zip(averaged, weights, strict=True):
        assert zeros == wanted
        if name == "Cluster":
            assert values == most <= 4


@pytest.mark.parametrize("swapping", [True, False], ids=["swap", "end"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.sweep(3)
def test_averages_are_held_as_weights_are(name, optimizer, swapping, tmp_path):
    model = relu_network(OPTIMIZERS[optimizer]())
    fit(model, epochs=2)  # averages of dense weights
    one, watch = COMPRESSORS[name](), Watch()
    files = keras.callbacks.ModelCheckpoint(str(tmp_path / "{epoch}.keras"))
    swap = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if swapping else []
    history = fit(model, one, *swap, files, watch, epochs=3, validation_data=data()).history
    for averaged, weights in watch.tested:
        agree(name, averaged, weights)
    for epoch in (1, 2, 3):
        saved = keras.models.load_model(tmp_path / f"{epoch}.keras")
        if name == "Prune":
            assert history["sparsity/one/kernel"][epoch - 1] == pytest.approx(shares(saved)[0])
        if name == "Cluster":
            assert [values for _, values in figures(saved)] == [4, 4]
        if swapping:  # the figures of the validation are those of the file
            np.testing.assert_allclose(
                saved.evaluate(*data(), verbose=0), history["val_loss"][epoch - 1], rtol=1e-4, atol=1e-6
            )
    assert not any("put back" in note or "changed at the end" in note for note in one.report.notes)
    if name == "Prune":
        assert shares(model) == asked(0.75)


def test_averages_by_hand():
    """The average of a masked weight is the masked average; that of a group is the mean of its averages."""
    for one in (Prune(0.5), Cluster(4)):
        model = relu_network(averaging())
        fit(model, epochs=1)
        average = next(a for a in model.optimizer._model_variables_moving_average if a.shape == (8, 12))
        before = average.numpy()
        one.attach(model)
        w = model.get_layer("one").kernel.numpy()
        if isinstance(one, Prune):
            wanted = before * (w != 0)
        else:
            wanted = np.zeros_like(before)
            for value in np.unique(w):
                wanted[w == value] = before[w == value].mean()
        np.testing.assert_allclose(average.numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_under_loss_scaling_of_mixed_float16():
    with policy("mixed_float16"):
        model = relu_network(averaging())
    watch = Watch()
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    fit(model, Prune(0.5), swap, watch, validation_data=data())
    assert shares(model) == asked(0.5) and len(watch.tested) > 0
    for averaged, weights in watch.tested:
        agree("Prune", averaged, weights)
