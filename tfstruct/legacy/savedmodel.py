"""SavedModel folders: Keras 2's by tf_keras, any other as the graph it is."""

import pathlib

import keras

from tfstruct.errors import ModelError
from tfstruct.legacy import operators
from tfstruct.legacy.files import reason_of
from tfstruct.untrusted import json_text
from tfstruct.untrusted.descriptions import parts, refuse_code
from tfstruct.untrusted.graphs import refuse_operators

_SIGNATURES = ("serving_default", "serve")


@keras.saving.register_keras_serializable("tfstruct")
class GraphLayer(keras.layers.TFSMLayer):
    """Runs a signature of a SavedModel on a dict of inputs by name; Keras's own passes one input only."""

    def call(self, inputs, training=False):
        return self.call_endpoint_fn(**inputs)


def open_folder(folder: pathlib.Path, *, trust: bool = False):
    """The model in a SavedModel folder.

    A functional or Sequential model that Keras 2 saved comes back as a `tf_keras` model. Any other becomes a
    `keras.Model` around its graph (`keras.layers.TFSMLayer`), with the inputs and outputs of its signature.

    Raises:
        ModelError: a damaged folder, one without a signature, or one that would run code.
    """
    _refuse_outside(folder, trust)
    nodes = _keras_nodes(folder)
    if not trust:
        for node in nodes:
            refuse_code(node, folder, keras2=True, revived=True, functions=operators.TABLE)
    root = nodes[0].get("class_name") if nodes else None
    if root in ("Functional", "Sequential"):
        return _open_keras2(folder, nodes)
    return _graph_model(folder)


def _refuse_outside(folder: pathlib.Path, trust: bool) -> None:
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    try:
        saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    except DecodeError as error:
        raise ModelError(f"{folder}/saved_model.pb is damaged or cut short ({error}). Save it again.") from None
    if not saved.meta_graphs:
        raise ModelError(f"{folder}/saved_model.pb holds no graph. It is damaged or cut short: save it again.")
    if not (folder / "variables" / "variables.index").exists():
        raise ModelError(f"{folder} lacks variables/variables.index, which a SavedModel has. Copy the whole folder.")
    if not trust:
        refuse_operators(saved, folder)


def _keras_nodes(folder: pathlib.Path) -> list[dict]:
    """What Keras 2 wrote about each of its objects, the model first; empty for other SavedModels."""
    file = folder / "keras_metadata.pb"
    if not file.exists():
        return []
    from google.protobuf.message import DecodeError
    from tf_keras.protobuf import saved_metadata_pb2

    metadata = saved_metadata_pb2.SavedMetadata()
    try:
        metadata.ParseFromString(file.read_bytes())
        nodes = sorted(metadata.nodes, key=lambda n: n.node_path.count(".") if n.node_path != "root" else -1)
        return [json_text.parse(n.metadata) for n in nodes if n.metadata]
    except (DecodeError, ValueError) as error:
        raise ModelError(f"{file} is damaged or cut short ({error}). Save the model again.") from None


def _open_keras2(folder: pathlib.Path, nodes: list[dict]):
    import contextlib

    import tf_keras

    from tfstruct.legacy import tfmot

    wrapped = any(part.get("class_name") in tfmot.CLASSES for node in nodes for part in parts(node))
    with tfmot.scope() if wrapped else contextlib.nullcontext():
        try:
            return tf_keras.models.load_model(folder, compile=False)
        except Exception as error:
            raise ModelError(f"Keras 2 cannot load {folder}: {reason_of(error)}") from error


def _graph_model(folder: pathlib.Path):
    import tensorflow as tf

    try:
        signatures = tf.saved_model.load(str(folder)).signatures
    except Exception as error:
        raise ModelError(f"TensorFlow cannot load {folder}: {reason_of(error)}") from error
    name = next((n for n in (*_SIGNATURES, *signatures) if n in signatures), None)
    if name is None:
        raise ModelError(
            f"{folder} has no signature, so nobody knows its inputs. Save it again with one: "
            "tf.saved_model.save(model, folder, signatures=function)."
        )
    specs = signatures[name].structured_input_signature[1]
    inputs = {n: keras.Input(batch_shape=tuple(s.shape), dtype=s.dtype.name, name=n) for n, s in specs.items()}
    layer = GraphLayer(str(folder), call_endpoint=name, name="graph")
    outputs = layer(inputs)
    return keras.Model(inputs, outputs, name=folder.resolve().name.replace(" ", "_"))
