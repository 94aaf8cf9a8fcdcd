"""Every schedule: its values by hand, and its life in an optimizer."""

import contracts
import keras
import numpy as np
import pytest
import tensorflow as tf
from matplotlib.figure import Figure

import tfstruct
from tfstruct import schedules

Cosine = schedules.CosineDecay


def cosine(a, b, p):
    return b + (a - b) * (1 + np.cos(np.pi * p)) / 2


# name -> (what makes it, {step: rate})
VALUES = {
    "StepDecay": (
        lambda: schedules.StepDecay(0.4, 10, 0.5),
        {0: 0.4, 9: 0.4, 10: 0.2, 29: 0.1, 30: 0.05, 490: 0.4 * 0.5**49},
    ),
    "StepDecay at": (lambda: schedules.StepDecay(1.0, [5, 8]), {0: 1.0, 4: 1.0, 5: 0.1, 7: 0.1, 8: 0.01, 99: 0.01}),
    "LinearDecay": (lambda: schedules.LinearDecay(0.5, 10, 0.1), {0: 0.5, 1: 0.46, 5: 0.3, 10: 0.1, 11: 0.1}),
    "LinearDecay to 0": (lambda: schedules.LinearDecay(1.0, 4), {0: 1.0, 3: 0.25, 4: 0.0, 5: 0.0}),
    "Warmup": (
        lambda: schedules.Warmup(Cosine(0.8, 20), 4),
        {0: 0.0, 1: 0.2, 3: 0.6, 4: 0.8, 14: 0.4, 9: cosine(0.8, 0, 0.25), 24: 0.0, 30: 0.0},
    ),
    "Warmup constant": (lambda: schedules.Warmup(0.5, 2, start=0.1), {0: 0.1, 1: 0.3, 2: 0.5, 9: 0.5}),
    "OneCycle": (
        lambda: schedules.OneCycle(1.0, 100, initial_divisor=10, final_divisor=100),
        {0: 0.1, 15: 0.55, 10: cosine(0.1, 1, 1 / 3), 30: 1.0, 65: 0.5005, 100: 0.001, 120: 0.001},
    ),
    "OneCycle of the paper": (
        lambda: schedules.OneCycle(1.0, 100, 0.4, 10, 100, shape="linear", phases=3),
        {0: 0.1, 20: 0.55, 40: 1.0, 60: 0.55, 80: 0.1, 90: 0.0505, 100: 0.001, 101: 0.001},
    ),
    "Cyclical": (lambda: schedules.Cyclical(0.1, 0.5, 4), {0: 0.1, 1: 0.2, 4: 0.5, 7: 0.2, 8: 0.1, 12: 0.5, 4900: 0.5}),
    "Cyclical triangular2": (
        lambda: schedules.Cyclical(0.0, 1.0, 5, "triangular2"),
        {0: 0.0, 5: 1.0, 10: 0.0, 15: 0.5, 16: 0.4, 25: 0.25},
    ),
    "Cyclical exp_range": (
        lambda: schedules.Cyclical(0.1, 1.1, 2, "exp_range", gamma=0.9),
        {0: 0.1, 1: 0.1 + 0.5 * 0.9, 2: 0.1 + 0.9**2, 4: 0.1, 6: 0.1 + 0.9**6},
    ),
    "WarmupStableDecay": (
        lambda: schedules.WarmupStableDecay(1.0, 4, 6, 10, start=0.2, end=0.1),
        {0: 0.2, 2: 0.6, 4: 1.0, 9: 1.0, 10: 1.0, 15: 0.55, 20: 0.1, 21: 0.1},
    ),
    "WarmupStableDecay sqrt": (
        lambda: schedules.WarmupStableDecay(1.0, 0, 2, 4, shape="sqrt"),
        {0: 1.0, 2: 1.0, 3: 0.5, 6: 0.0, 7: 0.0},
    ),
    "WarmupStableDecay cosine": (
        lambda: schedules.WarmupStableDecay(1.0, 2, 0, 4, shape="cosine"),
        {0: 0.0, 1: 0.5, 2: 1.0, 3: cosine(1, 0, 0.25), 4: 0.5, 6: 0.0},
    ),
    "Sequence": (
        lambda: schedules.Sequence([0.3, schedules.LinearDecay(1.0, 4), schedules.CosineDecayRestarts(2.0, 4)], [3, 5]),
        {0: 0.3, 2: 0.3, 3: 1.0, 4: 0.75, 5: 2.0, 7: 1.0, 9: 2.0},
    ),
    "nested": (
        lambda: schedules.Sequence([schedules.Warmup(schedules.StepDecay(1.0, [2]), 2), Cosine(0.5, 10)], [6]),
        {0: 0.0, 1: 0.5, 2: 1.0, 3: 1.0, 4: 0.1, 6: 0.5, 11: 0.25},
    ),
    "PiecewiseConstantDecay inside": (
        lambda: schedules.Warmup(schedules.PiecewiseConstantDecay([2], [1.0, 0.5]), 1),
        {0: 0.0, 1: 1.0, 3: 1.0, 4: 0.5},
    ),
}
OURS = ("StepDecay", "LinearDecay", "Warmup", "OneCycle", "Cyclical", "WarmupStableDecay", "Sequence")


