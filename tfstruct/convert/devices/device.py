"""`Device`: what a kind of device says of itself."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

from tfstruct.convert.flatbuffer import Operator

NOBODY = "nobody"  # who judges where no runtime, compiler or document is there

VERDICTS = {True: "fits", False: "does NOT fit", None: "unknown whether it fits"}


@dataclasses.dataclass(frozen=True)
class Memory:
    """What a file takes of one memory of a board.

    Attributes:
        name: of the memory: `"flash"`, `"RAM"`.
        what: takes it: `"the file"`, `"the arena"`.
        available: bytes that the board has.
        least, most: bytes that are taken at least and at most; None where that is not known.
        remark: what the user should know besides.
    """

    name: str
    what: str
    available: int
    least: int | None = None
    most: int | None = None
    remark: str = ""

    @property
    def fits(self) -> bool | None:
        """True where the most fits, False where the least does not; None, not known, between them."""
        if self.most is not None and self.most <= self.available:
            return True
        return False if self.least is not None and self.least > self.available else None

    def __str__(self) -> str:
        if self.most is None:
            taken = f"{self.what} is not known"
        else:
            between = f"{self.least:,} to " if self.least != self.most else ""
            share = self.most / self.available
            taken = f"{self.what} takes {between}{self.most:,} of {self.available:,} bytes ({share:.1%})"
        return f"{VERDICTS[self.fits]}: {taken}{f'; {self.remark}' if self.remark else ''}"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a judge says of a file.

    Attributes:
        judge: its name and version.
        answers: (fits, why not, or a remark), one an operator of the file, in order; None in place of True or False
            where it is not known.
        facts: figures, e.g. `("arena", "4,352 bytes ...")`.
        notes: what the user should know.
        memory: what the file takes of the device's memories, where these are known.
    """

    judge: str
    answers: list[tuple[bool | None, str]]
    facts: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    memory: tuple[Memory, ...] = ()


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
        variants: name -> the same device in another size, or a board with its memory.
        aliases: other names that people say, which mean it.
        also_called: parts of names by which users ask for devices of this kind; the error of an unknown name uses them.
        several_functions: whether it runs files of several functions (signatures); others run the first graph alone.
        closed: whether what it takes is not documented, so that only its compiler knows.
    """

    name: str
    what: str
    judge: Callable[[bytes, Sequence[Operator]], Verdict]
    operators: Mapping[str, str] = dataclasses.field(default_factory=dict)
    replacements: Mapping[str, Sequence[tuple[str, str]]] = dataclasses.field(default_factory=dict)
    four_bit_weights: bool = False
    has_arena: bool = False
    variants: Mapping[str, "Device"] = dataclasses.field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    also_called: tuple[str, ...] = ()
    closed: bool = False
    several_functions: bool = False


def together(answers: Iterable[bool | None]) -> bool | None:
    """False where one answer is, else None where one is not known, else True."""
    given = set(answers)
    return False if False in given else None if None in given else True
