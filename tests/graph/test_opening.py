"""Opened models against the originals: values, gradients, pruned against masked, files; what stays closed and why."""

import threading

import custom_layers
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from oracle import assert_equal, assert_pruned_equals_masked

from tfstruct import surgery, to_tflite
from tfstruct.errors import ModelError
from tfstruct.graph import groups, is_training_only, trace
from tfstruct.graph.opening import open_model


def free(graph) -> int:
    return sum(len(group.free) for group in groups(graph))


def arrays(outputs) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(x) for x in keras.tree.flatten(outputs)]


@pytest.mark.parametrize("name", custom_layers.OPENED)
class TestOpened:
    @pytest.mark.sweep(9)
    def test_outputs_gradients_and_pruned_models(self, name):
        model = custom_layers.build(name)
        x = custom_layers.inputs_of(model)
        model(x)  # Keras notes first calls in the layers
        before = {id(layer): dict(vars(layer)) for layer in model._flatten_layers()}
        found = open_model(model)
        assert found.opened and not found.closed
        assert_equal(arrays(model(x)), arrays(found.model(x)))

        def gradients(of):
            with tf.GradientTape() as tape:
                loss = sum(tf.reduce_sum(tf.square(y)) for y in keras.tree.flatten(of(x)))
            return [tf.convert_to_tensor(g).numpy() for g in tape.gradient(loss, model.trainable_variables)]

        assert_equal(gradients(model), gradients(found.model), 1e-4)
        assert {id(v) for v in found.model.trainable_variables} == {id(v) for v in model.trainable_variables}
        for layer in model._flatten_layers():  # the original is as it was
            assert not vars(layer).keys() & {"call", "symbolic_call"}
            kept = {key: value for key, value in before[id(layer)].items() if key != "_called"}
            assert all(vars(layer)[key] is value for key, value in kept.items())

        graph = trace(found.model)
        assert not [call.path for call in graph.calls if call.opaque]
        assert free(graph) > free(trace(model))
        assert_pruned_equals_masked(found.model, inputs=keras.ops.convert_to_tensor(x))

    @pytest.mark.sweep(7)
    def test_files(self, name, tmp_path):
        model = custom_layers.build(name)
        x = custom_layers.inputs_of(model)
        opened = open_model(model).model
        opened.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras", custom_objects={"DropPath": custom_layers.DropPath})
        assert len(loaded.weights) == len(opened.weights) == len(model.weights)
        assert_equal(arrays(model(x)), arrays(loaded(x)))


class _Cell(custom_layers.MinimalCell):
    def get_initial_state(self, batch_size=None):
        return [keras.ops.ones((batch_size, self.units))]


@pytest.mark.parametrize(
    "loop, why",
    [
        (lambda: layers.RNN(_Cell(name="cell"), name="loop"), "it starts from states that are not zero"),
        (lambda: layers.RNN(custom_layers.MinimalCell(name="cell"), stateful=True, name="loop"), "keeps its states"),
    ],
)
def test_loops_that_stay_closed(loop, why):
    inputs = keras.Input(batch_shape=(3, 5, 4))
    model = custom_layers.randomized(keras.Model(inputs, layers.Dense(2)(loop()(inputs))))
    found = open_model(model)
    assert not found.opened and why in found.closed["loop/cell"]


def test_states_and_masks_of_opened_loops():
    """Initial states, states that come out, masks, both directions of time; a cell that is called by two layers."""
    keras.utils.set_random_seed(0)
    ids, state = keras.Input((7,), dtype="int32", name="ids"), keras.Input((6,), name="state")
    x = layers.Embedding(12, 8, mask_zero=True)(ids)
    first = layers.RNN(custom_layers.MinimalCell(name="cell"), return_sequences=True, return_state=True, name="first")
    x, last = first(x, initial_state=[layers.Dense(6, activation="tanh", name="start")(state)])
    second = layers.RNN(custom_layers.GatedCell(name="gated"), go_backwards=True, name="second")
    outputs = layers.Dense(3, name="head")(layers.Concatenate()([second(x), last]))
    model = custom_layers.randomized(keras.Model({"ids": ids, "state": state}, outputs))
    found = open_model(model)
    assert not found.closed
    rng = np.random.default_rng(0)
    given = {"ids": rng.integers(0, 12, (4, 7)), "state": rng.normal(size=(4, 6)).astype("float32")}
    given["ids"][:, 4:] = 0
    assert_equal(arrays(model(given)), arrays(found.model(given)))
    assert_pruned_equals_masked(found.model, inputs=given)


