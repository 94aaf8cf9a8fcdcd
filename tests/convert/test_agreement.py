"""Agreement and scores against NumPy and scikit-learn; summed in uneven batches they are the same as at once."""

import dataclasses
import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, mean_absolute_error, precision_score, recall_score

from tfstruct.convert.agreement import Agreement, AgreementSum, ScoreCount, Scores, decibel
from tfstruct.errors import DataError

# Ends of the batches, of sizes 1, 6, 13 and what is left.
UNEVEN = (1, 7, 20)


def batches(*arrays):
    return zip(*(np.split(a, UNEVEN) for a in arrays), strict=True)


def agreement(k, t, *, split=False):
    total = AgreementSum()
    for pair in batches(k, t) if split else [(k, t)]:
        total.add(*pair)
    return total.agreement("y")


def scores(labels, predicted, *, split=False):
    count = ScoreCount()
    for pair in batches(labels, predicted) if split else [(labels, predicted)]:
        count.add(*pair)
    return count.scores()


def by_sklearn(true, guess):
    """Macro averages over the classes that occur among the labels."""
    average = {"average": "macro", "labels": np.unique(true), "zero_division": 0}
    return Scores(
        accuracy=accuracy_score(true, guess),
        recall=recall_score(true, guess, **average),
        precision=precision_score(true, guess, **average),
    )


def assert_same(got, expected):
    assert type(got) is type(expected)
    figures = {f.name: f.default for f in dataclasses.fields(expected)}
    for name, value in vars(expected).items():
        if isinstance(expected, Agreement) and figures[name] is not dataclasses.MISSING:
            continue  # columns and what makes a doubt: test_doubts.py
        if value is None or isinstance(value, str):
            assert getattr(got, name) == value, name
        else:
            assert getattr(got, name) == pytest.approx(value, rel=1e-9), name


def outputs(shape, seed=0):
    rng = np.random.default_rng(seed)
    k = rng.normal(size=shape).astype(np.float32)
    return k, (k + 0.3 * rng.normal(size=shape)).astype(np.float32)


# Agreement of values.


def test_agreement_by_hand():
    got = agreement(np.array([[3.0, 4.0], [0.0, 5.0]]), np.array([[3.0, 2.0], [1.0, 5.0]]))
    # Errors 0, 2, 1, 0; sum k^2 = 50, sum t^2 = 39, sum k t = 9 + 8 + 25 = 42; argmax 1 against 0, 1 against 1.
    expected = Agreement("y", 2.0, 0.75, 10 * math.log10(50 / 5), 42 / math.sqrt(50 * 39), 0.5)
    assert_same(got, expected)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("shape", [(50, 7), (50, 1), (50,), (50, 4, 5, 3), (50, 4, 1)])
def test_agreement_against_numpy(shape, split):
    k, t = outputs(shape)
    a, b = k.astype(np.float64), t.astype(np.float64)
    expected = Agreement(
        "y",
        np.abs(a - b).max(),
        np.abs(a - b).mean(),
        10 * np.log10(np.square(a).sum() / np.square(a - b).sum()),
        a.ravel() @ b.ravel() / (np.linalg.norm(a) * np.linalg.norm(b)),
        (a.argmax(-1) == b.argmax(-1)).mean() if len(shape) > 1 and shape[-1] > 1 else None,
    )
    assert_same(agreement(k, t, split=split), expected)


def test_equal_outputs():
    k, _ = outputs((50, 3))
    assert_same(agreement(k, k, split=True), Agreement("y", 0.0, 0.0, math.inf, 1.0, 1.0))
    assert agreement(np.zeros((2, 3)), np.zeros((2, 3))).sqnr_db == math.inf


def test_zero_outputs():
    zero, one = np.zeros((4, 3)), np.ones((4, 3))
    assert_same(agreement(zero, zero), Agreement("y", 0.0, 0.0, math.inf, 1.0, 1.0))
    # No signal at all: everything is noise.
    assert_same(agreement(zero, one), Agreement("y", 1.0, 1.0, -math.inf, 0.0, 1.0))
    assert_same(agreement(one, zero), Agreement("y", 1.0, 1.0, 0.0, 0.0, 1.0))


def test_opposite_outputs():
    k, _ = outputs((10, 4))
    assert agreement(k, -k).cosine == pytest.approx(-1.0)
    assert agreement(k, 2 * k).cosine == pytest.approx(1.0) and agreement(k, 2 * k).sqnr_db == pytest.approx(0.0)


