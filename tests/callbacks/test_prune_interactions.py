"""`Prune` beside everything else that has its hands on the weights in `fit`."""

import keras
import numpy as np
import pytest
from contracts import policy
from small import NAMES, EachStep, L, asked, data, fit, network, schedule, shares, values

from tfstruct.callbacks import Prune, saved_state
from tfstruct.callbacks.constraints import Masked
from tfstruct.errors import ModelError
from tfstruct.schedules import ConstantRatio, PolynomialRatio


def pruner(**settings) -> Prune:
    return Prune(schedule(), frequency=3, **settings)


def plain(model) -> bool:
    """Nothing of ours is left on the model."""
    ours = any(isinstance(v.constraint, Masked) for v in model.trainable_weights)
    return not ours and not any(name.startswith("compressor_state") for name in vars(model))


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_early_stopping_that_restores_dense_weights(first):
    model = network(eager=True)

    class Best(keras.callbacks.Callback):
        weights = None

        def on_epoch_end(self, epoch, logs=None):
            logs["score"] = float(epoch)  # the first epoch, with fewer zeros, is the best
            if epoch == 0:
                Best.weights = values(self.model)

    stop = keras.callbacks.EarlyStopping("score", mode="min", patience=1, restore_best_weights=True)
    prune = pruner()
    fit(model, Best(), *([stop, prune] if first else [prune, stop]), epochs=5)
    assert len(model.history.epoch) == 2 and shares(model) == asked(0.75)
    for now, best in zip(values(model), Best.weights, strict=True):
        np.testing.assert_array_equal(now, best * (now != 0))
        assert (best != 0).sum() > (now != 0).sum()
    (note,) = prune.report.notes
    assert note.startswith("Pruned weights of 2 kernels were put back at the end of training (EarlyStopping")
    assert plain(model)


@pytest.mark.parametrize("every", [None, 5])
def test_moving_averages(every):
    model = network(keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=every))
    watch = EachStep(shares)
    prune = pruner()
    fit(model, prune, watch)
    wanted = [asked(ratio) for _, ratio, _ in prune.report.history]
    assert [watch.seen[step - 1] for step, _, _ in prune.report.history] == wanted
    assert watch.seen[-1] == shares(model) == asked(0.75) and plain(model)
    averages = [a for a in model.optimizer._model_variables_moving_average if a.shape in ((8, 12), (12, 4))]
    for now, average in zip(values(model), averages, strict=True):
        np.testing.assert_allclose(now, average.numpy() * (now != 0), rtol=1e-6)


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("every", ["epoch", 3])
@pytest.mark.sweep(2)
def test_checkpoints_are_plain_and_as_sparse_as_the_schedule(tmp_path, first, every):
    model = network(eager=True)
    ending = "{epoch}.keras" if every == "epoch" else "{epoch}-{batch}.keras"
    save = keras.callbacks.ModelCheckpoint(str(tmp_path / ending), save_freq=every)
    prune = pruner()
    fit(model, *([save, prune] if first else [prune, save]))
    chosen = {step: ratio for step, ratio, _ in prune.report.history}  # at 2, 5, 8, 11, 14
    files = {}
    for file in tmp_path.iterdir():
        epoch, *batch = (int(n) for n in file.stem.split("-"))
        files[8 * epoch if not batch else 8 * (epoch - 1) + batch[0]] = file
    assert sorted(files) == ([8, 16] if every == "epoch" else [3, 6, 9, 12, 15])
    for step, file in files.items():
        loaded = keras.models.load_model(file)
        ratio = chosen[max(s for s in chosen if s <= step)]
        assert shares(loaded) == asked(ratio)
        assert type(loaded) is keras.Sequential and plain(loaded)
        assert loaded.get_layer("one").kernel.constraint is None
        fit(loaded, epochs=1) if step == 8 else None
    assert shares(loaded) != [0, 0]


