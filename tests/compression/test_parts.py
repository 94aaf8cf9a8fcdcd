"""What a compression is made of: data, the aim of training, quality, soft targets, training that goes on."""

import types

import contracts
import keras
import numpy as np
import pytest
import tensorflow as tf

from tfstruct.augment import Pipeline
from tfstruct.compression.dataset import Examples, Stream, open_data
from tfstruct.compression.distillation import distillation_callbacks
from tfstruct.compression.execution import with_epochs
from tfstruct.compression.objective import objective
from tfstruct.compression.quality import agreement, quality
from tfstruct.compression.sizing import graph_limits
from tfstruct.compression.steps import Optimize, PruneChannels, Quantize
from tfstruct.compression.training import fit
from tfstruct.errors import BudgetError, DataError
from tfstruct.graph import trace
from tfstruct.samples.ports import Ports

layers = keras.layers


def two_and_two(outputs: str = "list") -> keras.Model:
    """Two inputs, and two outputs: classes and a value."""
    keras.utils.set_random_seed(0)
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    x = layers.Dense(8, activation="relu", name="hidden")(layers.Concatenate()([a, b]))
    kind, size = layers.Dense(3, activation="softmax", name="kind")(x), layers.Dense(1, name="size")(x)
    return keras.Model([a, b], {"kind": kind, "size": size} if outputs == "dict" else [kind, size])


def some(count: int = 40):
    rng = np.random.default_rng(0)
    x = {"a": rng.normal(size=(count, 4)).astype("float32"), "b": rng.normal(size=(count, 3)).astype("float32")}
    return x, {"kind": rng.integers(0, 3, count), "size": rng.normal(size=(count, 1)).astype("float32")}


@pytest.mark.parametrize("outputs", ["list", "dict"])
def test_several_inputs_and_outputs_from_arrays_and_from_tf_data(outputs):
    model = two_and_two(outputs)
    ports, (x, y) = Ports(model), some()
    memory = open_data((x, y), ports)
    stream = open_data(tf.data.Dataset.from_tensor_slices((x, y)).batch(8), ports)
    assert isinstance(memory, Examples) and isinstance(stream, Stream)
    assert memory.steps(8) == stream.steps(8) == 5
    expected = keras.tree.flatten(model([x["a"], x["b"]]))
    for data in (memory, stream):
        aim = objective(trace(model), data.take(8).labels)
        assert aim.kinds == ("probabilities", "values")
        model.compile("sgd", loss=aim.loss)
        assert np.isfinite(model.evaluate(data.batches(range(1), 8, 0), steps=5, verbose=0, return_dict=True)["loss"])
    for got, want in zip(keras.tree.flatten(model(memory.x)), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)
    with pytest.raises(DataError, match="Expected labels for the outputs"):
        open_data((x, {"kind": y["kind"]}), ports)


def test_the_order_of_an_epoch_depends_on_seed_and_epoch_alone():
    model = contracts.network()
    x, y = contracts.data(40)
    data = open_data((x, y), Ports(model))

    def labels(epochs):
        return [batch[1].numpy().tolist() for batch in data.batches(epochs, 16, 3)]

    whole = labels(range(3))
    assert len(whole) == 6 and all(len(batch) == 16 for batch in whole)
    assert whole[2:] == labels(range(1, 3)) and whole[:2] != whole[2:4]
    assert sorted([*whole[0], *whole[1]]) != sorted(y.tolist())  # the rest of 8 waits for another order


def test_endless_and_missing_data():
    ports = Ports(contracts.network())
    x, y = contracts.data(8)
    with pytest.raises(DataError, match="without end"):
        open_data(tf.data.Dataset.from_tensor_slices((x, y)).repeat(), ports)
    with pytest.raises(DataError, match="expected shape"):
        open_data((x[:, :4], y), ports)


