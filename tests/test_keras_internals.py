"""Private names of Keras stand in `tfstruct.keras_internals` alone; each function there on the Keras at hand."""

import ast
import dataclasses
import os
import pathlib
import re
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfstruct.keras_internals import (
    graph_nodes,
    layer_parts,
    operation_types,
    optimizers,
    recorded_calls,
    replacing,
    saving,
    training,
)
from tfstruct.keras_internals import keras2 as keras2_internals
from tfstruct.keras_internals import tensorflow as tensorflow_internals

ROOT = pathlib.Path(__file__).parents[1] / "tfstruct"
ROOM = ROOT / "keras_internals"
PRIVATE_PACKAGES = ("keras.src", "tf_keras.src", "tensorflow.python")
SCRIPTS = ("convert/child.py",)  # it runs in a process of its own and imports nothing of ours
# Private names of other libraries, each read in one place: file -> names.
OTHERS = {
    "cli/parsing.py": {"_actions"},  # argparse
    # TensorFlow's converter
    "convert/child.py": {"_types_pb2", "_experimental_use_buffer_offset", "_convert_from_saved_model"},
    "convert/file_bounds.py": {"_tab"},  # flatbuffers
    "convert/runtime.py": {"_interpreter", "_get_ops_details"},  # ai-edge-litert
    "compression/search/record.py": {"_trial_id"},  # optuna
    "reporting/figures.py": {"_repr_png_"},  # IPython's name for a picture
    "samples/numpy_files.py": {"_replace"},  # a named tuple's public method
    "samples/memory.py": {"_fields"},
    "legacy/rebuild.py": {"_fields"},
}


@dataclasses.dataclass
class _Facts:
    """What a file of ours says of names.

    Attributes:
        defined: functions, classes, attributes of its own objects, fields.
        private: private names that it reads or sets, also by `getattr` and as keywords.
        of_others: those of anything but `self`, `cls` and `super()`.
        modules: what it imports, and its texts, which may name a module too.
    """

    defined: set[str] = dataclasses.field(default_factory=set)
    private: set[str] = dataclasses.field(default_factory=set)
    of_others: set[str] = dataclasses.field(default_factory=set)
    modules: set[str] = dataclasses.field(default_factory=set)


def _is_private(name) -> bool:
    return isinstance(name, str) and name.startswith("_") and not name.startswith("__") and name != "_"


def _facts(file: pathlib.Path) -> _Facts:
    found = _Facts()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.defined.add(node.name)
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found.defined |= {target.id for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.Import):
            found.modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.modules |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.modules.add(node.value)
        elif isinstance(node, ast.Attribute):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if own and isinstance(node.ctx, ast.Store):
                found.defined.add(node.attr)
            if _is_private(node.attr):
                found.private.add(node.attr)
                if not own and not (isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") == "super"):
                    found.of_others.add(node.attr)
        elif isinstance(node, ast.Call):
            found.private |= {keyword.arg for keyword in node.keywords if _is_private(keyword.arg)}
            if getattr(node.func, "id", "") in ("getattr", "hasattr", "setattr", "delattr"):
                found.private |= {
                    x.value for x in node.args[1:2] if isinstance(x, ast.Constant) and _is_private(x.value)
                }
    return found


@pytest.fixture(scope="module")
def facts() -> dict[str, _Facts]:
    files = sorted(file for file in ROOT.rglob("*.py") if ROOM not in file.parents)
    return {str(file.relative_to(ROOT)): _facts(file) for file in files}


def test_private_packages_are_imported_in_one_room(facts):
    for file, said in facts.items():
        found = [name for name in said.modules if name.startswith(PRIVATE_PACKAGES) and file not in SCRIPTS]
        assert not found, f"{file}: {found} belongs in tfstruct/keras_internals"


def test_private_names_that_are_not_ours_are_read_in_one_room(facts):
    ours = set().union(*(said.defined for said in facts.values()))
    for file, said in facts.items():
        found = said.private - ours - OTHERS.get(file, set())
        assert not found, f"{file}: {sorted(found)} belongs in tfstruct/keras_internals"


def test_private_names_of_keras_are_read_of_own_objects_only(facts):
    """A name that both have, such as `_layers`: of `self` it is ours, of others only in the file that defines it."""
    source = pathlib.Path(keras.__file__).parent / "src"
    texts = [file.read_text() for file in source.rglob("*.py") if not file.name.endswith("_test.py")]
    theirs = {name for text in texts for name in re.findall(r"(?:self\.|def )(_[a-z]\w*)", text)}
    assert {"_layers", "_tracker", "_inbound_nodes", "_functional"} <= theirs
    for file, said in facts.items():
        found = (said.of_others & theirs) - said.defined - OTHERS.get(file, set())
        assert not found, f"{file}: {sorted(found)} is a private name of Keras"


def test_the_room_imports_nothing_of_ours_but_errors_and_locks():
    for file in ROOM.rglob("*.py"):
        ours = {name for name in _facts(file).modules if name.startswith("tfstruct.")}
        assert all(
            name.startswith(("tfstruct.errors", "tfstruct.forks", "tfstruct.keras_internals")) for name in ours
        ), file


# A functional model as calls.


@pytest.fixture(scope="module")
def branched():
    """Input -> shared Dense, called twice -> Add -> a nested model."""
    x = keras.Input((3,), name="x")
    shared = layers.Dense(3, name="shared")
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="deep")], name="inner")
    y = inner(shared(shared(x)) + x)
    return keras.Model({"x": x}, [y])


