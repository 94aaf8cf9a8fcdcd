"""What `Prune` keeps, and when: against NumPy."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfstruct import masks
from tfstruct.callbacks import Prune
from tfstruct.errors import ModelError
from tfstruct.schedules import ConstantRatio, Iterative, OneShot, PolynomialRatio

L = keras.layers
POLYNOMIAL = PolynomialRatio(0.2, 0.8, 100, 110)


def network(**constraints) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            L.Dense(12, activation="tanh", name="one", **constraints),
            L.Dense(4, name="two"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    return model


def data(count=32):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 8)).astype("float32"), rng.normal(size=(count, 4)).astype("float32")


def kernels(model):
    return [model.get_layer(name).kernel for name in ("one", "two")]


def values(model):
    return [kernel.numpy() for kernel in kernels(model)]


def zeros(model) -> list[int]:
    return [int((value == 0).sum()) for value in values(model)]


def gradients(model, x, y):
    with tf.GradientTape() as tape:
        loss = keras.ops.mean((y - model(x)) ** 2)
    return [np.asarray(g) for g in tape.gradient(loss, [k.value for k in kernels(model)])]


def best(scores, ratio):
    """The exact count with the highest scores, by sorting."""
    count = max(round(scores.size * (1 - ratio)), 1)
    order = np.argsort(-scores.ravel(), kind="stable")[:count]
    return np.isin(np.arange(scores.size), order).reshape(scores.shape)


# When


def chosen_at(prune, steps, count=1):
    """Each step after which other masks or the same ones were chosen anew: step -> zeros of both kernels."""
    model = network()
    prune.attach(model)
    found = {}
    history = prune._history
    if history:
        found[0] = zeros(model)
    for step in range(count, steps + 1, count):
        before = len(history)
        prune.step(count)
        if len(history) != before:
            found[step] = zeros(model)
    prune.finish()
    return found


def asked(ratio):
    return [n - max(round(n * (1 - ratio)), 1) for n in (96, 48)]


def test_the_polynomial_step_by_step():
    found = chosen_at(Prune(POLYNOMIAL, frequency=1), 130)
    assert list(found) == list(range(100, 111))
    assert found == {step: asked(POLYNOMIAL(step)) for step in range(100, 111)}
    assert [found[step] for step in (100, 102, 105, 110)] == [asked(r) for r in (0.2, 0.4928, 0.725, 0.8)]


@pytest.mark.parametrize(
    "schedule, frequency, steps",
    [
        (POLYNOMIAL, 4, [100, 104, 108, 110]),
        (POLYNOMIAL, 100, [100, 110]),
        (PolynomialRatio(0.0, 0.5, 0, 10), 3, [0, 3, 6, 9, 10]),
        (PolynomialRatio(0.0, 0.5, 0, 10), 5, [0, 5, 10]),
        (ConstantRatio(0.5), 10, [0]),
        (ConstantRatio(0.5, 7), 10, [7]),
        (ConstantRatio(0.5, 5, 25), 10, [5, 15, 25]),
        (OneShot(0.5, at=3), 2, [3]),
        (Iterative(0.875, rounds=3, recover=10, begin=2), 10, [2, 12, 22]),
    ],
)
def test_when_masks_are_chosen(schedule, frequency, steps):
    found = chosen_at(Prune(schedule, frequency=frequency), 120)
    assert list(found) == steps
    assert found == {step: asked(schedule(step)) for step in steps}


def test_three_steps_at_once():
    assert list(chosen_at(Prune(POLYNOMIAL, frequency=4), 129, count=3)) == [102, 105, 108, 111]
    found = chosen_at(Prune(POLYNOMIAL, frequency=100), 129, count=3)
    assert found == {102: asked(POLYNOMIAL(102)), 111: asked(0.8)}


def test_in_fit_between_choices_the_masks_stand():
    model = network()
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append((zeros(self.model), logs["sparsity"], [v == 0 for v in values(self.model)]))

    schedule = PolynomialRatio(0.2, 0.6, 3, 9)
    model.fit(*data(), batch_size=2, verbose=0, callbacks=[Prune(schedule, frequency=3), Watch()])
    for step, (count, sparsity, _) in enumerate(seen, 1):
        due = max((s for s in (3, 6, 9) if s <= step), default=None)
        assert count == (asked(schedule(due)) if due else [0, 0])
        assert sparsity == pytest.approx(sum(count) / 144)
    for (_, _, earlier), (_, _, later) in itertools.pairwise(seen):
        assert all((b | ~a).all() for a, b in zip(earlier, later, strict=True))  # what is zero stays zero


# Which


def at_once(ratio=0.6, model=None, **settings):
    model = model or network()
    before = values(model)
    prune = Prune(ratio, **settings).attach(model)
    return model, before, prune


def test_magnitude():
    model, before, prune = at_once()
    for now, old, mask in zip(values(model), before, prune.masks().values(), strict=True):
        wanted = best(np.abs(old), 0.6)
        np.testing.assert_array_equal(now, old * wanted)
        np.testing.assert_array_equal(mask, wanted)


def test_zeros_are_plain_zeros():
    model, *_ = at_once()
    for now in values(model):
        assert not np.signbit(now[now == 0]).any()  # -0.0 is another byte pattern, which packs worse


def test_ten_equal_weights_lose_the_last_half():
    model = network()
    for kernel in kernels(model):
        kernel.assign(np.ones(kernel.shape))
    at_once(0.5, model)
    np.testing.assert_array_equal(values(model)[1].ravel(), [1.0] * 24 + [0.0] * 24)


@pytest.mark.parametrize("criterion", ["gradient", "snip"])
def test_criteria_of_gradients(criterion):
    x, y = data(40)
    wanted = gradients(network(), x, y)
    model, before, _ = at_once(criterion=criterion, data=(x, y))
    for now, old, g in zip(values(model), before, wanted, strict=True):
        np.testing.assert_array_equal(now != 0, best(np.abs(g * old) if criterion == "snip" else np.abs(g), 0.6))


def test_a_loss_of_ones_own():
    x, y = data()
    model, *_ = at_once(criterion="gradient", data=(x, y), loss=lambda y, out: keras.ops.sum(out[:, :1]))
    assert (values(model)[1][:, 0] != 0).all() and (values(model)[1][:, 1:] != 0).sum() == 19 - 12


def test_random_is_fixed_by_its_seed():
    patterns = [[v != 0 for v in values(at_once(criterion="random", seed=seed)[0])] for seed in (0, 0, 1)]
    for a, b, c in zip(*patterns, strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a != c).any()


def test_a_criterion_of_ones_own():
    seen = []

    def columns(variable):
        seen.append(variable.path)
        return np.broadcast_to(np.arange(variable.shape[1]), variable.shape)

    model, *_, prune = at_once(0.5, criterion=columns)
    assert (values(model)[0][:, :6] == 0).all() and (values(model)[1][:, 2:] != 0).all()
    assert seen == [kernel.path for kernel in kernels(model)]
    assert prune.finish().criterion == "columns"


def test_movement_by_hand():
    x, y = data()
    model, twin = network(), network()
    model.optimizer.learning_rate = 0.05
    prune = Prune(OneShot(0.5, at=4), criterion="movement").attach(model)
    scores = [np.zeros(k.shape) for k in kernels(twin)]
    for step in range(4):
        part = slice(8 * step, 8 * step + 8)
        model.train_on_batch(x[part], y[part])
        prune.step()
        variables = twin.trainable_variables
        with tf.GradientTape() as tape:
            loss = keras.ops.mean((y[part] - twin(x[part])) ** 2)
        found = tape.gradient(loss, [v.value for v in variables])
        for variable, g in zip(variables, found, strict=True):
            for i, kernel in enumerate(kernels(twin)):
                if kernel is variable:
                    scores[i] += -0.05 * np.asarray(g) * variable.numpy()
            variable.assign(variable.numpy() - 0.05 * np.asarray(g))
    for now, dense, score, masked in zip(values(model), values(twin), scores, prune._masked, strict=True):
        np.testing.assert_allclose(masked.score.numpy(), score, atol=1e-6)
        np.testing.assert_allclose(now, dense * best(score, 0.5), atol=1e-6)


def test_movement_has_seen_nothing_at_step_0():
    with pytest.raises(ValueError, match=r"'movement' .* before the first step"):
        Prune(0.5, criterion="movement")
    assert Prune(PolynomialRatio(0.0, 0.5, 0, 10), criterion="movement").criterion == "movement"


def test_scope_global():
    model = network()
    kernels(model)[1].assign(10 * values(model)[1])
    old = np.concatenate([v.ravel() for v in values(model)])
    at_once(0.5, model, scope="global")
    now = np.concatenate([v.ravel() for v in values(model)])
    np.testing.assert_array_equal(now, old * best(np.abs(old), 0.5))
    assert zeros(model)[0] > 48 + 15


def conv_net():
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [keras.Input((6, 6, 3)), L.Conv2D(6, 3, name="conv"), L.Flatten(), L.Dense(4, name="dense")]
    )


@pytest.mark.parametrize("pattern, block", [("block", (3, 2)), ("row", None), ("filter", None), ("2:4", None)])
def test_patterns(pattern, block):
    model = conv_net()
    old = [model.get_layer(name).kernel.numpy() for name in ("conv", "dense")]
    Prune(None if ":" in pattern else 0.5, pattern, block=block).attach(model)
    for name, w in zip(("conv", "dense"), old, strict=True):
        view = w.reshape(-1, *w.shape[-2:])
        (mask,) = masks.choose([np.abs(view)], 0.5, masks.Pattern.parse(pattern, block))
        now = model.get_layer(name).kernel.numpy()
        np.testing.assert_array_equal(now, w * mask.reshape(w.shape))
        if pattern == "filter":
            assert int((now.reshape(-1, w.shape[-1]) == 0).all(0).sum()) == w.shape[-1] // 2
        if pattern == "row":
            dead = (np.moveaxis(now, -2, 0).reshape(w.shape[-2], -1) == 0).all(1)
            assert int(dead.sum()) == w.shape[-2] - round(w.shape[-2] / 2)


def test_n_m_in_every_run():
    model = conv_net()
    prune = Prune(PolynomialRatio(0.0, 0.75, 0, 4), "3:4", frequency=1, layers="dense").attach(model)
    counts = []
    for _ in range(5):
        runs = model.get_layer("dense").kernel.numpy().reshape(-1, 4, 4)
        counts.append(set((runs == 0).sum(1).ravel().tolist()))
        prune.step()
    # the polynomial: 0, 0.434, 0.656, 0.738, 0.75 of 4
    assert counts == [{0}, {1}, {2}, {2}, {3}]


def test_n_m_skips_what_has_no_runs():
    model = keras.Sequential(
        [keras.Input((4,), dtype="int32"), L.Embedding(8, 8, name="words"), L.Flatten(), L.Dense(4, name="dense")]
    )
    report = Prune(pattern="2:4").attach(model).finish()
    assert [row.name for row in report.layers] == ["dense/kernel"]
    assert report.skipped == (("words/embeddings", "it looks up rows and sums over nothing"),)
    assert "words/embeddings: left alone, it looks up rows" in str(report)
    with pytest.raises(ModelError, match="Pattern 2:4 does not fit words/embeddings: it looks up rows"):
        Prune(pattern="2:4", layers="*").attach(model)


# Regrowth


def test_regrow_by_hand():
    x, y = data()
    model = network()
    prune = Prune(ConstantRatio(0.5, 0, 100), regrow=0.4, data=(x, y), frequency=10).attach(model)
    for kernel, value in zip(kernels(model), values(network()), strict=True):
        kernel.assign(value)
    prune.steps = 29
    for masked in prune._masked:
        masked.apply()
    old, found = values(model), gradients(model, x, y)
    prune.step()
    share = 0.4 * (1 + np.cos(np.pi * 0.3)) / 2
    for now, w, g in zip(values(model), old, found, strict=True):
        stay = best(np.where(w != 0, np.abs(w), -1), 0.5 + 0.5 * share)
        mask = best(np.where(stay, np.inf, np.abs(g)), 0.5)
        np.testing.assert_array_equal(now, w * mask)
        assert (mask & (w == 0)).any()
    for mask, w in zip(prune.masks().values(), old, strict=True):
        assert mask.sum() == w.size // 2


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_regrow_in_fit(scope):
    x, y = data()
    model = network()
    counts, alive = [], []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            counts.append(sum(int(m.sum()) for m in prune.masks().values()))
            alive.append(np.concatenate([m.ravel() for m in prune.masks().values()]))

    prune = Prune(ConstantRatio(0.75, 0, 20), scope=scope, regrow=0.5, data=(x, y), frequency=2)
    model.fit(x, y, batch_size=2, epochs=2, verbose=0, callbacks=[prune, Watch()])
    assert set(counts) == {36}
    back = [int((b & ~a).sum()) for a, b in itertools.pairwise(alive)]  # back[i]: at step i + 2
    assert all(back[step - 2] > 0 for step in (2, 4, 10))
    assert not any(back[step - 2] for step in range(20, 33))  # it stops where the schedule ends
    flat = np.concatenate([v.ravel() for v in values(model)])
    assert (flat != 0).sum() == 36 and set(np.flatnonzero(flat)) == set(np.flatnonzero(alive[-1]))
    assert prune.report.sparsity == 0.75


def test_what_comes_back_starts_from_zero_and_learns():
    x, y = data()
    model = network()
    prune = Prune(ConstantRatio(0.5, 0, 100), regrow=0.5, data=(x, y), frequency=1).attach(model)
    before = values(model)
    masks_before = list(prune.masks().values())
    prune.step()
    grown = [now & ~then for now, then in zip(prune.masks().values(), masks_before, strict=True)]
    assert all(g.any() for g in grown)
    for now, g, old in zip(values(model), grown, before, strict=True):
        assert not now[g].any()
        np.testing.assert_array_equal(now[now != 0], old[now != 0])
    model.train_on_batch(x, y)
    assert all(now[g].all() for now, g in zip(values(model), grown, strict=True))


# Constraints


@pytest.mark.parametrize(
    "constraint, holds",
    [
        (keras.constraints.NonNeg(), lambda w: (w >= 0).all()),
        (keras.constraints.MaxNorm(0.5), lambda w: (np.linalg.norm(w, axis=0) <= 0.5 + 1e-5).all()),
    ],
)
def test_the_constraint_a_weight_had_is_kept(constraint, holds):
    model = network(kernel_constraint=constraint, bias_constraint="non_neg")
    kernel, bias = model.get_layer("one").kernel, model.get_layer("one").bias
    prune = Prune(0.5).attach(model)
    assert kernel.constraint is not constraint
    for _ in range(3):
        model.train_on_batch(*data())
        prune.step()
        assert holds(kernel.numpy()) and (kernel.numpy() == 0).sum() >= 48
        assert not kernel.numpy()[~prune.masks()["one/kernel"]].any()
    prune.finish()
    assert kernel.constraint is constraint and isinstance(bias.constraint, keras.constraints.NonNeg)
    assert model.get_layer("two").kernel.constraint is None


def test_only_the_layers_chosen():
    model, before, prune = at_once(0.5, layers="two")
    np.testing.assert_array_equal(values(model)[0], before[0])
    assert kernels(model)[0].constraint is None and list(prune.masks()) == ["two/kernel"]