@pytest.mark.parametrize(
    "activation, width, labels, loss, kind",
    [
        ("softmax", 3, np.array([0, 2, 1]), "SparseCategoricalCrossentropy", "probabilities"),
        (None, 3, np.array([0, 2, 1]), "SparseCategoricalCrossentropy", "logits"),
        ("softmax", 3, np.eye(3, dtype="float32"), "CategoricalCrossentropy", "probabilities"),
        ("sigmoid", 1, np.array([0, 1, 1]), "BinaryCrossentropy", "probability"),
        (None, 1, np.array([0, 1, 1]), "BinaryCrossentropy", "values"),
        (None, 2, np.array([[0.5, 7.0]] * 3, "float32"), "MeanSquaredError", "values"),
    ],
)
def test_the_loss_that_labels_and_activation_call_for(activation, width, labels, loss, kind):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(width, activation=activation)])
    aim = objective(trace(model), labels)
    assert (type(aim.loss).__name__, aim.kinds) == (loss, (kind,))
    if loss.endswith("Crossentropy") and activation is None:
        assert aim.loss.get_config()["from_logits"]
    model.compile(loss="mae", metrics=["mse"])
    aim = objective(trace(model), labels)
    assert (aim.loss, aim.metrics) == ("mae", ["mse"])
    assert objective(trace(model), labels, "mse").loss == "mse"
    assert objective(trace(model), None).loss is None


def test_losses_and_weights_by_name_of_a_model_whose_outputs_are_a_list():
    model = two_and_two()
    model.compile(
        loss={"size": "mse", "kind": "sparse_categorical_crossentropy"}, loss_weights={"kind": 1.0, "size": 0.5}
    )
    data = open_data(some(), Ports(model))
    aim = objective(trace(model), data.labels)
    assert (aim.loss, aim.weights) == (["sparse_categorical_crossentropy", "mse"], [1.0, 0.5])
    found = quality(trace(model), data, aim)
    assert (found.name, found.greater_is_better) == ("loss", False)
    outputs = model.predict(data.x, verbose=0)
    assert found.measure(data.labels, outputs) == pytest.approx(
        model.evaluate(data.x, data.labels, verbose=0, return_dict=True)["loss"], rel=1e-5
    )


def test_quality_by_metric():
    model = contracts.network(metrics=["sparse_top_k_categorical_accuracy"])
    graph, (x, y) = trace(model), contracts.data(32)
    data = open_data((x, y), Ports(model))
    aim, outputs = objective(graph, data.labels), model.predict(x, verbose=0)
    right = float(np.mean(outputs.argmax(1) == y))

    def measured(metric, greater=None):
        found = quality(graph, data, aim, metric, greater)
        return found.name, found.greater_is_better, found.measure(data.labels, outputs)

    assert measured(None) == ("accuracy", True, right)
    assert measured("sparse_top_k_categorical_accuracy") == ("sparse_top_k_categorical_accuracy", True, 1.0)
    accuracy = keras.metrics.SparseCategoricalAccuracy(name="mine")
    assert measured(accuracy, True) == ("mine", True, pytest.approx(right))
    assert measured(lambda y, out: np.mean(out.argmax(1) != y), False)[1:] == (False, pytest.approx(1 - right))
    with pytest.raises(ValueError, match="Is more of the metric"):
        measured(lambda y, out: 0.0)
    with pytest.raises(ValueError, match="`metric` must be one of accuracy, loss"):
        measured("nonsense")


def test_without_labels_quality_is_agreement_with_the_model_itself():
    model = two_and_two()
    data = open_data(some()[0], Ports(model))
    aim = objective(trace(model), None)
    found = quality(trace(model), data, aim)
    out = [np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([[3.0], [4.0]])]
    assert found.name == "agreement" and found.measure(out, out) == 1.0
    other = [np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([[3.0], [1.0]])]
    assert agreement(("probabilities", "values"), out, other) == pytest.approx((0.5 + 1 - 9 / 25) / 2)
    with pytest.raises(DataError, match="needs labels"):
        quality(trace(model), data, aim, "accuracy")


def test_the_teacher_of_every_kind_of_output_by_hand():
    """One batch: T^2 KL of softened classes, and the squared difference of values."""
    student, teacher = two_and_two(), two_and_two()
    teacher.set_weights([2 * w for w in teacher.get_weights()])
    data = open_data(some(), Ports(student))
    aim = objective(trace(student), data.labels)
    (distill,) = distillation_callbacks(teacher, student, aim, 0.3, 2.0)
    assert distill.student_loss_weight == pytest.approx(0.7)
    (p, t), (q, s) = ([out.numpy().astype("float64") for out in m(data.x)] for m in (teacher, student))
    p, q = (np.sqrt(x) / np.sqrt(x).sum(1, keepdims=True) for x in (p, q))  # softmax(log p / 2)
    expected = 4 * np.mean((p * np.log(p / q)).sum(1)) + np.mean((t - s) ** 2)
    distill.attach(student)
    assert float(distill.loss(data.x, student(data.x))) == pytest.approx(expected, rel=1e-4)
    distill.finish()
    assert distillation_callbacks(teacher, student, aim, 0.0, 2.0) == []
    (alone,) = distillation_callbacks(teacher, student, objective(trace(student), None), 0.0, 2.0)
    assert alone.student_loss_weight == 0.0


