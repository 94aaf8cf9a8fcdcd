"""A recording: the operations that a layer's own `call` is made of, on symbolic tensors of known sizes."""

import contextlib
import dataclasses
import linecache
import os
import pathlib
import re
import traceback

import keras
import numpy as np

from tfstruct.graph.opening.parts import AddedLoss
from tfstruct.graph.trace import tensors_in
from tfstruct.keras_internals.recorded_calls import set_spec

_HERE = str(pathlib.Path(__file__).parents[2])


class ClosedError(Exception):
    """A layer cannot be opened; the message is the reason."""


@dataclasses.dataclass(eq=False)
class RecordedCall:
    """One operation called on symbolic tensors."""

    operation: "keras.Operation | Recording | Loop"
    args: tuple
    kwargs: dict
    outputs: list[keras.KerasTensor]

    @property
    def inputs(self) -> list[keras.KerasTensor]:
        return tensors_in((self.args, self.kwargs))

    def filled(self, by: dict[int, keras.KerasTensor]) -> tuple[tuple, dict]:
        """The arguments with other tensors in place of those recorded."""
        return keras.tree.map_structure(
            lambda x: by[id(x)] if isinstance(x, keras.KerasTensor) else x, (self.args, self.kwargs)
        )


@dataclasses.dataclass(eq=False)
class Recording:
    """What one call of a layer or model calls in its turn.

    Attributes:
        inputs: symbolic tensors in place of those among the arguments, masks too.
        arguments: what it was called with, positional and by name, with `inputs` in place of tensors.
        given_masks: (id of an input, id of its mask) of those whose mask is an input too.
        outputs: what it returned, in its structure.
        results: the tensors of `outputs`, then masks that were made inside, without doubles.
        masks: by id of a result, its mask.
        losses: those that the call added; one of `results` is made by an `AddedLoss` that has them.
    """

    layer: keras.layers.Layer
    inputs: list[keras.KerasTensor] = dataclasses.field(default_factory=list)
    calls: list[RecordedCall] = dataclasses.field(default_factory=list)
    arguments: tuple[tuple, dict] = dataclasses.field(default_factory=lambda: ((), {}))
    given_masks: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    outputs: object = None
    results: list[keras.KerasTensor] = dataclasses.field(default_factory=list)
    masks: dict[int, keras.KerasTensor] = dataclasses.field(default_factory=dict)
    losses: list[keras.KerasTensor] = dataclasses.field(default_factory=list)

    def needed(self, losses: bool = True) -> list[RecordedCall]:
        """The calls that a result depends on, in their order; without those for its losses if not `losses`."""
        wanted = {id(x) for x in self.results} | {id(mask) for mask in self.masks.values()}
        kept = []
        for call in reversed(self.calls):
            if any(id(x) in wanted for x in call.outputs):
                kept.append(call)
                passes = isinstance(call.operation, AddedLoss) and not losses
                wanted |= {id(x) for x in (call.inputs[:1] if passes else call.inputs)}
        return kept[::-1]

    def all_within(self) -> list["Recording"]:
        """This one and those of the layers that it calls, of theirs, ..., call by call."""
        found = [self]
        for call in self.needed():
            if isinstance(call.operation, (Recording, Loop)):
                found += call.operation.all_within()
        return found


@dataclasses.dataclass(eq=False)
class Loop:
    """An `RNN` layer, and the recording of its cell at one time step: of `[input, *states]`."""

    layer: keras.layers.RNN
    recording: Recording

    def all_within(self) -> list[Recording]:
        return self.recording.all_within()


def as_precise_as_tensors(args, kwargs, outputs):
    """NumPy's float64 beside a tensor counts as the tensor's dtype, as in TensorFlow's operators: `x / np.sqrt(4)`.

    On symbolic tensors Keras makes float64 of both; the dtype of `outputs` is put right.
    """
    used = {keras.backend.standardize_dtype(x.dtype) for x in tensors_in((args, kwargs))}
    floats = [x for x in keras.tree.flatten((args, kwargs)) if isinstance(x, (np.ndarray, np.generic))]
    if len(used) != 1 or not any(x.dtype == np.float64 for x in floats):
        return args, kwargs
    (dtype,) = used
    if "float" not in dtype or dtype == "float64":
        return args, kwargs
    for x in tensors_in(outputs):
        if x.dtype == "float64":
            set_spec(x, dtype=dtype)

    def cast(x):
        wide = isinstance(x, (np.ndarray, np.generic)) and x.dtype == np.float64
        return (x.item() if isinstance(x, np.generic) else x.astype(dtype)) if wide else x

    return keras.tree.map_structure(cast, (args, kwargs))


def reason_of(error: Exception) -> str:
    """Why a call failed, in one line, with the line of the user's code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0][:160] if lines else ""
    if not isinstance(error, ClosedError):
        said = f"{type(error).__name__}: {said}".rstrip(": ")
    packages = (*(f"{os.sep}{name}{os.sep}" for name in ("keras", "tensorflow", "optree")), contextlib.__file__)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_HERE) and not any(package in frame.filename for package in packages)
    ]
    if not frames:
        return said
    last = frames[-1]
    return f"{said} ({os.path.basename(last.filename)}:{last.lineno}: {(last.line or '').strip()[:80]})"


def with_line(layer, reason: str) -> str:
    """A reason that names no line of the user's code, with that where the layer's `call`, or function, begins."""
    own = layer.function if isinstance(layer, keras.layers.Lambda) else type(layer).call
    code, module = getattr(own, "__code__", None), getattr(own, "__module__", None) or ""
    if code is None or re.search(r"\(\S+:\d+: ", reason) or module.partition(".")[0] == "keras":
        return reason
    line = linecache.getline(code.co_filename, code.co_firstlineno).strip()
    return f"{reason} ({os.path.basename(code.co_filename)}:{code.co_firstlineno}: {line[:80]})"
