"""GPU of a phone: TensorFlow Lite's GPU delegate, by its own rules.

The rules are those by which the delegate itself takes an operator or leaves it to the CPU: TensorFlow's
`tensorflow/lite/tools/versioning/gpu_compatibility.cc`, and `model_builder_helper.cc` of the delegate for the shapes of
tensors, as read on 30 November 2026; the guide https://ai.google.dev/edge/litert/performance/gpu names the operators.
TensorFlow's own `Analyzer(gpu_compatibility=True)` is no judge: in the Python packages of TensorFlow 2.21 and
ai-edge-litert 2.3 it is built without the check, and says of every file that it is compatible. What a GPU's driver
adds, no list says.
"""

from collections.abc import Callable, Sequence

import numpy as np

from tfstruct.convert.devices.device import Device, Verdict
from tfstruct.convert.devices.reading import Reading, held_against
from tfstruct.convert.flatbuffer import Operator

_FLOATS = "float16 float32"
_VALUES = f"{_FLOATS} int8 uint8"  # what is 8-bit is computed as floats
_MOST_DIMENSIONS = 4
_TWO_INPUTS = "one or two tensors, one output"
_AXES = "constant axes"
_PADDING = "constant padding of three or four dimensions"
_BROADCAST = "shapes of one rank, or a smaller one that fits the last dimensions"
_SINGLE = "one tensor that is no constant"
_POINTWISE = """
    ABS CEIL COS ELU EXP FLOOR GELU HARD_SWISH LOG LOGISTIC NEG RSQRT SIGN SIN SQRT SQUARE TANH
"""
_ONE_INPUT = "AVERAGE_POOL_2D MAX_POOL_2D QUANTIZE RESHAPE RESIZE_NEAREST_NEIGHBOR TILE TRANSPOSE"
_PAIRWISE = """
    ATAN2 DIV EQUAL FLOOR_DIV FLOOR_MOD GREATER GREATER_EQUAL LESS LESS_EQUAL LOGICAL_AND MAXIMUM MINIMUM NOT_EQUAL
    POW SQUARED_DIFFERENCE SUB
"""
# Operator -> its limitation; empty where there is none.
OPERATORS = {
    **dict.fromkeys(_POINTWISE.split(), _SINGLE),
    **dict.fromkeys(_ONE_INPUT.split(), _SINGLE),
    **dict.fromkeys(_PAIRWISE.split(), _TWO_INPUTS),
    "ADD": _BROADCAST,
    "ADD_N": "two tensors",
    "BATCH_MATMUL": "",
    "CAST": "bool and floats, or int32 and float32, on both sides",
    "CONCATENATION": "",
    "CONV_2D": "two tensors at most that are no constants",
    "CUMSUM": "floats, a constant axis",
    "DEPTHWISE_CONV_2D": "a depth multiplier of 1, or one input channel",
    "DEPTH_TO_SPACE": "a block larger than 1",
    "DEQUANTIZE": "not from int16",
    "EMBEDDING_LOOKUP": "indices of one dimension",
    "FULLY_CONNECTED": "weights in the default format; an output of the input's rank where dimensions are kept",
    "GATHER": "int32 indices of one dimension, values that are no int32",
    "LEAKY_RELU": "",
    "MEAN": _AXES,
    "MIRROR_PAD": f"reflection, {_PADDING}",
    "MUL": f"{_BROADCAST}; one tensor that is nowhere smaller than the other",
    "ONE_HOT": "int32 indices along the last axis alone, and two constant floats",
    "PACK": "",
    "PAD": _PADDING,
    "PADV2": _PADDING,
    "PRELU": "",
    "REDUCE_MAX": _AXES,
    "REDUCE_MIN": _AXES,
    "REDUCE_PROD": _AXES,
    "RELU": "",
    "RELU6": "",
    "RELU_N1_TO_1": "",
    "RESIZE_BILINEAR": "corners aligned or half pixel centres, not both",
    "SELECT": "floats of the output's shape, or constant scalars",
    "SELECT_V2": "floats of the output's shape, or constant scalars",
    "SLICE": "three or four dimensions",
    "SOFTMAX": "a beta of 1",
    "SPACE_TO_DEPTH": "a block larger than 1",
    "SPLIT": "",
    "SPLIT_V": "",
    "STRIDED_SLICE": "three or four dimensions; none added, dropped or left out by an ellipsis",
    "SUM": _AXES,
    "TRANSPOSE_CONV": "two tensors at most that are no constants",
}
# Operators of which some tensors are of other types: input -> types that it may have besides.
_OTHER_INPUTS = {
    "CAST": ("bool", "int32"), "EMBEDDING_LOOKUP": ("int32",), "GATHER": ("int32",), "LOGICAL_AND": ("bool",),
    "ONE_HOT": ("int32",),
    "SELECT": ("bool",), "SELECT_V2": ("bool",),
}  # fmt: skip
_OTHER_OUTPUTS = {"CAST": ("bool", "int32"), **dict.fromkeys(_PAIRWISE.split(), ("bool",))}
_SHAPES_UNLIKE = "broadcasts tensors of different rank, which depends on the delegate's version"