class _Causal(layers.Layer):
    """A mask and rotations that are computed as numbers from the length."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.project = layers.Dense(8, name="project")

    def build(self, shape):
        self.project.build(shape)

    def call(self, x):
        length = ops.shape(x)[1]
        angles = ops.arange(length, dtype="float32")[:, None] / np.arange(1, 5, dtype="float32")
        a, b = ops.split(self.project(x), 2, axis=-1)
        q = ops.concatenate([a * ops.cos(angles) - b * ops.sin(angles), a * ops.sin(angles) + b * ops.cos(angles)], -1)
        scores = ops.where(ops.tril(ops.ones((length, length))) > 0, ops.matmul(q, ops.swapaxes(q, 1, 2)), -1e9)
        return x + ops.matmul(ops.softmax(scores), q)


@pytest.mark.parametrize("named", [False, True])
def test_a_layer_that_needs_an_open_size_says_what_to_give(named):
    inputs = keras.Input((None, 8), name="x")
    x = _Causal(name="block")(layers.Dense(8, name="first")(inputs))
    model = custom_layers.randomized(keras.Model({"x": inputs} if named else inputs, layers.Dense(2)(x)))
    (why,) = open_model(model).closed.values()
    given = {"x": (None, 64, 8)} if named else (None, 64, 8)
    assert why.endswith(f"where that is one that `inputs` leave open, give it, such as inputs={given}"), why
    found = open_model(model, given)
    assert found.opened == ("block",)
    x = np.random.default_rng(0).normal(size=(3, 64, 8)).astype("float32")
    x = {"x": x} if named else x
    assert_equal(arrays(model(x)), arrays(found.model(x)))
    assert_pruned_equals_masked(found.model, inputs=x)


def test_a_weight_that_is_tied_stays_one(tmp_path):
    model = custom_layers.build("tied")
    opened = open_model(model).model
    assert [len(m.trainable_variables) for m in (model, opened)] == [3, 3]
    smaller = surgery.apply(opened, surgery.plan_channels(opened, "macs=60%"))
    smaller = getattr(smaller, "model", smaller)
    smaller.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    assert len(loaded.trainable_variables) == 3
    loaded.compile("sgd", "mse")
    x = custom_layers.inputs_of(model)
    loaded.fit(x, np.zeros((*x.shape, 20)), verbose=0)
    tables = [v.numpy() for v in loaded.trainable_variables if v.shape[0] == 20]
    assert len(tables) == 1


@pytest.mark.parametrize("reason", custom_layers.CLOSED)
def test_what_stays_closed(reason):
    layer = custom_layers.CLOSED[reason](name="block")
    model = custom_layers.randomized(custom_layers._vector(custom_layers.Feed(name="feed"), layer))
    found = surgery.open_layers(model)
    assert found.opened == ("feed",) and list(found.opaque) == ["block"]
    if reason != "other in training":  # there is no one line of it
        assert "custom_layers.py:" in found.opaque["block"]
    assert "call` computes with Keras layers" in str(found) and found.opaque["block"] in str(found)
    if reason != "random numbers":
        x = custom_layers.inputs_of(model)
        assert_equal(arrays(model(x)), arrays(found.model(x)))


class Restyled(layers.Layer):
    """Statistics of another sample in training, as MixStyle has them; nothing in inference."""

    def call(self, x, training=None):
        if not training:
            return x
        mean = ops.mean(x, axis=-1, keepdims=True)
        return x - mean + ops.flip(mean, axis=0)


def test_a_layer_that_passes_its_input_in_inference_is_none_of_the_file():
    layer = Restyled(name="restyled")
    found = open_model(custom_layers._vector(custom_layers.Feed(name="feed"), layer, layers.Dense(8)))
    assert found.opened == ("feed",) and not found.closed and is_training_only(layer)


class RestyledModel(keras.Model):
    def call(self, x, training=None):
        return x * 2.0 if training else x


class RestyledCell(layers.Layer):
    state_size = output_size = 4

    def __init__(self, random=False, **kwargs):
        super().__init__(**kwargs)
        self.random = random

    def call(self, x, states, training=None):
        y = x
        if training:
            y = x + keras.random.normal((4,)) if self.random else x * 2.0
        return y, [y]


@pytest.mark.parametrize("random", [False, True])
def test_what_passes_its_input_and_is_no_layer_of_a_model_stays_closed(random):
    model = RestyledModel(name="restyled")
    model.build((None, 4))
    with pytest.raises(ModelError, match="'restyled' cannot be opened: in training"):
        open_model(model, (None, 4))
    cell = RestyledCell(random, name="cell")
    looped = keras.Model(x := keras.Input((5, 4)), layers.Dense(3)(layers.RNN(cell)(x)))
    assert "in training" in next(iter(open_model(looped).closed.values()))


def test_a_closed_layer_within_an_opened_one():
    class Outer(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.inner, self.dense = custom_layers.RawTensorFlow(name="inner"), layers.Dense(8, name="dense")

        def build(self, shape):
            self.dense.build(shape)

        def call(self, x):
            return self.inner(self.dense(x))

    model = custom_layers.randomized(custom_layers._vector(Outer(name="outer")))
    found = open_model(model)
    assert found.opened == ("outer",) and list(found.closed) == ["outer/inner"]
    x = custom_layers.inputs_of(model)
    assert_equal(arrays(model(x)), arrays(found.model(x)))


def test_a_layer_that_fails_once_it_is_opened_stays_closed():
    """Keras 3.15 runs `conv_transpose` in a `call`, and mixes up its arguments in a graph."""

    class Upwards(layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(3, 3, 4, shape[-1]), name="kernel")

        def call(self, x):
            return ops.conv_transpose(x, self.kernel, strides=2, padding="same", data_format="channels_last")

    inputs = keras.Input((4, 4, 3))
    x = Upwards(name="up")(custom_layers.Scaled(5, name="scaled")(inputs))
    model = custom_layers.randomized(keras.Model(inputs, x))
    found = open_model(model)
    assert found.opened[0] == "scaled"
    if "up" not in found.opened:
        assert "it fails with AttributeError" in found.closed["up"]


class TestSubclassed:
    def model(self):
        model = custom_layers.Subclassed(name="sub")
        model(np.zeros((1, 8, 8, 3), "float32"))
        return custom_layers.randomized(model)

    @pytest.mark.parametrize("inputs", [(None, 8, 8, 3), np.zeros((2, 8, 8, 3), "float32")])
    def test_it_becomes_functional(self, inputs):
        model = self.model()
        found = surgery.open_layers(model, inputs)
        x = np.random.default_rng(0).normal(size=(5, 8, 8, 3)).astype("float32")
        assert [spec.shape for spec in found.model.inputs] == [(None, 8, 8, 3)]
        assert_equal(arrays(model(x)), arrays(found.model(x)))
        assert_equal(arrays(model(x, training=True)), arrays(found.model(x, training=True)))
        assert_pruned_equals_masked(found.model, inputs=x)

    def test_inputs_are_asked_for(self):
        with pytest.raises(ModelError, match=r"subclassed model .Subclassed.: give `inputs`, the shapes"):
            surgery.open_layers(self.model())

    def test_what_cannot_be_opened(self):
        class Raw(keras.Model):
            def call(self, x):
                return tf.math.cumsum(x)

        with pytest.raises(ModelError, match=r"cannot be opened: ValueError: A KerasTensor cannot.*test_opening.py:"):
            open_model(Raw(), (None, 4))


def test_options_of_weights_and_policies():
    class Own(layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(
                shape=(shape[-1], 5), name="kernel", regularizer="l2", constraint=keras.constraints.MaxNorm(0.5)
            )
            self.still = self.add_weight(shape=(5,), name="still", trainable=False)

        def call(self, x):
            return ops.matmul(x, self.kernel) + self.still

    inputs = keras.Input((4,))
    layer = Own(name="own", dtype="mixed_float16")
    model = keras.Model(inputs, layer(inputs))
    opened = open_model(model).model
    assert [w.path for w in opened.trainable_weights] == [w.path for w in model.trainable_weights]
    assert len(opened.non_trainable_weights) == 1
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    assert opened(x).dtype == model(x).dtype == "float16"
    np.testing.assert_allclose(opened(x), model(x), atol=1e-2)
    copy = keras.models.clone_model(opened)
    kernel = copy.trainable_weights[0]
    assert isinstance(kernel.regularizer, keras.regularizers.L2) and isinstance(
        kernel.constraint, keras.constraints.MaxNorm
    )
    layer.trainable = False
    assert not open_model(model).model.trainable_weights


@pytest.mark.filterwarnings("error:.*mask.*:UserWarning")
@pytest.mark.parametrize("name", ["positions", "masked"])
def test_masks_come_through(name):
    model = custom_layers.build(name)
    x = custom_layers.inputs_of(model)
    x[:, 5:] = 0
    opened = open_model(model).model
    assert_equal(arrays(model(x)), arrays(opened(x)))
    changed = x.copy()
    changed[:, :5] = (changed[:, :5] + 1) % 12 + 1
    assert np.abs(arrays(opened(changed))[0] - arrays(opened(x))[0]).max() > 1e-3


def test_keras_is_as_it_was_also_for_other_threads():
    """While a layer is recorded, other threads build models as always."""
    made, begun, go_on = [], threading.Event(), threading.Event()

    class Waiting(layers.Layer):
        def call(self, x):
            begun.set()
            assert go_on.wait(30)
            return x * 2.0

    def other():
        assert begun.wait(30)
        inputs = keras.Input((3,))
        made.append(keras.Model(inputs, layers.Dense(2)(inputs)))
        made.append(made[0](np.ones((1, 3), "float32")))
        go_on.set()

    thread = threading.Thread(target=other)
    thread.start()
    found = open_model(custom_layers._vector(Waiting(name="waiting")))
    thread.join()
    assert found.opened == ("waiting",)
    assert len(made[0].layers) == 2 and made[1].shape == (1, 2)
    inputs = keras.Input((3,))
    assert keras.Model(inputs, layers.Dense(2)(inputs)).count_params() == 8


@pytest.mark.parametrize("name", ["attention", "squeeze"])
def test_int8(name, process):
    model = custom_layers.build(name)
    opened = open_model(model).model
    x = custom_layers.inputs_of(model, batch=120)
    plain, made = (to_tflite(m, "int8", calibration=x).report.verification.outputs[0] for m in (model, opened))
    assert made.sqnr_db > plain.sqnr_db - 1


def test_a_model_without_custom_layers_comes_back_alike():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(inputs))
    found = surgery.open_layers(model)
    assert found.opened == () and not found.opaque
    x = np.ones((2, 4), "float32")
    np.testing.assert_array_equal(found.model(x), model(x))


class Several(layers.Layer):
    """What it computes follows from how it is called."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.Dense(6, name="inner")
        self.norm = layers.BatchNormalization(name="norm")

    def call(self, x, other=None, scale=1.0, normed=False):
        y = self.inner(x) if other is None else self.inner(x) * self.inner(other)
        return self.norm(y) if normed else y * scale


