"""A verification warns where the file falls short, or where its figures prove nothing."""

import dataclasses
import json
import math
import re

import keras
import numpy as np
import pytest
from keras import layers as L

from tfstruct.convert import Converter, Recipe
from tfstruct.convert.agreement import AgreementSum, ScoreCount
from tfstruct.convert.input_coverage import InputCoverage
from tfstruct.convert.layer_errors import LayerError
from tfstruct.convert.port_ranges import PortRange
from tfstruct.convert.verification import Verification
from tfstruct.errors import ConversionError, VerificationError

BORDER = PortRange(0.1, -1.0, 1.0, False)


def agreement(*pairs, port_range=None):
    total = AgreementSum(port_range)
    for k, t in pairs:
        total.add(np.asarray(k), np.asarray(t))
    return total.agreement("y")


def doubts(*outputs, **fields):
    return Verification("data", 10, outputs, **fields).doubts()


def uniform(low, high, shape, seed=0):
    return np.random.default_rng(seed).uniform(low, high, shape)


def rounded(values, step):
    return np.round(values / step) * step


# Columns. Boxes in pixels beside scores: one scale, so the scores become 0.


@pytest.mark.parametrize("form", ["columns", "rows", "flat"])
@pytest.mark.parametrize("cut", [1, 3])
def test_small_columns_beside_large_ones(form, cut):
    k = np.concatenate([uniform(0, 640, (20, 8, 4)), uniform(0.4, 0.56, (20, 8, 2))], -1)
    t = rounded(k, 640 / 255)
    if form == "rows":
        k, t = k.swapaxes(1, 2), t.swapaxes(1, 2)
    elif form == "flat":
        k, t = k.reshape(20, -1), t.reshape(20, -1)
    got = agreement(*zip(np.array_split(k, cut), np.array_split(t, cut), strict=True))
    assert got.sqnr_db > 45
    lost = next(found for found in got.columns if found.axis == (1 if form == "rows" else -1))
    expected = [i for i in range(k.shape[lost.axis]) if np.moveaxis(k, lost.axis, 0)[i].max() < 1]
    assert [column.index for column in lost.columns] == expected and lost.count == len(expected)
    assert all(column.constant and 0.4 <= column.low < column.high <= 0.56 for column in lost.columns)
    (line,) = doubts(got)
    assert "constant in the file" in line and "output of their own" in line
    assert {"columns": "columns 4-5 of its last axis (2 of 6)", "rows": "columns 4-5 along axis 1 (2 of 6)"}.get(
        form, "(16 of 48)"
    ) in line


def test_a_column_20_db_below_the_whole():
    k = uniform(-1, 1, (500, 3)) * [100, 100, 3]
    got = agreement((k, rounded(k, 1.0)))
    noise = np.square(k - rounded(k, 1.0)).sum(0)
    each = 10 * np.log10(np.square(k).sum(0) / noise)
    assert each[2] < got.sqnr_db - 20 and each[2] > 0
    assert got.channel_sqnr_db == pytest.approx(each[2])
    assert [c.index for c in got.columns[0].columns] == [2] and not got.columns[0].columns[0].constant
    assert got.columns[0].columns[0].sqnr_db == pytest.approx(each[2])


@pytest.mark.parametrize("scale", [1.0, 0.01, 30.0])
def test_columns_of_one_scale_are_fine(scale):
    k = scale * np.random.default_rng(0).normal(size=(200, 10))
    got = agreement((k, rounded(k, scale / 30)))
    assert got.columns == () and doubts(got) == []


def test_rare_classes_are_no_loss():
    # Of 30 classes, 20 are never above a probability of 1/1000: they are 0 in the file, as they should be.
    logits = np.concatenate([3 * np.random.default_rng(0).normal(size=(300, 10)), np.full((300, 20), -12.0)], -1)
    logits[:, 10:] += np.random.default_rng(1).normal(size=(300, 20))
    k = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    got = agreement((k, rounded(k, 1 / 256)), port_range=PortRange(1 / 256, 0.0, 255 / 256, True))
    assert got.distribution and got.columns == () and doubts(got) == []


