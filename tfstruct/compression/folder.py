"""`WorkingFolder`: the intermediate results of a run, so that a killed run can resume."""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfstruct.errors import ModelError, RecipeError, one_line
from tfstruct.files import FolderLock, TemporaryFolder, clear_parts, is_part, save_model, write_atomic
from tfstruct.untrusted import json_text, keras_archive
from tfstruct.untrusted.descriptions import refuse_code

_MANIFEST = "manifest.json"
_FORMAT = 1


class WorkingFolder:
    """A folder of models and JSON files; each file is written completely or not at all.

    Attributes:
        path: where it is.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.path.mkdir(parents=True, exist_ok=True)
        self._held: FolderLock | None = None

    @classmethod
    def open(cls, path: str | os.PathLike | None, description: Mapping, *, alone: bool = True) -> "WorkingFolder":
        """Opens the folder of a run: a new one, or the one of an earlier call with the same description.

        Args:
            path: None: a temporary folder, which `close` removes.
            description: plain data that makes runs equal: model, data, budget, settings.
            alone: whether the run has the folder for itself; False for the workers of one that has.

        Raises:
            RecipeError: the folder belongs to a run with another description, to one that is still running, or to
                nothing of ours.
        """
        folder = _Temporary() if path is None else cls._made(path)
        if alone and path is not None:
            folder._take()
        try:
            folder._describe(description)
            if folder._held is not None:
                clear_parts(folder.path)
        except BaseException:
            folder.close()
            raise
        return folder

    def _take(self) -> None:
        try:
            self._held = FolderLock(self.path)
        except BlockingIOError:
            raise RecipeError(
                f"Another run works in {self.path}. Wait until it has ended, or give a working folder of its own."
            ) from None

    def _describe(self, description: Mapping) -> None:
        wanted = {"format": _FORMAT, **json.loads(json.dumps(description))}
        found = self.read(_MANIFEST)
        if found is None:
            there = [file.name for file in self.path.iterdir()]
            if not all(name == FolderLock.NAME or (name.startswith(_MANIFEST) and is_part(name)) for name in there):
                raise RecipeError(f"The working folder {self.path} holds other files. Give a new or an empty one.")
            self.write(_MANIFEST, wanted)
        elif found != wanted:
            other = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
            raise RecipeError(
                f"The working folder {self.path} belongs to another run: its {', '.join(other)} differ. Give a new "
                "folder, or call it as before."
            )

    @classmethod
    def _made(cls, path: str | os.PathLike) -> "WorkingFolder":
        try:
            return cls(pathlib.Path(path))
        except (OSError, TypeError) as error:
            raise RecipeError(
                f"`workdir` must be a folder that can be written to, or its name. Received: {path!r} ({error})."
            ) from error

    def close(self) -> None:
        """Ends the run; the folder stays, unless it is a temporary one."""
        if self._held is not None:
            self._held.release()

    def inner(self, name: str) -> "WorkingFolder":
        """A subfolder."""
        return WorkingFolder(self.path / name)

    def read(
        self, name: str, build: Callable[[Any], Any] = lambda data: data, kind: type[dict] | type[list] = dict
    ) -> Any:
        """What `build` makes of the content of a JSON file; None if it does not exist.

        Args:
            build: of what `write` was given; what other content raises in it is an error about the file.
            kind: what `write` was given.

        Raises:
            RecipeError: the file was damaged or changed.
        """
        file = self.path / name
        if not file.is_file():
            return None
        try:
            return json_text.read_file(file, build, RecipeError, kind=kind)
        except RecipeError as error:
            raise RecipeError(f"{error} Remove the working folder and start again.") from error

    def content(self, name: str, sha256: str | None = None) -> bytes:
        """The bytes of a file that was written before.

        Args:
            sha256: of these bytes, in hexadecimal digits; None: unknown.

        Raises:
            RecipeError: it is gone or has changed.
        """
        try:
            content = (self.path / name).read_bytes()
            reason = None
        except OSError as error:
            content, reason = b"", f"cannot be read ({error.strerror})"
        if reason is None and sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
            reason = "is not what was written there"
        if reason is not None:
            raise RecipeError(f"{self.path / name} {reason}. Remove the working folder and start again.")
        return content

    def write(self, name: str, data) -> None:
        write_atomic(self.path / name, json.dumps(data, indent=1).encode())

    def save(self, name: str, model: keras.Model) -> None:
        """Writes a model as `name`.keras."""
        save_model(model, self.path / f"{name}.keras")

    def load(self, name: str) -> keras.Model:
        """Reads what `save` wrote, uncompiled.

        Raises:
            ModelError: Keras cannot read it, such as one with layers that it does not know, or it would run code.
        """
        file = self.path / f"{name}.keras"
        try:
            config, _ = keras_archive.description(file, file)
            refuse_code({key: value for key, value in config.items() if key != "compile_config"}, file)
            return keras.models.load_model(file, compile=False)
        except Exception as error:  # Keras fails on damaged files in many ways
            raise ModelError(
                f"The model of an earlier stage cannot be read from {file}: {one_line(error, 300)} Register your own "
                "layers with keras.saving.register_keras_serializable, or go without `workdir`."
            ) from error


class _Temporary(WorkingFolder):
    def __init__(self):
        self._folder = TemporaryFolder("compress")
        super().__init__(pathlib.Path(self._folder.path))

    def close(self) -> None:
        self._folder.remove()