def test_calls_come_behind_what_they_read(branched):
    nodes = graph_nodes.nodes_in_order(branched)
    assert [node.operation.name for node in nodes[:3]] == ["x", "shared", "shared"]
    made = set()
    for node in nodes:
        assert {id(x) for x in node.input_tensors} <= made
        made |= {id(x) for x in node.outputs}
    assert isinstance(nodes[0], graph_nodes.Node)


def test_calls_of_an_operation(branched):
    shared = branched.get_layer("shared")
    calls = graph_nodes.calls_of(shared)
    assert len(calls) == 2 and all(node.operation is shared for node in calls)
    assert not graph_nodes.calls_of(layers.Dense(1))


def test_who_made_a_tensor(branched):
    op, node, place = graph_nodes.made_by(branched.outputs[0])
    assert op.name == "inner" and node.outputs[place] is branched.outputs[0]
    assert graph_nodes.operation_of(branched.inputs[0]).name == "x"
    assert graph_nodes.names_of(branched.inputs) == ["x"]


@pytest.mark.filterwarnings("ignore:Layer 'inner'")
def test_masks_come_behind_the_inputs_of_a_nested_model():
    x, size = keras.Input((4,), dtype="int32"), keras.Input((4, 3))
    inside = keras.Input((4, 3)), keras.Input((4, 3))
    inner = keras.Model(inside, layers.Add()(inside), name="inner")
    masked = layers.Embedding(5, 3, mask_zero=True)(x)
    y = inner([masked, size])
    (node,) = [node for node in graph_nodes.calls_of(inner) if y is node.outputs[0]]
    given, masks = graph_nodes.inputs_and_masks(node.input_tensors, inner)
    assert [id(one) for one in given] == [id(masked), id(size)]
    # From Keras 3.16 on a mask is no input of the call.
    assert [id(one) for one in masks] == [id(graph_nodes.mask_of(masked))] * (len(node.input_tensors) - 2)
    assert len(node.input_tensors) == 3 or tuple(map(int, keras.__version__.split(".")[:2])) >= (3, 16)
    assert graph_nodes.inputs_and_masks(["x", "size"], inner) == (["x", "size"], [])


def test_renaming_what_made_a_tensor():
    y = layers.Dense(1, name="before")(keras.Input((2,)))
    graph_nodes.rename(y, "after")
    assert graph_nodes.operation_of(y).name == "after"


def test_the_functional_model_inside_a_sequential_one(branched):
    inner = branched.get_layer("inner")
    assert isinstance(graph_nodes.functional_inside(inner), graph_nodes.Functional)
    assert graph_nodes.functional_inside(keras.Sequential([layers.Dense(1)])) is None
    assert graph_nodes.functional_inside(branched) is None


