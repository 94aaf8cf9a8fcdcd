"""Quantization-aware training of models with custom layers, which are opened for the twin alone."""

import contracts
import keras
import numpy as np
import pytest
from custom_layers import RawTensorFlow, Subclassed
from keras import layers, ops

from tfstruct import quantize, to_tflite
from tfstruct.callbacks import Cluster, QuantizeAware
from tfstruct.errors import ArgumentError, ModelError


@keras.saving.register_keras_serializable("tests")
class Mixes(layers.Layer):
    """A residual branch of a weight, a layer and an operation."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 6), name="w")
        self.down = layers.Dense(shape[-1], name="down")
        self.down.build((*shape[:-1], 6))

    def call(self, x):
        return x + ops.tanh(self.down(ops.relu(ops.matmul(x, self.w))))


def build():
    return contracts.network(Mixes(name="mix"), optimizer=keras.optimizers.Adam(3e-3))


@pytest.mark.sweep(2)
@pytest.mark.parametrize("way", contracts.WAYS)
def test_ways_to_train(way, second_device):
    aware = QuantizeAware()
    model, losses = contracts.compressed(build, aware, way, 3)
    assert losses[-1] < losses[0] and aware.steps == 3 * 4
    assert aware.report.opened == ("mix",) and not aware.report.skipped
    assert {"mix/relu", "mix/tanh", "logits"} <= set(aware.ranges)
    assert dict(aware.report.kernels)["mix/w"] == dict(aware.report.kernels)["mix/down/kernel"] == 8
    for layer in (model, *model.layers):
        assert not vars(layer).keys() & {"call", "symbolic_call"}
    assert type(model.get_layer("mix")) is Mixes
    if way == "mirrored":
        contracts.assert_replicas_agree(model)


def test_what_is_trained_is_the_quantized_network_and_its_file(process):
    model = build()
    x, y = contracts.data(128)
    aware = QuantizeAware().attach(model)
    model.fit(x, y, verbose=0, batch_size=32, callbacks=[aware])
    aware.attach(model)
    inside = model.predict(x, verbose=0)
    np.testing.assert_array_equal(inside, aware.twin.predict(x, verbose=0))
    aware.finish()
    model.fit(x, y, verbose=0, batch_size=32, callbacks=[aware])  # goes on with its ranges
    assert aware.steps == 8
    made, again = to_tflite(aware.twin), to_tflite(model, "int8", ranges=aware.ranges)
    assert made.content == again.content and again.report.opened == ("mix",)
    np.testing.assert_allclose(aware.twin.predict(x, verbose=0), made.predict(x), rtol=1e-5)


def test_saved_while_it_trains(tmp_path):
    model = build()
    x, y = contracts.data()
    aware = QuantizeAware().attach(model)
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "half.keras")
    loaded = keras.models.load_model(tmp_path / "half.keras")
    other = QuantizeAware().attach(loaded)
    assert other.steps == aware.steps
    np.testing.assert_allclose(list(other.ranges.values()), list(aware.ranges.values()), rtol=1e-6)
    assert {"mix/relu", "mix/tanh"} <= set(other.ranges)
    other.finish()
    aware.finish()
    aware.twin.save(tmp_path / "twin.keras")
    twin = keras.models.load_model(tmp_path / "twin.keras")
    np.testing.assert_array_equal(twin.predict(x, verbose=0), aware.twin.predict(x, verbose=0))


def test_beside_another_compressor():
    model = build()
    x, y = contracts.data()
    cluster, aware = Cluster(4).attach(model), QuantizeAware().attach(model)
    model.fit(x, y, verbose=0)
    assert aware.finish().opened == ("mix",)
    cluster.finish()
    assert "call" not in vars(model)


def test_walls_stay_where_they_are_wanted():
    model = build()
    aware = QuantizeAware(open_layers=False).attach(model)
    assert not [path for path in aware.ranges if path.startswith("mix/")]
    report = aware.finish()
    assert report.opened == () and "values inside" in dict(report.skipped)["mix"]
    with pytest.raises(ArgumentError, match="`open_layers` must be 'auto'"):
        QuantizeAware(open_layers="yes").attach(model)


def test_what_stays_closed_is_listed():
    model = contracts.network(Mixes(name="mix"), RawTensorFlow(name="raw"))
    report = quantize.calibrate(model, contracts.data()[0]).report
    assert report.opened == ("mix",) and "custom_layers.py:" in report.opaque["raw"]
    assert "raw" in dict(report.skipped)
    assert "opened: mix" in str(report)
    made = to_tflite(model, "int8", calibration=contracts.data(128)[0], allow_float=True)
    assert made.report.opened == ("mix",) and list(made.report.opaque) == ["raw"]
    for text in (str(made.report), made.report.to_html(), made.report.to_markdown()):
        assert "opened: mix" in text and "stays closed: raw" in text


def test_a_subclassed_model_says_what_to_do():
    model = Subclassed()
    model(np.zeros((1, 8, 8, 3), "float32"))
    with pytest.raises(ModelError, match=r"surgery\.open_layers\(model, inputs="):
        QuantizeAware().attach(model)
    assert "call" not in vars(model)


def test_other_entries_see_inside():
    model = build()
    x, _ = contracts.data()
    report = quantize.sensitivity(model, x, ("int8",))
    assert {"mix/matmul", "mix/down"} <= {row.layer for row in report.rows}
    assert all(np.isfinite(row.sqnr_db) and row.sqnr_db > 10 for row in report.rows)
    scheme = quantize.mixed_precision(model, x, "tflite_bytes=99%")
    assert scheme.layers
    found = []
    twin = quantize.adaround(model, x, steps=10, report=found.append)
    assert "mix/down/kernel" in {name for unit in found[0].units for name in unit.kernels}
    assert found[0].opened == ("mix",) and "opened: mix" in str(found[0])
    assert np.isfinite(twin.predict(x, verbose=0)).all()
    quantize.blockwise(model, x, steps=10, report=found.append)
    assert "mix/down/kernel" in {name for unit in found[1].units for name in unit.kernels}
    corrected = quantize.correct_bias(model, x)
    assert "mix/down" in {row.layer for row in corrected.report.layers}
    np.testing.assert_allclose(quantize.equalize(model)(x), model(x), atol=1e-4)
