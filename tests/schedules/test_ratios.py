import math

import keras
import pytest

from tfstruct.schedules import AutomaticRatio, ConstantRatio, CosineRatio, Iterative, OneShot, PolynomialRatio

EVERY = [
    ConstantRatio(0.5, 10),
    ConstantRatio(0.5, 10, 50),
    OneShot(0.7, at=3),
    PolynomialRatio(0.2, 0.8, 100, 110),
    CosineRatio(0.0, 0.6, 5, 25),
    Iterative(0.875, rounds=3, recover=100, begin=50),
    AutomaticRatio(0.9, 10, 110),
]


def test_the_polynomial_of_the_literature():
    schedule = PolynomialRatio(0.2, 0.8, 100, 110, power=3)
    assert [round(schedule(step), 4) for step in (99, 100, 102, 105, 110, 500)] == [0, 0.2, 0.4928, 0.725, 0.8, 0.8]


def test_cosine():
    schedule = CosineRatio(0.2, 0.6, 0, 4)
    wanted = [0.6 - 0.4 * (1 + math.cos(math.pi * step / 4)) / 2 for step in range(5)]
    assert [schedule(step) for step in range(5)] == pytest.approx(wanted)
    assert schedule(2) == pytest.approx(0.4)


def test_iterative_takes_the_same_share_each_round():
    schedule = Iterative(0.875, rounds=3, recover=100, begin=50)
    values = [schedule(step) for step in (49, 50, 149, 150, 250, 999)]
    assert values == pytest.approx([0, 0.5, 0.5, 0.75, 0.875, 0.875])
    assert schedule.end == 250


def test_constant_and_one_shot():
    assert [ConstantRatio(0.5, 10)(step) for step in (9, 10, 11)] == [0, 0.5, 0.5]
    assert [OneShot(0.7, at=3)(step) for step in (2, 3, 4)] == [0, 0.7, 0.7]


def test_automatic_slows_when_the_validation_loss_rises():
    schedule = AutomaticRatio(0.8, 0, 100, tolerance=0.1)
    assert schedule(50) == pytest.approx(0.8 * (1 - 0.5**3))
    schedule.observe({"loss": 1.0}, 20)
    assert schedule.end == 100
    schedule.observe({"loss": 1.2}, 40)  # more than a tenth above the best
    before = schedule(40)
    assert before == pytest.approx(0.8 * (1 - 0.6**3))
    assert schedule(60) == pytest.approx(0.8 * (1 - 0.5**3))  # half the speed
    assert schedule.end == 160
    schedule.observe({"loss": 1.05}, 60)
    assert schedule(110) == pytest.approx(0.8)
    schedule.observe({"loss": float("nan")}, 70)
    assert schedule.end == 70 + 2 * 40


def test_automatic_goes_on_from_its_state():
    first, second = (AutomaticRatio(0.8, 0, 100) for _ in range(2))
    first.observe({"loss": 1.0}, 10)
    first.observe({"loss": 2.0}, 30)
    second.restore(first.state())
    assert [second(step) for step in range(30, 200, 10)] == [first(step) for step in range(30, 200, 10)]


@pytest.mark.parametrize("schedule", EVERY, ids=repr)
def test_never_falls_and_ends_at_its_final_ratio(schedule):
    values = [schedule(step) for step in range(schedule.end + 20)]
    assert values == sorted(values)
    assert values[: schedule.begin] == [0] * schedule.begin
    assert values[schedule.end] == values[-1] == schedule.final


@pytest.mark.parametrize("schedule", EVERY, ids=repr)
def test_round_trip(schedule):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert again.get_config() == schedule.get_config()
    assert [again(step) for step in range(0, 300, 7)] == [schedule(step) for step in range(0, 300, 7)]


def test_plot():
    axes = PolynomialRatio(0.2, 0.8, 100, 110).plot().axes[0]
    assert max(axes.lines[0].get_ydata()) == pytest.approx(0.8)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: ConstantRatio(1.2), r"`ratio` must be a number in \[0, 1\). Received: 1.2."),
        (lambda: OneShot(1.0), "Received: 1.0"),
        (lambda: PolynomialRatio(0.2, -0.1, 0, 10), "`final` must be a number in"),
        (lambda: PolynomialRatio(0.5, 0.2, 0, 10), "at least `initial`"),
        (lambda: PolynomialRatio(0, 0.5, 100, 50), "ends before it begins"),
        (lambda: CosineRatio(0, 0.5, 10, 10), "ends before it begins"),
        (lambda: PolynomialRatio(0, 0.5, 0, 10, power=0), "`power` must be a finite number above 0"),
        (lambda: Iterative(0.5, 0, 10), "`rounds` must be a whole number, 1 or larger"),
        (lambda: Iterative(0.5, 2, 10, begin=-1), "`begin` must be a whole number, 0 or larger"),
        (lambda: AutomaticRatio(0.5, 0, 10, tolerance=-1), "`tolerance`"),
        (lambda: AutomaticRatio(0.5, 0, 10, slowest=0), "`slowest`"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
