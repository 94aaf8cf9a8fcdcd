"""Coral Edge TPU: which operators its documentation takes, and the limitations that a file shows.

The rules are those of https://coral.ai/docs/edgetpu/models-intro/ (model requirements and supported operations, for
compiler version 13 and newer, of which 16 is the last). The page itself could be read in part only, so on 30 November
2026 the table was compared row by row with what others publish of it:

- all 40 names with the list that a post of 4 September 2024 copied from the page ("More Coral", of the author of
  https://github.com/dragynfruit/edged): the same operators;
- limitations of the rows to ResizeBilinear with the table that Axis publishes for cameras with the same chip
  (https://developer.axis.com/computer-vision/on-device/system-on-chip/artpec-7/supported-ops/);
- those of the rows behind it (SOFTMAX, SPLIT, SQUEEZE, STRIDED_SLICE ...) with a copy of the page for earlier compilers
  (https://github.com/dgist-datalab/Datalab_Intern/blob/master/Edge_TPU/convert_model_for_Edge_TPU.md);
- EXPAND_DIMS, PACK, QUANTIZE, SUM and TRANSPOSE_CONV with Coral's release notes, by which runtime 13 brought them.

No copy could be read of what limits RSQRT, SQUARED_DIFFERENCE and TRANSPOSE, which came last; of TRANSPOSE Coral says
that 16 takes it (https://github.com/google-coral/edgetpu/issues/193), and a user that it does not always (issue 433
there). The compiler itself is closed and no Python package; it may leave more to the CPU.
"""

from collections.abc import Sequence

import numpy as np

from tfstruct.convert.devices.device import Device, Verdict
from tfstruct.convert.devices.reading import Reading, held_against
from tfstruct.convert.flatbuffer import Operator

_MAX_SOFTMAX = 16_000
_INTEGER = ("int8", "uint8")
_LARGE = "tensors that are not too large, which is said without a size"
_RESIZING = "sizes at which no precision is lost, which are not documented"
# Operator -> its known limitation as documented; empty where there is none.
OPERATORS = {
    "ADD": "",
    "AVERAGE_POOL_2D": "no fused activation",
    "CONCATENATION": "no fused activation; a constant only as one of two inputs, of zeros",
    "CONV_2D": "the same dilation in x and y",
    "DEPTHWISE_CONV_2D": "the same dilation in x and y",
    "EXPAND_DIMS": "",
    "FULLY_CONNECTED": "weights in the default format, a one-dimensional output",
    "L2_NORMALIZATION": "",
    "LOGISTIC": "",
    "MAXIMUM": "",
    "MAX_POOL_2D": "no fused activation",
    "MEAN": "no reduction over the batch; over channels only where their number is a multiple of 4",
    "MINIMUM": "",
    "MUL": "",
    "PACK": "no packing along the batch",
    "PAD": "no padding of the batch",
    "PRELU": "one slope a channel at most",
    "QUANTIZE": "",
    "REDUCE_MAX": "no reduction over the batch",
    "REDUCE_MIN": "no reduction over the batch",
    "RELU": "",
    "RELU6": "",
    "RELU_N1_TO_1": "",
    "RESHAPE": _LARGE,
    "RESIZE_BILINEAR": _RESIZING,
    "RESIZE_NEAREST_NEIGHBOR": _RESIZING,
    "RSQRT": "",
    "SLICE": "",
    "SOFTMAX": f"a one-dimensional input of {_MAX_SOFTMAX:,} elements at most",
    "SPACE_TO_DEPTH": "",
    "SPLIT": "no splitting of the batch",
    "SQUARED_DIFFERENCE": "",
    "SQUEEZE": "no dimension taken out behind one that exceeds 1",
    "STRIDED_SLICE": "all strides 1",
    "SUB": "",
    "SUM": "no reduction over the batch",
    "TANH": "",
    "TRANSPOSE": "",
    "TRANSPOSE_CONV": "",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "",
}


