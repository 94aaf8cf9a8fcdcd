"""What operators of TensorFlow Lite do, once: every room that asks about one asks here.

Held against files that the converter writes by `tests/convert/test_operator_traits.py`. What a device supports is the
device's own affair and stands with it.

Source: https://ai.google.dev/edge/litert/models/quantization_spec
"""

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class OperatorTraits:
    """What an operator of a `.tflite` file does.

    Attributes:
        moves: each value that it makes is one that it reads, or, in `PAD` and its kin, a constant at the border.
        passes_on: it moves the values of one input, whatever their type: a change of type goes through it.
        same_scale: in an integer file what it reads and makes has one scale and one zero point.
        output_range: the range of its result that the int8 specification fixes.
        kernel: which input holds its kernel or table; None where it has none.
        bias: which input holds its bias.
        data: which input a kernel is applied to.
        out_axis: the axis of the kernel that numbers output channels.
        weights: the integer types of a kernel for which there is an integer version of the operator.
        looks_up: its kernel is a table that indices are looked up in.
        contracts: it sums products, so that what it makes of a network's values is rounded anyway.
        unit: what one step of the sum stands for which an integer version rescales: `"kernel"`, the scale of its data
            times that of its kernel; `"product"`, that of two inputs; `"largest"`, the largest of what it reads.
        fuses: it can hold a ReLU or ReLU6 that follows it.
        joins: what it does to several tensors: `"add"`, `"subtract"`, `"multiply"`, `"divide"`, `"maximum"`,
            `"minimum"`, `"select"`, `"concatenate"`.
        splits: which input holds what it hands out in parts, and which the axis, None where that is an option.
        exponential: it takes exponentials, so that a value far below the others counts for nothing.
        compares: it compares two tensors, element by element.
        makes_integers: it makes integers or truth values of floats, or floats of them: float on one side is right.
        alone: it can be run without the rest of its file.
        random: it draws random numbers: what it makes does not follow from what it reads.
    """

    moves: bool = False
    passes_on: bool = False
    same_scale: bool = False
    output_range: tuple[float, float] | None = None
    kernel: int | None = None
    bias: int | None = None
    data: int = 0
    out_axis: int = 0
    weights: tuple[str, ...] = ()
    looks_up: bool = False
    contracts: bool = False
    unit: str = ""
    fuses: bool = False
    joins: str = ""
    splits: tuple[int, int | None] | None = None
    exponential: bool = False
    compares: bool = False
    makes_integers: bool = False
    alone: bool = True
    random: bool = False


_NOTHING = OperatorTraits()
_TRAITS: dict[str, OperatorTraits] = {}


def _add(names: str, **traits) -> None:
    for name in names.split():
        _TRAITS[name] = OperatorTraits(**traits)


# Kernels. XNNPACK and TensorFlow Lite's own kernels take 4 bits in these two only.
_add("CONV_2D", kernel=1, bias=2, weights=("int8", "int4"), contracts=True, unit="kernel", fuses=True)
_add("FULLY_CONNECTED", kernel=1, bias=2, weights=("int8", "int4"), contracts=True, unit="kernel", fuses=True)
_add("DEPTHWISE_CONV_2D", kernel=1, bias=2, out_axis=-1, weights=("int8",), contracts=True, unit="kernel", fuses=True)
_add("TRANSPOSE_CONV", kernel=1, bias=3, data=2, weights=("int8",), contracts=True, unit="kernel", fuses=True)
_add("CONV_3D", kernel=1, bias=2, out_axis=-1, contracts=True, fuses=True)
_add("BATCH_MATMUL", contracts=True, unit="product")
_add("GATHER", kernel=0, looks_up=True, moves=True, same_scale=True)
_add("EMBEDDING_LOOKUP", kernel=1, looks_up=True)

# Only moving values.
_add(
    "RESHAPE EXPAND_DIMS SQUEEZE STRIDED_SLICE SLICE TRANSPOSE",
    moves=True, passes_on=True, same_scale=True,
)  # fmt: skip
_add("SPLIT", moves=True, passes_on=True, same_scale=True, splits=(1, 0))
_add("SPLIT_V", moves=True, same_scale=True, splits=(0, 2))
_add("UNPACK", moves=True, passes_on=True, same_scale=True, splits=(0, None))
_add(
    """BATCH_TO_SPACE_ND BROADCAST_TO DEPTH_TO_SPACE GATHER_ND MIRROR_PAD PACK PAD PADV2 RESIZE_NEAREST_NEIGHBOR
    REVERSE_V2 SPACE_TO_BATCH_ND SPACE_TO_DEPTH TILE""",
    moves=True, same_scale=True,
)  # fmt: skip
_add("CONCATENATION", moves=True, same_scale=True, joins="concatenate")

# The largest, the least or the mean of some values: no more than the largest, no less than the least.
_add("MAX_POOL_2D AVERAGE_POOL_2D", same_scale=True, fuses=True)
_add("REDUCE_MAX REDUCE_MIN RESIZE_BILINEAR", same_scale=True)
_add("MEAN SUM", unit="largest")

# Element by element.
_add("ADD", joins="add", unit="largest", fuses=True)
_add("SUB", joins="subtract", unit="largest", fuses=True)
_add("MUL", joins="multiply", unit="product", fuses=True)
_add("DIV", joins="divide", fuses=True)
_add("MAXIMUM", joins="maximum", same_scale=True, unit="largest")
_add("MINIMUM", joins="minimum", same_scale=True, unit="largest")
_add("SELECT SELECT_V2", joins="select", same_scale=True)
_add("DYNAMIC_UPDATE_SLICE", same_scale=True)
_add("SQUARED_DIFFERENCE", unit="product")
_add("RELU RELU6 LEAKY_RELU PRELU ABS", unit="largest")
_add("EXP", exponential=True)

# The scale of the result is built into the kernel: 1/256, 1/256, 1/128, 16/256 for 8 bits.
_add("SOFTMAX", output_range=(0.0, 255 / 256), exponential=True)
_add("LOGISTIC", output_range=(0.0, 255 / 256), exponential=True)
_add("TANH", output_range=(-1.0, 127 / 128))
_add("LOG_SOFTMAX", output_range=(-255 / 16, 0.0), exponential=True)

# Between floats and integers, by nature.
_add("CAST BUCKETIZE ARG_MAX ARG_MIN", makes_integers=True)
_add("EQUAL NOT_EQUAL LESS LESS_EQUAL GREATER GREATER_EQUAL", compares=True, makes_integers=True)

# They need other subgraphs or resources of the file.
_add("WHILE", alone=False, contracts=True)
_add("IF CALL CALL_ONCE VAR_HANDLE READ_VARIABLE ASSIGN_VARIABLE STABLEHLO_COMPOSITE", alone=False)

_add("RANDOM_UNIFORM RANDOM_STANDARD_NORMAL MULTINOMIAL", random=True)


def traits_of(name: str) -> OperatorTraits:
    """The traits of an operator by TensorFlow Lite's name for it; none of them for one that is not in the table."""
    return _TRAITS.get(name, _NOTHING)


def operators_that(holds: Callable[[OperatorTraits], bool]) -> tuple[str, ...]:
    """The names of the operators whose traits are such, in the order of the table."""
    return tuple(name for name, traits in _TRAITS.items() if holds(traits))
