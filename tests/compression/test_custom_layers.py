"""`compress` on a model whose work is inside of custom layers."""

import custom_layers
import keras
import numpy as np
import pytest

import tfstruct
from tfstruct.compression import CompressionReport
from tfstruct.graph.opening import by_itself, open_model


@pytest.fixture(scope="module")
def made():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((7,), name="x")
    x = custom_layers.Scaled(24, name="block")(keras.layers.Dense(16, activation="relu", name="first")(inputs))
    x = custom_layers.OtherInTraining(name="odd")(keras.layers.Dense(8, name="next")(x))
    model = keras.Model(inputs, keras.layers.Dense(2, name="scores")(x))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = np.random.default_rng(0).normal(size=(96, 7)).astype("float32")
    y = (x.sum(axis=1) > 0).astype("int32")
    model.fit(x, y, epochs=5, verbose=0)
    before = [w.numpy() for w in model.weights]
    recorded = []

    def counted(model):
        recorded.append(model)
        return open_model(model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(by_itself, "open_model", counted)
        made = tfstruct.compress(model, (x, y), (x, y), "macs=60%", epochs=1)
    assert recorded == [model]  # once, not by each step, with or without a layer that stays closed
    assert all(np.array_equal(a, w) for a, w in zip(before, model.weights, strict=True))
    return model, made


def test_channels_inside_go_and_count(made):
    model, made = made
    before = tfstruct.profile(model, open_layers=False).macs
    assert before == 7 * 16 + 16 * 24 + 24 * 8 + 8 * 2 == made.report.original.macs
    assert made.report.result.macs == tfstruct.profile(made.model).macs <= 0.6 * before
    assert made.report.widths["block/kernel.axis1"][1] < 24


def test_the_report_says_so(made, tmp_path):
    report = made[1].report
    assert report.opened == ("block",) and list(report.opaque) == ["odd"]
    for form in (str(report), report.to_html(), report.to_markdown()):
        assert "opened: block" in form and "stays closed: odd: in training" in form
    again = CompressionReport.from_json(report.to_json())
    assert (again.opened, again.opaque) == (report.opened, report.opaque)


def test_the_model_loads_without_the_code_of_what_was_opened(made, tmp_path):
    model = made[1].model
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(
        tmp_path / "model.keras", custom_objects={"OtherInTraining": custom_layers.OtherInTraining}
    )
    x = np.ones((3, 7), "float32")
    np.testing.assert_allclose(loaded(x), model(x), rtol=1e-5)