def test_models_that_are_made_of_inputs_and_outputs():
    class Alike(keras.Model):
        pass

    class Other(keras.Model):
        def __init__(self, width):
            super().__init__()

    assert graph_nodes.is_made_like_functional(Alike)
    assert not graph_nodes.is_made_like_functional(Other)


def test_operations_that_take_training():
    assert graph_nodes.takes_training(layers.Dropout(0.5))
    assert not graph_nodes.takes_training(layers.ReLU())
    assert not graph_nodes.takes_training(operation_types.operation("Add")())


def test_masks_of_tensors():
    made = layers.Embedding(3, 2, mask_zero=True)(np.array([[1, 0]]))
    np.testing.assert_array_equal(graph_nodes.mask_of(made), [[True, False]])
    other = tf.zeros((1, 2, 2))
    assert graph_nodes.mask_of(other) is None
    graph_nodes.set_mask(other, tf.constant([[False, True]]))
    pooled = layers.GlobalAveragePooling1D()
    assert pooled.supports_masking
    np.testing.assert_array_equal(graph_nodes.mask_of(other), [[False, True]])


def test_a_copied_operation_has_no_calls():
    y = keras.ops.reshape(keras.Input((4,)), (-1, np.int64(2), 2))
    op = graph_nodes.operation_of(y)
    copy = graph_nodes.copied_operation(op)
    assert type(copy) is type(op) and copy.newshape == op.newshape
    assert not graph_nodes.calls_of(copy) and len(graph_nodes.calls_of(op)) == 1
    assert copy(keras.Input((4,))).shape == (None, 2, 2)


# What layers are made of.


def test_layers_inside_of_others(branched):
    inner = branched.get_layer("inner")
    names = {layer.name for layer in layer_parts.all_layers(branched)}
    assert {"shared", "inner", "deep", branched.name} <= names
    assert branched not in layer_parts.all_layers(branched, itself=False)
    assert inner in layer_parts.parts_of(branched)
    assert inner.get_layer("deep") not in layer_parts.all_layers(branched, deep=False)
    assert layer_parts.parts_of(operation_types.operation("Add")()) == []


def test_weights_of_a_layer_alone():
    model = keras.Sequential([keras.Input((2,)), layers.BatchNormalization(), layers.Dense(1)])
    norm, dense = model.layers
    assert layer_parts.own_weights(model) == []
    assert [v.name for v in layer_parts.own_weights(norm)] == ["gamma", "beta", "moving_mean", "moving_variance"]
    dense.trainable = False
    assert [v.name for v in layer_parts.own_trainable(dense)] == ["kernel", "bias"]
    assert layer_parts.own_weights(operation_types.operation("Add")()) == []


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (layers.Dense(2), "kernel"), (layers.EinsumDense("ab,bc->ac", 2), "kernel"), (layers.Conv1D(2, 1), "kernel"),
        (layers.Conv1DTranspose(2, 1), "kernel"), (layers.DepthwiseConv1D(1), "kernel"),
        (layers.Embedding(3, 2), "embeddings"), (layers.SeparableConv1D(2, 1), "pointwise_kernel"),
    ],
    ids=lambda x: x if isinstance(x, str) else type(x).__name__,
)  # fmt: skip
def test_stored_weights(layer, name):
    layer.build(
        {"Dense": (None, 3), "EinsumDense": (None, 3), "Embedding": (None,)}.get(type(layer).__name__, (None, 4, 3))
    )
    stored = layer_parts.stored_weight(layer, name)
    assert isinstance(stored, keras.Variable) and any(stored is w for w in layer.weights)
    np.testing.assert_array_equal(stored, getattr(layer, name))


def test_the_stored_weight_is_that_without_lora():
    layer = layers.Dense(2)
    layer.build((None, 3))
    layer.enable_lora(1)
    layer.lora_kernel_b.assign(np.ones(layer.lora_kernel_b.shape))
    stored = layer_parts.stored_weight(layer)
    assert not np.array_equal(stored, layer.kernel)
    assert any(stored is w for w in layer.weights)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
