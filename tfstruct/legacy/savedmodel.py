"""SavedModel folders: Keras 2's layers rebuilt, any other as the graph it is."""

import pathlib
import warnings

import keras

from tfstruct.errors import ModelError
from tfstruct.keras_internals.layer_parts import saved_object
from tfstruct.legacy import operators
from tfstruct.legacy.conversion import Found, to_keras3
from tfstruct.legacy.files import reason_of
from tfstruct.untrusted import json_text
from tfstruct.untrusted.descriptions import MissingCode, parts, refuse_code
from tfstruct.untrusted.graphs import refuse_operators

_DEFAULT = "serving_default"
_LOST = (
    "it can be converted and verified as a whole. Lost are its layers: no pruning, clustering, quantization-aware "
    "training, surgery, training or precision by layer, no layer names in reports, nothing of TFMOT"
)


@keras.saving.register_keras_serializable("tfstruct")
class GraphLayer(keras.layers.TFSMLayer):
    """Runs a signature of a SavedModel on a dict of inputs by name; Keras's own passes one input only."""

    def __init__(self, filepath, call_endpoint=_DEFAULT, **kwargs):
        super().__init__(filepath, call_endpoint, **kwargs)
        # Keras's own prefers an attribute of the saved object that happens to have the signature's name.
        self.call_endpoint_fn = saved_object(self).signatures[call_endpoint]

    def call(self, inputs, training=False):
        return self.call_endpoint_fn(**inputs)


def read_folder(
    folder: pathlib.Path, *, trust: bool = False, signature: str | None = None
) -> tuple[keras.Model, Found]:
    """The model in a SavedModel folder, and what there is to say of it.

    A functional or Sequential model that Keras 2 saved is rebuilt of Keras layers. One that cannot be (with a warning),
    any other, and a `signature` that is asked for, becomes a `keras.Model` around its graph
    (`keras.layers.TFSMLayer`), with the inputs and outputs of its signature.

    Raises:
        ModelError: a damaged folder, one that would run code, no signature, or none that is clear.
    """
    saved = _parsed(folder)
    if not trust:
        refuse_operators(saved, folder)
    names = [name for name in sorted(saved.meta_graphs[0].signature_def) if not name.startswith("__saved_model")]
    nodes = _keras_nodes(folder) if signature is None else []
    why = ""
    if nodes:
        try:
            return _rebuilt(folder, nodes, trust)
        except _NotLayers as error:
            why = str(error)
        except ModelError as error:
            if not names:
                raise
            raise ModelError(
                f"{error} Or run its graph alone, without that code: signature={_named(names)!r} "
                f"(--signature {_named(names)})."
            ) from error
    name = _chosen(folder, names, signature)
    if why:
        warnings.warn(
            f"{folder} cannot be rebuilt of Keras layers ({why}). The graph of its signature {name!r} runs as it is: "
            f"{_LOST}.",
            stacklevel=4,
        )
    others = ", ".join(repr(other) for other in names if other != name)
    line = f"graph: the SavedModel's signature {name!r} as it is{f', not {others}' if others else ''}; {_LOST}"
    return _graph_model(folder, name), Found([line])


class _NotLayers(Exception):
    """Why a model of Keras 2 cannot be rebuilt of Keras layers."""


def _rebuilt(folder: pathlib.Path, nodes: list[dict], trust: bool) -> tuple[keras.Model, Found]:
    root = nodes[0].get("class_name")
    try:
        if not trust:
            for node in nodes:
                refuse_code(node, folder, keras2=True, revived=True, functions=operators.TABLE)
    except MissingCode as error:
        raise _NotLayers(_first_sentence(error)) from error
    if root not in ("Functional", "Sequential"):
        raise _NotLayers(f"it is a subclassed {root}, whose code is not in it")
    try:
        return to_keras3(_open_keras2(folder, nodes))
    except ModelError as error:
        raise _NotLayers(_first_sentence(error)) from error


def _first_sentence(error: Exception) -> str:
    """Without the remedies, which are those of other files."""
    return str(error).split(". ")[0].removesuffix(".")


def _chosen(folder: pathlib.Path, names: list[str], wanted: str | None) -> str:
    """The name of the signature that runs."""
    if not names:
        raise ModelError(
            f"{folder} has no signature, so nobody knows its inputs. Save it again with one: "
            "tf.saved_model.save(model, folder, signatures=function)."
        )
    listed = ", ".join(map(repr, names))
    if wanted is not None and wanted not in names:
        raise ModelError(f"{folder} has no signature {wanted!r}. It has: {listed}.")
    if wanted is None and _DEFAULT not in names and len(names) > 1:
        raise ModelError(
            f"{folder} has the signatures {listed}, and none of them is {_DEFAULT!r}. Choose one: "
            f"signature={names[0]!r} (--signature {names[0]})."
        )
    return wanted or _named(names)


def _named(names: list[str]) -> str:
    return _DEFAULT if _DEFAULT in names else names[0]


def _parsed(folder: pathlib.Path):
    """The message in a folder that is whole."""
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
    return saved


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


def _graph_model(folder: pathlib.Path, name: str) -> keras.Model:
    try:
        layer = GraphLayer(str(folder), call_endpoint=name, name="graph")
    except Exception as error:
        raise ModelError(f"TensorFlow cannot load {folder}: {reason_of(error)}") from error
    specs = layer.call_endpoint_fn.structured_input_signature[1]
    for key, spec in specs.items():
        if not spec.shape.rank:
            raise ModelError(
                f"The input {key!r} of the signature {name!r} of {folder} has "
                f"{'no axis' if spec.shape.rank == 0 else 'an unknown number of axes'}. Expected samples in a batch: "
                "save it again with a function of such inputs."
            )
    inputs = {n: keras.Input(batch_shape=tuple(s.shape), dtype=s.dtype.name, name=n) for n, s in specs.items()}
    # A single input alone, so that arrays go in without Keras's warning of another structure.
    given = next(iter(inputs.values())) if len(inputs) == 1 else inputs
    return keras.Model(given, layer(inputs), name=folder.resolve().name.replace(" ", "_"))
