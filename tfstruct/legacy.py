"""Reads a model file without running code from it: `.keras`, and the Keras 2 `.h5` that Keras 3 reads."""

import json
import lzma
import os
import pathlib
import re
import zipfile
import zlib
from collections.abc import Iterator

from tfstruct.errors import ModelError

# A model's description is text of a few MB at most; its weights hardly compress.
_LARGEST_CONFIG = 256 << 20
_LARGEST_RATIO = 100
_HARMLESS_SIZE = 1 << 30
_TRUSTED_MODULES = ("keras", "builtins", "tfstruct")


def load(path: str | os.PathLike, *, trust: bool = False):
    """Loads a trained Keras model for inference.

    Args:
        path: a `.keras` file, or an `.h5` / `.hdf5` file that holds a whole model.
        trust: let the file run code: Lambda layers. Classes of your own need no trust, but have to be registered
            with `keras.saving.register_keras_serializable`: import their module first.

    Returns:
        A `keras.Model`, not compiled.

    Raises:
        ModelError: a missing, unreadable, damaged or unsafe file, or one of a kind that is not read.
    """
    file = check_path(path)
    config = _keras_config(file) if file.suffix == ".keras" else _h5_config(file)
    if not trust:
        _refuse_code(config, file)
    import keras

    try:
        return keras.models.load_model(file, compile=False, safe_mode=not trust)
    except Exception as error:
        raise ModelError(f"Keras cannot load {file}: {_reason(error)}") from error


def check_path(path: str | os.PathLike) -> pathlib.Path:
    """Checks what can be said of a model file without reading it as a model; imports nothing heavy."""
    file = pathlib.Path(path)
    if not file.exists():
        raise ModelError(f"There is no file {file}. Expected a .keras or .h5 model.")
    if file.is_dir():
        kind = "a SavedModel folder, which is not read yet" if (file / "saved_model.pb").exists() else "a folder"
        raise ModelError(f"{file} is {kind}. Expected a .keras or .h5 file: model.save('model.keras').")
    if not file.is_file():
        raise ModelError(f"{file} is no regular file. Expected a .keras or .h5 file.")
    if file.suffix not in (".keras", ".h5", ".hdf5"):
        raise ModelError(f"{file} has the suffix {file.suffix or '(none)'!r}. Expected .keras, .h5 or .hdf5.")
    try:
        with open(file, "rb") as stream:
            start = stream.read(512)
    except PermissionError:
        raise ModelError(f"No permission to read {file}. Check its mode (chmod +r).") from None
    except OSError as error:
        raise ModelError(f"Cannot read {file}: {error.strerror}.") from None
    if not start:
        raise ModelError(f"{file} is empty. Expected a saved Keras model: download or save it again.")
    if start.lstrip()[:1] == b"<":
        raise ModelError(f"{file} is a web page, not a model: the download saved an error or log-in page.")
    magic, kind = (b"PK\x03\x04", "zip archive") if file.suffix == ".keras" else (b"\x89HDF\r\n\x1a\n", "HDF5 file")
    if not start.startswith(magic):
        other = ""
        if start.startswith(b"PK\x03\x04"):
            other = " It looks like a .keras archive: rename it."
        elif start.startswith(b"\x89HDF"):
            other = " It looks like an HDF5 file: rename it to .h5."
        raise ModelError(f"{file} is no {kind}, which a {file.suffix} model is.{other or ' It may be damaged.'}")
    return file