def problem(op: Reading) -> tuple[bool | None, str]:
    """(fits, why not): the delegate takes it, leaves it to the CPU, or it is not known."""
    if op.name not in OPERATORS:
        return False, "on the CPU: not an operator of the GPU delegate"
    types = [(op.dtypes_in, _OTHER_INPUTS), (op.dtypes_out, _OTHER_OUTPUTS)]
    for dtypes, others in types:
        odd = [dtype for dtype in dtypes if dtype not in (*_VALUES.split(), *others.get(op.name, ()))]
        if odd:
            return False, f"on the CPU: works on {odd[0]}, the GPU on floats, or 8 bits as floats"
    if op.is_open:
        return None, "a tensor without a fixed size: its rules speak of fixed ones"
    most = max(map(len, op.shapes_moving), default=0)
    if most > _MOST_DIMENSIONS:
        return False, f"on the CPU: a tensor of {most} dimensions, of at most {_MOST_DIMENSIONS}"
    fits = _RULES[op.name](op) if op.name in _RULES else True
    if fits is None:
        return None, _SHAPES_UNLIKE
    return fits, "" if fits else f"on the CPU: the GPU takes it only with {OPERATORS[op.name]}"


def _pair(op: Reading) -> bool:
    return op.variables in (1, 2) and len(op.shapes_in) == 2 and len(op.shapes_out) == 1


def _alike(op: Reading) -> bool | None:
    """Whether two shapes can be brought together; None if only newer versions do."""
    if len(op.shapes_in) != 2:
        return False
    longer, shorter = sorted(op.shapes_in, key=len, reverse=True)
    if len(longer) == len(shorter) or len(shorter) <= 1:
        return True
    if longer[0] == 1 and (len(longer), len(shorter)) == (4, 3):
        return True
    if (len(longer), len(shorter)) == (4, 2):
        single = longer[0] == 1 and shorter == (1, 1)
        if single or (longer[0], longer[3]) == shorter:
            return True
    width = len(shorter)
    ends = zip(longer[-width:], shorter, strict=True)
    return None if all(a == b or 1 in (a, b) for a, b in ends) else False


def _product(op: Reading) -> bool | None:
    if len(op.shapes_in) == 2 and len(op.shapes_in[0]) == len(op.shapes_in[1]):
        pairs = list(zip(*op.shapes_in, strict=True))
        return not (any(a < b for a, b in pairs) and any(a > b for a, b in pairs))
    return _alike(op)


def _cast(op: Reading) -> bool:
    given, made = op.dtypes_in[0], op.dtypes_out[0]
    bools = {"bool"} & {given, made} and {given, made} - {"bool"} <= set(_FLOATS.split()) and given != made
    return bool(bools) or {given, made} <= {"float32", "int32"}


def _depthwise(op: Reading) -> bool:
    channels = op.shapes_in[0][-1]
    return op.shapes_out[0][-1] == channels or channels == 1


def _dense(op: Reading) -> bool:
    kept = not op.option("keepNumDims") or len(op.shapes_in[0]) == len(op.shapes_out[0])
    return op.option("weightsFormat") == 0 and op.variables <= 2 and kept


def _gather(op: Reading) -> bool:
    indices = op.shapes_in[1]
    return op.dtypes[1] == "int32" and len(indices) == 1 and op.dtypes[0] != "int32" and op.variables > 0


