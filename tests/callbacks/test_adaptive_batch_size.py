import contracts
import keras
import numpy as np
import pytest
import tensorflow as tf

from tfstruct.callbacks import AdaptiveBatchSize
from tfstruct.errors import DataError

COUNT = 50


class Batches(keras.utils.PyDataset):
    """Arrays in batches of seven."""

    def __init__(self, *arrays):
        super().__init__()
        self.arrays = arrays
        self.epochs = 0

    def __len__(self):
        return -(-len(self.arrays[0]) // 7)

    def __getitem__(self, i):
        return tuple(a[7 * i : 7 * i + 7] for a in self.arrays)

    def on_epoch_end(self):
        self.epochs += 1


SOURCES = {
    "arrays": lambda *arrays: arrays,
    "dataset": lambda *arrays: (tf.data.Dataset.from_tensor_slices(arrays).batch(7),),
    "filtered dataset": lambda *arrays: (tf.data.Dataset.from_tensor_slices(arrays).filter(lambda *_: True).batch(7),),
    "PyDataset": lambda *arrays: (Batches(*arrays),),
}


class Recorder(keras.Sequential):
    """A linear model that keeps what it is trained on, batch by batch; one trace of its step adds to `traces`."""

    def train_step(self, data):
        self.traces += 1

        def keep(values):
            self.seen.append(values.numpy().ravel().tolist())

        tf.py_function(keep, [data[0]], [])
        return super().train_step(data)


def recorder(rate=1e-6):
    model = Recorder([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(rate), "mse", jit_compile=False)
    model.seen, model.traces = [], 0
    return model


def flat(batches):
    return [value for batch in batches for value in batch]


def numbers():
    x = np.arange(COUNT, dtype="float32")[:, None]
    return x, x / COUNT


class Epochs(keras.callbacks.Callback):
    """What was seen in each epoch, and the learning rate at its end."""

    def __init__(self):
        super().__init__()
        self.seen, self.rates = [], []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(list(self.model.seen))
        self.model.seen.clear()
        self.rates.append(float(self.model.optimizer.learning_rate.numpy()))


@pytest.mark.parametrize("source", SOURCES)
def test_every_sample_is_seen_once_an_epoch(source):
    """While the batch grows and shrinks, past the number of steps of the first epoch."""
    sizes = {0: 8, 1: 16, 2: 4, 3: 50, 4: 5}
    adaptive = AdaptiveBatchSize(8, 50, minimum=4, policy=sizes, seed=0)
    model, epochs = recorder(), Epochs()
    before = keras.ops.convert_to_numpy(model.optimizer.iterations)
    data = SOURCES[source](*numbers())
    history = model.fit(adaptive.data(*data), epochs=5, verbose=0, callbacks=[adaptive, epochs])
    for size, seen in zip(sizes.values(), epochs.seen, strict=True):
        assert sorted(v for batch in seen for v in batch) == list(range(COUNT))
        whole, rest = divmod(COUNT, size)
        assert [len(batch) for batch in seen] == [size] * whole + [rest] * bool(rest)
    assert history.history["batch_size"] == list(sizes.values())
    assert int(model.optimizer.iterations) - int(before) == 7 + 4 + 13 + 1 + 10
    assert model.traces == 1
    if source == "PyDataset":
        assert data[0].epochs == 5
    if source == "arrays":
        assert epochs.seen[3] != epochs.seen[4]  # shuffled, anew in each epoch
        assert flat(epochs.seen[0]) != sorted(flat(epochs.seen[0]))


def test_order_is_kept_where_asked():
    adaptive = AdaptiveBatchSize(8, 50)
    model = recorder()
    model.fit(adaptive.data(*numbers(), shuffle=False), verbose=0, callbacks=[adaptive])
    assert flat(model.seen) == list(range(COUNT))


def test_seed_decides_the_order():
    def order(seed):
        keras.utils.set_random_seed(3)
        adaptive, model = AdaptiveBatchSize(8, 50, seed=seed), recorder()
        model.fit(adaptive.data(*numbers()), verbose=0, callbacks=[adaptive])
        return model.seen

    assert order(None) == order(None) and order(1) == order(1) != order(2)


def test_equals_fit_where_the_size_stays():
    x, y = contracts.data()
    plain, ours = contracts.network(), contracts.network()
    adaptive = AdaptiveBatchSize(16, 64, policy={})
    a = plain.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
    b = ours.fit(adaptive.data(x, y, shuffle=False), epochs=2, verbose=0, callbacks=[adaptive])
    np.testing.assert_allclose(a.history["loss"], b.history["loss"], rtol=1e-5)
    for one, other in zip(plain.get_weights(), ours.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_sample_weights_and_several_inputs():
    x, y = numbers()
    first, second = keras.Input((1,), name="a"), keras.Input((1,), name="b")
    dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    results = []
    for inputs in ([x, x], {"a": x, "b": x}):
        model = keras.Model([first, second], dense(first + second))
        dense.set_weights([np.zeros((1, 1))])
        model.compile(keras.optimizers.SGD(0.0), "mse")
        weights = np.arange(COUNT) % 2
        adaptive = AdaptiveBatchSize(COUNT, COUNT)
        history = model.fit(adaptive.data(inputs, y, weights), verbose=0, callbacks=[adaptive])
        results.append(history.history["loss"][0])
    np.testing.assert_allclose(results, np.mean(y[:, 0] ** 2 * weights), rtol=1e-5)


@pytest.mark.parametrize(("rule", "factors"), [("linear", [1, 4, 0.5]), ("sqrt", [1, 2, 0.5**0.5]), (None, [1, 1, 1])])
def test_learning_rate_rules(rule, factors):
    adaptive = AdaptiveBatchSize(8, 32, minimum=4, policy={1: 32, 2: 4}, learning_rate_rule=rule)
    model, epochs = recorder(0.01), Epochs()
    model.fit(adaptive.data(*numbers()), epochs=3, verbose=0, callbacks=[adaptive, epochs])
    np.testing.assert_allclose(epochs.rates, 0.01 * np.array(factors), rtol=1e-6)
    assert adaptive.changes == ["epoch 2: 8 -> 32, as planned", "epoch 3: 32 -> 4, as planned"]


def test_replaces_a_decay():
    """rate / size falls as the schedule does, also where the range ends."""
    decay = keras.optimizers.schedules.ExponentialDecay(7.0, 1, 0.5)
    adaptive = AdaptiveBatchSize(4, 16, policy=decay)
    model, epochs = recorder(0.01), Epochs()
    history = model.fit(adaptive.data(*numbers()), epochs=5, verbose=0, callbacks=[adaptive, epochs])
    assert history.history["batch_size"] == [4, 8, 16, 16, 16]
    np.testing.assert_allclose(epochs.rates, [0.01, 0.01, 0.01, 0.005, 0.0025], rtol=1e-6)
    # A training that goes on elsewhere: the size is known by the epoch, the rate is the saved one.
    again = AdaptiveBatchSize(4, 16, policy=decay)
    history = model.fit(again.data(*numbers()), initial_epoch=5, epochs=6, verbose=0, callbacks=[again, epochs])
    assert history.history["batch_size"] == [16]
    np.testing.assert_allclose(epochs.rates[-1], 0.00125, rtol=1e-6)


def test_plateau():
    """The loss of a model that does not learn never falls: 8, 8, 8 -> 16, 16 -> 32, 32 -> 40."""
    adaptive = AdaptiveBatchSize(8, 40, policy="plateau", patience=2, min_delta=1e9, learning_rate_rule="sqrt")
    model, epochs = recorder(1e-9), Epochs()
    data = adaptive.data(*numbers())
    history = model.fit(data, epochs=7, verbose=0, callbacks=[adaptive, epochs])
    assert history.history["batch_size"] == [8, 8, 8, 16, 16, 32, 32]
    assert adaptive.batch_size == 40
    np.testing.assert_allclose(epochs.rates[:6], 1e-9 * np.sqrt([1, 1, 2, 2, 4, 4]), rtol=1e-5)
    assert adaptive.changes[0] == "epoch 4: 8 -> 16, loss has not fallen for 2 epochs"
    history = model.fit(data, epochs=1, verbose=0, callbacks=[adaptive])
    assert history.history["batch_size"] == [40]  # a second fit goes on


@pytest.mark.parametrize(("noise", "initial", "expected"), [(20.0, 16, [16, 32, 64]), (0.01, 64, [64, 32, 16])])
def test_noise_scale(noise, initial, expected):
    """A gradient lost in noise wants large batches, one without noise small ones: (n + 1) + n noise^2 / |d|^2."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2048, 3)).astype("float32")
    y = (x @ np.ones((3, 1)) + noise * rng.normal(size=(2048, 1))).astype("float32")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, kernel_initializer="zeros")])
    model.compile(keras.optimizers.SGD(1e-6), "mse")
    adaptive = AdaptiveBatchSize(initial, 64, minimum=16, policy="noise_scale", noise_samples=2048)
    source = tf.data.Dataset.from_tensor_slices((x, y)).batch(32)
    history = model.fit(adaptive.data(source), epochs=3, verbose=0, callbacks=[adaptive]).history
    assert history["batch_size"] == expected
    scales = np.array(history["noise_scale"])
    assert (scales > 64).all() if noise > 1 else ((scales > 2) & (scales < 8)).all()


@pytest.mark.parametrize("way", ["fit", pytest.param("jit", marks=pytest.mark.slow), "mixed_float16", "mirrored"])
@pytest.mark.sweep(1)
def test_ways(way, second_device):
    model = contracts.built(contracts.network, way)
    x, y = contracts.data()
    adaptive = AdaptiveBatchSize(16, 64, policy={1: 32, 2: 64}, learning_rate_rule="sqrt")
    history = model.fit(adaptive.data(x, y), epochs=3, verbose=0, callbacks=[adaptive]).history
    assert history["batch_size"] == [16, 32, 64]
    assert history["loss"][-1] < history["loss"][0]
    inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    assert int(keras.ops.convert_to_numpy(inner.iterations)) == 4 + 2 + 1
    np.testing.assert_allclose(keras.ops.convert_to_numpy(inner.learning_rate), 0.02, rtol=1e-6)
    if way == "mirrored":
        contracts.assert_replicas_agree(model)


def test_several_steps_in_one_execution():
    model = recorder()
    model.compile("sgd", "mse", steps_per_execution=3)
    adaptive = AdaptiveBatchSize(8, 32, minimum=4, policy={1: 16, 2: 4})
    model.fit(adaptive.data(*numbers()), epochs=3, verbose=0, callbacks=[adaptive])
    seen = sorted(v for batch in model.seen for v in batch)
    assert seen == sorted([*range(COUNT)] * 3)


def test_progress_and_warnings(capsys, recwarn):
    adaptive = AdaptiveBatchSize(8, 32, policy={1: 16})
    recorder().fit(adaptive.data(*numbers()), epochs=2, verbose=2, shuffle=False, callbacks=[adaptive])
    assert "7/7" in capsys.readouterr().out
    assert not [str(w.message) for w in recwarn if "ran out of data" in str(w.message)]


def fitted(adaptive, model=None, data=None, **options):
    model = recorder() if model is None else model
    return model.fit(adaptive.data(*numbers()) if data is None else data, verbose=0, callbacks=[adaptive], **options)


@pytest.mark.parametrize("source", SOURCES)
def test_a_range_that_the_data_cannot_give(source):
    adaptive = AdaptiveBatchSize(8, 60, policy={})
    with pytest.raises(DataError, match=r"at least `maximum` samples, 60. Received: 50"):
        fitted(adaptive, data=adaptive.data(*SOURCES[source](*numbers())))


def test_other_data():
    adaptive = AdaptiveBatchSize(8, 16)
    x, y = numbers()
    adaptive.data(x, y)
    wanted = r"Expected fit\(adaptive.data\(x, y\), callbacks=\[adaptive\]\)"
    for data, options in (
        (x, {"y": y}),
        (tf.data.Dataset.from_tensor_slices((x, y)).batch(5).filter(lambda *_: True), {}),
        (adaptive.data(x, y), {"steps_per_epoch": 3}),
    ):
        with pytest.raises(DataError, match=wanted):
            fitted(adaptive, data=data, **options)
    endless = tf.data.Dataset.from_tensor_slices((x, y)).batch(5).repeat()
    with pytest.raises(DataError, match="without end"):
        adaptive.data(endless)
    with pytest.raises(DataError, match="Expected a batched dataset"):
        adaptive.data(tf.data.Dataset.range(9))
    with pytest.raises(DataError, match=r"equally many samples and labels, at least one. Received: \[40, 50\]"):
        adaptive.data(x, y[:40])
    with pytest.raises(DataError, match="labels and weights inside of the Batches"):
        adaptive.data(Batches(x, y), y)


def test_a_rule_needs_a_rate_that_can_be_set():
    model = recorder()
    model.compile(keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 10)), "mse")
    with pytest.raises(ValueError, match="needs an optimizer with a number as learning rate"):
        fitted(AdaptiveBatchSize(8, 16, learning_rate_rule="linear"), model)
    assert fitted(AdaptiveBatchSize(8, 16), model).history["batch_size"] == [8]


def test_one_sample_for_each_replica(second_device):
    with contracts.two_replicas().scope():
        model = recorder()
    with pytest.raises(ValueError, match=r"at least 2, one sample a replica. Received: 1"):
        fitted(AdaptiveBatchSize(8, 16, minimum=1), model)


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("Expected minimum <= initial <= maximum. Received: 8, 8 and 4", {"maximum": 4}),
        ("Expected minimum <= initial <= maximum. Received: 9, 8 and 16", {"minimum": 9}),
        ("`minimum` must be a whole number, 1 or larger. Received: 0", {"minimum": 0}),
        ("`patience` must be a whole number, 1 or larger. Received: 0", {"patience": 0}),
        ("`factor` must be a finite number above 1. Received: 1", {"factor": 1}),
        ("`learning_rate_rule` must be", {"learning_rate_rule": "square"}),
        ("`policy` must be 'plateau'", {"policy": "loss"}),
        ("`policy` must give sizes from 8 to 16. Received: 32, epoch 3", {"policy": {3: 32}}),
        ("`noise_samples` must be a whole number, 64 or larger. Received: 8", {"noise_samples": 8}),
        (
            "A schedule as `policy` sets the learning rate itself",
            {"policy": keras.optimizers.schedules.CosineDecay(0.1, 9), "learning_rate_rule": "sqrt"},
        ),
    ],
)
def test_bad_arguments(message, arguments):
    with pytest.raises(ValueError) as error:
        AdaptiveBatchSize(**{"initial": 8, "maximum": 16, **arguments})
    assert message in str(error.value)


def test_monitor_that_is_not_there():
    with pytest.raises(ValueError, match=r"`monitor` must be one of .* Received: 'val_loss'"):
        fitted(AdaptiveBatchSize(8, 16, monitor="val_loss"))


def test_others_may_stop_training_at_the_end_of_an_epoch():
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True if epoch == 1 else self.model.stop_training

    for order in (1, -1):
        adaptive = AdaptiveBatchSize(8, 16)
        model = recorder()
        history = model.fit(adaptive.data(*numbers()), epochs=5, verbose=0, callbacks=[adaptive, Stop()][::order])
        assert len(history.history["loss"]) == 2 and model.stop_training is True
    model = recorder()
    fitted(adaptive, model, epochs=2)
    assert model.stop_training is False


def test_nothing_happens_past_the_end():
    """Keras runs a step into the end of data of unknown length, which counts it and decays the weights."""
    model = recorder()
    model.compile(keras.optimizers.SGD(0.1, weight_decay=0.5), "mse")
    model.layers[0].kernel.assign([[1.0]])
    model.layers[0].trainable = True
    x = np.zeros((COUNT, 1), "float32")
    adaptive = AdaptiveBatchSize(25, 50)
    fitted(adaptive, model, data=adaptive.data(x, x), epochs=3)
    np.testing.assert_allclose(model.layers[0].kernel.numpy(), [[0.95**6]], rtol=1e-5)
    assert int(model.optimizer.iterations) == 6


def test_fewer_samples_than_said():
    x, y = numbers()
    adaptive = AdaptiveBatchSize(10, 50, policy={1: 20})
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(5)
    with pytest.raises(DataError, match=r"Expected 70 samples in each epoch. Received: at most"):
        fitted(adaptive, data=adaptive.data(data, samples=70))


def test_data_changed_afterwards_and_class_weights():
    x, _ = numbers()
    adaptive = AdaptiveBatchSize(8, 40, minimum=4, policy={1: 4, 2: 40})
    model, epochs = recorder(), Epochs()
    data = adaptive.data(x, np.arange(COUNT) % 2).map(lambda a, b: (a + 100, b))
    model.fit(data, epochs=3, class_weight={0: 1.0, 1: 2.0}, verbose=0, callbacks=[adaptive, epochs])
    assert [sorted(flat(seen)) for seen in epochs.seen] == [list(range(100, 100 + COUNT))] * 3
    assert [len(seen) for seen in epochs.seen] == [7, 13, 2]
