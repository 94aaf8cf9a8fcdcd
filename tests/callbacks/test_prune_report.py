"""What `Prune` says: logs, History, TensorBoard, the report; and what it says to bad input."""

import io
import json

import keras
import numpy as np
import pytest
from rich.console import Console
from small import data, network, shares

from tfstruct.callbacks import Prune
from tfstruct.errors import DataError, ModelError
from tfstruct.schedules import AutomaticRatio, ConstantRatio, PolynomialRatio

# Logs and the report


def test_logs_history_and_progress_bar(capsys):
    model = network()
    history = model.fit(*data(), epochs=2, verbose=2, callbacks=[Prune(PolynomialRatio(0.0, 0.5, 0, 2), frequency=1)])
    shares = history.history
    assert shares["sparsity"] == pytest.approx([round(0.4375 * 144) / 144, 0.5])
    assert shares["sparsity/one/kernel"] == pytest.approx([42 / 96, 0.5])
    assert shares["sparsity/two/kernel"] == pytest.approx([21 / 48, 0.5])
    assert len(shares["loss"]) == 2
    said = capsys.readouterr().out
    assert "sparsity: 0.5000" in said and "one/kernel" not in said


def test_tensorboard(tmp_path, monkeypatch):
    found = {}
    board = keras.callbacks.TensorBoard(tmp_path)
    scalar = lambda name, value, step: found.setdefault(name, []).append(value)  # noqa: E731
    monkeypatch.setattr(board.summary, "scalar", scalar)
    model = network()
    model.fit(*data(), epochs=2, verbose=0, callbacks=[Prune(PolynomialRatio(0, 0.5, 0, 2), frequency=1), board])
    assert found["epoch_sparsity"] == pytest.approx([63 / 144, 0.5])
    assert found["epoch_sparsity/one/kernel"] == pytest.approx([42 / 96, 0.5])


def test_report():
    model = network()
    report = Prune(PolynomialRatio(0.0, 0.75, 0, 2), frequency=1).attach(model)
    for _ in range(2):
        report.step()
    report = report.finish()
    assert (report.zeros, report.weights, report.sparsity, report.asked) == (108, 144, 0.75, 0.75)
    assert [(r.name, r.shape, r.weights, r.zeros, r.sparsity) for r in report.layers] == [
        ("one/kernel", (8, 12), 96, 72, 0.75),
        ("two/kernel", (12, 4), 48, 36, 0.75),
    ]
    assert [step for step, _, _ in report.history] == [0, 1, 2]
    assert [ratio for _, ratio, _ in report.history] == pytest.approx([0, 0.65625, 0.75])
    assert report.notes == ()
    said = str(report)
    assert said.startswith("108 of 144 weights are zero: sparsity 0.7500, asked 0.75 (element, magnitude, by layer)")
    assert "one/kernel" in said and "8x12" in said
    console = Console(width=140, file=io.StringIO())
    console.print(report.table())
    text = console.file.getvalue()
    assert "one/kernel" in text and "8 x 12" in text and "0.7500" in text
    read = json.loads(report.to_json())
    assert read == json.loads(json.dumps(report.to_dict()))
    assert read["sparsity"] == 0.75 and read["layers"][1]["sparsity"] == 0.75 and read["pattern"] == "element"
    over_time, by_weight = report.plot().axes
    assert list(over_time.lines[0].get_ydata()) == pytest.approx([0, 0.65625, 0.75])
    assert [bar.get_width() for bar in by_weight.patches] == [0.75, 0.75]


def test_the_picture_of_masks_that_are_chosen_once_has_a_line():
    model = network()
    prune = Prune(0.5)
    model.fit(*data(), verbose=0, callbacks=[prune])
    over_time, _ = prune.report.plot().axes
    assert any(list(line.get_ydata()) == [0.5, 0.5] for line in over_time.lines)


def test_training_that_ends_early_is_noted_and_goes_on():
    model = network()
    prune = Prune(PolynomialRatio(0.0, 0.5, 0, 3), frequency=1)
    model.fit(*data(), verbose=0, callbacks=[prune])
    (note,) = prune.report.notes
    assert note.startswith("Training ended at step 1, before the schedule did (step 3): the ratio is 0.3519, not 0.5")
    model.fit(*data(), epochs=2, verbose=0, callbacks=[prune])
    assert prune.report.notes == () and shares(model) == [0.5, 0.5] and prune.steps == 3