def problem(op: Reading) -> tuple[bool | None, str]:
    """(fits, why not, or a remark); None where the documentation leaves it open."""
    if op.name not in OPERATORS:
        return False, "not among the supported operations"
    for dtype in (*op.dtypes_in, *op.dtypes_out):
        if dtype not in _INTEGER:
            return False, f"works on {dtype}, supported are 8-bit integers"
    if op.is_open:
        return False, "a tensor without a fixed size"
    for shape in op.shapes_moving:
        if any(d > 1 for d in shape[:-3]):
            return False, f"a tensor of shape {shape}: only the three innermost dimensions may exceed 1"
    fits = _within(op)
    if fits is None:
        return None, f"supported, but only with {OPERATORS[op.name]}"
    if fits and op.name == "RESHAPE":
        # Hardly a network is without one, and the sizes that do not map are large: no reason to doubt every file.
        return True, f"of {int(np.prod(op.shapes_out[0])):,} elements; supported with {_LARGE}"
    return fits, "" if fits else f"supported only with {OPERATORS[op.name]}"


def _within(op: Reading) -> bool | None:
    """Whether the operator keeps to its documented limitation."""
    name, given, result = op.name, op.shapes_in[0], op.shapes_out[0]
    if name in ("AVERAGE_POOL_2D", "MAX_POOL_2D"):
        return op.option("fusedActivationFunction") == 0
    if name == "CONCATENATION":
        return op.option("fusedActivationFunction") == 0 and _only_zeros(op)
    if name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        return op.option("dilationHFactor", 1) == op.option("dilationWFactor", 1)
    if name == "FULLY_CONNECTED":
        return op.option("weightsFormat") == 0 and int(np.prod(result[:-1])) == 1
    if name == "SOFTMAX":
        return int(np.prod(given[:-1])) == 1 and given[-1] <= _MAX_SOFTMAX
    if name in ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"):
        stored = op.constant(1)
        if stored is None:
            return False
        axes = {int(a) % len(given) for a in stored.ravel()}
        channels = name == "MEAN" and len(given) - 1 in axes and given[-1] % 4
        return not channels and (0 not in axes or given[0] == 1)
    if name == "PAD":
        amounts = op.constant(1)
        return amounts is not None and (len(amounts) < 4 or not amounts[0].any())
    if name == "PACK":
        return op.option("axis") % len(result) != 0
    if name == "SPLIT":
        axis = op.constant(0)
        return axis is not None and int(axis.ravel()[0]) % len(op.shapes_in[1]) != 0
    if name == "PRELU":
        return all(d == 1 for d in op.shapes_in[1][:-1])
    if name == "SQUEEZE":
        return _only_leading(given, result)
    if name == "STRIDED_SLICE":
        strides = op.constant(3)
        masks = op.option("ellipsisMask") or op.option("newAxisMask")
        return strides is not None and bool((strides == 1).all()) and not masks
    return None if OPERATORS[name] == _RESIZING else True


def _only_leading(given: Sequence[int], result: Sequence[int]) -> bool:
    """Whether a shape loses only ones in front of its first dimension that exceeds 1."""
    wide = next((place for place, size in enumerate(given) if size > 1), len(given))
    kept = tuple(given[wide:])
    return tuple(result[len(result) - len(kept) :]) == kept


def _only_zeros(op: Reading) -> bool | None:
    """Whether constants are joined as the documentation allows it; None where the zero is not known from them."""
    constants = [values for i in range(len(op.dtypes)) if (values := op.constant(i)) is not None]
    if not constants:
        return True
    alike = len(op.dtypes) == 2 and all(values.min() == values.max() for values in constants)
    return None if alike else False


def judge(content: bytes, found: Sequence[Operator]) -> Verdict:
    """Holds every operator against the documentation."""
    answers = held_against(content, found, problem)
    notes: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    outside = [i for i, (fits, _) in enumerate(answers) if not fits]
    if outside:
        facts = (("before it", f"{outside[0]} of {len(found)} operators stand before the first that does not fit"),)
        notes = ("the Edge TPU compiler sends everything behind the first operator that does not fit to the CPU",)
    return Verdict("the documentation of the Edge TPU (coral.ai)", answers, facts, notes)


DEVICE = Device(
    "edgetpu",
    "Coral Edge TPU",
    judge,
    operators=OPERATORS,
    aliases=("coral", "edge tpu", "coral edge tpu"),
    also_called=("coral", "tpu"),
)
