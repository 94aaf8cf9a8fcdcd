"""Quantization-aware training, in every way to train."""

import contracts
import keras
import numpy as np
import pytest
from sweeps import sweep

from tfstruct import Recipe
from tfstruct.callbacks import Prune, QuantizeAware
from tfstruct.convert import flatbuffer
from tfstruct.convert.tflite import Converter
from tfstruct.errors import ModelError
from tfstruct.quantize import Scheme


def build():
    return contracts.network(optimizer=keras.optimizers.Adam(3e-3))


def trained(way="fit", epochs=3, **options):
    aware = QuantizeAware(**options)
    model, losses = contracts.compressed(build, aware, way, epochs)
    return model, aware, losses


@pytest.mark.parametrize("way", contracts.WAYS)
@pytest.mark.sweep(2)
def test_ways_to_train(way, second_device):
    model, aware, losses = trained(way)
    assert losses[-1] < losses[0]
    assert aware.steps == 3 * 4 and "call" not in vars(model)
    assert set(aware.ranges) >= {"relu", "pool", "logits"}
    assert aware.ranges["relu"] == aware.ranges["pool"] and aware.ranges["relu"][0] == 0
    if way == "mirrored":
        contracts.assert_replicas_agree(model)


def plain():
    """Without batch norms, whose statistics are those of each replica."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(contracts.data()[0].shape[1:])
    x = keras.layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(4, name="logits")(keras.layers.Flatten()(x)))
    model.compile(keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.mark.parametrize("ranges", ["moving_average", "minmax"])
def test_replicas_follow_the_ranges_of_the_whole_batch(ranges, second_device):
    """Each sees a part of it: the mean of the parts' ends would be nearer to zero."""
    alone, together = (QuantizeAware(Scheme(ranges=ranges)) for _ in range(2))
    contracts.compressed(plain, alone, "fit", 2)
    contracts.compressed(plain, together, "mirrored", 2)
    for name in ("conv", "logits"):
        np.testing.assert_allclose(together.ranges[name], alone.ranges[name], rtol=1e-3, atol=1e-4)