def _keras_config(file: pathlib.Path) -> dict:
    """The description in a `.keras` archive, after a look at the archive itself."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            for entry in entries:
                if entry.filename.startswith(("/", "\\")) or ".." in pathlib.PurePosixPath(entry.filename).parts:
                    raise ModelError(f"{file} holds the path {entry.filename!r}, which leaves the archive. Refused.")
            unpacked = sum(e.file_size for e in entries)
            packed = max(sum(e.compress_size for e in entries), 1)
            if unpacked > _HARMLESS_SIZE and unpacked / packed > _LARGEST_RATIO:
                raise ModelError(
                    f"{file} would unpack from {packed:,} to {unpacked:,} bytes, as no trained model does. Refused."
                )
            missing = {"config.json", "model.weights.h5"} - {e.filename for e in entries}
            if missing:
                raise ModelError(f"{file} lacks {', '.join(sorted(missing))}, which a .keras model has.")
            if archive.getinfo("config.json").file_size > _LARGEST_CONFIG:
                raise ModelError(f"{file} holds a config.json of more than {_LARGEST_CONFIG:,} bytes. Refused.")
            text = archive.read("config.json")
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        OSError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise ModelError(f"{file} is damaged or cut short ({_reason(error)}). Download or save it again.") from None
    return _description(text, file)


def _h5_config(file: pathlib.Path) -> dict:
    """The description in a legacy `.h5` file."""
    import h5py

    try:
        with h5py.File(file, "r") as stream:
            text = stream.attrs.get("model_config")
            names = list(stream)
    except (OSError, RuntimeError, KeyError) as error:
        raise ModelError(f"{file} is damaged or cut short ({_reason(error)}). Download or save it again.") from None
    if text is None:
        raise ModelError(
            f"{file} holds {'weights only, ' if names else ''}no model. Expected a file written by model.save: build "
            "the model, model.load_weights(...), then model.save('model.keras')."
        )
    return _description(text, file)


def _description(text, file: pathlib.Path) -> dict:
    """The description of a model as data."""
    if not isinstance(text, str | bytes):
        raise ModelError(f"{file} holds a model description that is no text. Expected JSON. Save it again.")
    try:
        data = json.loads(text)
    except RecursionError:
        raise ModelError(f"{file} holds a description that nests too deep for any model. Refused.") from None
    except ValueError as error:
        raise ModelError(f"{file} holds a model description that is no JSON: {error}.") from None
    if not isinstance(data, dict) or "class_name" not in data:
        raise ModelError(f"{file} describes no model. Expected a JSON object with a class_name. Save it again.")
    return data


def _refuse_code(config, file: pathlib.Path) -> None:
    """Refuses what would run code on loading; Keras itself does not enforce this for `.h5` files."""
    for part in _parts(config):
        kind = part.get("class_name")
        if kind == "Lambda":
            inner = part.get("config")
            name = inner.get("name", "") if isinstance(inner, dict) else ""
            raise ModelError(
                f"{file} holds the Lambda layer {name!r}, which runs code from the file. Use --trust "
                "(load(..., trust=True)) if you know where the file comes from."
            )
        if kind in ("__lambda__", "function") and not _is_named_function(part):
            raise ModelError(f"{file} holds a serialized function, which would run on loading. Use --trust if known.")
        module = part.get("module")
        known = module is None or (isinstance(module, str) and module.split(".")[0] in _TRUSTED_MODULES)
        if isinstance(kind, str) and not known and not _is_registered(part):
            raise ModelError(
                f"{file} needs the custom class {module}.{kind}, which is not registered. Import the module that "
                "registers it (--import MODULE)."
            )


def _parts(config) -> Iterator[dict]:
    """All dicts in a description, however deep; a loop, as a hostile file may nest deeper than the stack."""
    todo = [config]
    while todo:
        part = todo.pop()
        if isinstance(part, dict):
            yield part
            todo.extend(part.values())
        elif isinstance(part, list):
            todo.extend(part)


def _is_named_function(part: dict) -> bool:
    return isinstance(part.get("config"), str)


def _is_registered(part: dict) -> bool:
    import keras

    name = part.get("registered_name")
    return isinstance(name, str) and keras.saving.get_registered_object(name) is not None


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "DepthwiseConv2D" in text and "groups" in text:
        return "Keras 2 saved it with a DepthwiseConv2D that Keras 3 refuses ('groups'). Save it again with Keras 3."
    if "TFOpLambda" in text or "SlicingOpLambda" in text:
        return (
            "Keras 2 saved it with operators outside layers (TFOpLambda), which Keras 3 refuses. Save it with Keras 3."
        )
    if missing := re.search(r"(?:Unknown layer|locate class|deserialize class|locate function)\W+([\w.>]+)", text):
        return f"'{missing[1]}' is not registered. Import the module that registers it (--import MODULE)."
    return text[:300] or type(error).__name__