def test_columns_that_change_their_number_are_not_compared():
    one, two = uniform(0, 1, (4, 5)), uniform(0, 1, (4, 7))
    assert agreement((one, one), (two, two)).channel_sqnr_db is None


@pytest.mark.parametrize("column", [np.zeros(50), np.full(50, 3.0), np.random.default_rng(0).normal(size=50) * 1e-9])
def test_a_column_that_says_nothing_is_not_missed(column):
    k = np.stack([uniform(0, 1, 50), column], -1)
    t = np.stack([k[:, 0] + 0.001, np.full(50, np.round(column.mean()))], -1)
    assert agreement((k, t)).columns == ()


def test_many_columns_are_listed_in_part():
    k = np.concatenate([uniform(0, 640, (50, 4)), uniform(0.4, 0.56, (50, 500))], -1)
    got = agreement((k, rounded(k, 640 / 255)))
    assert got.columns[0].count == 500 and len(got.columns[0].columns) == 16
    assert "and 495 more of its last axis (500 of 504)" in doubts(got)[0]


# Outputs.


def test_low_figures():
    k = uniform(-1, 1, (100, 4))
    bad = agreement((k, -k))
    (line,) = doubts(bad, layers=(LayerError(("a",), "t", 3.0, 0.5), LayerError(("b",), "u", 9.0, 0.0)))
    assert "SQNR is -6.0 dB, below 15" in line and "top-1 is equal for 0.0%" in line
    assert "Most is lost at a (3.0 dB)" in line and "b (" not in line


def test_top1_of_what_is_no_class():
    # A grey picture in three colours: the largest of three nearly equal values is luck.
    k = np.repeat(uniform(0, 1, (10, 6, 6, 1)), 3, -1)
    t = k + uniform(-0.005, 0.005, k.shape, 1)
    got = agreement((k, t))
    assert got.top1_agreement < 0.9 and doubts(got) == []
    # Of probabilities it is a doubt however small the error.
    k = np.full((10, 20), 1 / 20) + uniform(-1e-4, 1e-4, (10, 20))
    line = doubts(agreement((k, k + uniform(-1e-4, 1e-4, (10, 20), 1))))[0]
    assert "top-1 is equal" in line and "if its last axis" not in line


def test_top1_of_series_is_by_step():
    k = np.eye(5)[np.random.default_rng(0).integers(0, 5, (10, 20))]
    t = k.copy()
    t[:, :5] = np.roll(t[:, :5], 1, -1)  # a quarter of the steps
    assert agreement((k, t)).top1_agreement == pytest.approx(0.75)
    assert "top-1 is equal for 75.0%" in doubts(agreement((k, t)))[0]


@pytest.mark.parametrize("who", ["Keras", "the file"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite(who, bad):
    k = uniform(0, 1, (10, 4))
    broken = k.copy()
    broken[0, 0] = bad
    got = agreement((broken, k) if who == "Keras" else (k, broken))
    assert any(f"2.50% of the values are NaN or infinite in {who}" in line for line in doubts(got))


def test_values_that_are_not_finite_in_keras_are_no_loss_of_the_file():
    k = uniform(-1, 1, (50, 4))
    with np.errstate(invalid="ignore"):
        k[:, 0] = np.log(k[:, 1])
    got = agreement((k, np.where(np.isfinite(k), k, -np.inf)))
    assert got.varies and not got.constant
    (line,) = [line for line in doubts(got) if "in Keras" in line]
    assert "nothing is proven" in line and not any("something else" in line for line in doubts(got))


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "bool"])
def test_integers_count_by_how_many_are_equal(dtype):
    """Another class is another number: how far away says nothing."""
    k = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 100, (100, 3)).astype(dtype)
    t = k.copy()
    t[:8, 0] = 99 - k[:8, 0] if dtype != "bool" else ~k[:8, 0]
    got = agreement((k[:50], t[:50]), (k[50:], t[50:]))
    assert got.equal == pytest.approx(1 - 8 / 300) and got.top1_agreement is None and doubts(got) == []
    assert Verification("data", 100, (got,)).figures()["top1_agreement"] == got.equal
    t[:40] = 1 - k[:40] if dtype != "bool" else ~k[:40]
    low = agreement((k, t))
    assert "60.0% of its integers are equal only, expected 90% or more" in doubts(low)[0]
    # Beside values, they do not count as noise.
    values = uniform(-1, 1, (100, 2))
    both = Verification("data", 100, (agreement((values, rounded(values, 0.01))), low))
    assert both.figures()["sqnr_db"] > 30 and both.figures()["top1_agreement"] == low.equal


