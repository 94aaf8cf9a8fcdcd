"""A `.keras` archive as the arrays of its weights, and what else is in it."""

import io
import json
import pathlib
import zipfile
from collections.abc import Sequence

import h5py
import keras
import numpy as np

from tfstruct.convert.packing.arrays import bit_patterns
from tfstruct.errors import ModelError
from tfstruct.files import TemporaryFolder
from tfstruct.graph.layer_tree import layer_paths
from tfstruct.keras_internals.layer_parts import own_weights
from tfstruct.untrusted import keras_archive as untrusted
from tfstruct.untrusted.descriptions import refuse_code

WEIGHTS = "model.weights.h5"
_CONFIG = "config.json"
_OPTIMIZER = "optimizer"


def saved(model: keras.Model) -> bytes:
    """The bytes that `model.save` writes."""
    with TemporaryFolder("pack") as folder:
        path = pathlib.Path(folder, "model.keras")
        try:
            keras.saving.save_model(model, path)
        except Exception as error:
            raise ModelError(f"Keras cannot save {model.name!r}: {_first_line(error)}") from error
        return path.read_bytes()


def loaded(archive: bytes, name: str, trust: bool) -> keras.Model:
    """The model in an archive, by Keras's own loader; without `trust` its description names only what computes."""
    if not trust:
        config, _ = untrusted.description(archive, name)
        refuse_code(config, name)
    with TemporaryFolder("pack") as folder:
        path = pathlib.Path(folder, "model.keras")
        path.write_bytes(archive)
        try:
            return keras.saving.load_model(path, safe_mode=not trust)
        except Exception as error:
            raise ModelError(
                f"Keras cannot load the model packed in {name}: {_first_line(error)} Import the modules that register "
                "its classes; give trust=True if it holds code and you know where it comes from."
            ) from error


def take_apart(archive: bytes, optimizer: bool = False) -> tuple[dict, list[np.ndarray]]:
    """What `put_together` needs: (description, arrays), the weights first.

    Args:
        optimizer: whether what `compile` was given, and the state of the optimizer, come along.
    """
    with zipfile.ZipFile(io.BytesIO(archive)) as source:
        members = {entry.filename: source.read(entry) for entry in source.infolist() if not entry.is_dir()}
    if not optimizer:
        members[_CONFIG] = json.dumps({**json.loads(members[_CONFIG]), "compile_config": None}).encode()
    tree, weights = _weights(members[WEIGHTS], () if optimizer else (_OPTIMIZER,))
    if tree is not None:
        del members[WEIGHTS]
    return {"weights": tree, "members": list(members)}, [*weights, *map(bit_patterns, members.values())]


def put_together(description: dict, parts: Sequence[np.ndarray]) -> bytes:
    """An archive with the same members and equal weights."""
    tree, members = description["weights"], description["members"]
    count = len(tree["datasets"]) if tree is not None else 0
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, part in zip(members, parts[count:], strict=True):
            path = pathlib.PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name:
                raise ValueError(f"the member {name!r} leaves the archive")
            archive.writestr(zipfile.ZipInfo(name), part.tobytes())
        if tree is not None:
            archive.writestr(zipfile.ZipInfo(WEIGHTS), _weights_file(tree, parts[:count]))
    return out.getvalue()


def weight_names(tree: dict, model: keras.Model) -> list[str]:
    """A name for each dataset: `block/conv/kernel`, by the paths of the layers."""
    owners = {f"/{path}": attributes["name"] for path, attributes in tree["groups"] if "name" in attributes}
    layers = layer_paths(model)
    names = []
    for path, _, shape, _ in tree["datasets"]:
        place, _, key = f"/{path}".rpartition("/vars/")
        parts = place.split("/")
        prefixes = ["/".join(parts[:end]) for end in range(2, len(parts) + 1)]
        layer = "/".join(owners[f"{prefix}/vars"] for prefix in prefixes if f"{prefix}/vars" in owners)
        own = layers.get(layer, model)
        variables = own_weights(own)
        if key.isdigit() and int(key) < len(variables) and list(variables[int(key)].shape) == shape:
            key = variables[int(key)].name
        names.append(f"{layer}/{key}".lstrip("/"))
    return names


def _weights(content: bytes, left_out: Sequence[str]) -> tuple[dict | None, list[np.ndarray]]:
    """Groups and datasets of an HDF5 file, and their values; None where it holds other things than numbers and text."""
    groups, datasets, values = [], [], []

    def visit(path, item):
        if path.split("/")[0] in left_out:
            return
        attributes = {name: value for name, value in item.attrs.items()}
        if isinstance(item, h5py.Group):
            groups.append([path, attributes])
        else:
            datasets.append([path, item.dtype.str, list(item.shape), attributes])
            values.append(bit_patterns(item[()], item.dtype.itemsize))

    with h5py.File(io.BytesIO(content)) as file:
        file.visititems(visit)
    plain = all(isinstance(text, str) for *_, attributes in (*groups, *datasets) for text in attributes.values())
    if not plain or any("O" in dtype for _, dtype, _, _ in datasets):
        return None, []
    return {"groups": groups, "datasets": datasets}, values


def _weights_file(tree: dict, values: Sequence[np.ndarray]) -> bytes:
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        for path, attributes in tree["groups"]:
            file.require_group(path).attrs.update(attributes)
        for (path, dtype, shape, attributes), value in zip(tree["datasets"], values, strict=True):
            array = np.frombuffer(value.tobytes(), np.dtype(dtype)).reshape(shape)
            file.create_dataset(path, data=array).attrs.update(attributes)
    return out.getvalue()


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
