"""Opens a model file without running code from it: `.keras` and `.h5`, of Keras 3 and of Keras 2."""

import contextlib
import os
import pathlib
import re

from tfstruct.errors import ModelError
from tfstruct.untrusted import hdf5, keras_archive
from tfstruct.untrusted.descriptions import parts, refuse_code

_EXPECTED = "Expected a .keras or .h5 file or a SavedModel folder"


def open_file(file: pathlib.Path, *, trust: bool = False):
    """The model in a file that `check_path` has seen: a `keras.Model`, or a `tf_keras` model where Keras 2 wrote it.

    Raises:
        ModelError: an unreadable, damaged or unsafe file, or one of a kind that is not read.
    """
    config, version = keras_archive.description(file, file) if file.suffix == ".keras" else _h5_config(file)
    config.pop("compile_config", None)  # nothing is compiled
    if version.startswith("3"):
        return _open_keras3(file, config, trust)
    return _open_keras2(file, config, trust)


def _open_keras3(file: pathlib.Path, config, trust: bool):
    import keras

    if not trust:
        refuse_code(config, file)
    try:
        return keras.models.load_model(file, compile=False, safe_mode=not trust)
    except Exception as error:
        raise ModelError(f"Keras cannot load {file}: {reason_of(error)}") from error


def _open_keras2(file: pathlib.Path, config, trust: bool):
    """By tf_keras, which reads what Keras 3 refuses; by Keras 3 where only that one knows a custom class."""
    import tf_keras

    from tfstruct.legacy import operators, tfmot

    wrapped = any(part.get("class_name") in tfmot.CLASSES for part in parts(config))
    with tfmot.scope() if wrapped else contextlib.nullcontext():
        try:
            if not trust:
                refuse_code(config, file, keras2=True, functions=operators.TABLE)
            return tf_keras.models.load_model(file, compile=False, safe_mode=not trust)
        except ModelError as error:
            refused = error
        except Exception as error:
            reason = reason_of(error)
            hint = " TFMOT often cannot read its own files: give the model object, or a SavedModel." if wrapped else ""
            refused = ModelError(f"Keras 2 cannot load {file}: {reason}{hint}")
            if "Unknown layer" not in str(error) and "Unknown activation" not in str(error):
                raise refused from error
            refused = ModelError(f"Keras cannot load {file}: {reason}")
    try:
        return _open_keras3(file, config, trust)
    except ModelError as error:
        raise refused from error


def check_path(path: str | os.PathLike) -> pathlib.Path:
    """Checks what can be said of a model file without reading it as a model; imports nothing heavy.

    Args:
        path: of a `.keras` or `.h5` file, or of a SavedModel folder.

    Returns:
        The path, a `pathlib.Path`.

    Raises:
        ModelError: there is no such file, it cannot be read, or it is no model of the kind that its suffix says.

    Example:
        >>> model.save("model.keras")
        >>> tfstruct.legacy.check_path("model.keras").name
        'model.keras'
    """
    file = pathlib.Path(path)
    if not file.exists():
        raise ModelError(f"There is no file {file}. {_EXPECTED}.")
    if file.is_dir():
        if not (file / "saved_model.pb").exists():
            if any(file.glob("*.index")):
                raise ModelError(
                    f"{file} holds a checkpoint, which is weights only, no model. {_EXPECTED}: build the model, "
                    "model.load_weights(...) in the Keras that wrote it, then model.save('model.keras')."
                )
            raise ModelError(f"{file} is a folder without saved_model.pb. {_EXPECTED}: model.save('model.keras').")
        return file
    if not file.is_file():
        raise ModelError(f"{file} is no regular file. {_EXPECTED}.")
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


def _h5_config(file: pathlib.Path) -> tuple[dict, str]:
    """The description in a legacy `.h5` file and the version of Keras that wrote it."""
    import h5py

    try:
        with h5py.File(file, "r") as stream:
            text = stream.attrs.get("model_config")
            version = stream.attrs.get("keras_version", "2")
            names = list(stream)
            hdf5.refuse_reach(stream, file.stat().st_size, file)
    except ModelError:
        raise
    except Exception as error:  # HDF5 fails on damaged files in many ways
        raise ModelError(f"{file} is damaged or cut short ({reason_of(error)}). Download or save it again.") from None
    if text is None:
        raise ModelError(
            f"{file} holds {'weights only, ' if names else ''}no model. Expected a file written by model.save: build "
            "the model, model.load_weights(...), then model.save('model.keras')."
        )
    description = keras_archive.described(text, file)
    return description, version.decode(errors="replace") if isinstance(version, bytes) else str(version)


def reason_of(error: Exception) -> str:
    text = " ".join(str(error).split())
    if missing := re.search(r"(?:Unknown layer|locate class|deserialize class|locate function)\W+([\w.>]+)", text):
        return f"'{missing[1]}' is not registered. Import the module that registers it (--import MODULE)."
    return text[:300] or type(error).__name__