def test_projections_of_attention(grouped, gated):
    layer = (
        layers.GroupQueryAttention(2, 2, 1, use_gate=gated)
        if grouped
        else layers.MultiHeadAttention(2, 2, use_gate=gated)
    )
    layer.build((None, 3, 4), (None, 3, 4))
    found = layer_parts.attention_projections(layer)
    assert list(found) == ["query", "key", "value", "output", *(["gate"] if gated else [])]
    assert (
        sum(
            w.shape.num_elements() if hasattr(w.shape, "num_elements") else int(np.prod(w.shape))
            for one in found.values()
            for w in one.weights
        )
        == layer.count_params()
    )
    if not grouped:
        assert layer_parts.attended_axes(layer) == 1
        assert layer_parts.given_output_shape(layer) is None


def test_the_regularizer_of_attention():
    for layer in (
        layers.MultiHeadAttention(1, 1, kernel_regularizer="l2"),
        layers.GroupQueryAttention(1, 1, 1, kernel_regularizer="l2"),
    ):
        assert isinstance(getattr(layer, layer_parts.regularizer_name(layer)), keras.regularizers.L2)


def test_a_lambda_once_more():
    layer = layers.Lambda(lambda x, by: x * by, output_shape=(2,), arguments={"by": 3.0}, name="one")
    again = layer_parts.same_lambda(layer, name="two")
    assert again.name == "two" and layer_parts.given_output_shape(again) == (2,)
    np.testing.assert_array_equal(again(np.ones((1, 2), "float32")), [[3.0, 3.0]])


def test_initializers_that_draw_any_shape():
    assert layer_parts.draws_any_shape(keras.initializers.GlorotUniform())
    assert layer_parts.draws_any_shape(keras.initializers.Orthogonal())
    assert not layer_parts.draws_any_shape(keras.initializers.Identity())


def test_what_a_saved_model_holds(tmp_path):
    module = tf.Module()
    module.__call__ = tf.function(lambda x: x + 1, input_signature=[tf.TensorSpec((None,), tf.float32)])
    tf.saved_model.save(module, tmp_path, signatures=module.__call__)
    layer = layers.TFSMLayer(tmp_path, call_endpoint="serving_default")
    assert "serving_default" in layer_parts.saved_object(layer).signatures


def test_weights_in_the_type_they_are_stored_in():
    layer = layers.Dense(1, dtype="mixed_float16")
    layer.build((None, 1))
    types = []

    class Looking(layers.Layer):
        def call(self, x):
            types.append(tf.convert_to_tensor(layer.kernel).dtype)
            with layer_parts.stored_precision():
                types.append(tf.convert_to_tensor(layer.kernel).dtype)
            return x

    Looking(dtype="mixed_float16")(np.ones((1, 1)))
    assert types == [tf.float16, tf.float32]


def test_a_variable_set_past_a_scope():
    variable = keras.Variable(1.0)
    with keras.StatelessScope():
        variable.assign(2.0)
        layer_parts.assign_past_scopes(variable, 3.0)
    assert float(variable) == 3.0


# Classes without a public name.


def test_operations_by_name():
    x = keras.Input((2,))
    assert type(graph_nodes.operation_of(x + 1.0)) is operation_types.operation("Add")
    assert type(graph_nodes.operation_of(keras.ops.relu(x))) is operation_types.operation("Relu")
    assert operation_types.operations("Add NoSuchThing Relu") == [operation_types.operation(n) for n in ("Add", "Relu")]
    assert len(operation_types.operations("ReLU Mish")) == 2  # of keras.activations
    assert all(issubclass(kind, keras.Operation) for kind in operation_types.operations("Cast Resize Norm Logsumexp"))


def test_layers_of_the_applications():
    x = np.array([[2.0]], "float32")
    assert float(operation_types.LayerScale(0.5, 1)(x)[0, 0]) == 1.0
    assert float(operation_types.StochasticDepth(0.5)(x)[0, 0]) == 2.0  # in inference all of it
    assert float(operation_types.ScaledSum(scale=3.0)([x, x])[0, 0]) == 8.0


def test_where_operations_are_defined():
    homes = {kind.__module__ for kind in operation_types.operations("Add Relu Cast Resize Norm Logsumexp")}
    assert homes <= {module.__name__ for module in operation_types.operation_modules()}
    assert {"Dense", "Conv2D"} <= operation_types.layer_names()
    assert operation_types.written_name(layers.Dense) == "keras.layers.Dense"
    assert operation_types.written_name(dict) is None


