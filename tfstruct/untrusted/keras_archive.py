"""A `.keras` archive, looked through before a loader unpacks it."""

import io
import lzma
import pathlib
import zipfile
import zlib

from tfstruct.errors import ModelError, one_line
from tfstruct.untrusted import hdf5, json_text

# Weights hardly compress.
_LARGEST_RATIO = 100
_HARMLESS_SIZE = 256 << 20
_MOST_ENTRIES = 10_000
_WEIGHTS = "model.weights.h5"
_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, NotImplementedError, RuntimeError)


def description(source, file) -> tuple[dict, str]:
    """The description in a `.keras` archive and the version of Keras that wrote it.

    Args:
        source: its path, or its bytes.
        file: what errors call it.

    Raises:
        ModelError: a damaged archive, one that leaves its folder, reads other files or takes far more room than its
            size, or a description that is none.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(source) if isinstance(source, bytes) else source) as archive:
            _check_entries(archive, file)
            text, about = (_small(archive, name, file) for name in ("config.json", "metadata.json"))
            _check_weights(archive, file)
    except _DAMAGED as error:
        raise _damaged(file, error) from None
    version = parsed(about or b"{}", file, "metadata").get("keras_version") or "3"
    return described(text, file), str(version)


def described(text, file) -> dict:
    """The description of a model as data."""
    data = parsed(text, file, "description")
    if "class_name" not in data:
        raise ModelError(f"{file} describes no model. Expected a JSON object with a class_name. Save it again.")
    return data


def parsed(text, file, what: str) -> dict:
    """A JSON object in a model file."""
    if not isinstance(text, str | bytes):
        raise ModelError(f"{file} holds a model {what} that is no text. Expected JSON. Save it again.")
    try:
        data = json_text.parse(text)
    except ValueError as error:
        raise ModelError(f"{file} holds a model {what} that is no JSON as Keras writes it: {error}. Refused.") from None
    if not isinstance(data, dict):
        raise ModelError(f"{file} describes no model. Expected a JSON object. Save it again.")
    return data


def _check_entries(archive: zipfile.ZipFile, file) -> None:
    entries = archive.infolist()
    if len(entries) > _MOST_ENTRIES:
        raise ModelError(f"{file} holds more than {_MOST_ENTRIES:,} files, as no model does. Refused.")
    for entry in entries:
        if entry.filename.startswith(("/", "\\")) or ".." in pathlib.PurePosixPath(entry.filename).parts:
            raise ModelError(f"{file} holds the path {entry.filename!r}, which leaves the archive. Refused.")
    unpacked = sum(e.file_size for e in entries)
    packed = max(sum(e.compress_size for e in entries), 1)
    if unpacked > _HARMLESS_SIZE and unpacked / packed > _LARGEST_RATIO:
        raise ModelError(
            f"{file} would unpack from {packed:,} to {unpacked:,} bytes, as no trained model does. Refused."
        )
    missing = {"config.json", _WEIGHTS} - {e.filename for e in entries}
    if missing:
        raise ModelError(f"{file} lacks {', '.join(sorted(missing))}, which a .keras model has.")


def _small(archive: zipfile.ZipFile, name: str, file) -> bytes:
    """A member that is text; empty where it is missing."""
    if name not in archive.namelist():
        return b""
    if archive.getinfo(name).file_size > json_text.LARGEST:
        raise ModelError(f"{file} holds a {name} of more than {json_text.LARGEST:,} bytes, as no model does. Refused.")
    return archive.read(name)


def _check_weights(archive: zipfile.ZipFile, file) -> None:
    import h5py

    entry = archive.getinfo(_WEIGHTS)
    try:
        with archive.open(entry) as member, h5py.File(member, "r") as stream:
            hdf5.refuse_reach(stream, entry.file_size, file)
    except ModelError:
        raise
    except Exception as error:  # HDF5 fails on damaged files in many ways
        raise _damaged(file, error) from None


def _damaged(file, error: Exception) -> ModelError:
    reason = one_line(error, 300)
    return ModelError(f"{file} is damaged or cut short ({reason}). Download or save it again.")