def make(name):
    return VALUES[name][0]()


@pytest.mark.parametrize("name", VALUES)
def test_values(name):
    schedule, expected = make(name), VALUES[name][1]
    traced = tf.function(schedule)
    compiled = tf.function(schedule, jit_compile=True)
    for step, rate in expected.items():
        variable = keras.Variable(step, dtype="int64")
        given = (step, float(step), tf.constant(step), tf.constant(step, tf.int64), np.int64(step), variable)
        for one in given:
            value = schedule(one)
            assert value.dtype == tf.float32 and value.shape == ()
            np.testing.assert_allclose(value, rate, rtol=2e-6, atol=1e-7, err_msg=f"step {step} as {type(one)}")
        tensor = tf.constant(step, tf.int64)
        np.testing.assert_allclose(traced(tensor), rate, rtol=2e-6, atol=1e-7)
        np.testing.assert_allclose(compiled(tensor), rate, rtol=2e-6, atol=1e-7)
    assert traced.experimental_get_tracing_count() == 1


def test_every_name_has_a_row():
    assert {name.split()[0] for name in VALUES} >= set(OURS)
    for name in set(schedules.__all__) - set(OURS):
        kept = getattr(keras.optimizers.schedules, name, None)
        assert kept is None or getattr(schedules, name) is kept


@pytest.mark.parametrize("name", VALUES)
def test_configuration(name):
    schedule = make(name)
    again = contracts.round_trip(schedule)
    for step in VALUES[name][1]:
        assert float(again(step)) == float(schedule(step))
    optimizer = keras.optimizers.SGD(schedule)
    restored = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert restored.get_config() == optimizer.get_config()
    with pytest.raises(TypeError, match="not settable"):
        optimizer.learning_rate = 0.1


def test_floor_is_exact_where_a_reciprocal_is_not():
    """XLA divides by a constant by multiplying: 41 times 1/41 may come out below 1."""
    schedule = tf.function(schedules.StepDecay(1.0, 41, 0.5), jit_compile=True)
    rates = [float(schedule(tf.constant(41 * k))) for k in range(60)]
    np.testing.assert_allclose(rates, 0.5 ** np.arange(60.0), rtol=1e-6)
    saw = tf.function(schedules.Cyclical(0.0, 1.0, 41), jit_compile=True)
    assert [float(saw(tf.constant(82 * k))) for k in range(60)] == [0.0] * 60


def build(name):
    return lambda: contracts.network(optimizer=keras.optimizers.SGD(make(name), momentum=0.9))


@pytest.mark.parametrize("name", OURS)
def test_sgd_follows_it(name):
    """w <- w - rate(step), step by step: the gradient of sum(w) is one."""
    schedule = make(name)
    optimizer, w = keras.optimizers.SGD(schedule), keras.Variable([0.0])
    optimizer.build([w])
    step = tf.function(lambda: optimizer.apply([tf.ones(1)], [w]))
    for _ in range(12):
        step()
    np.testing.assert_allclose(w.numpy(), [-sum(float(schedule(i)) for i in range(12))], rtol=1e-5)
    assert step.experimental_get_tracing_count() == 1


