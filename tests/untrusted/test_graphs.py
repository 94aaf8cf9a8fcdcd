"""SavedModels whose graphs reach outside are refused before TensorFlow loads them; what is honestly written loads."""

import os
import tempfile

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tensorflow.core.protobuf import saved_model_pb2

from tfstruct import legacy
from tfstruct.errors import ModelError

X = np.ones((2, 4), np.float32)


def saved(folder, body, inner=False):
    """A SavedModel whose function does `body` besides adding 1."""
    module = tf.Module()
    module.scale = tf.Variable(1.0)
    called = tf.function(lambda x: (body(x), x)[1]) if inner else lambda x: (body(x), x)[1]

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def serve(x):
        if inner:  # as deep as a branch of a loop
            x = tf.while_loop(lambda i, x: i < 1, lambda i, x: (i + 1, called(x)), (0, x))[1]
            x.set_shape([None, 4])
        else:
            called(x)
        return {"y": x + module.scale}

    tf.saved_model.save(module, str(folder), signatures=serve)
    return folder


def edited(folder, change):
    """Changes the message in a SavedModel."""
    message = saved_model_pb2.SavedModel()
    message.ParseFromString((folder / "saved_model.pb").read_bytes())
    change(message.meta_graphs[0])
    (folder / "saved_model.pb").write_bytes(message.SerializeToString())
    return folder


MARK = os.path.join(tempfile.gettempdir(), f"tfstruct-test-never-written-{os.getpid()}")
rows = tf.data.Dataset.from_tensors
BODIES = {
    "WriteFile": lambda x: tf.io.write_file(MARK, "x"),
    "ReadFile": lambda x: tf.io.read_file("/etc/passwd"),
    "MatchingFiles": lambda x: tf.io.matching_files("/etc/*"),
    "SaveV2": lambda x: tf.raw_ops.SaveV2(prefix=MARK, tensor_names=["x"], shape_and_slices=[""], tensors=[x]),
    "RestoreV2": lambda x: tf.raw_ops.RestoreV2(
        prefix="/etc/passwd", tensor_names=["x"], shape_and_slices=[""], dtypes=[tf.float32]
    ),
    "TextLineDataset": lambda x: tf.data.TextLineDataset("/etc/passwd").reduce(0, lambda n, _: n + 1),
    "DatasetToTFRecord": lambda x: tf.raw_ops.DatasetToTFRecord(
        input_dataset=rows("x")._variant_tensor, filename=MARK, compression_type=""
    ),
    "EagerPyFunc": lambda x: tf.py_function(lambda: 1.0, [], tf.float32),
    "PrintV2": lambda x: tf.print("x", output_stream=f"file://{MARK}"),
    "ImmutableConst": lambda x: tf.raw_ops.ImmutableConst(dtype=tf.uint8, shape=[4], memory_region_name="/etc/passwd"),
    "CreateSummaryFileWriter": lambda x: tf.raw_ops.CreateSummaryFileWriter(
        writer=tf.raw_ops.SummaryWriter(), logdir=MARK, max_queue=1, flush_millis=1, filename_suffix=""
    ),
    "InitializeTableFromTextFileV2": lambda x: tf.raw_ops.InitializeTableFromTextFileV2(
        table_handle=tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64),
        filename="/etc/passwd",
        key_index=-2,
        value_index=-1,
    ),
    "Abort": lambda x: tf.raw_ops.Abort(error_msg="x", exit_without_error=True),
}


@pytest.mark.parametrize("inner", [False, True], ids=["function", "loop"])
@pytest.mark.parametrize("name", BODIES)
def test_operators_that_reach_outside_are_refused(name, inner, tmp_path):
    folder = saved(tmp_path / "evil", BODIES[name], inner)
    with pytest.raises(ModelError, match=rf"evil holds operators .*outside the model: .*{name}.* \(__.*--trust"):
        legacy.load(folder)
    assert not tf.io.gfile.exists(MARK)


def _file_operator(graph) -> None:
    """Puts the body of a function that only saves into the model's own."""
    graph.saver_def.ClearField("restore_op_name")
    functions = {f.signature.name: f for f in graph.graph_def.library.function}
    saver = next(f for name, f in functions.items() if any(n.op == "SaveV2" for n in f.node_def))
    graph.object_graph_def.concrete_functions[saver.signature.name].SetInParent()


