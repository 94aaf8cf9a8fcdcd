"""The integer kernels of a `.tflite` file, put back into the Keras model that it was made from."""

import dataclasses
import re
import warnings
from collections.abc import Iterator

import keras
import numpy as np

from tfstruct.convert import flatbuffer
from tfstruct.convert.tflite_model import TFLiteModel
from tfstruct.errors import ModelError
from tfstruct.graph import trace
from tfstruct.graph.copying import copied
from tfstruct.graph.keras_model import require_model
from tfstruct.graph.kernels import Kernel, kernels
from tfstruct.graph.plain_weights import check_plain
from tfstruct.quantize import dequantize as dequantize_twin
from tfstruct.quantize.rounding_points import RoundingPoints
from tfstruct.quantize.twin import Twin
from tfstruct.reporting import ChangeReport, carrying
from tfstruct.reporting.tables import counted
from tfstruct.tflite_operators import traits_of

_INTEGERS = ("int4", "int8", "int16")
# How far the values of a file may be from the model's own, in steps and on average: rounding to the nearest leaves a
# quarter, one bit about 0.6. And how far the factor between them may be from one.
_FARTHEST = 0.75
_SLACK = 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class _Stored:
    """A kernel as a file holds it.

    Attributes:
        layer: path of the Keras layer that it is named after.
        values: integers times their scales, as (taps, inputs, outputs).
        steps: the scale of each value, shaped alike.
    """

    layer: str
    values: np.ndarray
    steps: np.ndarray


def dequantize(source, model: keras.Model | None = None) -> keras.Model:
    """The plain float model with the weights that a quantized file holds.

    A kernel of the file is q s, with one scale s for each output channel, or row of a table. Where the converter folded
    the batch norm behind the layer into it, w = q s / g with g = gamma / sqrt(var + eps), so that the layer and its
    batch norm compute what the file computes; the scale of a Rescaling before it is divided out too. Channels with
    g = 0, biases and all else are the model's own, and activations are not rounded. It is for looking at the weights,
    and for going on training.

    Args:
        source: a `TFLiteModel` or the bytes of a `.tflite` file that tfstruct wrote, or a `quantize.Twin`, which knows
            its model.
        model: the Keras model that the file was made from; it is not changed.

    Returns:
        A copy of the model, not compiled. A warning and its `.report` list the kernels that stay as they are: in float
        in the file, of layers that became other operators, or unlike the model's.

    Raises:
        ModelError: no model, something else than a file or a twin, or a file of which no kernel fits the model.

    Example:
        >>> file = tfstruct.to_tflite(model, "int8", calibration=x)
        >>> plain = tfstruct.convert.dequantize(file, model)
        >>> np.allclose(plain.get_layer("hidden").kernel, hidden.kernel, atol=0.01)
        True
    """
    if isinstance(source, Twin):
        if model is not None:
            raise ModelError("A twin knows its model. Give the twin alone, or a .tflite file and its model.")
        return dequantize_twin(source)
    content = source.content if isinstance(source, TFLiteModel) else source
    if not isinstance(content, bytes | bytearray):
        raise ModelError(f"Expected a TFLiteModel, the bytes of a .tflite file or a Twin. Received: {type(source)}.")
    original = require_model(model, "the keras.Model that the file was made from: dequantize(file, model)")
    check_plain(original)
    stored = list(_stored_kernels(bytes(content)))
    factors = _factors(original)
    result = copied(original)
    left: list[tuple[str, str]] = []
    every = kernels(result, depthwise=True)
    for kernel in every:
        value, reason = _restored(kernel, stored, factors)
        if value is None:
            left.append((kernel.name, str(reason)))
        else:
            kernel.variable.assign(value)
    listed = [f"{name} ({reason})" for name, reason in left]
    if len(left) == len(every):
        raise ModelError(
            f"No integer kernel of the file fits {original.name!r}: {'; '.join(listed[:8])}. Expected a quantized file "
            "that tfstruct made from this model."
        )
    if left:
        warnings.warn(
            f"{len(left)} of {len(every)} kernels of {original.name!r} stay as they are: {'; '.join(listed)}.",
            stacklevel=2,
        )
    kept = dict(left)
    done = tuple((kernel.name, "as in the file") for kernel in every if kernel.name not in kept)
    title = f"{original.name}: {counted(len(done), 'kernel')} with the values that the file holds"
    return carrying(result, ChangeReport(title, done, tuple(left)))