def test_a_loop_by_hand_is_the_same_training():
    by_fit, by_hand = trained("fit"), trained("tape")
    np.testing.assert_allclose(by_fit[2], by_hand[2], rtol=1e-5)
    for a, b in zip(by_fit[0].get_weights(), by_hand[0].get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_what_is_trained_is_the_quantized_network():
    model = build()
    x, y = contracts.data()
    aware = QuantizeAware().attach(model)
    model.fit(x, y, verbose=0)
    inside = model.predict(x, verbose=0)
    np.testing.assert_array_equal(inside, aware.twin.predict(x, verbose=0))
    aware.finish()
    outside = model.predict(x, verbose=0)
    assert np.abs(inside - outside).max() > 0  # float again


SCHEMES = {
    "int8": Scheme(),
    "int4": Scheme("int4"),
    "int16x8": Scheme("int16x8"),
    "a step a layer": Scheme(per="layer"),
    "a step a folded tensor": Scheme(per="tensor"),
    "learned": Scheme(steps="learned", ranges="learned"),
    "learned int4": Scheme("int4", steps="learned", ranges="learned"),
    "learned, tensor": Scheme("int4", per="tensor", steps="learned"),
    "percentile": Scheme(ranges="percentile", percentile=99.0),
    "pact": Scheme(ranges="pact", decay=1e-4),
    "int2": Scheme("int2", layers={"logits": "int8"}),
    "learned int2": Scheme("int2", steps="learned"),
    "ternary": Scheme("ternary"),
    "ternary, layer": Scheme("ternary", per="layer"),
    "binary": Scheme("binary", layers={"logits": "int4"}),
}


@pytest.mark.parametrize(
    "name", sweep(SCHEMES, {"int8", "int16x8", "a step a folded tensor", "learned int4", "ternary"})
)
@pytest.mark.sweep(2)
def test_the_file_computes_what_was_trained(name, process):
    scheme = SCHEMES[name]
    model, aware, _ = trained(scheme=scheme)
    x, _ = contracts.data(256, seed=1)
    weights = model.get_weights()
    with Converter(aware.twin, process=process) as converter:
        file = converter.convert(Recipe())
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert file.report.precision == Scheme.file_of(scheme.precision) and not file.report.float_operators
    ours, theirs = aware.twin.predict(x, verbose=0), file.predict(x)
    low, high = aware.ranges["logits"]
    steps = 255 if scheme.precision != "int16x8" else 65535
    assert np.abs(ours - theirs).max() <= (2 if steps == 255 else 40) * (high - low) / steps
    assert np.mean(ours.argmax(1) == theirs.argmax(1)) >= 0.99
    if all(grid.nearest for grid in aware.twin.simulation.grids.values()):
        recipe = Recipe(precision=scheme.precision, ranges=aware.ranges, weight_limits=aware.weight_limits)
        with Converter(model, process=process) as converter:
            assert converter.convert(recipe).content == file.content


def integers(file, shape) -> np.ndarray:
    """The kernel of a file with this shape."""
    read = flatbuffer.read(file.content)
    kernel = next(t for t in read.subgraphs[0].tensors if t.shape is not None and list(t.shape) == shape)
    stored = np.asarray(read.buffers[kernel.buffer].data)
    if kernel.type == flatbuffer.schema.TensorType.INT4:
        stored = np.stack([stored << 4, stored], -1).view(np.int8) >> 4
    return stored.view(np.int8).ravel()


@pytest.mark.parametrize("name, values", [("ternary", {-1, 0, 1}), ("learned int2", {-2, -1, 0, 1})])
def test_few_values_are_in_the_file(name, values, process):
    _, aware, _ = trained(scheme=SCHEMES[name])
    with Converter(aware.twin, process=process) as converter:
        file = converter.convert(Recipe())
    assert set(integers(file, [8, 3, 3, 2])) <= values


def test_float16(process):
    model, aware, _ = trained(scheme="float16")
    with Converter(aware.twin, process=process) as converter:
        file = converter.convert(Recipe())
    x, _ = contracts.data(64, seed=1)
    assert aware.ranges == {} and file.report.precision == "float16"
    np.testing.assert_allclose(aware.twin.predict(x, verbose=0), file.predict(x), rtol=2e-3, atol=2e-3)
    assert model.predict(x, verbose=0).dtype == np.float32


LEARNED = Scheme("int4", steps="learned", ranges="learned", learning_rate=0.01)


@pytest.mark.parametrize("way", contracts.WAYS)
@pytest.mark.sweep(2)
def test_steps_and_ranges_learn_in_every_way(way, second_device):
    model, aware, losses = trained(way, scheme=LEARNED)
    assert losses[-1] < losses[0]
    grid, bounds = (getattr(aware.twin.simulation, name) for name in ("grids", "bounds"))
    step = grid["conv/kernel"].learned.variable.numpy()
    start = QuantizeAware(LEARNED).attach(contracts.built(build, "fit")).twin.simulation.grids["conv/kernel"]
    assert np.all(np.isfinite(step)) and np.all(step > 0) and np.all(step != start.learned.variable.numpy())
    assert all(np.isfinite(v).all() for v in model.get_weights())
    low, high = bounds["relu"].pair()
    assert low == 0 and np.isfinite(high) and bounds["relu"].ends[1].square.numpy() > 0


def test_frozen_steps_and_ranges_stay():
    model = build()
    x, y = contracts.data()
    aware, seen = QuantizeAware(LEARNED, freeze_ranges=4), []

    def note(*_, **__):
        simulation = aware.twin.simulation
        parts = [*simulation.bounds.values(), simulation.grids["conv/kernel"].learned]
        seen.append([v.numpy() for part in parts for v in part.variables if "gradient" not in v.name])

    callbacks = [aware, keras.callbacks.LambdaCallback(on_epoch_end=note)]
    model.fit(x, y, batch_size=16, epochs=3, verbose=0, callbacks=callbacks)
    for first, last in zip(seen[0], seen[2], strict=True):
        np.testing.assert_array_equal(first, last)


def test_start_and_freezing():
    model = build()
    x, y = contracts.data()
    aware = QuantizeAware(start=4, freeze_batch_norm=8, freeze_ranges=10).attach(model)
    simulation = aware.twin.simulation
    seen = []

    def note(*_, **__):
        seen.append((float(simulation.active), float(simulation.frozen_statistics), float(simulation.frozen)))

    model.fit(
        x,
        y,
        batch_size=16,
        epochs=3,
        verbose=0,
        callbacks=[aware, keras.callbacks.LambdaCallback(on_train_batch_end=note)],
    )
    assert [s[0] for s in seen] == [0] * 3 + [1] * 9
    assert [s[1] for s in seen] == [0] * 7 + [1] * 5
    assert [s[2] for s in seen] == [0] * 9 + [1] * 3


def test_frozen_batch_norm_keeps_its_statistics():
    model, _, _ = trained(epochs=1, freeze_batch_norm=0, freeze_ranges=2)
    norm = model.get_layer("norm")
    assert not np.any(norm.moving_mean.numpy()) and np.all(norm.moving_variance.numpy() == 1)


def test_killed_and_resumed(tmp_path):
    whole, aware, _ = trained(epochs=2)
    folder = str(tmp_path / "backup")

    class Killed(Exception):
        pass

    def kill(epoch, logs):
        if epoch == 0:
            raise Killed

    first, x = contracts.built(build, "fit"), contracts.data()
    with pytest.raises(Killed):
        callbacks = [
            QuantizeAware(), keras.callbacks.BackupAndRestore(folder),
            keras.callbacks.LambdaCallback(on_epoch_end=kill),
        ]  # fmt: skip
        first.fit(*x, batch_size=16, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
    second, again = contracts.built(build, "fit"), QuantizeAware()
    second.fit(
        *x, batch_size=16, epochs=2, shuffle=False, verbose=0,
        callbacks=[again, keras.callbacks.BackupAndRestore(folder)],
    )  # fmt: skip
    assert again.steps == aware.steps
    for wanted, pair in zip(aware.ranges.values(), again.ranges.values(), strict=True):
        assert pair == pytest.approx(wanted, rel=1e-5)
    for a, b in zip(whole.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_second_fit_goes_on():
    model, aware, _ = trained(epochs=1)
    before = aware.ranges["relu"]
    contracts.go_on(model, "fit", 1, [aware])
    assert aware.steps == 8 and aware.ranges["relu"] != before


def test_zeros_of_pruning_are_in_the_file(process):
    model = build()
    x, y = contracts.data()
    prune, aware = Prune(0.5, layers="conv"), QuantizeAware()
    model.fit(x, y, batch_size=16, epochs=2, verbose=0, callbacks=[prune, aware])
    with Converter(aware.twin, process=process) as converter:
        stored = integers(converter.convert(Recipe()), [8, 3, 3, 2])
    assert stored.size == 144 and np.mean(stored == 0) >= 0.5
    assert np.mean(model.get_layer("conv").kernel.numpy() == 0) == 0.5


def test_report():
    _, aware, _ = trained()
    report = aware.report
    assert "conv/kernel" in dict(report.kernels) and "relu" in str(report)
    assert report.to_dict()["scheme"]["precision"] == "int8"
    assert report.table().row_count == len(report.activations)
    assert len(report.plot().axes) == 1


def test_bad_input():
    with pytest.raises(ValueError, match="before quantization starts"):
        QuantizeAware(start=10, freeze_ranges=5)
    with pytest.raises(ValueError, match="`start` must be a whole number, 0 or larger"):
        QuantizeAware(start=-1)
    with pytest.raises(ModelError, match="no ranges yet"):
        _ = QuantizeAware().ranges
    model = build()
    QuantizeAware().attach(model)
    with pytest.raises(ModelError, match="quantized by another"):
        QuantizeAware().attach(model)

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    own = Own()
    own(np.zeros((1, 3), "float32"))
    with pytest.raises(ModelError, match="subclassed"):
        QuantizeAware().attach(own)