def test_classes_are_scored_as_they_are():
    labels = np.random.default_rng(0).integers(0, 6, 90)
    guesses = np.where(np.arange(90) < 60, labels, (labels + 1) % 6).astype("int32")
    for shape in ((90,), (90, 1)):
        count = ScoreCount()
        count.add(labels, guesses.reshape(shape))
        assert count.scores().accuracy == pytest.approx(2 / 3)


def test_outputs_that_prove_nothing():
    k = np.repeat(uniform(0, 1, (1, 4)), 10, 0)
    assert ["is the same for every sample in Keras" in line for line in doubts(agreement((k, k)))] == [True]
    assert Verification("data", 1, (agreement((k[:1], k[:1])),)).doubts() == []  # one sample was asked for
    one = np.tile([0.9, 0.1], (10, 1)) + uniform(-0.05, 0.05, (10, 1)) * [1, -1]
    assert ["predicts one class" in line for line in doubts(agreement((one, one)))] == [True]
    assert doubts(agreement((one, one)), random=True) == []


def test_an_output_that_is_constant_in_the_file():
    k = uniform(3, 3.2, (10, 1))
    assert "varies in Keras, and is the same for every sample" in doubts(agreement((k, np.full_like(k, 3.1))))[0]


def test_one_output_of_several():
    k = uniform(-1, 1, (100, 1))
    good, bad = agreement((k, rounded(k, 0.001))), agreement((k, rounded(k, 0.2)))
    assert doubts(bad) == []
    (line,) = doubts(dataclasses.replace(good, name="a"), dataclasses.replace(bad, name="b"))
    assert line.startswith("output 'b' has 2") and "another has 6" in line
    exact = dataclasses.replace(good, sqnr_db=math.inf)
    assert doubts(exact, dataclasses.replace(bad, name="b")) == []


def test_clipped_values():
    k = uniform(-1, 1.5, (1000, 1))
    got = agreement((k, np.clip(k, -1, 1)), port_range=BORDER)
    assert got.clipped == pytest.approx((k > 1.1).mean(), abs=0.002)
    assert any("of Keras's values lie outside of the file's range" in line for line in doubts(got))
    # Rounding to the last integer is no clipping.
    assert agreement(([[1.05], [0.0]], [[1.0], [0.0]]), port_range=BORDER).clipped == 0


def test_inputs_beside_the_range_of_the_file():
    fine = agreement((uniform(0, 1, (10, 1)),) * 2)
    clipped = InputCoverage("x", 0.0, 255.0, (0.0, 1.0), 0.9)
    faint = InputCoverage("x", 0.0, 1.0, (0.0, 255.0), 0.0)
    assert "90.0% of the values of the verification data are clipped" in doubts(fine, inputs=(clipped,))[0]
    assert "uses few of the file's 256 steps" in doubts(fine, inputs=(faint,))[0]
    assert doubts(fine, inputs=(InputCoverage("x", 0.0, 0.9, (0.0, 1.0), 0.0),)) == []
    # A mask has no scale.
    assert doubts(fine, inputs=(InputCoverage("m", -1e9, 0.0, (-9.0, 0.0), 0.4, True),)) == []
    assert "on random inputs" in doubts(fine, random=True, quantized=True, inputs=(clipped,))[0]
    assert doubts(fine, random=True) == []


