"""The layers in surgery and in conversion: what is left of them is nothing, or plain layers."""

import collections

import contracts
import keras
import numpy as np
import pytest
from layer_rows import IMAGES, NOISE, WRAPPERS, conv

from tfstruct import Recipe, layers, surgery
from tfstruct.convert import Converter
from tfstruct.graph import groups, is_training_only, trace, training_only

kl = keras.layers


def network(**ours) -> keras.Model:
    """A residual network in which each place holds one of our layers, or what it stands for without it."""
    keras.utils.set_random_seed(0)
    same = kl.Identity
    inputs = keras.Input((8, 8, 2))
    x = ours.get("first", lambda y: y)(kl.Conv2D(8, 3, padding="same", name="first"))(inputs)
    x = ours.get("gate", same)()(x)
    x = ours.get("block", same)()(kl.ReLU()(x))
    y = ours.get("second", lambda y: y)(kl.Conv2D(8, 3, padding="same", name="second"))(x)
    x = kl.Add()([x, ours.get("depth", same)()(y)])
    x = ours.get("scheduled", same)()(kl.GlobalAveragePooling2D()(x))
    x = ours.get("third", lambda y: y)(kl.Dense(6, activation="relu", name="third"))(x)
    x = ours.get("carlo", same)()(x)
    return keras.Model(inputs, ours.get("last", lambda y: y)(kl.Dense(4, name="last"))(x))


ALL = {
    "first": lambda x: layers.DropConnect(x, 0.3),
    "gate": lambda: layers.HardConcrete(1e-3),
    "block": lambda: layers.DropBlock2D(0.2, 3),
    "second": lambda x: layers.TargetedDropout(x, 0.3),
    "depth": lambda: layers.StochasticDepth(0.2),
    "scheduled": lambda: layers.ScheduledDropout(0.2),
    "third": lambda x: layers.ConcreteDropout(x),
    "carlo": lambda: layers.MonteCarloDropout(0.2),
    "last": lambda x: layers.VariationalDropout(x, 1e-3),
}


def test_the_file_has_the_operators_of_a_model_without_them(process):
    x, _ = contracts.data(16)
    operators = []
    for model in (network(), network(**ALL)):
        for precision in ("float32", "int8"):
            with Converter(model, process=process) as converter:
                file = converter.convert(Recipe(precision=precision, calibration=x, verification=x))
            operators.append(collections.Counter(op.name for op in file.report.operators))
            # MonteCarloDropout does not draw on either side, or they would be far apart.
            assert file.report.verification.outputs[0].cosine > 0.99
    assert operators[:2] == operators[2:]


def test_the_report_says_that_monte_carlo_dropout_does_not_draw(process):
    model = network(carlo=ALL["carlo"])
    with Converter(model, process=process) as converter:
        report = converter.convert(Recipe(precision="float32")).report
    assert any("does not draw" in line for line in report.rewrites)
    assert next(x for x in model.layers if isinstance(x, layers.MonteCarloDropout)).active_in_inference


@pytest.mark.parametrize("name", [*WRAPPERS, *NOISE, "HardConcrete"])
@pytest.mark.sweep(4)
def test_channels_pass_through(name):
    x, _ = contracts.data(32)
    model = contracts.network(IMAGES[name](), conv(name="reader"))
    plan = surgery.plan_channels(model, {"params": 0.6})
    smaller = surgery.apply(model, plan)
    assert smaller.count_params() < 0.7 * model.count_params()
    layer = next(y for y in smaller.layers if type(y).__module__.startswith("tfstruct"))
    assert layer.name in plan.keep or name not in WRAPPERS
    smaller.compile("sgd", "mse")
    smaller.fit(x, np.zeros((32, 4)), verbose=0)
    assert np.isfinite(smaller(x)).all()


def test_closed_gates_and_noisy_weights_shrink():
    model = contracts.network(
        layers.HardConcrete(0.1, name="gate"), layers.VariationalDropout(conv(), 0.1, name="noisy"), kl.ReLU()
    )
    gate, noisy = model.get_layer("gate"), model.get_layer("noisy")
    gate.log_alpha.assign([-3.0] * 3 + [0.0] * 5)
    log = np.full(noisy.layer.kernel.shape, -20.0)
    log[..., :2] = np.log(noisy.layer.kernel.numpy()[..., :2] ** 2) + 4
    noisy.log_variance.assign(log)
    plain = layers.finalize(model)
    assert type(plain.get_layer("noisy")) is kl.Conv2D and not plain.get_layer("gate").trainable
    small = surgery.shrink(plain)
    assert small.removed["conv"] == (0, 1, 2) and small.removed["noisy"] == (0, 1)
    x, _ = contracts.data(16)
    np.testing.assert_allclose(small.model(x), model(x), rtol=1e-5, atol=1e-5)
    folded = surgery.optimize_inference(model).model
    assert not any(isinstance(y, kl.BatchNormalization) and y.name == "gate" for y in folded.layers)
    np.testing.assert_allclose(folded(x), model(x), rtol=1e-4, atol=1e-4)


def test_surgery_measures_models_that_draw_without_their_draws():
    model = network(carlo=ALL["carlo"])
    made = surgery.remove_redundant(model)
    assert "draws in inference" in dict(made.skipped)[next(n for n in dict(made.skipped) if "monte" in n)]
    assert any(isinstance(x, layers.MonteCarloDropout) for x in made.model.layers)
    assert made.max_difference.absolute == 0


def test_keep_dropout_keeps_wrappers():
    model = network(first=ALL["first"], block=ALL["block"])
    kinds = {type(x).__name__ for x in surgery.remove_redundant(model, keep_dropout=True).model.layers}
    assert {"DropConnect", "DropBlock2D"} <= kinds
    kinds = {type(x).__name__ for x in surgery.remove_redundant(model).model.layers}
    assert not {"DropConnect", "DropBlock2D"} & kinds


def test_a_dropout_of_the_users_own():
    @keras.saving.register_keras_serializable("tests")
    class Jitter(kl.Layer):
        def call(self, x, training=False):
            return x + keras.random.normal(keras.ops.shape(x)) if training else x

    model = contracts.network(Jitter(), conv(name="reader"))
    assert any("no rule knows" in group.reason for group in groups(trace(model)))
    training_only(Jitter)
    assert not any("no rule knows" in group.reason for group in groups(trace(model)))
    assert is_training_only(Jitter())
    made = surgery.remove_redundant(model).model
    assert not any(isinstance(x, Jitter) for x in made.layers)


def test_finalize_wants_no_wrapper_that_always_trains():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.DropConnect(kl.Dense(2), 0.5)(inputs, training=True))
    with pytest.raises(ValueError, match="called with training=True"):
        layers.finalize(model)