def test_keras_looks_up_its_functions_when_they_run():
    with replacing.replaced_attributes(operation_types.BACKEND_FUNCTIONS, argmax=lambda *_, **__: "ours"):
        assert keras.ops.argmax(np.ones(2)) == "ours"
    assert int(keras.ops.argmax(np.array([1.0, 2.0]))) == 1


def test_a_graph_reads_another_tensor():
    @tf.function(autograph=False)
    def traced(x):
        y = x + 1.0
        tensorflow_internals.read_instead(y.op, 0, x * 10.0)
        return y

    assert float(traced(tf.constant(2.0))) == 21.0


# Optimizers.


def _trained(optimizer, steps=1):
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, kernel_initializer="ones", use_bias=False)])
    model.compile(optimizer, "mse")
    model.fit(np.ones((2, 1)), np.zeros((2, 1)), epochs=steps, batch_size=2, verbose=0)
    return model


def test_what_an_optimizer_trains():
    model = _trained(keras.optimizers.Adam(0.1, use_ema=True, ema_momentum=0.5, amsgrad=True))
    optimizer, (kernel,) = model.optimizer, model.trainable_variables
    assert optimizers.trained_by(optimizer) == [kernel]
    assert optimizers.place_of(optimizer, kernel) == 0
    optimizers.check_trained(optimizer, [kernel])
    with pytest.raises(ValueError, match="Unknown variable"):
        optimizers.check_trained(optimizer, [keras.Variable(1.0)])
    assert not optimizers.is_replaced_by_gradient(optimizer, kernel)
    assert int(optimizers.counter_of(optimizer)) == 1
    # The gradient of w^2 at 1 is 2.
    moments = optimizers.moments_of(optimizer, kernel)
    np.testing.assert_allclose([m.numpy().item() for m in moments], [0.2, 0.004, 0.004], rtol=1e-5)
    (average,) = optimizers.averages_of(optimizer)
    assert average.shape == kernel.shape
    assert {"_momentums", "_velocities"} <= set(optimizers.slots_of(optimizer))
    assert "_trainable_variables" not in optimizers.slots_of(optimizer)


def test_optimizers_without_averages():
    model = _trained(keras.optimizers.Adam(0.1))
    assert optimizers.averages_of(model.optimizer) == []
    assert optimizers.averages_of(None) == []
    assert optimizers.moments_of(model.optimizer, model.trainable_variables[0])[2] is None


def test_the_schedule_as_it_was_given():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
    assert optimizers.schedule_of(keras.optimizers.SGD(schedule)) is schedule


def test_hooks_of_a_step():
    seen = []

    class Watched(optimizers.StepHooks, keras.optimizers.SGD):
        def after_update(self, learning_rate):
            seen.append(("updated", float(optimizers.trained_by(self)[0])))

        def after_averaging(self, variables, averages):
            seen.append(("averaged", float(variables[0]), float(averages[0])))

    weight = keras.Variable(1.0)
    optimizer = Watched(0.5, use_ema=True, ema_momentum=0.5)
    optimizer.apply_gradients([(tf.constant(1.0), weight)])
    assert seen == [("updated", 0.5), ("averaged", 0.5, 0.5)]


# Training.


def test_what_a_model_was_compiled_with():
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1)])
    assert training.loss_weights_of(model) is None and training.metrics_of(model) is None
    assert training.metric_objects(model) == []
    model.compile("sgd", "mse", metrics=["mae"], loss_weights=[0.5])
    assert training.loss_weights_of(model) == [0.5] and training.metrics_of(model) == ["mae"]
    model.fit(np.ones((2, 1)), np.ones((2, 1)), verbose=0)
    assert [metric.name for metric in training.metric_objects(model)] == ["mae"]
    assert [type(metric) for metric in training.loss_trackers(model)] == [keras.metrics.Mean]
    other = keras.Sequential(model.layers)
    training.compile_alike(other, keras.Sequential([keras.layers.Dense(1)]))
    assert not other.compiled
    training.compile_alike(other, model)
    assert other.optimizer is model.optimizer and training.loss_weights_of(other) == [0.5]
    assert other.loss == "mse" and training.metrics_of(other) == ["mae"]