# Files.


def detector(apart: bool):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3), name="image")
    h = L.Conv2D(8, 3, 2, activation="relu", padding="same")(inputs)
    boxes = L.Rescaling(640.0, name="boxes")(L.Activation("sigmoid")(L.Reshape((16, 4))(L.Conv2D(4, 1)(h))))
    scores = L.Reshape((16, 2), name="scores")(L.Conv2D(2, 1, activation="sigmoid")(h))
    return keras.Model(inputs, [boxes, scores] if apart else L.Concatenate(name="both")([boxes, scores]))


@pytest.fixture(scope="module")
def images():
    return uniform(0, 1, (120, 8, 8, 3)).astype("float32")


@pytest.mark.parametrize("engine", ["litert", "tensorflow"])
@pytest.mark.parametrize("float_io", [False, True])
@pytest.mark.sweep(1)
def test_dead_scores_and_their_remedy(process, images, engine, float_io):
    recipe = Recipe(precision="int8", calibration=images, engine=engine, float_io=float_io)
    with Converter(detector(apart=False), process=process) as converter:
        report = converter.convert(recipe).report
        with pytest.raises(VerificationError, match="channel_sqnr_db is 0, expected at least 20"):
            converter.convert(recipe.replace(require={"channel_sqnr_db": 20}))
    (line,) = report.warnings
    assert "output 'both': the columns 4-5 of its last axis" in line and line in str(report)
    with Converter(detector(apart=True), process=process) as converter:
        report = converter.convert(recipe).report
    assert report.warnings == () and min(o.sqnr_db for o in report.verification.outputs) > 25


@pytest.mark.parametrize("high", [1.0413, 1.0449, 1.046, 1.2])
def test_ends_of_columns_are_told_apart(high):
    """They varied "between 1.04 and 1.04"."""
    k = np.stack([np.linspace(0, 300, 50), np.linspace(1.04, high, 50)], axis=1)
    line = " ".join(doubts(agreement((k, np.where([True, False], k + 0.1, 1.3)))))
    assert "the columns 1 of its last axis" in line
    low, top = re.search(r"between (\S+) and (\S+) in", line).groups() if "between" in line else (0, 1)
    assert low != top and ("take the constant part" in line) == (high < 1.048)