CALLS = {
    "an argument left out": lambda layer, x, y: layer(x) + layer(x, y),
    "other numbers": lambda layer, x, y: layer(x) + layer(y, scale=0.5),
    "on other shapes": lambda layer, x, y: layer(x) + keras.ops.sum(layer(keras.ops.stack([x, y], axis=1)), 1),
}


@pytest.mark.parametrize("name", CALLS)
def test_called_in_several_ways_saved_and_loaded(name, tmp_path):
    keras.utils.set_random_seed(0)
    x, y = keras.Input((6,)), keras.Input((6,))
    model = keras.Model([x, y], layers.Dense(2)(CALLS[name](Several(name="several"), x, y)))
    found = surgery.open_layers(model)
    assert found.opened
    given = [np.random.default_rng(i).normal(size=(3, 6)).astype("float32") for i in range(2)]
    expected = keras.ops.convert_to_numpy(model(given))
    found.model.save(tmp_path / "opened.keras")
    loaded = keras.saving.load_model(tmp_path / "opened.keras")
    np.testing.assert_allclose(loaded(given), expected, atol=1e-5)
    assert len(loaded.trainable_variables) == len(found.model.trainable_variables)


def test_what_several_calls_read_and_gives_no_weights_out_keeps_them_closed(tmp_path):
    x, y = keras.Input((6,)), keras.Input((6,))
    several = Several(name="several")
    model = keras.Model([x, y], several(x, normed=True) + several(y, x, normed=True))
    found = surgery.open_layers(model)
    assert not found.opened and "norm in it is called in other ways" in found.opaque["several"]


class Alone(layers.Layer):
    def call(self, x):
        return x * 2.0 if x.shape[0] == 1 else x


def test_code_that_takes_one_sample_for_something_else_stays_closed():
    model = keras.Model(x := keras.Input((4,)), layers.Dense(3)(Alone(name="alone")(x)))
    found = surgery.open_layers(model)
    assert not found.opened and "for a batch of 1 differ" in found.opaque["alone"]
