"""Notes in a `.tflite` file: bytes by name, in its metadata, which runtimes that do not know them pass over."""

import json
import struct
from collections.abc import Mapping

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfstruct.errors import ConversionError
from tfstruct.untrusted import json_text

_OWN = "tfstruct."
_INPUT_SCALES = f"{_OWN}input_scales"


def write_note(model: schema.ModelT, name: str, text: bytes) -> None:
    """Puts a note into a file that is edited, in place of one of that name."""
    model.metadata = [one for one in model.metadata or [] if one.name != name.encode()]
    entry = schema.MetadataT()
    entry.name, entry.buffer = name.encode(), len(model.buffers)
    model.metadata.append(entry)
    model.buffers.append(schema.BufferT())
    model.buffers[-1].data = np.frombuffer(text, np.uint8)


def read_note(content: bytes, name: str) -> bytes | None:
    """A note of a file, None where there is none of that name; the rest of the file is not unpacked.

    Raises:
        ConversionError: the file is damaged.
    """
    if name.encode() not in content:
        return None
    try:
        model = schema.Model.GetRootAs(content)
        for i in range(model.MetadataLength()):
            entry = model.Metadata(i)
            if entry.Name() == name.encode():
                if entry.Buffer() >= model.BuffersLength():
                    raise ValueError(f"the note {name} names the buffer {entry.Buffer()}")
                data = model.Buffers(entry.Buffer()).DataAsNumpy()
                return data.tobytes() if isinstance(data, np.ndarray) else b""
    except (struct.error, IndexError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise ConversionError(f"The .tflite file is damaged: {error}.") from error
    return None


def is_own(name: str) -> bool:
    """Whether a note is of tfstruct, about one function."""
    return name.startswith(_OWN)


def of_function(name: str, function: str) -> str:
    """A note's name where the file has several functions."""
    return f"{name}/{function}"


def from_function(name: str, function: str) -> str | None:
    """The inverse of `of_function`; None for another's note."""
    return name.removesuffix(f"/{function}") if is_own(name) and name.endswith(f"/{function}") else None


def write_input_scales(model: schema.ModelT, scales: Mapping[str, tuple[float, int]]) -> None:
    """Notes (scale, zero point) of inputs whose preprocessing is part of the file's own scale: value of the model =
    scale * (stored - zero point)."""
    write_note(model, _INPUT_SCALES, json.dumps(dict(scales)).encode())


def input_scales(content: bytes, function: str | None = None) -> dict[str, tuple[float, int]]:
    """What `write_input_scales` noted, by input; of a function of a file that has several.

    Raises:
        ConversionError: a note that is no such scales.
    """
    note = read_note(content, of_function(_INPUT_SCALES, function) if function else _INPUT_SCALES)
    if note is None:
        return {}

    def scales(data) -> dict[str, tuple[float, int]]:
        found = {str(name): (float(scale), int(zero)) for name, (scale, zero) in data.items()}
        if not all(0 < scale < float("inf") for scale, _ in found.values()):
            raise ValueError("a scale is not a positive number")
        return found

    return json_text.read(note.decode("utf-8", "replace"), scales, ConversionError, "The file's note of input scales")