@pytest.mark.parametrize("alone", [True, False])
def test_an_output_that_hardly_varies_and_its_remedies(process, alone):
    """It varied "between 5 and 5", and calibration on other data was the advice."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,), name="x")
    steady = L.Rescaling(4e-3, offset=5.0, name="steady")(L.Dense(2, activation="tanh")(inputs))
    parts = [L.Dense(2, activation="sigmoid")(inputs), steady]
    model = keras.Model(inputs, steady if alone else L.Concatenate(name="both")(parts))
    x = np.random.default_rng(0).normal(size=(120, 8)).astype("float32")
    recipe = Recipe("int8", calibration=x)
    with Converter(model, process=process) as converter:
        line = " ".join(converter.convert(recipe).report.warnings)
        kept = recipe.replace(layers={"steady": "float32", **({} if alone else {"both": "float32"})})
        report = converter.convert(kept).report
    if alone:
        assert "keep the layers that make it in float (Recipe" in line
    else:
        assert "the columns 2-3" in line and re.search(r"vary by 0\.00\d at most \(around (5|4\.99|5\.00)", line)
        assert "take the constant part out of the model" in line and "float (Recipe" in line
    assert report.warnings == ()


def test_data_of_another_range(process, images):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8, 3), name="image"), L.Conv2D(4, 3), L.GlobalAveragePooling2D()])
    recipe = Recipe(precision="int8", calibration=images, verification=5 * images, check_range=False)
    with Converter(model, process=process) as converter:
        report = converter.convert(recipe).report
        assert any(
            "input 'image'" in line and "verification data are clipped: they lie in [" in line
            for line in report.warnings
        )
        first = report.warnings[0]
        assert "SQNR is" in first and "Most is lost at" in first and report.verification.layers
        report = converter.convert(recipe.replace(verification=images / 50)).report
        assert any("uses few of the file's 256 steps" in line for line in report.warnings)
        ranges = {"image": (0.0, 1.0), **{layer.name: (-2.0, 2.0) for layer in model.layers}}
        report = converter.convert(recipe.replace(calibration=None, verification=None, ranges=ranges)).report
        assert any("verified on random inputs" in line for line in report.warnings)


@pytest.mark.parametrize("engine", ["auto", "tensorflow"])
@pytest.mark.parametrize("how", ["layers", "allow_float"])
def test_advice_to_keep_a_layer_in_float_ends_well(process, engine, how):
    """A float layer behind an int8 input got 1.9 dB: the advice says that the border has to be float too."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16,), name="x")
    h = L.Lambda(lambda x: keras.ops.sin(x), name="wave")(inputs)
    model = keras.Model(inputs, L.Dense(4)(L.Dense(16, activation="relu")(h)))
    x = (np.random.default_rng(0).normal(size=(200, 16)) ** 7).astype("float32")
    # Opened, the operation inside is named.
    opened, name = (False, "wave") if engine == "auto" else ("auto", "wave/sin")
    recipe = Recipe(precision="int8", calibration=x, engine=engine, open_layers=opened)
    with Converter(model, process=process) as converter:
        with pytest.raises(ConversionError, match=rf"{name}: .*Recipe\(layers=.*float_io=True") as error:
            converter.convert(recipe)
        kept = recipe.replace(**({"layers": {"wave": "float32"}} if how == "layers" else {"allow_float": True}))
        half = converter.convert(kept).report
        whole = converter.convert(kept.replace(float_io=True)).report
    assert f"rounded beside {name}" in str(error.value)
    assert any("float_io=True (--float-io) leaves it in float" in line for line in half.warnings)
    assert half.verification.outputs[0].sqnr_db < 15 and "SQNR is" in " ".join(half.warnings)
    assert not any("lost at wave" in line for line in half.warnings)  # it is in float already
    assert whole.verification.outputs[0].sqnr_db > 25
    assert whole.warnings == (() if how == "layers" else (f"1 operator stays in float: {name}: SIN",))


def masked(how: str):
    inputs = keras.Input((8,), name="x")
    mask = keras.Input((8,), name="m", dtype="bool" if how == "bool" else "float32")
    if how == "added":
        return keras.Model([inputs, mask], keras.ops.softmax(L.Dense(8)(inputs) + mask))
    kept = keras.ops.where(mask, inputs, 0.0) if how == "bool" else inputs * mask
    return keras.Model([inputs, mask], [L.Dense(3)(kept), keras.ops.argmax(L.Dense(5)(kept), -1)])


@pytest.mark.parametrize("how", ["added", "factor", "bool"])
def test_a_mask_as_an_input_and_classes_as_an_output(process, how):
    """Verified on samples without masked values, or with -1e9 where the file's range ends at -8."""
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(120, 8)).astype("float32")
    some = np.random.default_rng(1).uniform(size=(120, 8)) > 0.3
    full = np.ones_like(some)
    seen, new = (
        np.where(mask, 0, -1e9).astype("float32")
        if how == "added"
        else mask.astype("bool" if how == "bool" else "float32")
        for mask in (some, some if how == "added" else full)
    )
    recipe = Recipe("int8", calibration={"x": x, "m": seen}, verification={"x": x, "m": new})
    with Converter(masked(how), process=process) as converter:
        report = converter.convert(recipe).report
    assert report.warnings == ()
    if how != "added":
        assert [one.equal is None for one in report.verification.outputs] == [True, False]
        assert any("integers, equal 9" in value or "integers, equal 100" in value for _, value in report.rows())
        assert "integers, equal" in report.to_html()
    assert json.loads(report.to_json())["verification"]["outputs"]