def test_an_automatic_schedule_wants_validation():
    model = network()
    x, y = data()
    prune = Prune(AutomaticRatio(0.5, 0, 4), frequency=1)
    model.fit(x, y, epochs=4, verbose=0, callbacks=[prune])
    assert prune.report.notes == ("No validation was seen, so the schedule could not slow: give `validation_data`.",)
    again = Prune(AutomaticRatio(0.5, 0, 4, tolerance=0.0), frequency=1)
    network().fit(x, y, epochs=4, verbose=0, validation_data=(x, y * 0 + 1e3), callbacks=[again])
    assert not any("validation" in note for note in again.report.notes)


# Bad input


@pytest.mark.parametrize(
    "make, kind, message",
    [
        (lambda: Prune(1.2), ValueError, r"must be a number in \[0, 1\). Received: 1.2"),
        (lambda: Prune(), ValueError, "`schedule` is missing"),
        (lambda: Prune("0.5"), ValueError, "`schedule` must be a number"),
        (lambda: Prune(True), ValueError, "`schedule` must be a number"),
        (lambda: Prune(0.5, "rows"), ValueError, "`pattern` must be"),
        (lambda: Prune(0.5, "block"), ValueError, "needs `block="),
        (lambda: Prune(0.5, scope="model"), ValueError, "`scope` must be one of layer, global"),
        (lambda: Prune(pattern="2:4", scope="global"), ValueError, "scope='layer' only"),
        (lambda: Prune(PolynomialRatio(0, 0.6, 0, 9), "2:4"), ValueError, "must end at 0.5. Received: 0.6"),
        (lambda: Prune(0.5, criterion="size"), ValueError, "`criterion` must be one of magnitude, movement"),
        (lambda: Prune(0.5, criterion="snip"), DataError, r"Criterion 'snip' needs gradients: give data=\(x, y\)"),
        (lambda: Prune(ConstantRatio(0.5, 0, 9), regrow=0.1), DataError, "`regrow` needs gradients"),
        (lambda: Prune(0.5, regrow=0.1, data=data()), ValueError, "`regrow` needs a schedule with an end"),
        (lambda: Prune(0.5, regrow=1.0), ValueError, r"`regrow` must be a number in \[0, 1\). Received: 1.0"),
        (lambda: Prune(pattern="2:4", regrow=0.1), ValueError, "not with N:M"),
        (lambda: Prune(0.5, frequency=0), ValueError, "`frequency` must be a whole number, 1 or larger. Received: 0"),
        (lambda: PolynomialRatio(0, 0.5, 10, 5), ValueError, "ends before it begins"),
    ],
)
def test_bad_settings(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


@pytest.mark.parametrize(
    "prune, kind, message",
    [
        (lambda: Prune(0.5, "block", block=(5, 2)), ModelError, r"one/kernel: its 8 x 12 matrix does not divide"),
        (lambda: Prune(0.5, layers="three"), ModelError, "has no layer three"),
        (lambda: Prune(0.5, criterion="gradient", data=data()[0]), DataError, "need labels"),
        (
            lambda: Prune(0.5, criterion=lambda w: np.zeros(3)),
            ValueError,
            r"must return shape \(8, 12\) for one/kernel",
        ),
        (lambda: Prune(0.5, criterion=lambda w: w.numpy() * np.nan), ModelError, "not finite: training has diverged"),
    ],
)
def test_what_does_not_fit_leaves_the_model_as_it_was(prune, kind, message):
    model = network()
    before = model.get_weights()
    for start in (lambda p: p.attach(model), lambda p: model.fit(*data(), verbose=0, callbacks=[p])):
        with pytest.raises(kind, match=message):
            start(prune())
        assert [k.constraint for k in model.trainable_weights] == [None] * 4
        assert not [name for name in vars(model) if name.startswith("compressor_state")]
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    Prune(0.5).attach(model)  # nothing is in its way
