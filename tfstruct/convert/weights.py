"""Second-order rounding of the weights in a float `.tflite`, before a quantizer stores them."""

import copy
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np

from tfstruct.convert import flatbuffer
from tfstruct.convert.flatbuffer import schema
from tfstruct.convert.runtime import Runtime
from tfstruct.errors import ConversionError
from tfstruct.quantize import rounding
from tfstruct.tflite_operators import operators_that

# A Hessian of n inputs takes 8 n^2 bytes and n^3 operations; past this only its diagonal is used.
LARGEST_HESSIAN = 4608
# Each pass over the samples rounds so many layers that this many passes do.
MOST_PASSES = 32
# Values that all passes over all samples may compute together; bounds the time on large models to minutes.
MOST_VALUES = 2e9
FEWEST_SAMPLES = 16
# Those for which weights of 4 bits are worth the time.
ROUNDED_OPERATORS = operators_that(lambda traits: "int4" in traits.weights)


def round_weights(
    content: bytes,
    bits: Mapping[str, int],
    samples: Sequence[dict[str, np.ndarray]],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> bytes:
    """Moves the weights of convolutions and dense layers onto their integer grid, GPTQ by layer.

    Layers are rounded in the order of the graph, each on the inputs that the rounded layers before it make,
    so that it also makes up for part of their error. The file stays float; its weights are scale * integer
    with the largest integer in every channel, so a quantizer that takes max|w| finds the same integers.

    Args:
        content: float `.tflite`.
        bits: output tensor of an operator -> bits of its weights; operators left out stay as they are.
        samples: inputs by name with batch axis.
        progress: called with (layers done, layers in all).
    """
    model = flatbuffer.read(content)
    graph = model.subgraphs[0]
    todo = [
        op
        for op in graph.operators
        if flatbuffer.operator_name(model, op) in ROUNDED_OPERATORS
        and graph.tensors[op.outputs[0]].name.decode() in bits
        and flatbuffer.is_constant(model, graph.tensors[op.inputs[1]])
        and graph.tensors[op.inputs[1]].type == schema.TensorType.FLOAT32
    ]
    # A kernel used twice (a shared layer) is rounded once, on its first use.
    first: dict[int, schema.OperatorT] = {}
    for op in todo:
        first.setdefault(op.inputs[1], op)
    _part_ways(graph, [op for op in graph.operators if not any(op is other for other in todo)], set(first))
    todo = list(first.values())
    chunk = max(1, -(-len(todo) // MOST_PASSES))
    samples = samples[: _affordable(graph, -(-len(todo) // chunk))]
    for start in range(0, len(todo), chunk):
        group = todo[start : start + chunk]
        hessians = _hessians(model, group, samples)
        for op in group:
            tensor = graph.tensors[op.inputs[1]]
            kernel = flatbuffer.constant(model, tensor)
            width = bits[graph.tensors[op.outputs[0]].name.decode()]
            rounded_kernel = _round(kernel.reshape(len(kernel), -1), *hessians[op.inputs[1]], width)
            flatbuffer.set_constant(model, tensor, rounded_kernel.reshape(kernel.shape))
        progress(min(start + chunk, len(todo)), len(todo))
    return flatbuffer.write(model)


def _part_ways(graph, others: Iterable[schema.OperatorT], kernels: Collection[int]) -> None:
    """Gives operators that are not rounded a tensor of their own where they read a kernel that is."""
    for op in others:
        for place, index in enumerate(op.inputs):
            if index in kernels:
                twin = copy.copy(graph.tensors[index])
                twin.name += b":plain"
                graph.tensors.append(twin)
                op.inputs[place] = len(graph.tensors) - 1


def _affordable(graph, passes: int) -> int:
    """How many samples `passes` passes may run within `MOST_VALUES`."""
    values = sum(int(np.prod(np.abs(graph.tensors[i].shape))) for op in graph.operators for i in op.outputs)
    return max(FEWEST_SAMPLES, int(MOST_VALUES / max(values * passes, 1)))


def _round(weights: np.ndarray, hessians: list[np.ndarray], rows: int, bits: int) -> np.ndarray:
    """Rounds a kernel (outputs, inputs); with several groups each has its own share of outputs and Hessian."""
    out = []
    for part, hessian in zip(np.split(weights, len(hessians)), hessians, strict=True):
        scale = rounding.symmetric_scale(part, hessian, bits)
        if hessian.ndim == 1:
            integers = rounding.nearest(part, scale, bits)
        else:
            # A Hessian from few rows is trusted less: it would fit the weights to those very samples.
            damping = max(0.01, 0.4 * len(hessian) / rows)
            integers = rounding.gptq(part, hessian, scale, bits, damping)
        out.append((integers * scale[:, None].astype(np.float32)).astype(np.float32))
    return np.concatenate(out)


def _hessians(model, group: Collection, samples: Iterable[dict]) -> dict[int, tuple[list[np.ndarray], int]]:
    """By kernel tensor: mean(x x^T) over the kernel's inputs x, one a convolution group, and the number of x."""
    graph = model.subgraphs[0]
    runtime = Runtime(flatbuffer.write(model), intermediates=True)
    sums: dict[int, list] = {op.inputs[1]: [] for op in group}
    rows: dict[int, int] = dict.fromkeys(sums, 0)
    for inputs in samples:
        runtime.run(inputs)
        for op in group:
            kernel = graph.tensors[op.inputs[1]]
            name = graph.tensors[op.inputs[0]].name.decode()
            value = runtime.tensor(name)
            if value is None:
                raise ConversionError(
                    f"The interpreter does not show the values of {name!r}, by which weights are rounded. Convert with "
                    'Recipe(rounding="nearest").'
                )
            seen = value.astype(np.float64)
            parts = (
                _patches(seen, kernel.shape, op.builtinOptions)
                if flatbuffer.operator_name(model, op) == "CONV_2D"
                else [seen.reshape(-1, kernel.shape[1])]
            )
            full = parts[0].shape[1] <= LARGEST_HESSIAN
            new = [p.T @ p if full else np.square(p).sum(axis=0) for p in parts]
            held = sums[op.inputs[1]]
            sums[op.inputs[1]] = [a + b for a, b in zip(held, new, strict=True)] if held else new
            rows[op.inputs[1]] += len(parts[0])
    return {index: ([s / rows[index] for s in parts], rows[index]) for index, parts in sums.items()}


def _patches(images: np.ndarray, kernel: Sequence[int], options) -> list[np.ndarray]:
    """The inputs (rows, height * width * channels) that a convolution kernel sees, one array a group."""
    _, height, width, channels = kernel
    strides, dilation = (options.strideH, options.strideW), (options.dilationHFactor, options.dilationWFactor)
    spans = [(k - 1) * d + 1 for k, d in zip((height, width), dilation, strict=True)]
    if options.padding == schema.Padding.SAME:
        sizes = images.shape[1:3]
        wanted = [max((-(-n // s) - 1) * s + k - n, 0) for n, s, k in zip(sizes, strides, spans, strict=True)]
        images = np.pad(images, ((0, 0), *((w // 2, w - w // 2) for w in wanted), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(images, spans, axis=(1, 2))
    windows = windows[:, :: strides[0], :: strides[1], :, :: dilation[0], :: dilation[1]]
    rows = windows.transpose(0, 1, 2, 4, 5, 3)  # batch, y, x, ky, kx, channel
    groups = images.shape[3] // channels
    return [rows[..., g * channels : (g + 1) * channels].reshape(-1, height * width * channels) for g in range(groups)]