SOME = [pytest.param(name, marks=[] if name in ("Warmup", "Sequence") else pytest.mark.slow) for name in OURS]


@pytest.mark.parametrize("name", SOME)
def test_resumes(name, tmp_path):
    resumed = contracts.assert_resumes(build(name), tmp_path)
    assert type(resumed.optimizer._learning_rate) is type(make(name))
    assert int(resumed.optimizer.iterations) == 8


def _ways():
    for name in OURS:
        for way in contracts.WAYS:
            quick = name == "Sequence" or (name == "Cyclical" and way == "fit")
            yield pytest.param(name, way, marks=[] if quick else pytest.mark.slow)


@pytest.mark.parametrize(("name", "way"), _ways())
@pytest.mark.sweep(2)
def test_ways_to_train(name, way, second_device):
    model, losses = contracts.trained(build(name), way)
    assert np.isfinite(losses).all()
    inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    expected = make(name)(int(keras.ops.convert_to_numpy(inner.iterations)))
    np.testing.assert_allclose(float(model.optimizer.learning_rate), expected, rtol=1e-6)
    assert all(np.isfinite(value).all() for value in model.get_weights())
    if way == "mirrored":
        contracts.assert_replicas_agree(model)


@pytest.mark.parametrize("schedule", [schedules.OneCycle(0.1, 50), keras.optimizers.schedules.CosineDecay(0.1, 50)])
def test_plot(schedule, tmp_path):
    figure = schedules.plot(schedule, 50, tmp_path / "rate.png")
    x, y = figure.axes[0].lines[0].get_data()
    assert list(x) == list(range(51))
    np.testing.assert_allclose(y, [float(schedule(i)) for i in range(51)], rtol=1e-5, atol=1e-8)
    assert (tmp_path / "rate.png").read_bytes().startswith(b"\x89PNG")


def test_many_plots_draw_no_warning_of_tensorflow(caplog):
    schedule = schedules.LinearDecay(0.1, 20)
    for _ in range(8):
        schedule.plot()
    assert not [record for record in caplog.records if "retracing" in record.getMessage()]


def test_plot_is_a_method_of_ours():
    for name in OURS:
        assert len(make(name).plot(3000).axes[0].lines[0].get_xdata()) == 501


ENDS = {
    "OneCycle": (schedules.OneCycle(0.1, 40), 40),
    "LinearDecay": (schedules.LinearDecay(0.1, 30), 30),
    "StepDecay at steps": (schedules.StepDecay(0.1, [5, 20]), 20),
    "StepDecay every so many": (schedules.StepDecay(0.1, 5), None),
    "WarmupStableDecay": (schedules.WarmupStableDecay(0.1, 5, 10, 20), 35),
    "Cyclical": (schedules.Cyclical(0.1, 0.2, 5), None),
    "Warmup of a number": (schedules.Warmup(0.1, 5), 5),
    "Warmup of a schedule": (schedules.Warmup(schedules.LinearDecay(0.1, 30), 5), 35),
    "Sequence": (schedules.Sequence([0.1, schedules.LinearDecay(0.1, 30)], [7]), 37),
    "Keras, with warm-up": (keras.optimizers.schedules.CosineDecay(0.0, 20, warmup_target=0.1, warmup_steps=5), 25),
    "Keras, in pieces": (keras.optimizers.schedules.PiecewiseConstantDecay([4, 9], [0.3, 0.2, 0.1]), 10),
    "Keras, in cycles": (keras.optimizers.schedules.PolynomialDecay(0.1, 10, cycle=True), None),
    "Keras, without end": (keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9), None),
}


