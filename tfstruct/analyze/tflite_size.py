"""An upper bound of the size of an int8 `.tflite` file, from the graph alone.

Every constant is counted as tfstruct.convert stores it, and every tensor with what the flatbuffer needs to describe
it. Measured on 15 files (ResNet8, MobileNetV2, MobileNetV3, DenseNet121, EfficientNetB0, ResNet50 and small
models of the tests): a kernel's output channel costs 12 bytes besides its weights (bias int32; scale float32 of kernel
and of bias), kernels of as many channels share the zero points of these (int64), and all that is not a buffer or a
scale is 54 to 124 bytes a tensor.
"""

from collections import Counter

import numpy as np

from tfstruct.analyze.counts import Terms, axis_sizes
from tfstruct.analyze.traced_work import works
from tfstruct.graph import Each, Graph, Out, is_training_only

# Channels as a product: what is known of it, and the axes that may lose some.
Width = tuple[float | None, list[np.ndarray]]

FILE = 450  # header, metadata, operator codes, signature
TENSOR = 145  # a tensor with its buffer, quantization and share of an operator
INSIDE = 2  # tensors of an operation in a layer that no rule knows: its result, and a constant
CHANNEL = 12  # an output channel of a kernel: bias 4, scales of kernel and bias 2 * 4
ZERO_POINT = 8  # of an output channel; kernels of as many channels have theirs, and those of their biases, in common
_FOLDS = {"Conv1D", "Conv2D", "DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D", "Dense"}
_FUSES = {*_FOLDS, "Add", "BatchNormalization"}
# Tensors by layer: constants and results of the operators that a layer becomes.
_TENSORS = {
    "Dense": 3, "EinsumDense": 9, "Embedding": 4, "Conv1D": 9, "Conv2D": 3, "Conv3D": 8, "Conv1DTranspose": 10,
    "Conv2DTranspose": 6, "Conv3DTranspose": 10, "DepthwiseConv1D": 9, "DepthwiseConv2D": 3, "SeparableConv1D": 14,
    "SeparableConv2D": 6, "Identity": 0, "ActivityRegularization": 0,
    "ReLU": 1, "Activation": 3, "LeakyReLU": 2, "Softmax": 1, "PReLU": 8, "MaxPooling2D": 1, "AveragePooling2D": 1,
    "GlobalAveragePooling2D": 2, "GlobalMaxPooling2D": 2, "GlobalAveragePooling1D": 2, "GlobalMaxPooling1D": 2,
    "MaxPooling1D": 5, "AveragePooling1D": 5, "Flatten": 2, "Reshape": 2, "Permute": 2, "ZeroPadding2D": 2,
    "ZeroPadding1D": 2, "UpSampling2D": 2, "Cropping2D": 4, "Rescaling": 4, "Normalization": 6,
    "LayerNormalization": 19, "GroupNormalization": 34, "MultiHeadAttention": 38,
}  # fmt: skip
# Tensors of an activation function that its layer does not fuse.
_ACTIVATION = {"relu": 0, "relu6": 0, "softmax": 1, "sigmoid": 1, "tanh": 1, "gelu": 1, "hard_swish": 1}
_BY_STEP = {"LSTM": 21, "GRU": 25, "SimpleRNN": 9, "Bidirectional": 42}  # unrolled: tensors a time step


