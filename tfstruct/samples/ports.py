"""How a model takes its inputs and gives its outputs: names, shapes and structure."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfstruct.errors import DataError, ModelError
from tfstruct.samples.rows import match_keys
from tfstruct.samples.spec import TensorSpec


class Arguments(list):
    """Inputs of a subclassed model whose `call` takes them as separate arguments."""


class Ports:
    """The inputs and outputs of a model, and what users give for them in the model's own structure.

    Attributes:
        inputs: the inputs, in the order the model flattens them.
        outputs: names of the outputs, in the order the model flattens them; None for a subclassed model.
        widths: length of the last axis of each output.

    Raises:
        ModelError: the model does not know its inputs yet, or they are sparse or ragged.
    """

    def __init__(self, model: keras.Model):
        structure = _input_structure(model)
        flat = keras.tree.flatten(structure)
        clean = unique_names([one.name for one in flat])
        self._name, self._batches = model.name, {one.batch for one in flat} - {None}
        named = isinstance(structure, Mapping) and len(structure) == len(flat)
        keys = sorted(structure) if named else clean
        self.inputs = tuple(
            TensorSpec(name, tuple(one.shape[1:]), one.dtype, (str(key), one.name))
            for name, key, one in zip(clean, keys, flat, strict=True)
        )
        self._input = structure
        self._output, self.outputs = _outputs(model)
        self.widths = tuple(x.shape[-1] for x in keras.tree.flatten(self._output))

    @classmethod
    def of_data(cls, x: Any) -> "Ports":
        """Of a model that does not know its inputs yet, by a batch that it will be called on: any size of each axis."""
        self = cls.__new__(cls)
        self._input = keras.tree.map_structure(np.asarray, x)
        flat = keras.tree.flatten(self._input)
        if any(one.ndim == 0 for one in flat):
            raise DataError(f"Expected batches of samples. Received single numbers in {type(x).__name__}.")
        names = sorted(x) if isinstance(x, Mapping) else ["input", *(f"input_{i}" for i in range(1, len(flat)))]
        self.inputs = tuple(
            TensorSpec(str(name), (None,) * (one.ndim - 1), str(one.dtype))
            for name, one in zip(names, flat, strict=True)
        )
        self._name, self._batches, self._output, self.outputs, self.widths = "", set(), (), None, ()
        return self

    @property
    def batch(self) -> int | None:
        """The batch size that the inputs fix; None where they leave it open."""
        if len(self._batches) > 1:
            raise ModelError(f"The inputs of {self._name!r} fix different batch sizes: {sorted(self._batches)}.")
        return next(iter(self._batches), None)

    def arranged(self, values) -> Any:
        """Inputs, by name or in order, in the structure that the model takes."""
        if isinstance(values, Mapping):
            values = [values[spec.name] for spec in self.inputs]
        return keras.tree.pack_sequence_as(self._input, list(values))

    def given(self, x) -> Any:
        """Inputs as a user gives them, alone, by name or in order, in the structure that the model takes."""
        if isinstance(x, Mapping):
            return self.arranged({name: x[key] for name, key in match_keys(x, self.inputs, True, "Inputs")[0].items()})
        return self.arranged(keras.tree.flatten(x))

    def labelled(self, labels) -> Any:
        """Labels, alone, by output name or in order, in the structure of the model's outputs.

        Raises:
            DataError: other names or another number than the model has outputs.
        """
        if self.outputs is None:
            return labels
        if isinstance(labels, Mapping):
            if set(labels) != set(self.outputs):
                raise DataError(f"Expected labels for the outputs {list(self.outputs)}. Received: {sorted(labels)}.")
            flat = [labels[name] for name in self.outputs]
        else:
            flat = list(labels) if isinstance(labels, (tuple, list)) else [labels]
        if len(flat) != len(self.outputs):
            raise DataError(
                f"Expected labels for {len(self.outputs)} outputs, {list(self.outputs)}. Received: {len(flat)}."
            )
        return keras.tree.pack_sequence_as(self._output, flat)

    def of_file(self, outputs: Mapping[str, np.ndarray]) -> Any:
        """The outputs of the model's file by name, in the structure of the model's outputs."""
        assert self.outputs is not None  # a model with a `call` of its own is refused before
        names = self.outputs if isinstance(self._output, Mapping) else unique_names(list(self.outputs))
        flat = list(outputs.values()) if len(outputs) == 1 else [outputs[name] for name in names]
        return keras.tree.pack_sequence_as(self._output, flat)


def unique_names(names: list[str]) -> list[str]:
    """Names that a SavedModel signature takes, no two alike."""
    out: list[str] = []
    for name in names:
        clean = base = re.sub(r"\W", "_", name) or "input"
        if clean[0].isdigit():
            clean = base = f"_{base}"
        n = 1
        while clean in out:
            clean, n = f"{base}_{n}", n + 1
        out.append(clean)
    return out


@dataclasses.dataclass(frozen=True)
class _Input:
    name: str
    shape: tuple[int | None, ...]
    dtype: str

    @property
    def batch(self) -> int | None:
        return self.shape[0]


def _input_structure(model: keras.Model):
    if hasattr(model, "inputs") and model.inputs:  # functional and built Sequential

        def spec(x):
            if getattr(x, "sparse", False) or getattr(x, "ragged", False):
                raise ModelError(f"Input {x.name!r} is sparse or ragged; TensorFlow Lite has dense tensors only.")
            return _Input(x.name, tuple(x.shape), str(x.dtype))

        structure = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
        return keras.tree.map_structure(spec, structure)
    build = model.get_build_config() if model.built else None
    if not build:
        raise ModelError(
            f"The model {model.name!r} does not know the shape of its input yet. Call it once on a batch of data "
            "(model(x)), or build it, before the conversion."
        )
    shapes = list(build["shapes_dict"].values()) if "shapes_dict" in build else [build["input_shape"]]
    dtype = "float32" if "float" in str(model.input_dtype) else str(model.input_dtype)
    counter = iter(range(10**6))

    def from_shape(shape, name=None):
        if isinstance(shape, Mapping):
            return {key: from_shape(value, key) for key, value in shape.items()}
        if all(d is None or isinstance(d, int) for d in shape):
            index = next(counter)
            # The batch of a subclassed model is whatever it was first called with, not a promise.
            return _Input(name or (f"input_{index}" if index else "input"), (None, *shape[1:]), dtype)
        return [from_shape(s) for s in shape]

    structure = [from_shape(shape) for shape in shapes]
    return structure[0] if len(structure) == 1 else Arguments(structure)


def _outputs(model: keras.Model) -> tuple[Any, tuple[str, ...] | None]:
    """The structure of the outputs and their names, in the order they are flattened; None: only a call would tell."""
    if isinstance(model, keras.Sequential) and model.inputs:
        return model.outputs[0], (model.layers[-1].name,)
    if not getattr(model, "inputs", None):
        return (), None
    structure = model.output
    if isinstance(structure, Mapping):
        return structure, tuple(sorted(structure))
    return structure, tuple(model.output_names)