def test_integer_outputs_do_not_wrap():
    k, t = np.array([[0, 255]], np.uint8), np.array([[255, 0]], np.uint8)
    assert agreement(k, t).max_abs_error == 255.0


def test_outputs_of_different_shapes():
    with pytest.raises(DataError, match=r"The outputs differ in shape: Keras \(2, 3\), TFLite \(2, 1\)"):
        agreement(np.zeros((2, 3)), np.zeros((2, 1)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_outputs_that_are_not_finite_are_no_agreement(bad):
    k, t = outputs((50, 3))
    t[30, 1] = bad
    got = agreement(k, t, split=True)
    # None of the figures may look as if it met a threshold.
    assert not got.max_abs_error <= 1e30 and not got.mean_abs_error <= 1e30
    assert not got.sqnr_db >= 0 and not got.cosine >= 0


def test_decibel():
    assert decibel(100.0, 1.0) == pytest.approx(20.0) and decibel(1.0, 2.0) == pytest.approx(-3.0103, abs=1e-4)
    assert decibel(1.0, 0.0) == decibel(0.0, 0.0) == math.inf and decibel(0.0, 1.0) == -math.inf


# Scores against labels.


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(
    "form", ["int64", "uint8", "int32 column", "float32", "float64 column", "one-hot", "bool one-hot"]
)
def test_classes_against_sklearn(form, split):
    rng = np.random.default_rng(0)
    true = rng.integers(0, 5, 60)
    predicted = rng.normal(size=(60, 5)).astype(np.float32) + 1.5 * np.eye(5)[true]
    if "one-hot" in form:
        labels = np.eye(5)[true].astype(bool if "bool" in form else np.float32)
    else:
        labels = true.astype(form.split()[0])
        labels = labels[:, None] if "column" in form else labels
    expected = by_sklearn(true, predicted.argmax(-1))
    assert 0.3 < expected.accuracy < 1 and expected.recall != expected.precision
    assert_same(scores(labels, predicted, split=split), expected)
    # Every class occurs among labels and predictions, so scikit-learn's own choice of classes is the same.
    whole = precision_score(true, predicted.argmax(-1), average="macro", zero_division=0)
    assert expected.precision == pytest.approx(whole)


@pytest.mark.parametrize("split", [False, True])
def test_classes_that_do_not_occur(split):
    # Class 3 is never predicted (precision 0), class 4 never true (it counts only as a wrong guess).
    rng = np.random.default_rng(1)
    true, guess = rng.choice([0, 1, 2, 3], 60), rng.choice([0, 1, 2, 4], 60)
    got = scores(true, np.eye(5)[guess], split=split)
    assert_same(got, by_sklearn(true, guess))
    each = precision_score(true, guess, average=None, labels=[0, 1, 2, 3], zero_division=0)
    assert got.precision == pytest.approx(each.mean()) and each[3] == 0


def test_classes_by_hand():
    # True 0, 0, 1, 2; predicted 0, 1, 1, 1.
    got = scores(np.array([0, 0, 1, 2]), np.eye(3)[[0, 1, 1, 1]])
    assert_same(got, Scores(accuracy=0.5, recall=(1 / 2 + 1 + 0) / 3, precision=(1 + 1 / 3 + 0) / 3))


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("form", ["int64", "float32", "bool", "column"])
def test_a_single_unit_is_a_yes_or_no(form, split):
    rng = np.random.default_rng(2)
    true = rng.integers(0, 2, 60)
    predicted = np.clip(0.35 * true[:, None] + rng.uniform(0, 0.7, (60, 1)), 0, 1).astype(np.float32)
    labels = true[:, None].astype(np.float32) if form == "column" else true.astype(form)
    expected = by_sklearn(true, (predicted[:, 0] > 0.5).astype(int))
    assert 0.5 < expected.accuracy < 1
    assert_same(scores(labels, predicted, split=split), expected)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("form", ["integers", "column", "one-hot"])
def test_segmentation(form, split):
    rng = np.random.default_rng(3)
    true = rng.integers(0, 3, (30, 4, 5))
    predicted = (rng.normal(size=(30, 4, 5, 3)) + 1.2 * np.eye(3)[true]).astype(np.float32)
    labels = {"integers": true, "column": true[..., None], "one-hot": np.eye(3, dtype=np.float32)[true]}[form]
    expected = by_sklearn(true.ravel(), predicted.argmax(-1).ravel())
    assert_same(scores(labels, predicted, split=split), expected)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("column", [False, True])
def test_segmentation_into_two(column, split):
    # One unit a pixel: each pixel is a yes or no.
    rng = np.random.default_rng(4)
    true = rng.integers(0, 2, (30, 4, 5))
    predicted = np.clip(0.3 * true + rng.uniform(0, 0.7, (30, 4, 5)), 0, 1)[..., None].astype(np.float32)
    expected = by_sklearn(true.ravel(), (predicted > 0.5).astype(int).ravel())
    assert_same(scores(true[..., None] if column else true, predicted, split=split), expected)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("shape", [(40, 1), (40, 3), (40, 4, 5, 2)])
def test_regression(shape, split):
    rng = np.random.default_rng(5)
    labels, predicted = rng.normal(size=shape), rng.normal(size=shape).astype(np.float32)
    expected = Scores(mean_abs_error=mean_absolute_error(labels.ravel(), predicted.ravel()))
    assert_same(scores(labels, predicted, split=split), expected)
    if shape[-1] == 1:  # one number a sample
        assert_same(scores(labels[:, 0], predicted, split=split), expected)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("dtype", ["int64", "float32"])
def test_regression_of_whole_numbers(dtype, split):
    # Counts from 0 to 9. A batch of the labels 0 and 1 alone does not make them classes.
    labels = np.array([0, 1, 1, 0, 1, 0, 0, *range(10), 1, 2, 3, 4, 5, 6, 7, 8, 9, 0]).astype(dtype)
    predicted = (np.random.default_rng(6).integers(0, 72, (27, 1)) / 8).astype(np.float32)  # differences are exact
    expected = Scores(mean_abs_error=mean_absolute_error(labels, predicted[:, 0].astype(np.float64)))
    assert_same(scores(labels, predicted, split=split), expected)


@pytest.mark.parametrize("split", [False, True])
def test_regression_of_shares(split):
    # Targets of shares; that of the first sample, a batch of its own, is (0, 1, 0), which does not make it a class.
    rng = np.random.default_rng(7)
    labels = rng.dirichlet(np.ones(3), 30)
    labels[0] = [0, 1, 0]
    predicted = rng.dirichlet(np.ones(3), 30)
    expected = Scores(mean_abs_error=mean_absolute_error(labels.ravel(), predicted.ravel()))
    assert_same(scores(labels, predicted, split=split), expected)


@pytest.mark.parametrize("split", [False, True])
def test_regression_by_an_output_without_axis(split):
    # An output (batch,), for instance after `keras.ops.squeeze`; the last batch holds one 1 and zeros otherwise.
    labels = np.r_[np.linspace(0, 3, 20), np.zeros(9), 1.0]
    predicted = np.random.default_rng(8).normal(size=30)
    expected = Scores(mean_abs_error=mean_absolute_error(labels, predicted))
    assert_same(scores(labels, predicted, split=split), expected)


@pytest.mark.parametrize(("wrong", "received"), [(5, r"0(\.0)?\.\.5"), (-1, r"-1(\.0)?\.\.4")])
@pytest.mark.parametrize("dtype", [np.int64, np.float32])
def test_labels_out_of_range(wrong, received, dtype):
    labels = np.array([0, 1, 2, 3, 4, wrong]).astype(dtype)
    with pytest.raises(DataError, match=r"Labels must be in \[0, 5\), the number of classes. Received " + received):
        scores(labels, np.zeros((6, 5)))


@pytest.mark.parametrize(
    ("labels", "outputs_shape", "match"),
    [
        (np.zeros((4, 3)), (4, 5), r"Labels of shape \(3,\) do not fit an output of shape \(5,\)"),
        (np.full(4, 0.5), (4, 5), r"Labels of shape \(\) do not fit an output of shape \(5,\)"),
        (np.zeros(4, int), (4, 6, 6, 2), r"Labels of shape \(\) do not fit an output of shape \(6, 6, 2\)"),
        (np.zeros((4, 5, 5), int), (4, 6, 6, 2), r"Labels of shape \(5, 5\) do not fit an output of shape \(6, 6, 2\)"),
    ],
)
def test_labels_that_do_not_fit(labels, outputs_shape, match):
    with pytest.raises(DataError, match=match):
        scores(labels, np.zeros(outputs_shape))


def test_no_labels_no_scores():
    assert ScoreCount().scores() is None
