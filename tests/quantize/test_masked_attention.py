"""Masks before a softmax in the twin: as good as without them, and what the file computes."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from mask_cases import FLOAT_KEEP, FLOAT_SOME, KEEP, OPERATIONS, TRIANGLE, AddedMask, X, scores, together
from sweeps import sweep

from tfstruct import Recipe, quantize
from tfstruct.callbacks import QuantizeAware
from tfstruct.convert import flatbuffer
from tfstruct.convert.runtime import Runtime
from tfstruct.convert.tflite import Converter
from tfstruct.quantize import Scheme, Twin

# A step of what a softmax reads changes what it returns by up to a fourth of it, which may be several steps of 1/256:
# twin and file may be so many steps apart there. In 8 bits of their own: a kernel between two scales, and what the
# converter makes one operator of; ends of closed layers are those of what is not masked.
READ_STEPS = 1
COARSE = {
    "custom layer": 2,
    "three in one sum": 2,
    "read twice": 2,
    "chosen tensor": 2,
    "a vector": 2,
    "exponentials": 2,
}


def decibels(wanted, found) -> float:
    return 10 * np.log10(np.square(wanted).sum() / np.square(wanted - found).sum())


# Those of one conversion in the default suite; the rest is of another one.
CORE = (
    "by hand, where", "padding", "Subtract", "chosen mask", "bias before", "a sink beside", "sigmoid", "custom layer",
)  # fmt: skip


def _step(content, port) -> tuple[float, float]:
    """The step of an output, and that of what the softmax that makes it reads (its own, if another operator does)."""
    graph = flatbuffer.read(content).subgraphs[0]
    maker = next(op for op in graph.operators if port.index in op.outputs)
    scale = graph.tensors[maker.inputs[0]].quantization.scale
    return port.scale, float(scale[0]) if scale is not None and len(scale) == 1 else port.scale


@pytest.fixture(scope="module")
def agreements(process):
    """By case: outputs in float, of the twin and of its file, and the step of the output."""
    known = {}

    def of(name: str):
        if name not in known:
            names = [other for other in OPERATIONS if (other in CORE) == (name in CORE)]
            keras.utils.set_random_seed(0)
            model, data = together(names)
            with warnings.catch_warnings(action="ignore"):
                twin = quantize.calibrate(model, data)
            with Converter(twin, process=process) as converter:
                file = converter.convert(Recipe(precision="int8", calibration=data))
            ports = {port.name: _step(file.content, port) for port in Runtime(file.content).outputs}
            found = file.predict({x.name: value for x, value in zip(model.inputs, data, strict=True)})
            outputs = (
                model.predict(data, verbose=0),
                twin.predict(data, verbose=0),
                [found[x] for x in model.output_names],
            )
            rows = zip(names, *outputs, [ports[x] for x in model.output_names], strict=True)
            known.update({other: row for other, *row in rows})
        return known[name]

    return of


@pytest.mark.parametrize("name", sweep(list(OPERATIONS), set(CORE)))
@pytest.mark.sweep(2)
def test_twin_and_file_agree_with_the_model(agreements, name):
    wanted, ours, theirs, (step, read) = agreements(name)
    assert decibels(wanted, ours) > 30 and decibels(wanted, theirs) > 30
    assert np.abs(ours - theirs).max() <= 2.01 * step + COARSE.get(name, READ_STEPS) * read / 4


def attention(width: int = 16) -> keras.Model:
    """A causal layer of attention, written by hand."""
    x = keras.Input((8, 16))
    q, k, v = (layers.Dense(width)(x) for _ in range(3))
    s = ops.matmul(q, ops.transpose(k, (0, 2, 1))) * width**-0.5
    y = ops.matmul(ops.softmax(ops.where(TRIANGLE == 0, s, -1e9)), v)
    return keras.Model(x, layers.Dense(4)(y))


def loop(model, aware, x, y):
    """Training by hand."""
    optimizer = keras.optimizers.Adam(2e-3)
    optimizer.build(model.trainable_variables)
    aware.attach(model)

    @tf.function
    def step(a, b):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(a, training=True) - b))
        optimizer.apply_gradients(
            zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True)
        )

    for _ in range(5):
        for start in range(0, len(x), 20):
            step(x[start : start + 20], y[start : start + 20])
            aware.step()
    return aware.finish()


def fit(model, aware, x, y):
    model.compile(keras.optimizers.Adam(2e-3), "mse")
    model.fit(x, y, batch_size=20, epochs=5, verbose=0, callbacks=[aware])
    return aware.report


@pytest.mark.parametrize("train, ranges", [(fit, "moving_average"), (loop, "learned"), (fit, "percentile")])
@pytest.mark.sweep(1)
def test_training_with_masks(train, ranges, process):
    keras.utils.set_random_seed(0)
    model, truth = attention(), attention()
    wanted = truth.predict(X, verbose=0)
    before = float(np.square(model.predict(X, verbose=0) - wanted).mean())
    aware = QuantizeAware(Scheme(ranges=ranges))
    train(model, aware, X, wanted)
    ours = aware.twin.predict(X, verbose=0)
    assert np.square(ours - wanted).mean() < 0.7 * before  # it has learned
    assert decibels(model.predict(X, verbose=0), ours) > 25
    (masked,) = [name for name in aware.ranges if name.startswith("where")]
    scores = next(name for name in aware.ranges if name.startswith("multiply"))
    assert aware.ranges[masked][0] == pytest.approx(aware.ranges[scores][0] - np.log(256 * 8), rel=1e-5)
    with Converter(aware.twin, process=process) as converter:
        file = converter.convert(Recipe())
    (port,) = Runtime(file.content).outputs
    assert np.abs(ours - file.predict(X)).max() <= 2.01 * port.scale


def test_a_mask_that_comes_later_than_the_first_batches():
    model, (x, keep) = scores(lambda s, keep: ops.softmax(s + (1.0 - keep) * -1e9), FLOAT_SOME)
    twin = Twin(model, Scheme(ranges="learned"))
    for given in (np.ones_like(keep), keep):
        twin([x, given], training=True)
    assert decibels(model.predict([x, keep], verbose=0), twin.predict([x, keep], verbose=0)) > 30


def test_ranges_are_of_16_bits_too():
    model, data = scores(lambda s, keep: ops.softmax(s + (1.0 - keep) * -1e9), FLOAT_SOME)
    twin = quantize.calibrate(model, data, "int16x8")
    assert decibels(model.predict(data, verbose=0), twin.predict(data, verbose=0)) > 40


@pytest.mark.parametrize("search", [quantize.adaround, quantize.blockwise])
def test_rounding_by_reconstruction_keeps_the_masks(search):
    model, data = scores(lambda s, keep: ops.softmax(ops.where(keep, s, -1e9)), KEEP)
    twin = search(model, data, steps=5)
    assert decibels(model.predict(data, verbose=0), twin.predict(data, verbose=0)) > 28


def test_sensitivity_sees_no_loss_by_masks():
    model, data = scores(lambda s, keep: ops.softmax(ops.where(keep, s, -1e9)), KEEP)
    assert all(row.sqnr_db > 30 for row in quantize.sensitivity(model, data, ["int8"]).rows)


def test_masks_out_of_a_closed_layer_are_told(tmp_path):
    model, data = scores(lambda s, keep: ops.softmax(AddedMask(name="adds")(s, keep)), FLOAT_KEEP)
    with pytest.warns(UserWarning, match="adds: values below -1,000, which a softmax reads, are taken for masks"):
        twin = quantize.calibrate(model, data, open_layers=False)
    assert "adds" in dict(twin.simulation.skipped)
    twin.save(tmp_path / "twin.keras")
    again = keras.models.load_model(tmp_path / "twin.keras")
    np.testing.assert_array_equal(again.predict(data, verbose=0), twin.predict(data, verbose=0))


def test_masks_of_an_opened_layer_are_seen(process):
    model, data = scores(lambda s, keep: ops.softmax(AddedMask(name="adds")(s, keep)), FLOAT_KEEP)
    twin = quantize.calibrate(model, data)
    assert twin.report.opened == ("adds",) and not twin.report.skipped
    assert decibels(model.predict(data, verbose=0), twin.predict(data, verbose=0)) > 28


def test_plain_models_have_plain_ranges():
    x = keras.Input((8, 16))
    y = layers.Add()([x, layers.Dense(16)(x)])
    model = keras.Model(x, layers.Dense(4, activation="softmax")(layers.LayerNormalization()(y)))
    kinds = {type(bound).__name__ for bound in Twin(model).simulation.bounds.values()}
    assert kinds == {"Range"}