def _stored_kernels(content: bytes) -> Iterator[_Stored]:
    """The integer kernels and tables of a file, each once."""
    model = flatbuffer.read(content)
    for graph in model.subgraphs:
        seen = set()
        for operator in graph.operators:
            kind = flatbuffer.operator_name(model, operator)
            place = traits_of(kind).kernel
            index = int(operator.inputs[place]) if place is not None and len(operator.inputs) > place else -1
            if index < 0 or index in seen:
                continue
            seen.add(index)
            tensor = graph.tensors[index]
            name = re.fullmatch(r"(.+)/kernel(:\d+)?", tensor.name.decode())
            if name and flatbuffer.dtype_name(tensor) in _INTEGERS and flatbuffer.is_constant(model, tensor):
                q = flatbuffer.integers(model, tensor).astype(np.float64)
                scale = np.asarray(tensor.quantization.scale, np.float64)
                shape = [1] * q.ndim
                shape[tensor.quantization.quantizedDimension if scale.size > 1 else 0] = -1
                steps = np.broadcast_to(scale.reshape(shape), q.shape)
                yield _Stored(name[1], _view(kind, q * steps), _view(kind, steps))


def _view(kind: str, values: np.ndarray) -> np.ndarray:
    """A kernel as (taps, inputs, outputs)."""
    if traits_of(kind).looks_up:
        return values[None]
    if kind == "DEPTHWISE_CONV_2D":
        return values.reshape(-1, 1, values.shape[-1])
    values = np.moveaxis(values, traits_of(kind).out_axis, -1)
    return values.reshape(-1, *values.shape[-2:])


def _factors(model: keras.Model) -> dict[str, list[np.ndarray | float]]:
    """Path of a layer -> what the converter may have multiplied its kernel with.

    That is nothing, the g of a batch norm, and both with the scale of a Rescaling that comes before.
    """
    try:
        rounding_points = RoundingPoints(trace(model))
    except ModelError:
        return {}  # subclassed: what was folded does not fit, and is said
    makers = {tensor.key: call.op for call in rounding_points.graph.calls for tensor in call.outputs}
    found = {}
    for call in rounding_points.graph.calls:
        factors: list[np.ndarray | float] = [1.0]
        norm = rounding_points.folds.get(id(call.op))
        if norm is not None:
            gamma = np.asarray(norm.gamma, np.float64) if norm.scale else 1.0
            factors.append(gamma / np.sqrt(np.asarray(norm.moving_variance, np.float64) + norm.epsilon))
        before = makers.get(call.inputs[0].key) if call.inputs else None
        if isinstance(before, keras.layers.Rescaling) and np.ndim(before.scale) == 0 and not np.any(before.offset):
            factors += [factor * before.scale for factor in factors]
        found[call.path] = factors
    return found


def _restored(kernel: Kernel, stored: list[_Stored], factors) -> tuple[np.ndarray | None, str]:
    """The value of a kernel by the file, or why there is none."""
    layer = kernel.name.rpartition("/")[0]
    own = kernel.view(np.asarray(kernel.variable, np.float64))
    found = [one for one in stored if one.layer == layer and one.values.shape == own.shape]
    best, least = None, np.inf
    for one in found:
        for g in factors.get(layer, [1.0]):
            if np.ndim(g) and g.shape != own.shape[-1:]:
                continue
            known = np.broadcast_to(np.asarray(g) != 0, own.shape)
            divisor = np.where(np.asarray(g) == 0, 1.0, g)
            value = np.where(known, one.values / divisor, own)
            apart = np.abs(value - own) / np.maximum(one.steps / np.abs(divisor), 1e-30)
            apart = float(apart.mean(where=known)) if known.any() else np.inf
            factor = float(np.sum(value * own)) / max(float(np.sum(value * value)), 1e-30)
            if apart < least:
                best, least = (value if apart <= _FARTHEST and abs(factor - 1) <= _SLACK else None), apart
    if best is not None:
        return kernel.unview(best), ""
    if found:
        return None, f"the file's is {least:.1f} steps away on average: is it of this model, was more folded into it?"
    return None, "the file has no integers of this layer and shape"