def test_which_way_a_metric_is_better():
    assert training.better_when(keras.metrics.BinaryAccuracy()) == "up"
    assert training.better_when(keras.metrics.MeanSquaredError()) == "down"
    assert training.better_when(keras.metrics.Mean()) is None


def test_losses_that_know_training():
    class Older(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
            return 0.0

    x = keras.Input((1,))
    assert training.loss_knows_training(keras.Model(x, x))
    assert not training.loss_knows_training(Older(x, x))


def test_steps_are_traced_again():
    model, traced = _trained("sgd"), []
    own = model.train_step
    with replacing.replaced_attributes(model, train_step=lambda data: traced.append(1) or own(data)):
        x = np.ones((2, 1))
        model.fit(x, x, batch_size=2, verbose=0)
        assert not traced  # the step of before is taken
        training.forget_steps(model)
        model.fit(x, x, batch_size=2, verbose=0)
        assert len(traced) == 1
        model.fit(x, x, batch_size=2, verbose=0)
        assert len(traced) == 1
        training.trace_training_again(model)
        model.fit(x, x, batch_size=2, verbose=0)
        assert len(traced) == 2
    assert training.forget_steps(model) is None and model.train_function is model.predict_function is None


def test_losses_of_replicas():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        shares = strategy.run(lambda: training.share_of_replica(tf.constant(3.0)))
        whole = strategy.run(lambda: training.whole_loss(training.share_of_replica(tf.constant(3.0))))
    assert [float(x) for x in strategy.experimental_local_results(shares)] == [1.5, 1.5]
    assert [float(x) for x in strategy.experimental_local_results(whole)] == [3.0, 3.0]


def test_a_callback_without_its_model():
    callback = keras.callbacks.Callback()
    callback.extra = 1
    callback.set_model(_trained("sgd"))
    state = training.state_without_model(callback)
    assert state["extra"] == 1
    assert not any(isinstance(value, keras.Model) for value in state.values())


def test_parts_that_are_saved_with_a_model(tmp_path):
    class Kept(saving.SavedPart):
        value = 0.0

        def save_own_variables(self, store):
            store["value"] = np.asarray(self.value)

        def load_own_variables(self, store):
            self.value = float(np.asarray(store["value"]))

    models = [keras.Sequential([keras.Input((1,)), layers.Dense(1)]) for _ in range(2)]
    for model in models:
        replacing.set_untracked(model, "kept", Kept())
    models[0].kept.value = 3.0
    models[0].save_weights(tmp_path / "of.weights.h5")
    models[1].load_weights(tmp_path / "of.weights.h5")
    assert models[1].kept.value == 3.0


# Attributes replaced.


def test_an_attribute_is_replaced_while_it_is_open():
    layer = layers.Dense(1, activation="relu")
    own = layer.activation
    with replacing.replaced_attributes(layer, activation=keras.activations.tanh, units=2):
        assert layer.activation is keras.activations.tanh and layer.units == 2
    assert layer.activation is own and layer.units == 1
    with pytest.raises(RuntimeError, match="inside"), replacing.replaced_attributes(layer, units=3):
        raise RuntimeError("inside")
    assert layer.units == 1


@pytest.mark.parametrize("model", ["layer", "sequential", "functional"])
def test_a_method_is_gone_afterwards(model):
    x = keras.Input((1,))
    found = {
        "layer": layers.Dense(1), "sequential": keras.Sequential([x, layers.Dense(1)]), "functional": keras.Model(x, -x)
    }[model]  # fmt: skip
    with replacing.replaced_attributes(found, call=lambda inputs, **_: inputs * 5.0):
        assert float(found(np.ones((1, 1)))[0, 0]) == 5.0
    assert "call" not in vars(found)
    with pytest.raises(AttributeError, match="no_such"), replacing.replaced_attributes(found, no_such=1):
        pass


def test_what_is_put_there_is_not_tracked():
    layer = layers.Dense(1)
    layer.build((None, 1))
    with replacing.replaced_attributes(layer, activation=layers.PReLU()):
        assert not layer_parts.parts_of(layer)


def test_classes_and_modules():
    with replacing.replaced_attributes(layers.Dense, call=lambda self, x: "ours"):
        assert layers.Dense(1).call(0) == "ours"
    assert layers.Dense(1).call.__func__ is layers.Dense.call
    layer = layers.Dense(1)

    class Other(layers.Dense):
        pass

    with replacing.replaced_attributes(layer, __class__=Other):
        assert type(layer) is Other
    assert type(layer) is layers.Dense


@pytest.mark.parametrize("first", [0, 1])
def test_the_newest_that_is_open_counts(first):
    layer = layers.Dense(1)
    opened = [replacing.replaced_attributes(layer, units=n) for n in (2, 3)]
    for one in opened:
        one.__enter__()
    assert layer.units == 3
    opened[first].__exit__(None, None, None)
    assert layer.units == (3, 2)[first]
    opened[1 - first].__exit__(None, None, None)
    assert layer.units == 1


def test_what_somebody_else_puts_there_stays():
    layer = layers.Dense(1)
    with replacing.replaced_attributes(layer, units=2):
        layer.units = 7
        with replacing.replaced_attributes(layer, units=3):
            assert layer.units == 3
        assert layer.units == 7
    assert layer.units == 7


def test_threads_restore_what_was():
    layer = layers.Dense(1)

    def work():
        for n in range(2, 200):
            with replacing.replaced_attributes(layer, units=n):
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert layer.units == 1


# Keras 2, TFMOT and TensorFlow.


@pytest.fixture(scope="module")
def tf_keras():
    return pytest.importorskip("tf_keras")


def test_models_of_keras_2(tf_keras):
    x = tf_keras.Input((3,), name="x")
    model = tf_keras.Model({"a": x}, tf_keras.layers.Dense(2)(tf_keras.layers.Dense(1, name="first")(x)))
    assert keras2_internals.is_functional(model)
    assert [node.layer.name for node in keras2_internals.nodes_in_order(model)][:2] == ["x", "first"]
    inputs, outputs = keras2_internals.inputs_and_outputs(model)
    assert list(inputs) == ["a"] and keras2_internals.layer_of(inputs["a"]).name == "x"
    assert outputs.shape == (None, 2)
    assert keras2_internals.argument_names(model.layers[1])[0] == "inputs"
    assert not keras2_internals.is_built_sequential(tf_keras.Sequential([tf_keras.layers.Dense(1)]))
    assert keras2_internals.is_built_sequential(tf_keras.Sequential([tf_keras.layers.Dense(1, input_shape=(2,))]))

    class Own(tf_keras.Model):
        pass

    assert not keras2_internals.is_functional(Own())
    norm = tf_keras.layers.Normalization(axis=-1)
    norm.adapt(np.ones((4, 3)))
    assert keras2_internals.normalized_shape(norm) == [3]


def test_names_of_keras_2(tf_keras):
    assert keras2_internals.every_layer()["Dense"] is tf_keras.layers.Dense
    assert keras2_internals.every_initializer()["Zeros"] is tf_keras.initializers.Zeros
    assert "Loss" in vars(keras2_internals.defining_module("losses"))
    assert keras2_internals.written_name(tf_keras.layers.Dense) == "keras.layers.Dense"


def test_wrappers_of_tfmot(tf_keras):
    tfmot = pytest.importorskip("tensorflow_model_optimization")
    from tfstruct.legacy.tfmot import scope

    with scope():
        quantized = tfmot.quantization.keras.quantize_model(
            tf_keras.Sequential([tf_keras.layers.Dense(2, activation="relu", input_shape=(3,))])
        )
    wrapper = quantized.layers[-1]
    ((kernel, _, ranges),) = keras2_internals.quantized_weights(wrapper)
    assert kernel.shape == (3, 2) and {"min_var", "max_var"} <= set(ranges)
    ((before, after),) = keras2_internals.quantized_activations(wrapper)
    assert before is None or after is None


def test_operators_of_tensorflow():
    assert {"MatMul", "Exp"} <= tensorflow_internals.operators_of("gen_math_ops")
    assert tensorflow_internals.is_operator("MatMul") and not tensorflow_internals.is_operator("NoSuchThing")


def test_a_forked_process_lacks_the_threads_of_tensorflow():
    tf.add(1, 1)
    assert not tensorflow_internals.lacks_threads()
    child = os.fork()
    if not child:
        os._exit(42 if tensorflow_internals.lacks_threads() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42


def test_functions_inside_a_graph():
    @tf.function
    def looped(x):
        return tf.while_loop(lambda i: i < 3, lambda i: [i + 1], [x])[0]

    graph = looped.get_concrete_function(tf.constant(0)).graph
    (loop,) = [op for op in graph.get_operations() if "While" in op.type]
    body = tensorflow_internals.inner_graph(graph, loop.get_attr("body").name)
    assert body is not None and body.get_operations()
    assert tensorflow_internals.inner_graph(graph, "no_such") is None


# Calls as they happen.


def test_watched_calls_are_told_and_leave_no_trace():
    events, on = [], [True]
    dense, dropout = layers.Dense(2, name="dense"), layers.Dropout(0.5, name="drop")
    dense.build((None, 3))
    x = keras.KerasTensor((4, 3))

    def noted(operation, args, kwargs, outputs):
        events.append((operation.name, outputs.shape))

    def refuse(what):
        raise ValueError(what)

    with recorded_calls.watched_calls(lambda: on[0], noted, lambda v: refuse(v.path), lambda: refuse("seed")):
        on[0] = False
        y = dense(x)  # as always
        on[0] = True
        keras.ops.relu(y)
        dropout(x)
        with pytest.raises(ValueError, match="dense/kernel"):
            _ = dense.kernel.value
        with pytest.raises(ValueError, match="seed"):
            dropout.seed_generator.next()
    assert events[0][1] == (4, 2) and events[1] == ("drop", (4, 3))
    assert graph_nodes.calls_of(dense) and not graph_nodes.calls_of(dropout)
    assert dense.kernel.value.shape == (3, 2)


def test_layers_that_take_masks():
    assert layer_parts.takes_mask(layers.LSTM(2)) and not layer_parts.takes_mask(layers.Dense(2))


def test_one_seed_for_whatever_draws():
    first, second = (keras.random.SeedGenerator(seed) for seed in (3, 4))
    with recorded_calls.one_seed():
        a, b, c = (keras.random.normal((4,), seed=seed).numpy() for seed in (first, second, None))
    assert (a == b).all() and (a == c).all()
    assert (first.state.numpy() == keras.random.SeedGenerator(3).state.numpy()).all()
    assert not (keras.random.normal((4,), seed=first).numpy() == a).all()


def test_what_symbolic_tensors_and_operations_keep():
    x = keras.Input((3,), name="x")
    y = layers.Dense(2, name="dense")(x)
    z = keras.ops.reshape(y, (-1, 1, 2))
    made = recorded_calls.operations_between([x], [z])
    assert {op.name for op in made} >= {"dense", "x"} and len(made) == 3
    reshape = graph_nodes.operation_of(z)
    assert recorded_calls.computed_by(reshape) == {"newshape": (-1, 1, 2)}
    recorded_calls.set_spec(z, shape=(None, 1, 2), dtype="float16")
    assert z.shape == (None, 1, 2) and z.dtype == "float16"
    assert recorded_calls.computed_spec(lambda t: keras.ops.sum(t, -1), x).shape == (None,)
    layer = layers.Dense(2, dtype="mixed_float16")
    layer.build((None, 3))
    assert recorded_calls.stored_dtype(layer.kernel) == "float32"


def test_masks_and_arguments_as_a_layer_has_them():
    embedding = layers.Embedding(5, 2, mask_zero=True)
    ids, outputs = np.array([[1, 0]]), keras.ops.ones((1, 2, 2))
    recorded_calls.set_masks_as_layer(embedding, keras.ops.convert_to_tensor(ids), outputs, None)
    np.testing.assert_array_equal(graph_nodes.mask_of(outputs), [[True, False]])
    layer = layers.Identity(dtype="float16")
    recorded_calls.takes_arguments_as_they_are(layer)
    assert layer(keras.ops.ones((1,), "float32")).dtype == "float32"