@pytest.mark.parametrize(("schedule", "last"), ENDS.values(), ids=ENDS)
def test_a_picture_goes_to_the_end_that_the_schedule_has(schedule, last):
    if last is None:
        with pytest.raises(tfstruct.ArgumentError, match="Expected `steps`, how many to draw"):
            schedules.plot(schedule)
    else:
        x, y = schedules.plot(schedule).axes[0].lines[0].get_data()
        assert x[-1] == last
        np.testing.assert_allclose(y[-1], float(schedule(last + 100)), rtol=1e-5, atol=1e-8)


def test_plot_has_the_arguments_of_all_pictures(tmp_path):
    schedule, figure = schedules.OneCycle(0.1, 40), Figure()
    left, right = figure.subplots(1, 2)
    assert schedule.plot(tmp_path / "rate.svg", ax=left) is figure and left.lines and not right.lines
    assert "<svg" in (tmp_path / "rate.svg").read_text()
    assert list(schedule.plot(steps=20).axes[0].lines[0].get_xdata()) == list(range(21))
    ratio = schedules.PolynomialRatio(0.2, 0.8, 100, 110)
    assert ratio.plot(tmp_path / "ratio.png", right) is figure and (tmp_path / "ratio.png").exists()
    assert right.lines[0].get_xdata()[-1] == 121 and ratio.plot(50).axes[0].lines[0].get_xdata()[-1] == 50


BAD = {
    "`initial_learning_rate` must be a finite number above 0. Received: -0.1": lambda: schedules.StepDecay(-0.1, 10),
    "`steps` must be a whole number, 1 or larger. Received: 0": lambda: schedules.StepDecay(0.1, 0),
    "`steps` must be steps in rising order. Received: [5, 5]": lambda: schedules.StepDecay(0.1, [5, 5]),
    "`factor` must be a number in (0, 1]. Received: 1.5": lambda: schedules.StepDecay(0.1, 10, 1.5),
    "`decay_steps` must be a whole number, 1 or larger. Received: 2.5": lambda: schedules.LinearDecay(0.1, 2.5),
    "`end_learning_rate` must be a finite number, 0 or larger. Received: -1": lambda: schedules.LinearDecay(0.1, 3, -1),
    "`schedule` must be a LearningRateSchedule or a number. Received: 'cosine'": lambda: schedules.Warmup("cosine", 3),
    "`schedule` must be a LearningRateSchedule or a number. Received: nan": lambda: schedules.Warmup(float("nan"), 3),
    "`max_learning_rate` must be a finite number above 0. Received: inf": lambda: schedules.OneCycle(float("inf"), 9),
    "`warmup` must be in (0, 0.5) with 3 phases. Received: 0.5": lambda: schedules.OneCycle(1.0, 9, 0.5, phases=3),
    "`steps` must leave each phase a step. Received: 1": lambda: schedules.OneCycle(1.0, 1),
    "`shape` must be one of cosine, linear. Received: 'sqrt'": lambda: schedules.OneCycle(1.0, 9, shape="sqrt"),
    "`low` must be below `high`. Received: 1.0 and 0.5": lambda: schedules.Cyclical(1.0, 0.5, 3),
    "`gamma` must be a number in (0, 1]. Received: 0": lambda: schedules.Cyclical(0.1, 0.5, 3, gamma=0),
    "`mode` must be one of": lambda: schedules.Cyclical(0.1, 0.5, 3, "saw"),
    "`warmup_steps` must be a whole number, 0 or larger. Received: -1": lambda: schedules.WarmupStableDecay(
        0.1, -1, 2, 2
    ),
    "`schedules` must hold at least one": lambda: schedules.Sequence([], []),
    "Received: [3, 9]: from step 9 on there is no schedule": lambda: schedules.Sequence([0.1, 0.2], [3, 9]),
    "schedule 2 has no step to begin at": lambda: schedules.Sequence([0.1, 0.2], []),
    "`boundaries` must be steps in rising order. Received: [9, 3]": lambda: schedules.Sequence([0.1, 0.2, 0.3], [9, 3]),
    "`schedules` must be a LearningRateSchedule or a number": lambda: schedules.Sequence([lambda step: 0.1], []),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input(message):
    with pytest.raises(ValueError) as error:
        BAD[message]()
    assert message in str(error.value)
