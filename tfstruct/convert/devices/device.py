"""`Device`: what a kind of device says of itself."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from tfstruct.convert.flatbuffer import Operator


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a judge says of a file.

    Attributes:
        judge: its name and version.
        answers: (fits, why not, or a remark), one an operator of the file, in order.
        facts: figures, e.g. `("arena", "4,352 bytes ...")`.
        notes: what the user should know.
    """

    judge: str
    answers: list[tuple[bool, str]]
    facts: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Device:
    """A kind of device.

    Attributes:
        name: as the user says it.
        what: what it is.
        judge: (file, its operators) -> verdict: asks the device's own runtime or compiler where it is installed.
        operators: operator -> its limitation, "" where there is none; from these comes what is proposed as a
            replacement. Empty: all of TensorFlow Lite's.
        replacements: operator -> (what to write in Keras, the operator that it becomes), before those that hold for
            all devices.
        four_bit_weights: whether its kernels take weights of 4 bits.
        has_arena: whether activations lie in a tensor arena, whose size tflite-micro can measure.
        variants: name -> the same device in another size.
        also_called: parts of names by which users ask for devices of this kind; the error of an unknown name uses them.
    """

    name: str
    what: str
    judge: Callable[[bytes, Sequence[Operator]], Verdict]
    operators: Mapping[str, str] = dataclasses.field(default_factory=dict)
    replacements: Mapping[str, Sequence[tuple[str, str]]] = dataclasses.field(default_factory=dict)
    four_bit_weights: bool = False
    has_arena: bool = False
    variants: Mapping[str, "Device"] = dataclasses.field(default_factory=dict)
    also_called: tuple[str, ...] = ()