def test_weights_only_checkpoint_loads_into_a_plain_model(tmp_path):
    model = network(eager=True)
    file = tmp_path / "last.weights.h5"
    fit(model, pruner(), keras.callbacks.ModelCheckpoint(str(file), save_weights_only=True))
    other = network(eager=True)
    other.load_weights(file)
    for a, b in zip(values(model), values(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_second_fit_goes_on_or_holds():
    model, whole = network(), network()
    prune, one = pruner(), pruner()
    fit(model, prune, epochs=1)
    assert shares(model) == asked(schedule()(8)) and plain(model)
    fit(model, prune, epochs=1)
    fit(whole, one, epochs=2)
    for a, b in zip(values(model), values(whole), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert prune.report.history == one.report.history and prune.steps == 16
    dead = [value == 0 for value in values(model)]
    fit(model, prune, epochs=1)
    assert all((now[at] == 0).all() for now, at in zip(values(model), dead, strict=True))


def test_after_a_plain_fit_and_before_one():
    model = network()
    fit(model, epochs=1)  # its training step is traced without masks
    fit(model, pruner())
    assert shares(model) == asked(0.75) and plain(model)
    fit(model, epochs=1)
    assert shares(model) == [0, 0]  # plain training is not masked


@pytest.mark.parametrize("settings", [{"steps_per_execution": 3}, {"jit_compile": True}], ids=["three", "jit"])
def test_compiled_ways(settings):
    model = network(**settings)
    prune, watch = pruner(), EachStep(shares)
    fit(model, prune, watch)
    assert shares(model) == asked(0.75) and prune.steps == 16 and prune.report.notes == ()
    if "steps_per_execution" in settings:
        assert [step for step, _, _ in prune.report.history] == [3, 6, 8, 11, 14]
        assert len(watch.seen) == 6


def test_mixed_float16_with_loss_scaling():
    with policy("mixed_float16"):
        model = network()
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    watch = EachStep(shares)
    prune = Prune(schedule(), frequency=3, criterion="snip", data=data())
    fit(model, prune, watch)
    assert [watch.seen[step - 1] for step, _, _ in prune.report.history] == [
        asked(ratio) for _, ratio, _ in prune.report.history
    ]
    assert shares(model) == asked(0.75) and values(model)[0].dtype == np.float32


def test_gradient_accumulation():
    model = network(keras.optimizers.Adam(0.05, gradient_accumulation_steps=2))
    watch = EachStep(shares)
    prune = pruner()
    fit(model, prune, watch)
    assert [s for s, _, _ in prune.report.history] == [2, 5, 8, 11, 14]
    for step in range(2, 16):
        due = max(s for s, _, _ in prune.report.history if s <= step)
        assert watch.seen[step - 1] == asked(schedule()(due))


class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.one, self.rest = L.Dense(12, activation="tanh"), [L.Dense(12), L.Dense(4)]

    def call(self, x):
        x = self.one(x)
        for layer in self.rest:
            x = layer(x)
        return x


def test_subclassed():
    keras.utils.set_random_seed(0)
    model = Own()
    with pytest.raises(ModelError, match=f"`{model.name}` is not built yet: call it on a batch"):
        Prune(0.5).attach(model)
    model.compile("sgd", "mse", jit_compile=False)
    prune = Prune(0.5)
    with pytest.raises(ModelError, match="is not built yet"):
        fit(model, prune)
    model(data()[0])
    fit(model, prune, epochs=1)
    assert [row.zeros for row in prune.report.layers] == [48, 72, 24]
    assert int((model.rest[0].kernel.numpy() == 0).sum()) == 72


def test_nested_and_shared():
    keras.utils.set_random_seed(0)
    block = keras.Sequential([keras.Input((8,)), L.Dense(8, name="inner")], name="block")
    inputs = keras.Input((8,))
    shared = L.Dense(8, name="shared")
    model = keras.Model(inputs, L.Dense(4, name="head")(shared(block(shared(block(inputs))))))
    model.compile("sgd", "mse", jit_compile=False)
    prune = Prune(0.5)
    fit(model, prune, epochs=1)
    assert [(r.name, r.zeros) for r in prune.report.layers] == [
        ("block/inner/kernel", 32), ("shared/kernel", 32), ("head/kernel", 16),
    ]  # fmt: skip
    assert int((block.get_layer("inner").kernel.numpy() == 0).sum()) == 32


# Two of them


def test_two_on_different_layers():
    model = network()
    first, second = Prune(0.5, layers="one"), Prune(PolynomialRatio(0, 0.75, 0, 6), layers="two", frequency=2)
    fit(model, first, second, epochs=1)
    assert shares(model) == [0.5, 0.75] and plain(model)
    assert (first.steps, second.steps) == (8, 8)
    assert [row.name for row in second.report.layers] == ["two/kernel"]


def test_two_on_the_same_weights():
    model = network(eager=True)
    before = model.get_weights()
    held = Prune(0.0).attach(model)
    with pytest.raises(ModelError, match=r"Prune and Prune both want the weight .*one/kernel"):
        Prune(0.5).attach(model)
    with pytest.raises(ModelError, match="both want"):
        fit(model, Prune(0.5, layers="two"))
    held.finish()
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert plain(model)


def test_one_that_comes_after_one_that_went_keeps_its_own_state(tmp_path):
    model = network(eager=True)
    first, second = Prune(0.25, layers="one").attach(model), Prune(0.5, layers="two").attach(model)
    first.finish()
    third = Prune(0.75, layers="one").attach(model)
    assert saved_state.held(model) == [second, third]


# Bad use


def test_attached_twice_or_to_two_models():
    model, other = network(eager=True), network(eager=True)
    prune = Prune(0.5).attach(model)
    with pytest.raises(ModelError, match=r"is attached to `.*` already. Call finish"):
        prune.attach(model)
    with pytest.raises(ModelError, match=r"is attached to `.*`, not to this model"):
        fit(other, prune)
    prune.finish()
    with pytest.raises(ModelError, match=r"belongs to `.*`, whose state it keeps. Make a new one"):
        prune.attach(other)
    with pytest.raises(ModelError, match="belongs to"):
        fit(other, prune)
    assert shares(other) == [0, 0] and plain(other) and plain(model)
    with pytest.raises(ModelError, match=r"Expected a keras.Model. Received: Dense"):
        Prune(0.5).attach(L.Dense(3))


def test_twice_in_the_list():
    model = network(eager=True)
    prune = Prune(0.5)
    with pytest.raises(ModelError, match="in the list of callbacks twice"):
        fit(model, prune, prune)
    assert plain(model)
    fit(model, prune, epochs=1)
    assert prune.steps == 8


def test_step_and_finish_need_a_model():
    for name in ("step", "finish"):
        with pytest.raises(ModelError, match="is not attached"):
            getattr(Prune(0.5), name)()


def test_no_prunable_layer():
    model = keras.Sequential([keras.Input((8,)), L.BatchNormalization(), L.Flatten()])
    model.compile("sgd", "mse")
    with pytest.raises(ModelError, match="no layer with a kernel that can be pruned"):
        model.fit(np.zeros((4, 8)), np.zeros((4, 8)), verbose=0, callbacks=[Prune(0.5)])
    assert plain(model)


class Stop(RuntimeError):
    pass


class StopAt(keras.callbacks.Callback):
    def __init__(self, step):
        super().__init__()
        self.left = step

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise Stop


def test_an_exception_in_the_middle_then_finish_by_hand():
    model = network(eager=True)
    model.get_layer("one").kernel.constraint = own = keras.constraints.MaxNorm(9.0)
    prune = pruner()
    with pytest.raises(Stop):
        fit(model, prune, StopAt(6))
    assert plain(model) and model.get_layer("one").kernel.constraint is own
    with pytest.raises(ModelError, match=r"After a `fit` that failed, attach\(model\).finish\(\)"):
        prune.finish()
    report = prune.attach(model).finish()
    assert shares(model) == asked(schedule()(5)) and report.notes[0].startswith("Training ended at step 6")
    assert model.get_layer("one").kernel.constraint is own and plain(model)
    assert model.get_layer("two").kernel.constraint is None


def test_an_exception_then_another_fit():
    model = network(eager=True)
    prune = Prune(ConstantRatio(0.5, 3), frequency=1)
    with pytest.raises(Stop):
        fit(model, prune, StopAt(6))
    fit(model, prune, epochs=1)
    assert prune.steps == 14 and shares(model, NAMES) == [0.5, 0.5] and plain(model)