def _select(op: Reading) -> bool:
    floats = all(dtype in _FLOATS.split() for dtype in op.dtypes[1:3])
    return floats and all(shape in ((), (1,), op.shapes_out[0]) for shape in op.shapes_in[1:3])


def _one_hot(op: Reading) -> bool:
    indices = op.shapes_in[0]
    ends = op.option("axis", -1) in (-1, len(indices) - 1, len(indices))
    alone = all(size == 1 for size in (indices[1:-1] if len(indices) > 3 else indices[:-1]))
    values = [op.constant(place) for place in (2, 3)]
    floats = all(value is not None and value.size == 1 and value.dtype == np.float32 for value in values)
    return op.dtypes[0] == "int32" and ends and alone and floats


def _padding(op: Reading) -> bool:
    amounts = op.constant(1)
    return amounts is not None and amounts.shape in ((3, 2), (4, 2)) and op.variables == 1


def _slice(op: Reading) -> bool:
    return len(op.shapes_in[0]) in (3, 4)


def _resize(op: Reading) -> bool:
    return op.variables == 1 and not (op.option("alignCorners") and op.option("halfPixelCenters"))


def _strided(op: Reading) -> bool:
    masks = any(op.option(f"{name}Mask") for name in ("ellipsis", "newAxis", "shrinkAxis"))
    return not masks and _slice(op)


def _axes(op: Reading) -> bool:
    axes = op.constant(1)
    return axes is not None and axes.dtype == np.int32 and op.variables == 1


_RULES: dict[str, Callable[[Reading], bool | None]] = {
    **dict.fromkeys(_POINTWISE.split(), lambda op: op.variables == 1 and len(op.shapes_in) == 1),
    **dict.fromkeys(_ONE_INPUT.split(), lambda op: op.variables == 1),
    **dict.fromkeys(_PAIRWISE.split(), _pair),
    **dict.fromkeys(("CONV_2D", "TRANSPOSE_CONV"), lambda op: op.variables <= 2),
    **dict.fromkeys(("DEPTH_TO_SPACE", "SPACE_TO_DEPTH"), lambda op: op.option("blockSize") > 1),
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD"), _axes),
    **dict.fromkeys(("PAD", "PADV2"), _padding),
    **dict.fromkeys(("SELECT", "SELECT_V2"), _select),
    "ADD": _alike,
    "ADD_N": lambda op: len(op.shapes_in) == 2,
    "CAST": _cast,
    "CUMSUM": lambda op: op.dtypes[0] in _FLOATS.split() and op.constant(1) is not None,
    "DEPTHWISE_CONV_2D": _depthwise,
    "DEQUANTIZE": lambda op: op.dtypes[0] != "int16",
    "EMBEDDING_LOOKUP": lambda op: len(op.shapes_in[0]) == 1,
    "FULLY_CONNECTED": _dense,
    "GATHER": _gather,
    "MIRROR_PAD": lambda op: op.option("mode") == 0 and _padding(op),
    "MUL": _product,
    "ONE_HOT": _one_hot,
    "RESIZE_BILINEAR": _resize,
    "SLICE": _slice,
    "SOFTMAX": lambda op: op.option("beta") == 1,
    "STRIDED_SLICE": _strided,
}


def judge(content: bytes, found: Sequence[Operator]) -> Verdict:
    """Holds every operator against the delegate's rules."""
    answers = held_against(content, found, problem)
    share = sum(fits is True for fits, _ in answers)
    facts = (("on the GPU", f"{share} of {len(found)} operators"),)
    notes: tuple[str, ...] = ()
    if any(op.dtype in ("int8", "uint8") for op in found):
        notes = ("the GPU computes 8-bit operators as floats, their rounding imitated: no faster than a float16 file",)
    return Verdict("the rules of TensorFlow Lite's GPU delegate", answers, facts, notes)


DEVICE = Device(
    "gpu", "phones, TensorFlow Lite's GPU delegate", judge, operators=OPERATORS, several_functions=True,
    aliases=("gpu delegate", "mobile gpu", "android gpu", "adreno", "mali", "opencl"),
)  # fmt: skip
