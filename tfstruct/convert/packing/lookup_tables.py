"""Kernels as indices into tables of their values, which tflite-micro decodes before each use.

Its operator TFLM_DECODE reads indices of 1 to 7 bits, and 16 bytes with a table of values for each scale of the
tensor: one for each channel, or one. (The Python of tflite-micro also writes one table for a tensor of several scales,
which its kernels read as several.)
"""

import warnings

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfstruct.convert import flatbuffer, micro
from tfstruct.convert.runtime import Runtime
from tfstruct.errors import ConversionError
from tfstruct.tflite_operators import traits_of

_HEADER = 16
_WIDEST = 7  # bits of an index
_DTYPES = {"int8": np.int8, "int16": np.int16, "float32": np.float32}
# About what the operator that decodes, its two tensors and their names take: a kernel that gains less is left alone.
_OVERHEAD = 600


def table_axis(tensor: schema.TensorT) -> int | None:
    """The axis along which a tensor has a table for each channel; None for one table."""
    scales = tensor.quantization.scale if tensor.quantization is not None else None
    return int(tensor.quantization.quantizedDimension) if scales is not None and len(scales) > 1 else None


def index_bits(values: np.ndarray, axis: int | None) -> int | None:
    """Bits of the indices; None where there are more values than 7 bits tell apart."""
    bits = max(int(_most(values, axis) - 1).bit_length(), 1)
    return bits if bits <= _WIDEST else None


def table_bytes(values: np.ndarray, axis: int | None) -> int | None:
    """ceil(elements bits / 8) + 16 + tables * values in the longest * bytes of a value; None as in `index_bits`."""
    bits = index_bits(values, axis)
    if bits is None:
        return None
    tables = 1 if axis is None else values.shape[axis]
    return -(-values.size * bits // 8) + _HEADER + tables * _most(values, axis) * values.itemsize


def kernels(model: schema.ModelT) -> dict[tuple[int, int], np.ndarray]:
    """(subgraph, tensor) -> values, for the kernels that can become tables."""
    found = {}
    for number, graph in enumerate(model.subgraphs):
        for operator in graph.operators:
            place = traits_of(flatbuffer.operator_name(model, operator)).kernel
            if place is None or len(operator.inputs) <= place or operator.inputs[place] < 0:
                continue
            tensor = graph.tensors[operator.inputs[place]]
            dtype = _DTYPES.get(flatbuffer.dtype_name(tensor))
            if dtype is not None and flatbuffer.is_constant(model, tensor) and np.prod(tensor.shape):
                found[number, int(operator.inputs[place])] = flatbuffer.constant(model, tensor, dtype)
    return found


def compress_for_micro(file) -> bytes:
    """A `.tflite` file whose kernels of few distinct values are indices into tables, for tflite-micro.

    It runs on microcontrollers alone, with `AddDecode` in the resolver, and takes arena for decoded kernels. Both files
    are run in tflite-micro on random inputs, and have to agree bit by bit.

    Args:
        file: a `TFLiteModel`, or the bytes of a `.tflite` file.

    Returns:
        The new file.

    Raises:
        ConversionError: tflite-micro is not installed (tfstruct[micro]) or cannot run the file; no kernel becomes
            smaller; or the two files differ.

    Example:
        >>> wide = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64, name="wide")])
        >>> shared = tfstruct.callbacks.Cluster(4).attach(wide).finish()  # four values a kernel
        >>> file = tfstruct.to_tflite(wide, "int8", calibration=np.ones((4, 64), "float32"))
        >>> len(tfstruct.convert.compress_for_micro(file)) < 0.7 * len(file.content)
        True
    """
    micro.require()
    content = getattr(file, "content", file)
    model = flatbuffer.read(content)
    from tflite_micro.tensorflow.lite.micro.compression import compress, spec

    chosen = []
    for (graph, index), values in kernels(model).items():
        axis = table_axis(model.subgraphs[graph].tensors[index])
        size = table_bytes(values, axis)
        if size is not None and size + _OVERHEAD < values.nbytes:
            mode = spec.PerTensor() if axis is None else spec.PerChannel(axis)
            method = spec.LookUpTableCompression(index_bits(values, axis), mode)
            chosen.append(spec.Tensor(graph, index, [method]))
    if not chosen:
        raise ConversionError(
            "No kernel of the file becomes smaller by lookup tables, which hold at most 128 values a channel. Expected "
            "large kernels with few distinct values: share weights in training."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a kernel whose bytes another tensor shares stays as it is
        smaller = flatbuffer.compact(bytes(compress(bytearray(content), chosen)))
    _check_equal(content, smaller)
    return smaller


def _check_equal(content: bytes, smaller: bytes) -> None:
    rng = np.random.default_rng(0)
    inputs = {}
    for port in Runtime(content).inputs:
        shape = [d or 1 for d in port.shape]
        values: np.ndarray
        if np.issubdtype(port.dtype, np.floating):
            values = rng.normal(size=shape)
        else:
            values = rng.integers(*((-128, 128) if port.dtype == np.int8 else (0, 2)), shape)
        inputs[port.name] = values.astype(port.dtype)
    expected = micro.run(content, inputs).outputs
    got = micro.run(smaller, inputs, ports_of=content).outputs
    for name, without in expected.items():
        if not np.array_equal(without, got[name]):
            raise ConversionError(
                f"tflite-micro computes other values for {name!r} with lookup tables than without. The file is not "
                "handed out."
            )


def _most(values: np.ndarray, axis: int | None) -> int:
    """How many distinct values the channel has that has most."""
    channels = values.reshape(1, -1) if axis is None else np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    return max(len(np.unique(channel)) for channel in channels)