def _same_api(graph) -> None:
    """TensorFlow may put a function in the place of another that implements the same."""
    for function in graph.graph_def.library.function:
        if any(n.op == "SaveV2" for n in function.node_def):
            function.attr["api_implements"].s = b"lstm"


@pytest.mark.parametrize("change", [_file_operator, _same_api])
def test_what_saves_is_allowed_only_where_nothing_calls_it(change, tmp_path):
    legacy.load(saved(tmp_path / "m", lambda x: None))
    with pytest.raises(ModelError, match="SaveV2"):
        legacy.load(edited(tmp_path / "m", change))


def tensorflow1(folder, outside=None):
    """A SavedModel as TensorFlow 1 writes it; `outside` is called in its graph and returns what runs at the start."""
    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 4], name="x")
        y = tf.multiply(x, v1.get_variable("w", initializer=3.0), name="y")
        session.run(v1.global_variables_initializer())
        init = outside(x) if outside else None
        v1.saved_model.simple_save(session, str(folder), {"x": x}, {"y": y}, legacy_init_op=init)
    return folder


def test_what_tensorflow_1_wrote(tmp_path):
    found = legacy.load(tensorflow1(tmp_path / "v1"))({"x": X})
    np.testing.assert_allclose(found["y"], 3 * X)


def test_tensorflow_1_with_a_file_at_the_start(tmp_path):
    folder = tensorflow1(tmp_path / "v1", lambda x: tf.group(tf.io.write_file(MARK, "x")))
    with pytest.raises(ModelError, match="outside the model: WriteFile"):
        legacy.load(folder)


def _restore_another(graph) -> None:
    node = next(n for n in graph.graph_def.node if n.op == "RestoreV2")
    node.input[0] = "y"


def _save_at_the_start(graph) -> None:
    graph.saver_def.restore_op_name = next(n.name for n in graph.graph_def.node if n.op == "SaveV2")


def _save_as_output(graph) -> None:
    node = next(n for n in graph.graph_def.node if n.name == "y")
    node.input.append("^" + next(n.name for n in graph.graph_def.node if n.op == "SaveV2"))


@pytest.mark.parametrize("change", [_restore_another, _save_at_the_start, _save_as_output])
def test_the_saver_of_tensorflow_1_cannot_be_led_elsewhere(change, tmp_path):
    with pytest.raises(ModelError, match=r"RestoreV2|SaveV2"):
        legacy.load(edited(tensorflow1(tmp_path / "v1"), change))
    assert not tf.io.gfile.exists(MARK)


def honest_keras2(name):
    layers = tf_keras.layers
    x = tf_keras.Input((6,), dtype=tf.string if name == "text" else tf.float32)
    if name == "text":
        y = layers.StringLookup(vocabulary=["a", "b"], output_mode="multi_hot")(x)
    else:
        y = layers.LSTM(3)(layers.Dropout(0.1)(layers.Reshape((3, 2))(x)))
    y = layers.BatchNormalization()(layers.Dense(2, activation="softmax")(y))
    return tf_keras.Model(x, y)


@pytest.mark.parametrize("name", ["text", "recurrent"])
@pytest.mark.sweep(1)
def test_what_keras_2_writes(name, tmp_path):
    model = honest_keras2(name)
    model.compile("adam", "mse")
    model.save(tmp_path / "m")
    x = np.array([["a"] * 6]) if name == "text" else np.ones((1, 6), np.float32)
    np.testing.assert_allclose(legacy.load(tmp_path / "m")(tf.constant(x)), model(tf.constant(x)), atol=1e-5)


def test_what_keras_3_exports(tmp_path):
    model = keras.Sequential([keras.Input((4, 3)), keras.layers.GRU(3), keras.layers.Dense(2)])
    model.export(str(tmp_path / "m"), verbose=False)
    loaded = legacy.load(tmp_path / "m")
    x = np.ones((1, 4, 3), np.float32)
    (found,) = loaded({loaded.inputs[0].name: x}).values()
    np.testing.assert_allclose(found, model(x), atol=1e-5)
