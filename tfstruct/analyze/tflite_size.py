"""An upper bound of the size of an int8 `.tflite` file, from the graph alone.

Every constant is counted as tfstruct.convert stores it, and every tensor with what the flatbuffer needs to describe
it. Measured on 15 files (ResNet8, MobileNetV2, MobileNetV3, DenseNet121, EfficientNetB0, ResNet50 and small
models of the tests): a kernel's output channel costs 12 bytes besides its weights (bias int32; scale float32 of kernel
and of bias), kernels of as many channels share the zero points of these (int64), and all that is not a buffer or a
scale is 54 to 124 bytes a tensor.
"""

from collections import Counter

import numpy as np
from keras import layers

from tfstruct.analyze.counts import Terms, axis_sizes
from tfstruct.analyze.traced_work import works
from tfstruct.graph import Call, Each, Graph, Out
from tfstruct.graph.operation_traits import function_traits, traits_of
from tfstruct.graph.traits import Traits
from tfstruct.keras_internals.layer_parts import all_layers

# Output channels of a call's kernel as a product: the call, what is known of it, and the axes that may lose some.
Width = tuple[int, float | None, list[np.ndarray]]

FILE = 450  # header, metadata, operator codes, signature
TENSOR = 145  # a tensor with its buffer, quantization and share of an operator
INSIDE = 2  # tensors of an operation in a layer that no rule knows: its result, and a constant
BIAS = 8  # an output channel's bias, and its scale
CHANNEL = BIAS + 4  # an output channel of a kernel, and the scale of its weights
ZERO_POINT = 8  # of an output channel; kernels of as many channels have theirs, and those of their biases, in common
_FUNCTION = 3  # tensors of an activation function of which nothing is known
_OTHER = 6  # and of a layer, besides two for each of its weights
_SEQUENCE = 20  # tensors of a recurrent layer besides those of its steps
_FUSED = ("relu", "relu6")


def add_tflite_bytes(terms: Terms, tables: Terms, graph: Graph) -> list[Width]:
    """Adds the bytes of each call to its row, those of the file to row 0, without zero points.

    Args:
        terms: get constants and what each channel takes.
        tables: get what describes the tensors, an upper bound.

    Returns:
        The output channels of each kernel, which has zero points.
    """
    widths: list[Width] = []
    tables.add(0, FILE + TENSOR * len(graph.body.inputs))
    made_by = {tensor.key: call for call in graph.calls for tensor in call.outputs}
    uses: dict[int, int] = {}
    unfolded = Counter(id(call.op) for call in graph.calls)
    for call in graph.calls:
        for tensor in call.inputs:
            uses[tensor.key] = uses.get(tensor.key, 0) + 1
    seen: set[int] = set()
    inside = works(graph)
    for row, call in enumerate(graph.calls):
        traits = traits_of(call.op)
        results = inside[row].results if row in inside else None
        if results is not None:
            tables.add(row, INSIDE * TENSOR * results)
            for variable in getattr(call.op, "weights", ()):
                if id(variable) not in seen:
                    seen.add(id(variable))
                    widths += _weight(terms, row, traits, variable, graph.slot_of.get(id(variable)))
            continue
        before = made_by.get(call.inputs[0].key) if call.inputs else None
        if before is not None and uses[call.inputs[0].key] > 1:
            before = None  # others read it too, so nothing is fused into it
        if traits.statistics == "batch":
            if before is None or not _folds(before.op):
                # MUL and ADD, an int8 constant each.
                factor, held = axis_sizes([call.input.shape[call.op.axis]], [call.input.axes[call.op.axis]])
                terms.add(row, None if factor is None else 2 * factor, held)
                tables.add(row, 4 * TENSOR)
                continue
            # Folded, each call of a shared layer has a kernel of its own; the last one has the kernel already counted.
            unfolded[id(before.op)] -= 1
            if unfolded[id(before.op)] > 0:
                for variable in before.op.weights:
                    widths += _weight(terms, row, traits_of(before.op), variable, graph.slot_of.get(id(variable)))
            continue
        fused = before is not None and traits.function in _FUSED and traits_of(before.op).in_file.fuses
        if not fused:
            tables.add(row, TENSOR * _tensors(call, traits))
        each_step = _biases_of_steps(call.op)
        for variable in getattr(call.op, "weights", ()):
            if id(variable) in each_step:
                _step_biases(terms, row, variable, graph.slot_of.get(id(variable)), call.input.shape[1] or 1)
            if id(variable) not in seen:
                seen.add(id(variable))
                widths += _weight(terms, row, traits, variable, graph.slot_of.get(id(variable)))
    return widths


