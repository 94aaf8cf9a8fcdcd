"""A teacher in every way to train, beside every compressor; the student is plain Keras afterwards."""

import contracts
import keras
import numpy as np
import pytest
import tensorflow as tf
from sweeps import sweep

from tfstruct import surgery
from tfstruct.callbacks import Prune, PruneChannels, QuantizeAware
from tfstruct.distill import Attention, Distill, Features, Logits, Relational
from tfstruct.errors import ModelError

L = keras.layers


def student(**compiled):
    return contracts.network(optimizer=keras.optimizers.Adam(3e-3), **compiled)


def wide(width=12, seed=1):
    """A teacher of other width; its layers are called as the student's."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)), L.Conv2D(width, 3, padding="same", name="conv"), L.ReLU(name="relu"),
            L.AveragePooling2D(2, name="pool"), L.Flatten(name="flat"), L.Dense(4, name="logits"),
        ]
    )  # fmt: skip


def everything():
    return [Logits(2.0), Features("relu"), Attention("relu"), Relational()]


def trained(way="fit", epochs=3, taught=None, extra=(), build=student):
    """The student, the Distill and the losses by epoch; "tape" is a loop that weighs both losses by a half."""
    taught = taught or Distill(wide(), everything())
    model = contracts.built(build, way)
    if way != "tape":
        return model, taught, contracts.go_on(model, way, epochs, [*extra, taught])
    for compressor in (*extra, taught):
        compressor.attach(model)
    model.optimizer.build(model.trainable_variables)

    @tf.function
    def step(inputs, labels):
        with tf.GradientTape() as tape:
            outputs = model(inputs, training=True)
            loss = 0.5 * model.loss(labels, outputs) + 0.5 * taught.loss(inputs, outputs)
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    losses = []
    for _ in range(epochs):
        found = []
        for batch in tf.data.Dataset.from_tensor_slices(contracts.data()).batch(contracts.BATCH):
            found.append(float(step(*batch)))
            for compressor in (*extra, taught):
                compressor.step()
        losses.append(np.mean(found))
    for compressor in (taught, *extra):
        compressor.finish()
    assert step.experimental_get_tracing_count() == 1
    return model, taught, losses


@pytest.fixture(scope="module")
def by_fit():
    """What two epochs of `fit` make, which the others have to make too."""
    return trained("fit", 2)


@pytest.mark.parametrize("way", sweep(contracts.WAYS, ["jit", "mixed_float16", "mirrored"]))
@pytest.mark.sweep(1)
def test_ways_to_train(way, second_device):
    compared = [Logits(2.0), Features("relu")] if way == "jit" else everything()  # XLA takes its time
    model, taught, losses = trained(way, 2, Distill(wide(), compared))
    assert losses[-1] < losses[0]
    assert taught.steps == 2 * 4 and len(taught.report.history) == (2 if way != "tape" else 1)
    assert_plain(model)
    if way == "mirrored":
        contracts.assert_replicas_agree(model)


def assert_plain(model):
    assert not {"compute_loss", "compute_metrics"} & set(vars(model))
    assert not any("call" in vars(layer) for layer in model.layers)
    assert len(model.variables) == len(student().variables)


def test_a_loop_by_hand_is_the_same_training(by_fit):
    by_hand = trained("tape", 2)
    np.testing.assert_allclose(by_fit[2], by_hand[2], rtol=1e-5)
    assert by_fit[2][-1] < by_fit[2][0]
    for a, b in zip(by_fit[0].get_weights(), by_hand[0].get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    for model in (by_fit[0], by_hand[0]):
        assert_plain(model)


@pytest.mark.slow
def test_two_replicas_are_the_same_training_as_one(second_device):
    def build():  # batch norm, by replica, is another training
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [keras.Input((8, 8, 2)), L.Conv2D(8, 3, padding="same", name="relu"), L.Flatten(), L.Dense(4)]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.05), loss, jit_compile=False)
        return model

    losses = [Logits(2.0), Features("relu"), keras.distillation.FeatureDistillation(keras.losses.MeanSquaredError())]
    one, two = (trained(way, 1, Distill(wide(), losses), build=build) for way in ("fit", "mirrored"))
    for a, b in zip(one[0].get_weights(), two[0].get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    for name, value in one[1].report.history[-1][1].items():
        assert two[1].report.history[-1][1][name] == pytest.approx(value, rel=1e-4), name


def test_the_loss_by_hand():
    x, y = contracts.data()
    weights = np.linspace(0.5, 1.5, len(x)).astype("float32")
    teacher, model = wide(), student(run_eagerly=True)
    model.get_layer("logits").kernel.regularizer = keras.regularizers.L2(0.1)
    penalty = 0.1 * np.sum(model.get_layer("logits").kernel.numpy() ** 2)
    before = keras.models.clone_model(model)
    before.set_weights(model.get_weights())
    outputs = before(x, training=True).numpy()
    supervised = model.loss(y, outputs, sample_weight=weights).numpy()
    divergence = float(Logits(2.0).compute_loss(teacher(x), outputs))
    squared = np.mean((teacher(x) - outputs) ** 2)
    taught = Distill(teacher, [Logits(2.0), Features()], weights=[2, 3], student_loss_weight=0.3)
    history = model.fit(x, y, sample_weight=weights, batch_size=64, verbose=0, callbacks=[taught]).history
    assert history["distillation_loss"] == pytest.approx([2 * divergence + 3 * squared], rel=1e-4)
    assert history["student_loss"] == pytest.approx([supervised + penalty], rel=1e-4)
    wanted = 0.3 * supervised + 0.7 * (2 * divergence + 3 * squared) + penalty
    assert history["loss"] == pytest.approx([wanted], rel=1e-4)


def test_evaluation_is_as_it_was():
    model = student(metrics=["accuracy"], run_eagerly=True)
    x, y = contracts.data()
    plain = model.evaluate(x, y, verbose=0)
    taught = Distill(wide(), everything()).attach(model)
    assert model.evaluate(x, y, verbose=0) == plain
    history = model.fit(x, y, validation_data=(x, y), verbose=0, callbacks=[taught]).history
    assert set(history) == {
        "accuracy", "loss", "val_accuracy", "val_loss", "distillation_loss", "student_loss",
    }  # fmt: skip


def test_the_student_is_run_once():
    x, y = contracts.data()
    plain, model = student(), student()
    plain(x, training=True)
    taught = Distill(wide(), everything()).attach(model)
    model.compute_loss(x, y, model(x, training=True))
    taught.step()
    for a, b in zip(plain.get_layer("norm").variables, model.get_layer("norm").variables, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


# Beside compressors


def dense(**compiled):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((8, 8, 2)), L.Flatten(), L.Dense(12, activation="tanh", name="hidden"), L.Dense(4, name="logits")]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, **{"jit_compile": False, **compiled})
    return model


@pytest.mark.parametrize(
    ("way", "first"),
    sweep([(way, first) for way in ("fit", "tape") for first in (True, False)], [("fit", True), ("tape", False)]),
)
def test_quantized_values_are_compared(way, first):
    def compressors():
        pair = [Distill(None, [Features("hidden"), Features()]), QuantizeAware()]
        return pair if first else pair[::-1]

    model = dense()
    x, y = contracts.data()
    pair = compressors()
    taught = pair[0] if first else pair[1]
    if way == "fit":
        model.fit(x, y, batch_size=64, verbose=0, callbacks=pair)
    else:
        for compressor in pair:
            compressor.attach(model)
        with tf.GradientTape() as tape:
            taught.loss(x, model(x, training=True))
        del tape
        for compressor in pair:
            compressor.step()
            compressor.finish()
    # Student and teacher are the same before the first update, but for the rounding.
    found = taught.report.history[0][1]
    assert 0 < found["Features"] < 1e-3 and 0 < found["Features 2"] < 1e-2
    assert "call" not in vars(model) and "call" not in vars(model.get_layer("hidden"))


def test_without_rounding_a_copy_agrees():
    model = dense()
    x, y = contracts.data()
    taught = Distill(None, [Features("hidden"), Features(), Logits()])
    model.fit(x, y, batch_size=64, verbose=0, callbacks=[taught])
    assert max(taught.report.history[0][1][name] for name in ("Features", "Features 2", "Logits")) < 1e-7


@pytest.mark.parametrize("kind", sweep([Prune, PruneChannels], [PruneChannels]))
def test_the_teacher_is_the_model_before_it_is_pruned(kind):
    model = student()
    x, y = contracts.data()
    before = model(x).numpy()
    taught, pruner = Distill(), Prune(0.5) if kind is Prune else PruneChannels({"macs": 0.6}, frequency=2)
    model.fit(x, y, batch_size=16, epochs=3, verbose=0, callbacks=[pruner, taught])  # pruned first, taught then
    np.testing.assert_allclose(taught.teacher(x), before, rtol=1e-5, atol=1e-6)
    assert np.mean(model.get_layer("conv").kernel.numpy() == 0) >= 0.2
    if kind is PruneChannels:
        shrunk = surgery.shrink(model)
        again = Distill(taught.teacher, Features(["conv", "relu"]), kept=shrunk.kept)
        shrunk.model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
        shrunk.model.fit(x, y, verbose=0, callbacks=[again])
        assert (
            again.report.losses[0].where == "conv (4 of the teacher's 8 channels), relu (4 of the teacher's 8 channels)"
        )


# Layers and channels


def residual():
    inputs = keras.Input((8, 8, 2))
    x = L.Conv2D(12, 3, padding="same", name="stem")(inputs)
    y = L.Conv2D(16, 3, padding="same", activation="relu", name="inner")(x)
    x = L.Add(name="join")([x, L.Conv2D(12, 1, name="back")(y)])
    inside = keras.Input((8, 8, 12))
    head = keras.Model(inside, L.GlobalAveragePooling2D(name="pool")(L.ReLU(name="act")(inside)), name="head")
    return keras.Model(inputs, L.Dense(4, name="logits")(head(x)), name="residual")


def test_channels_are_matched_by_the_plan():
    keras.utils.set_random_seed(0)
    teacher = residual()
    plan = surgery.plan_channels(teacher, 0.5)
    smaller = surgery.apply(teacher, plan)
    taught = Distill(teacher, Features(["stem", "inner", "join", "head/act", "head/pool"]), kept=plan).attach(smaller)
    pairs = {pair.student: pair for pair in taught._pairs[0]}
    for name, axis in (("stem", 3), ("join", 3), ("head/act", 3), ("head/pool", 1)):
        assert {k: v.tolist() for k, v in pairs[name].selected.items()} == {axis: plan.keep["stem"]}
    assert pairs["inner"].selected[3].tolist() == plan.keep["inner"] and len(plan.keep["inner"]) == 8
    taught.finish()
    # What the first layer makes is the same in both.
    x, _ = contracts.data()
    smaller.compile("sgd", run_eagerly=True)
    first = Distill(teacher, Features("stem"), kept=plan, student_loss_weight=0)
    history = smaller.fit(x, batch_size=64, verbose=0, callbacks=[first]).history
    assert history["distillation_loss"][0] < 1e-10 and "student_loss" not in history


def test_a_map_is_learned_where_widths_differ():
    teacher, model = wide(), student(run_eagerly=True)
    theirs = keras.distillation.FeatureDistillation(teacher_layer_name="conv", student_layer_name="relu")
    taught = Distill(teacher, [Features({"relu": "conv"}), theirs], projection_rate=0.01).attach(model)
    kernel = taught._projections[0].kernel
    assert tuple(kernel.shape) == (8, 12)
    np.testing.assert_allclose(kernel @ keras.ops.transpose(kernel), np.eye(8), atol=1e-5)
    start = kernel.numpy()
    x, y = contracts.data()
    relu = keras.Model(model.inputs, model.get_layer("relu").output)
    wanted = np.mean((relu(x, training=True) @ kernel - keras.Model(teacher.inputs, teacher.layers[0].output)(x)) ** 2)
    model.fit(x, y, batch_size=64, verbose=0, callbacks=[taught])
    assert taught.report.history[0][1]["Features"] == pytest.approx(wanted, rel=1e-3)
    assert taught.report.history[0][1]["FeatureDistillation"] == pytest.approx(wanted, rel=1e-3)
    assert np.abs(kernel.numpy() - start).max() == pytest.approx(0.01, rel=0.01)  # the first step of Adam
    assert taught.report.losses[0].where == "relu of conv (learned map of 8 channels to 12)"


def test_nested_shared_and_several_outputs():
    def build(width):
        a, b = keras.Input((8, 8, 2), name="a"), keras.Input((8, 8, 2), name="b")
        shared = keras.Sequential([keras.Input((8, 8, 2)), L.Conv2D(width, 3, name="conv")], name="shared")
        x = L.Flatten()(L.Concatenate()([shared(a), shared(b)]))
        return keras.Model(
            {"a": a, "b": b}, {"x": L.Dense(4, name="x")(x), "y": L.Dense(3, activation="softmax", name="y")(x)}
        )

    x, y = contracts.data()
    keras.utils.set_random_seed(0)
    teacher, model = build(6), build(4)
    cross = keras.losses.SparseCategoricalCrossentropy
    model.compile(keras.optimizers.Adam(0.01), {"x": cross(from_logits=True), "y": cross()}, run_eagerly=True)
    taught = Distill(teacher, [Logits(), Attention("shared/conv"), Relational("shared/conv")])
    data = {"a": x, "b": x[::-1]}, {"x": y, "y": y % 3}
    losses = model.fit(*data, epochs=4, verbose=0, callbacks=[taught]).history["distillation_loss"]
    assert losses[-1] < losses[0]


class Own(keras.Model):
    def __init__(self, width):
        super().__init__()
        self.hidden, self.out = L.Dense(width, activation="relu"), L.Dense(4)
        self.flat = L.Flatten()

    def call(self, x):
        return self.out(self.hidden(self.flat(x)))


def test_subclassed_models():
    x, y = contracts.data()
    teacher, model = Own(6), Own(6)
    teacher(x), model(x)
    name = model.hidden.name
    losses = [Logits(teacher_outputs="logits", student_outputs="logits"), Features({name: teacher.hidden.name})]
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    history = model.fit(x, y, epochs=3, verbose=0, callbacks=[Distill(teacher, losses)]).history
    assert history["distillation_loss"][-1] < history["distillation_loss"][0]
    narrow = Own(3)
    narrow(x)
    narrow.compile("adam", run_eagerly=True)
    with pytest.raises(ModelError, match="both models need a graph"):
        narrow.fit(
            x,
            verbose=0,
            callbacks=[Distill(teacher, Features({narrow.hidden.name: teacher.hidden.name}), student_loss_weight=0)],
        )
    with pytest.raises(ModelError, match="cannot be copied"):
        Distill().attach(teacher)


# Going on


@pytest.mark.slow
def test_killed_and_resumed(by_fit, tmp_path):
    whole = by_fit[0]

    class Killed(Exception):
        pass

    def kill(epoch, logs):
        raise Killed

    def backup():
        return keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))

    first = student()
    with pytest.raises(Killed):
        taught = Distill(wide(), everything())
        contracts.go_on(first, "fit", 2, [taught, backup(), keras.callbacks.LambdaCallback(on_epoch_end=kill)])
    second, taught = student(), Distill(wide(), everything())
    contracts.go_on(second, "fit", 2, [taught, backup()])
    assert taught.steps == 8
    for a, b in zip(whole.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("first", [True, False], ids=["the backup before it", "behind it"])
def test_a_report_has_the_epochs_before_a_kill(tmp_path, first):
    def go(folder, stop=None):
        taught = Distill(wide())
        backup = keras.callbacks.BackupAndRestore(str(tmp_path / folder))
        kill = keras.callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: 1 / (taught.steps - stop))
        callbacks = [backup, taught] if first else [taught, backup]
        contracts.go_on(dense(run_eagerly=True), "fit", 3, [*callbacks, *([] if stop is None else [kill])])
        return taught.report

    whole = go("whole")
    with pytest.raises(ZeroDivisionError):
        go("killed", 10)
    again = go("killed")
    assert [step for step, _ in again.history] == [4, 8, 12] and again.history == whole.history


def test_saved_loaded_and_trained_further(tmp_path):
    def taught():
        return Distill(wide(), [Logits(2.0), Features({"hidden": "flat"})])

    def build():
        return dense(run_eagerly=True)

    whole, _, _ = trained("fit", 2, taught(), build=build)
    half, same, _ = trained("fit", 1, taught(), build=build)
    half.save(tmp_path / "half.keras")
    loaded = keras.models.load_model(tmp_path / "half.keras")
    contracts.go_on(half, "fit", 1, [same])
    assert same.steps == 8 and len(same.report.history) == 2
    for a, b in zip(whole.get_weights(), half.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    contracts.go_on(loaded, "fit", 1, [taught()])  # a new teacher for the plain file, a new map
    for a, b in zip(whole.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0.1, atol=0.01)


def test_report(by_fit):
    report = by_fit[1].report
    assert "sequential" in str(report) and "50% of the loss" in str(report)
    assert "relu (learned map of 8 channels to 12)" in str(report)
    assert report.table().row_count == 4
    data = report.to_dict()
    assert [row["step"] for row in data["history"]] == [4, 8] and data["losses"][1]["name"] == "Features"
    assert len(report.plot().axes[0].lines) == 6
    assert '"student_loss_weight": 0.5' in report.to_json()


# What is refused


def test_a_step_without_the_teacher():
    model = student()
    taught = Distill(wide()).attach(model)
    with pytest.raises(ModelError, match="no part in the training step"):
        taught.step()


def test_loss_without_the_student():
    model = student()
    x, _ = contracts.data()
    taught = Distill(wide(), Features("relu"))
    with pytest.raises(ModelError, match="not attached"):
        taught.loss(x, model(x))
    taught.attach(model)
    with pytest.raises(ModelError, match="Features compares relu, which was not run"):
        taught.loss(x, np.zeros((64, 4), "float32"))
    with pytest.raises(ValueError, match="the losses look at relu: leave them out"):
        taught.loss(x, model(x), teacher_outputs=np.zeros((64, 4), "float32"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (lambda m: {"teacher": m}, "shares layers with the student"),
        (lambda m: {"teacher": keras.Model(m.inputs, m.get_layer("relu").output)}, "shares layers with the student"),
        (lambda m: {"teacher": wide(), "losses": Features("nothing*")}, "No layer of .* is called nothing"),
        (lambda m: {"teacher": wide(), "losses": Features("norm")}, "has no layer norm"),
        (
            lambda m: {"teacher": wide(), "losses": Features({"relu": "pool"})},
            r"relu makes values of shape \(8, 8, 8\)",
        ),
        (lambda m: {"teacher": wide(), "losses": Features("relu"), "kept": {"conv": [0, 1]}}, "By `kept` relu has"),
    ],
)
def test_models_that_do_not_fit(arguments, said):
    model = student()
    with pytest.raises(ModelError, match=said):
        Distill(**arguments(model)).attach(model)
    assert "compute_loss" not in vars(model)


def test_bad_arguments():
    with pytest.raises(ModelError, match=r"Expected a keras\.Model as teacher"):
        Distill("teacher")
    with pytest.raises(ValueError, match="Expected losses such as"):
        Distill(wide(), "logits")
    with pytest.raises(ValueError, match=r"Give Logits\(3.0\)"):
        Distill(wide(), keras.distillation.LogitsDistillation())
    with pytest.raises(ValueError, match="`weights` must be 1 numbers"):
        Distill(wide(), weights=[1, 2])
    with pytest.raises(ValueError, match=r"`student_loss_weight` must be a number in \[0, 1\]. Received: 1.5"):
        Distill(wide(), student_loss_weight=1.5)
    model = student()
    Distill(wide()).attach(model)
    with pytest.raises(ModelError, match="learns from the teacher of another Distill"):
        Distill(wide()).attach(model)
