"""`StoredTask`: a task on disk, which other processes open."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfstruct.compression.budget import Budget
from tfstruct.compression.dataset import Examples
from tfstruct.compression.task import Settings, Task
from tfstruct.errors import DataError, ModelError
from tfstruct.files import file_atomic, save_model
from tfstruct.samples.ports import Ports

_MODEL, _DATA = "task.keras", "{}.npz"


@dataclasses.dataclass(frozen=True)
class StoredTask:
    """What another process needs to open a task: model and data lie in its working folder.

    Attributes:
        folder: the working folder.
        budget, settings: of the task.
        options: its other arguments; functions are pickled.
    """

    folder: str
    budget: Budget
    settings: Settings
    options: Mapping

    @classmethod
    def of(cls, task: Task) -> "StoredTask":
        """Writes model and data.

        Raises:
            DataError: the training data is a stream.
        """
        if not isinstance(task.train, Examples):
            raise DataError(
                "Workers read the training data from the working folder. Expected arrays or files, received a "
                "tf.data.Dataset: it cannot be written whole. Give arrays, or search with workers=0."
            )
        save_model(task.model, task.folder.path / _MODEL)
        for name, examples in (("train", task.train), ("validation", task.validation)):
            labels = [] if examples.labels is None else keras.tree.flatten(examples.labels)
            arrays: dict[str, Any] = {f"input{i}": array for i, array in enumerate(examples.inputs)}
            arrays |= {f"label{i}": array for i, array in enumerate(labels)}
            if examples.weights is not None:
                arrays |= {f"weight{i}": array for i, array in enumerate(keras.tree.flatten(examples.weights))}
            with file_atomic(task.folder.path / _DATA.format(name)) as file:
                np.savez(file, **arrays)
        return cls(str(task.folder.path.absolute()), task.budget, task.settings, task.options)

    def open(self) -> Task:
        """Opens the task; the figures of the original are read, not measured again.

        Raises:
            ModelError: Keras cannot read the model.
            RecipeError: what was read is not the same task.
        """
        folder = pathlib.Path(self.folder)
        try:
            model = keras.models.load_model(folder / _MODEL)
        except (ValueError, TypeError, OSError, KeyError) as error:
            raise ModelError(
                f"A worker cannot read the model: {str(error).splitlines()[0]} Layers and losses of your own must be "
                "registered with keras.saving.register_keras_serializable in a module that it can import."
            ) from error
        ports = Ports(model)
        train, validation = (_read(ports, folder / _DATA.format(name)) for name in ("train", "validation"))
        return Task(
            model, train, validation, self.budget, settings=self.settings, workdir=folder, alone=False, **self.options
        )


def _read(ports: Ports, file: pathlib.Path) -> Examples:
    with np.load(file) as arrays:
        inputs = [arrays[f"input{i}"] for i in range(sum(name.startswith("input") for name in arrays.files))]
        labels = [arrays[f"label{i}"] for i in range(sum(name.startswith("label") for name in arrays.files))]
        weights = [arrays[f"weight{i}"] for i in range(sum(name.startswith("weight") for name in arrays.files))]
    by_output = ports.labelled(weights) if len(weights) > 1 else None if not weights else weights[0]
    return Examples(ports, inputs, ports.labelled(labels) if labels else None, file.name, by_output)