def _biases_of_steps(op) -> set[int]:
    """The biases behind a recurrent kernel: the states of each step have a scale of their own, so each has its bias."""
    if not isinstance(op, layers.RNN | layers.Bidirectional):
        return set()
    cells = [layer for layer in all_layers(op) if isinstance(layer, layers.GRUCell)]
    return {id(cell.bias) for cell in cells if cell.reset_after and cell.bias is not None}


def _step_biases(terms: Terms, row: int, variable, slot, steps: int) -> None:
    """Of all steps but the first, which is counted with its kernel: values, and the scales of these."""
    axis = None if slot is None else slot.axes[-1]
    factor, held = axis_sizes(variable.shape[-1:], [None if axis is None else axis.labels])
    terms.add(row, None if factor is None else BIAS * (steps - 1) * factor, held)


def _tensors(call: Call, traits: Traits) -> int:
    if traits.training_only:
        return 0
    if isinstance(call.op, layers.RNN | layers.Bidirectional):
        steps = call.input.shape[1] or 0
        return (traits.tensors or _OTHER) * steps + _SEQUENCE
    if traits.joins or traits.multiplies:
        return 1 + len(call.inputs)
    if traits.function:
        return _FUNCTION if traits.tensors is None else traits.tensors
    count = traits.tensors
    if count is None:
        count = _OTHER + 2 * len(getattr(call.op, "weights", ()))
    if traits.contracts:
        function = function_traits(call.op.activation)
        if function.function not in ("linear", *_FUSED):
            count += _FUNCTION if function.tensors is None else function.tensors
    if traits.kernel == "dense" and call.input.rank > 2:
        count += 4  # reshaped to a matrix and back
    return count


def _folds(op) -> bool:
    """Whether a batch norm behind it becomes part of it."""
    return traits_of(op).folds_batch_norm and function_traits(op.activation).function == "linear"


def _weight(terms: Terms, row: int, traits: Traits, variable, slot) -> list[Width]:
    """The constant that a weight becomes, and its output channels if it has zero points. Biases are counted with their
    kernel."""
    shape = tuple(variable.shape)
    axes = slot.axes if slot is not None else (None,) * len(shape)
    labels = [None if a is None else a.labels for a in axes]
    factor, held = axis_sizes(shape, labels)
    assert factor is not None  # the shape of a weight is known
    # A grouped kernel's input axis has labels of all groups.
    terms.add(row, factor / (slot.groups if slot is not None else 1), held)
    if len(shape) < 2 or traits.kernel == "table" or "bias" in variable.name:
        if len(shape) >= 1 and "bias" not in variable.name:
            terms.add(row, 12)
        return []
    outs = [i for i, a in enumerate(axes) if isinstance(a, Out)]
    if not outs:
        depthwise = "depthwise" in variable.name or traits.kernel == "depthwise"
        outs = [len(shape) - 2, len(shape) - 1] if depthwise else [len(shape) - 1]
        outs += [i for i, a in enumerate(axes) if isinstance(a, Each) and i not in outs]
    factor, held = axis_sizes([shape[i] for i in outs], [labels[i] for i in outs])
    # Input and states are added up: one bias for both.
    terms.add(row, (CHANNEL - BIAS if "recurrent" in variable.name else CHANNEL) * np.float64(factor), held)
    return [(row, factor, held)]