def test_what_leaves_residual_blocks_is_compared_whatever_the_widths():
    def network(width: int, join: str = "join") -> keras.Model:
        inputs = keras.Input((8, 8, 2))
        x = layers.Conv2D(width, 3, padding="same", name="stem")(inputs)
        x = layers.Add(name=join)([x, layers.Conv2D(width, 3, padding="same", name="branch")(x)])
        x = layers.GlobalAveragePooling2D(name="pool")(x)
        x = layers.Add(name="flat")([x, layers.Dense(width, name="dense")(x)])  # without positions
        return keras.Model(inputs, layers.Dense(4, activation="softmax", name="classes")(x))

    teacher = network(8)
    aim = objective(trace(teacher), np.array([0, 1]))
    for student in (network(8), network(6)):
        (distill,) = distillation_callbacks(teacher, student, aim, 0.5, 4.0)
        distill.attach(student)
        assert {name: loss.layers for name, loss in distill.losses.items() if name != "Logits"} == {
            "Features": {"join": "join"}, "Attention": {"join": "join"}
        }  # fmt: skip
    (distill,) = distillation_callbacks(teacher, network(8, "other"), aim, 0.5, 4.0)  # whose block is another one
    assert list(distill.losses) == ["Logits"]


def test_training_goes_on_as_if_it_had_not_been_stopped(tmp_path):
    x, y = contracts.data(64)

    class Killed(Exception):
        pass

    noise = Pipeline((lambda x, draws: x + 0.1 * draws.normal(tf.shape(x)),))

    def trained(folder, stop_at=None):
        model, teacher = contracts.network(layers.Dropout(0.3, seed=7)), contracts.network(seed=5)
        data = open_data((x, y), Ports(model))
        aim = objective(trace(model), data.labels)
        steps = types.SimpleNamespace(seen=0)

        def on_step():
            steps.seen += 1
            if steps.seen == stop_at:
                raise Killed

        history = fit(
            model, data, aim=aim, epochs=3, batch_size=16, rate=keras.optimizers.schedules.CosineDecay(1e-2, 12),
            seed=4, folder=folder, callbacks=distillation_callbacks(teacher, model, aim, 0.5, 3.0), augment=noise,
            on_step=on_step,
        )  # fmt: skip
        return model.get_weights(), history

    whole, history = trained(tmp_path / "whole")
    with pytest.raises(Killed):
        trained(tmp_path / "stopped", stop_at=6)  # in the second epoch
    on, again = trained(tmp_path / "stopped")
    assert again == history and len(history) == 3
    for a, b in zip(whole, on, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(whole, trained(tmp_path / "whole")[0], strict=True):  # after the end
        np.testing.assert_array_equal(a, b)
    assert sorted(p.name for p in (tmp_path / "whole").iterdir()) == ["epoch-0003.weights.h5", "training.json"]


def test_epochs_are_shared_out():
    def counts(steps, total):
        return [step.epochs for step in with_epochs(steps, total)]

    assert counts([Optimize(), PruneChannels(), Quantize()], 10) == [0, 7, 3]
    assert counts([PruneChannels(), Quantize()], 1) == [1, 0]
    assert counts([PruneChannels(epochs=2), Quantize()], 10) == [2, 8]
    assert counts([PruneChannels(), PruneChannels(), Quantize()], 4) == [1, 2, 1]
    assert counts([PruneChannels(epochs=5), Quantize()], 3) == [5, 0]


def test_an_arena_cannot_be_limited_by_an_unknown_peak_memory():
    class Hidden(layers.Layer):
        def call(self, x):
            return tf.ensure_shape(tf.numpy_function(lambda a: a, [x], tf.float32), (None, 4))

    model = keras.Sequential([keras.Input((4,)), layers.Dense(4), Hidden(name="hidden")])
    task = types.SimpleNamespace(
        graph=trace(model),
        limits=types.SimpleNamespace(figures={"arena_bytes": 500.0}),
        original=types.SimpleNamespace(macs=None, params=20, peak_memory=None),
        plain=types.SimpleNamespace(arena_bytes=1000),
        measure=types.SimpleNamespace(reference_us=1.0),
    )
    with pytest.raises(BudgetError, match=r"`arena_bytes`.*hidden.*Limit `tflite_bytes`"):
        graph_limits(task)
