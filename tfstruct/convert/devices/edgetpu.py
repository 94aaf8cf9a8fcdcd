"""Coral Edge TPU: which operators its documentation takes, and the limitations that a file shows.

The rules are those of https://coral.ai/docs/edgetpu/models-intro/ (model requirements and supported operations, for
compiler version 16). The compiler itself is closed and no Python package; it may leave more to the CPU.
"""

from collections.abc import Sequence

import numpy as np

from tfstruct.convert import flatbuffer
from tfstruct.convert.devices.device import Device, Verdict
from tfstruct.convert.flatbuffer import Operator

_MAX_SOFTMAX = 16_000
_INTEGER = ("int8", "uint8")
# Operator -> its known limitation as documented; empty where there is none.
OPERATORS = {
    "ADD": "",
    "AVERAGE_POOL_2D": "no fused activation",
    "CONCATENATION": "no fused activation",
    "CONV_2D": "the same dilation in x and y",
    "DEPTHWISE_CONV_2D": "no dilation",
    "EXPAND_DIMS": "",
    "FULLY_CONNECTED": "a one-dimensional output",
    "L2_NORMALIZATION": "",
    "LOGISTIC": "",
    "MAXIMUM": "",
    "MAX_POOL_2D": "no fused activation",
    "MEAN": "no reduction over the batch; over channels only where their number is a multiple of 4",
    "MINIMUM": "",
    "MUL": "",
    "PACK": "",
    "PAD": "padding in x and y only",
    "PRELU": "one slope a channel at most",
    "QUANTIZE": "",
    "REDUCE_MAX": "no reduction over the batch",
    "REDUCE_MIN": "no reduction over the batch",
    "RELU": "",
    "RELU6": "",
    "RELU_N1_TO_1": "",
    "RESHAPE": "",
    "RESIZE_BILINEAR": "",
    "RESIZE_NEAREST_NEIGHBOR": "",
    "RSQRT": "",
    "SLICE": "",
    "SOFTMAX": f"a one-dimensional input of {_MAX_SOFTMAX:,} elements at most",
    "SPACE_TO_DEPTH": "",
    "SPLIT": "",
    "SQUARED_DIFFERENCE": "",
    "SQUEEZE": "",
    "STRIDED_SLICE": "all strides 1",
    "SUB": "",
    "SUM": "no reduction over the batch",
    "TANH": "",
    "TRANSPOSE": "",
    "TRANSPOSE_CONV": "",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "",
}


def problem(model, op: flatbuffer.Operator) -> str:
    """Why an operator does not fit, "" if it does.

    Args:
        model: from `flatbuffer.read`.
        op: one of its operators.
    """
    if op.name not in OPERATORS:
        return "not among the supported operations"
    graph = model.subgraphs[op.subgraph]
    operator = graph.operators[op.index]
    tensors = [graph.tensors[i] for i in (*operator.inputs, *operator.outputs) if i >= 0]
    for tensor in tensors:
        if flatbuffer.is_constant(model, tensor):
            continue
        dtype = flatbuffer.dtype_name(tensor)
        if dtype not in _INTEGER:
            return f"works on {dtype}, supported are 8-bit integers"
        if any(d < 0 for d in _list(tensor.shapeSignature)):
            return "a tensor without a fixed size"
        shape = _list(tensor.shape)
        if any(d > 1 for d in shape[:-3]):
            return f"a tensor of shape {tuple(shape)}: only the three innermost dimensions may exceed 1"
    return "" if _within(model, graph, operator, op.name) else f"supported only with {OPERATORS[op.name]}"


def _within(model, graph, operator, name: str) -> bool:
    """True if the operator keeps to its documented limitation."""
    options = operator.builtinOptions
    shapes = [_list(graph.tensors[i].shape) if i >= 0 else [] for i in (*operator.inputs, operator.outputs[0])]
    given, result = shapes[0], shapes[-1]
    if name in ("AVERAGE_POOL_2D", "MAX_POOL_2D", "CONCATENATION"):
        return options is None or options.fusedActivationFunction == 0
    if name == "CONV_2D":
        return options.dilationHFactor == options.dilationWFactor
    if name == "DEPTHWISE_CONV_2D":
        return options.dilationHFactor == options.dilationWFactor == 1
    if name == "FULLY_CONNECTED":
        return int(np.prod(result[:-1])) == 1
    if name == "SOFTMAX":
        return int(np.prod(given[:-1])) == 1 and given[-1] <= _MAX_SOFTMAX
    if name in ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"):
        stored = _constant(model, graph, operator, 1)
        if stored is None:
            return False
        axes = {int(a) % len(given) for a in stored.ravel()}
        channels = name == "MEAN" and len(given) - 1 in axes and given[-1] % 4
        return not channels and (0 not in axes or given[0] == 1)
    if name == "PAD":
        amounts = _constant(model, graph, operator, 1)
        return amounts is not None and not amounts[0].any() and not amounts[-1].any()
    if name == "PRELU":
        return all(d == 1 for d in shapes[1][:-1])
    if name == "STRIDED_SLICE":
        strides = _constant(model, graph, operator, 3)
        return strides is not None and bool((strides == 1).all()) and not (options.ellipsisMask or options.newAxisMask)
    return True


def _constant(model, graph, operator, place: int) -> np.ndarray | None:
    tensor = graph.tensors[operator.inputs[place]]
    if not flatbuffer.is_constant(model, tensor):
        return None
    return flatbuffer.constant(model, tensor, np.dtype(flatbuffer.dtype_name(tensor)))


def _list(values) -> list[int]:
    return [] if values is None else [int(v) for v in values]


def judge(content: bytes, found: Sequence[Operator]) -> Verdict:
    """Holds every operator against the documentation."""
    model = flatbuffer.read(content)
    problems = [problem(model, op) for op in found]
    notes = ("the Edge TPU compiler sends everything behind the first operator that does not fit to the CPU",)
    answers = [(not why, why) for why in problems]
    facts: tuple[tuple[str, str], ...] = ()
    if any(problems):
        before = next(i for i, why in enumerate(problems) if why)
        facts = (("before it", f"{before} of {len(found)} operators stand before the first that does not fit"),)
    return Verdict("the documentation of the Edge TPU (coral.ai)", answers, facts, notes if any(problems) else ())


DEVICE = Device("edgetpu", "Coral Edge TPU", judge, operators=OPERATORS, also_called=("coral", "tpu"))
