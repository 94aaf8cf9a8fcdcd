"""A `fit` that fails or is interrupted leaves a plain model behind, and the next one works."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from compressors import COMPRESSORS, is_plain, relu_network
from small import L, asked, data, fit, shares

from tfstruct.callbacks import AdaptiveBatchSize, Cluster, Diagnose, LearningRateFinder, Prune, QuantizeAware, release
from tfstruct.distill import Distill
from tfstruct.errors import ModelError


class Stop(keras.callbacks.Callback):
    def __init__(self, error, where="on_train_batch_end"):
        super().__init__()
        setattr(self, where, self._raise)
        self.error = error

    def _raise(self, *args, **kwargs):
        raise self.error


def fails_by_callback(model, *callbacks, error=None, where="on_train_batch_end"):
    fit(model, *callbacks, Stop(error or RuntimeError("no"), where))


def fails_by_interrupt(model, *callbacks):
    fails_by_callback(model, *callbacks, error=KeyboardInterrupt())


def fails_by_another_beginning(model, *callbacks):
    fails_by_callback(model, *callbacks, where="on_train_begin")


def fails_by_data(model, *callbacks):
    def damaged(x, y):
        with tf.control_dependencies([tf.debugging.assert_all_finite(x, "the data is damaged")]):
            return x, tf.identity(y)

    x, y = data()
    x[20] = np.nan
    model.fit(tf.data.Dataset.from_tensor_slices((x, y)).batch(4).map(damaged), verbose=0, callbacks=list(callbacks))


def fails_by_validation(model, *callbacks):
    x, y = data()
    model.fit(x, y, verbose=0, validation_data=(x[:, :3], y), callbacks=list(callbacks))


WAYS = {
    "callback": fails_by_callback, "interrupt": fails_by_interrupt, "beginning": fails_by_another_beginning,
    "data": fails_by_data, "validation": fails_by_validation,
}  # fmt: skip


@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.parametrize("way", ["callback", "interrupt"])
@pytest.mark.sweep(4)
def test_the_next_fit_works(name, way):
    model = relu_network()
    with pytest.raises((RuntimeError, KeyboardInterrupt)):
        WAYS[way](model, COMPRESSORS[name]())
    assert is_plain(model)
    other = COMPRESSORS[name]()
    fit(model, other)
    assert other.report is not None and other.steps == 16 and is_plain(model)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.sweep(2)
def test_whatever_ended_it(way):
    model = relu_network()
    with pytest.raises((Exception, KeyboardInterrupt)):
        WAYS[way](model, Distill(), Prune(0.5), QuantizeAware())
    assert is_plain(model)
    fit(model, Prune(0.5), epochs=1)
    assert shares(model) == asked(0.5)
    fit(model, epochs=1)
    assert shares(model) == [0, 0]  # and a plain one is plain


def test_training_that_ends_at_nan_is_finished():
    model, prune = relu_network(), Prune(0.5)
    x, y = data()
    y[9] = np.nan
    model.fit(x, y, 4, verbose=0, shuffle=False, callbacks=[keras.callbacks.TerminateOnNaN(), Cluster(4)])
    assert is_plain(model)
    fit(relu_network(), prune)


@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.sweep(2)
def test_the_same_object_goes_on(name):
    """Stopped after 3 of 16 steps and fitted for 13 more, it has done what it does in 16."""
    model, one = relu_network(), COMPRESSORS[name]()
    stop = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: _raise_at(batch, 2))
    with pytest.raises(KeyboardInterrupt):
        fit(model, one, stop, epochs=1)
    assert one.steps == 3 and one.report is None
    x, y = (part[12:] for part in data())
    model.fit(x, y, 4, verbose=0, shuffle=False, callbacks=[one])
    fit(model, one, epochs=1)
    assert one.steps == 16
    if name.startswith("Prune") and name != "PruneChannels":
        assert shares(model) == asked(0.75) and len({step for step, _, _ in one.report.history}) >= 7
    if name == "PruneChannels":
        assert one.report.met and one.report.history[0][0] == 0


def _raise_at(batch, when):
    if batch == when:
        raise KeyboardInterrupt


def test_a_compressor_that_raises_lets_go():
    model = relu_network()
    prune = Prune(0.5).attach(model)
    model.get_layer("one").kernel.assign(np.ones((8, 12)))  # what is masked comes back
    with pytest.raises(ModelError, match="knows of no mask"):
        prune.step()
    assert is_plain(model)


def test_what_comes_back_behind_the_mask_is_told_apart():
    model = relu_network(run_eagerly=True)
    back = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: model.get_layer("one").kernel.assign(np.ones((8, 12)))
    )
    with pytest.raises(ModelError, match="its masks were applied, and something has assigned"):
        fit(model, back, Prune(0.5), epochs=1)
    assert is_plain(model)


@pytest.mark.parametrize("name", COMPRESSORS)
def test_release_in_a_loop(name):
    model = relu_network()
    one = COMPRESSORS[name]().attach(model)
    with pytest.raises(ModelError):
        COMPRESSORS[name]().attach(model)
    assert release(model) == [one] and is_plain(model)
    assert release(model) == []
    assert COMPRESSORS[name]().attach(model).finish() is not None


def test_release_reaches_models_inside():
    inner = relu_network()
    outer = keras.Sequential([keras.Input((8,)), inner, L.Dense(2)])
    masks, values = Prune(0.5).attach(inner), Cluster(4).attach(inner)
    assert release(outer) == [masks, values] and is_plain(inner) and is_plain(outer)
    with pytest.raises(ModelError, match=r"Expected a keras.Model. Received: the path 'model'"):
        release("model")


def test_the_range_test_puts_everything_back():
    rate = keras.optimizers.schedules.ExponentialDecay(0.01, 10, 0.5)
    for given in (0.01, rate):
        model = relu_network(keras.optimizers.Adam(given))
        before, finder = model.get_weights(), LearningRateFinder(steps=10)
        with pytest.raises(KeyboardInterrupt):
            fit(model, finder, Stop(KeyboardInterrupt()), epochs=2)
        for a, b in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(a, b)
        assert float(model.optimizer.learning_rate) == pytest.approx(0.01)
        fit(model, finder, epochs=2)
        assert finder.report is not None


def test_those_that_watch_let_go():
    model, watch = relu_network(), Diagnose(verbose=0)
    with pytest.raises(RuntimeError):
        fit(model, watch, Stop(RuntimeError(), "on_train_begin"))
    assert type(model.train_function).__name__ != "FirstBatch"
    adaptive = AdaptiveBatchSize(8, 16)
    batches = adaptive.data(*data())
    with pytest.raises(RuntimeError):
        model.fit(batches, verbose=0, callbacks=[adaptive, Stop(RuntimeError())])
    assert len(model.fit(batches, verbose=0, epochs=2, callbacks=[adaptive]).epoch) == 2


class Gan(keras.Model):
    """Two networks, and a step of its own: no `call`."""

    def __init__(self):
        super().__init__()
        self.generator, self.discriminator = relu_network(), keras.Sequential([keras.Input((4,)), L.Dense(1)])

    def train_step(self, x):
        x = keras.utils.unpack_x_y_sample_weight(x)[0]
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self.discriminator(self.generator(x, training=True)) ** 2)
        weights = self.generator.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return {"loss": loss}


@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_model_without_call_says_which_parts_can_be_taken(name):
    gan = Gan()
    gan.compile(keras.optimizers.Adam(0.05))
    with pytest.raises(ModelError, match=r"has no `call` of its own.*generator|sequential") as caught:
        gan.fit(data()[0], verbose=0, callbacks=[COMPRESSORS[name]()])
    assert "attach(part)" in str(caught.value) and gan.generator.name in str(caught.value)


def test_a_part_that_is_attached_is_followed_by_fit():
    gan = Gan()
    gan.compile(keras.optimizers.Adam(0.05))
    prune = Prune(0.5)
    prune.attach(gan.generator)
    gan.fit(data()[0], batch_size=4, verbose=0, callbacks=[prune])
    assert prune.steps == 8 and shares(gan.generator) == asked(0.5) and is_plain(gan.generator)