def add_tflite_bytes(terms: Terms, graph: Graph) -> list[Width]:
    """Adds the bytes of each call to its row, those of the file to row 0, without zero points.

    Returns:
        The output channels of each kernel, which has zero points.
    """
    widths: list[Width] = []
    terms.add(0, FILE + TENSOR * len(graph.body.inputs))
    made_by = {tensor.key: call for call in graph.calls for tensor in call.outputs}
    uses: dict[int, int] = {}
    unfolded = Counter(id(call.op) for call in graph.calls)
    slots = {id(slot.variable): slot for slot in graph.slots}
    for call in graph.calls:
        for tensor in call.inputs:
            uses[tensor.key] = uses.get(tensor.key, 0) + 1
    seen: set[int] = set()
    inside = works(graph)
    for row, call in enumerate(graph.calls):
        kind = type(call.op).__name__
        results = inside[row].results if row in inside else None
        if results is not None:
            terms.add(row, INSIDE * TENSOR * results)
            for variable in getattr(call.op, "weights", ()):
                if id(variable) not in seen:
                    seen.add(id(variable))
                    widths += _weight(terms, row, kind, variable, slots.get(id(variable)))
            continue
        before = made_by.get(call.inputs[0].key) if call.inputs else None
        if before is not None and uses[call.inputs[0].key] > 1:
            before = None  # others read it too, so nothing is fused into it
        if kind == "BatchNormalization":
            if before is None or type(before.op).__name__ not in _FOLDS or not _linear(before.op):
                # MUL and ADD, an int8 constant each.
                factor, held = axis_sizes([call.input.shape[call.op.axis]], [call.input.axes[call.op.axis]])
                terms.add(row, None if factor is None else 2 * factor, held)
                terms.add(row, 4 * TENSOR)
                continue
            # Folded, each call of a shared layer has a kernel of its own; the last one has the kernel already counted.
            unfolded[id(before.op)] -= 1
            if unfolded[id(before.op)] > 0:
                for variable in before.op.weights:
                    widths += _weight(terms, row, type(before.op).__name__, variable, slots.get(id(variable)))
            continue
        relu = kind == "ReLU" or (
            kind == "Activation" and getattr(call.op.activation, "__name__", "") in ("relu", "relu6")
        )
        if not (relu and before is not None and type(before.op).__name__ in _FUSES):
            terms.add(row, TENSOR * _tensors(call, kind))
        for variable in getattr(call.op, "weights", ()):
            if id(variable) not in seen:
                seen.add(id(variable))
                widths += _weight(terms, row, kind, variable, slots.get(id(variable)))
    return widths


def _tensors(call, kind: str) -> float:
    if kind in _BY_STEP:
        steps = call.input.shape[1] or 0
        return _BY_STEP[kind] * steps + 20
    if kind in ("Concatenate", "Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Dot"):
        return 1 + len(call.inputs)
    if kind == "Activation":
        return 1 if _linear(call.op) else _ACTIVATION.get(getattr(call.op.activation, "__name__", ""), 3) or 1
    if is_training_only(call.op):
        return 0
    count = _TENSORS.get(kind, 6 + 2 * len(getattr(call.op, "weights", ())))
    if kind in _FOLDS and not _linear(call.op):
        count += _ACTIVATION.get(getattr(call.op.activation, "__name__", ""), 3)
    if kind == "Dense" and call.input.rank > 2:
        count += 4  # reshaped to a matrix and back
    return count


def _linear(op) -> bool:
    return getattr(getattr(op, "activation", None), "__name__", "linear") == "linear"


def _weight(terms: Terms, row: int, kind: str, variable, slot) -> list[Width]:
    """The constant that a weight becomes, and its output channels if it has zero points. Biases are counted with their
    kernel."""
    shape = tuple(variable.shape)
    axes = slot.axes if slot is not None else (None,) * len(shape)
    labels = [None if a is None else a.labels for a in axes]
    factor, held = axis_sizes(shape, labels)
    assert factor is not None  # the shape of a weight is known
    # A grouped kernel's input axis has labels of all groups.
    terms.add(row, factor / (slot.groups if slot is not None else 1), held)
    if len(shape) < 2 or kind == "Embedding" or "bias" in variable.name:
        if len(shape) >= 1 and "bias" not in variable.name:
            terms.add(row, 12)
        return []
    outs = [i for i, a in enumerate(axes) if isinstance(a, Out)]
    if not outs:
        depthwise = "depthwise" in variable.name or kind.startswith("Depthwise")
        outs = [len(shape) - 2, len(shape) - 1] if depthwise else [len(shape) - 1]
        outs += [i for i, a in enumerate(axes) if isinstance(a, Each) and i not in outs]
    factor, held = axis_sizes([shape[i] for i in outs], [labels[i] for i in outs])
    terms.add(row, CHANNEL * np.float64(factor), held)
    return [(factor, held)]
