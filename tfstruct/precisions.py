"""What each precision means, in one table: how many bits, in which file, written by whom."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Precision:
    """A precision by its name.

    Attributes:
        name: as in `Recipe(precision=...)` and `Scheme(precision=...)`.
        weight_bits: bits of the weights; None: float32.
        activation_bits: bits of the activations; None: float32.
        stored_as: the precision of the file that holds such weights.
        engines: the quantizers that write such a file; none where weights are trained for it and stored in another.
        trains: whether `Scheme` simulates it in training.
        levels: the smallest and the largest integer of a weight whose step is learned.
    """

    name: str
    weight_bits: int | None
    activation_bits: int | None
    stored_as: str
    engines: tuple[str, ...] = ()
    trains: bool = True
    levels: tuple[int, int] = (-127, 127)


_BOTH, _LITERT = ("litert", "tensorflow"), ("litert",)
PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("float32", None, None, "float32", _BOTH),
        Precision("float16", 16, None, "float16", _BOTH),
        Precision("dynamic", 8, None, "dynamic", _LITERT, trains=False),
        Precision("int8", 8, 8, "int8", _BOTH),
        Precision("int16x8", 8, 16, "int16x8", _BOTH),
        Precision("int4", 4, 8, "int4", _LITERT, levels=(-7, 7)),  # activations float32, if the recipe says so
        Precision("int2", 2, 8, "int4", levels=(-2, 1)),
        Precision("ternary", 2, 8, "int4", levels=(-1, 1)),
        Precision("binary", 1, 8, "int4", levels=(-1, 1)),
    )
}
OF_FILES = tuple(name for name, precision in PRECISIONS.items() if precision.engines)
OF_TRAINING = tuple(name for name, precision in PRECISIONS.items() if precision.trains)
TO_CHOOSE = ("int8", "int4")  # by default, where the precision of a layer is searched for
# How ranges of activations are found on data, see `tfstruct.quantize.calibrators`.
CALIBRATORS = ("minmax", "moving_average", "percentile", "mse", "entropy")
ACTIVATIONS_OF_INT4 = ("int8", "float32")

# Other names that people write for them.
_SPELLINGS = {
    "float": "float32", "fp32": "float32", "f32": "float32", "half": "float16", "fp16": "float16", "f16": "float16",
    "i8": "int8", "w8a8": "int8", "int16": "int16x8", "16x8": "int16x8", "w8a16": "int16x8", "i4": "int4",
}  # fmt: skip


def named(text: str) -> str | None:
    """The name of the precision that is meant; None where there is none."""
    plain = text.strip().lower().replace("_", "").replace("-", "")
    name = _SPELLINGS.get(plain, plain)
    return name if name in PRECISIONS else None


def stored_within(bits: int) -> set[str]:
    """What weights of at most so many bits are stored as."""
    return {one.stored_as for one in PRECISIONS.values() if one.weight_bits is not None and one.weight_bits <= bits}
