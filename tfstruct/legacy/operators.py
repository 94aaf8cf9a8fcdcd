"""TensorFlow functions inside Keras 2 models, as `keras.ops`.

`x + 3.0` in a Keras 2 functional model is a `TFOpLambda` layer that names the TensorFlow function `math.add`;
`x[:, 0]` is a `SlicingOpLambda`. Each function here takes the arguments that TensorFlow's takes, with Keras 3
tensors in place of Keras 2 ones. A function that is not in `TABLE` is never called: a model file may name any.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tfstruct.keras_internals.graph_nodes import rename

Operator = Callable[..., Any]


def _axes(axis):
    return tuple(int(a) for a in axis) if isinstance(axis, list | tuple | np.ndarray) else axis


def _reduce(function: Operator) -> Operator:
    return lambda input_tensor, axis=None, keepdims=False: function(input_tensor, axis=_axes(axis), keepdims=keepdims)


def _two(function: Operator) -> Operator:
    return lambda x, y: function(x, y)


def _one(function: Operator) -> Operator:
    # TensorFlow calls the argument x, features, input, logits or tensor.
    return lambda *args, **kwargs: function(*args, *kwargs.values())


def _dims(shape) -> tuple[int, ...]:
    """A target shape; what is taken from the tensor's own open dimension may stand in it once."""
    return tuple(-1 if d is None else int(d) for d in (shape if not hasattr(shape, "tolist") else shape.tolist()))


def _reshape(tensor, shape):
    shape = list(shape) if not hasattr(shape, "tolist") else shape.tolist()
    rest = tensor.shape[1:]
    if shape and shape[0] is None and -1 in shape and None not in rest:
        # The batch stays open, so the size left to infer follows from the others.
        known = [d for d in shape[1:] if d != -1]
        shape[shape.index(-1)] = int(np.prod(rest)) // int(np.prod(known))
    return ops.reshape(tensor, _dims(shape))


def _softmax(logits, axis=-1):
    return ops.softmax(logits, axis=-1 if axis is None else axis)


def _cast(x, dtype):
    return ops.cast(x, getattr(dtype, "name", None) or keras.backend.standardize_dtype(dtype))


def _transpose(a, perm=None, conjugate=False):
    return ops.transpose(a, None if perm is None else [int(p) for p in perm])


def _concat(values, axis):
    if all(isinstance(v, list | tuple | np.ndarray) for v in values):  # shapes
        return [d for v in values for d in v]
    return ops.concatenate(list(values), axis=int(axis))


def _stack(values, axis=0):
    if not any(keras.backend.is_keras_tensor(v) for v in values):  # a shape put together from parts
        return list(values)
    return ops.stack(list(values), axis=axis)


def _split(value, num_or_size_splits, axis=0, num=None):
    if isinstance(num_or_size_splits, int):
        return ops.split(value, num_or_size_splits, axis=axis)
    return ops.split(value, [int(i) for i in np.cumsum(num_or_size_splits)[:-1]], axis=axis)


def _unstack(value, num=None, axis=0):
    return ops.unstack(value, num=num, axis=axis)


def _squeeze(input, axis=None, squeeze_dims=None):
    return ops.squeeze(input, axis=_axes(squeeze_dims if axis is None else axis))


def _pad(tensor, paddings, mode="CONSTANT", constant_values=0):
    mode = mode.lower()
    return ops.pad(tensor, np.asarray(paddings).tolist(), mode, constant_values if mode == "constant" else None)


def _matmul(a, b, transpose_a=False, transpose_b=False):
    a = ops.swapaxes(a, -1, -2) if transpose_a else a
    b = ops.swapaxes(b, -1, -2) if transpose_b else b
    return ops.matmul(a, b)


def _clip(t, clip_value_min, clip_value_max):
    return ops.clip(t, clip_value_min, clip_value_max)


def _gather(params, indices, validate_indices=None, axis=None, batch_dims=0):
    if batch_dims:
        raise NotImplementedError("batch_dims")
    return ops.take(params, indices, axis=0 if axis is None else axis)


def _l2_normalize(x, axis=None, epsilon=1e-12, dim=None):
    axis = _axes(dim if axis is None else axis)
    return x * ops.rsqrt(ops.maximum(ops.sum(ops.square(x), axis=axis, keepdims=True), epsilon))


def _norm(tensor, ord="euclidean", axis=None, keepdims=None):
    if ord not in ("euclidean", 2):
        raise NotImplementedError(f"ord={ord!r}")
    return ops.sqrt(ops.sum(ops.square(tensor), axis=_axes(axis), keepdims=bool(keepdims)))


def _resize(images, size, method="bilinear", preserve_aspect_ratio=False, antialias=False):
    method = getattr(method, "value", method)
    if method not in ("bilinear", "nearest") or preserve_aspect_ratio:
        raise NotImplementedError(f"method={method!r}, preserve_aspect_ratio={preserve_aspect_ratio}")
    return ops.image.resize(images, [int(s) for s in size], interpolation=method, antialias=antialias)


def _leaky_relu(features, alpha=0.2):
    return ops.leaky_relu(features, negative_slope=alpha)


def _one_hot(indices, depth, on_value=None, off_value=None, axis=None, dtype=None):
    if on_value not in (None, 1) or off_value not in (None, 0):
        raise NotImplementedError(f"on_value={on_value}, off_value={off_value}")
    name = getattr(dtype, "name", dtype)
    return ops.one_hot(indices, int(depth), axis=-1 if axis is None else axis, dtype=name or "float32")


def _argmax(input, axis=None, output_type=None):
    return ops.cast(ops.argmax(input, axis=0 if axis is None else axis), getattr(output_type, "name", "int64"))


def _depth(kernel: str) -> Operator:
    def move(input, block_size, data_format="NHWC"):
        _, h, w, c = input.shape
        b = block_size
        if data_format != "NHWC" or None in (h, w):
            raise NotImplementedError("an open height or width")
        if kernel == "depth_to_space":
            x = ops.transpose(ops.reshape(input, (-1, h, w, b, b, c // b**2)), (0, 1, 3, 2, 4, 5))
            return ops.reshape(x, (-1, h * b, w * b, c // b**2))
        x = ops.transpose(ops.reshape(input, (-1, h // b, b, w // b, b, c)), (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (-1, h // b, w // b, c * b**2))

    return move


def _shape(input, *args, **kwargs):
    return list(input.shape)


def _slice(tensor, slice_spec, var=None):
    def part(item):
        return slice(item["start"], item["stop"], item["step"]) if isinstance(item, dict) else item

    spec = tuple(map(part, slice_spec)) if isinstance(slice_spec, list | tuple) else part(slice_spec)
    if isinstance(tensor, list):  # of a shape
        return tensor[spec[0] if isinstance(spec, tuple) else spec]
    return tensor[spec]


def _add_n(inputs):
    total = inputs[0]
    for item in inputs[1:]:
        total = ops.add(total, item)
    return total


TABLE: dict[str, Operator] = {
    "__operators__.getitem": _slice,
    "__operators__.add": _two(ops.add),
    "math.add": _two(ops.add),
    "math.subtract": _two(ops.subtract),
    "math.multiply": _two(ops.multiply),
    "math.scalar_mul": lambda scalar, x: ops.multiply(scalar, x),
    "math.divide": _two(ops.true_divide),
    "math.truediv": _two(ops.true_divide),
    "math.divide_no_nan": _two(ops.divide_no_nan),
    "math.floordiv": _two(ops.floor_divide),
    "math.floormod": _two(ops.mod),
    "math.pow": _two(ops.power),
    "math.maximum": _two(ops.maximum),
    "math.minimum": _two(ops.minimum),
    "math.squared_difference": _two(lambda x, y: ops.square(ops.subtract(x, y))),
    "math.equal": _two(ops.equal),
    "math.not_equal": _two(ops.not_equal),
    "__operators__.eq": _two(ops.equal),
    "__operators__.ne": _two(ops.not_equal),
    "math.greater": _two(ops.greater),
    "math.greater_equal": _two(ops.greater_equal),
    "math.less": _two(ops.less),
    "math.less_equal": _two(ops.less_equal),
    "math.logical_and": _two(ops.logical_and),
    "math.logical_or": _two(ops.logical_or),
    "math.logical_not": _one(ops.logical_not),
    "math.add_n": _add_n,
    "math.negative": _one(ops.negative),
    "math.abs": _one(ops.abs),
    "math.sign": _one(ops.sign),
    "math.exp": _one(ops.exp),
    "math.log": _one(ops.log),
    "math.log1p": _one(ops.log1p),
    "math.sqrt": _one(ops.sqrt),
    "math.rsqrt": _one(ops.rsqrt),
    "math.square": _one(ops.square),
    "math.reciprocal": _one(ops.reciprocal),
    "math.sin": _one(ops.sin),
    "math.cos": _one(ops.cos),
    "math.erf": _one(ops.erf),
    "math.floor": _one(ops.floor),
    "math.ceil": _one(ops.ceil),
    "math.round": _one(ops.round),
    "math.tanh": _one(ops.tanh),
    "math.sigmoid": _one(ops.sigmoid),
    "math.softplus": _one(ops.softplus),
    "math.reduce_sum": _reduce(ops.sum),
    "math.reduce_mean": _reduce(ops.mean),
    "math.reduce_max": _reduce(ops.max),
    "math.reduce_min": _reduce(ops.min),
    "math.reduce_prod": _reduce(ops.prod),
    "math.reduce_std": _reduce(ops.std),
    "math.reduce_variance": _reduce(ops.var),
    "math.reduce_any": _reduce(ops.any),
    "math.reduce_all": _reduce(ops.all),
    "math.reduce_logsumexp": _reduce(ops.logsumexp),
    "math.argmax": _argmax,
    "math.l2_normalize": _l2_normalize,
    "linalg.matmul": _matmul,
    "linalg.norm": _norm,
    "norm": _norm,
    "einsum": lambda equation, *inputs: ops.einsum(equation, *inputs),
    "tensordot": lambda a, b, axes: ops.tensordot(a, b, axes=axes),
    "nn.relu": _one(ops.relu),
    "nn.relu6": _one(ops.relu6),
    "nn.elu": _one(ops.elu),
    "nn.selu": _one(ops.selu),
    "nn.silu": lambda features, beta=1.0: (
        ops.silu(features) if beta == 1.0 else features * ops.sigmoid(features * beta)
    ),
    "nn.gelu": lambda features, approximate=False: ops.gelu(features, approximate=approximate),
    "nn.leaky_relu": _leaky_relu,
    "nn.softmax": _softmax,
    "nn.log_softmax": lambda logits, axis=-1: ops.log_softmax(logits, axis=-1 if axis is None else axis),
    "nn.softsign": _one(ops.softsign),
    "nn.bias_add": lambda value, bias, data_format=None: ops.add(value, bias),
    "nn.depth_to_space": _depth("depth_to_space"),
    "nn.space_to_depth": _depth("space_to_depth"),
    "image.resize": _resize,
    "clip_by_value": _clip,
    "cast": _cast,
    "identity": _one(ops.copy),
    "stop_gradient": _one(ops.stop_gradient),
    "convert_to_tensor": lambda value, dtype=None, dtype_hint=None: value,
    "shape": _shape,
    "reshape": _reshape,
    "transpose": _transpose,
    "expand_dims": lambda input, axis: ops.expand_dims(input, int(axis)),
    "squeeze": _squeeze,
    "concat": _concat,
    "stack": _stack,
    "unstack": _unstack,
    "split": _split,
    "tile": lambda input, multiples: ops.tile(input, [int(m) for m in multiples]),
    "repeat": lambda input, repeats, axis=None: ops.repeat(input, repeats, axis=axis),
    "reverse": lambda tensor, axis: ops.flip(tensor, axis=_axes(axis)),
    "roll": lambda input, shift, axis: ops.roll(input, shift, axis=axis),
    "pad": _pad,
    "gather": _gather,
    "where": lambda condition, x=None, y=None: ops.where(condition, x, y),
    "one_hot": _one_hot,
    "zeros_like": lambda input, dtype=None, layout=None: ops.zeros_like(input),
    "ones_like": lambda input, dtype=None, layout=None: ops.ones_like(input),
    "broadcast_to": lambda input, shape: ops.broadcast_to(input, _dims(shape)),
}
# Names that TensorFlow 1 and other releases gave the same functions.
TABLE.update(
    {
        "compat.v1.shape": _shape,
        "compat.v1.squeeze": _squeeze,
        "compat.v1.expand_dims": lambda input, axis=None, dim=None: ops.expand_dims(
            input, dim if axis is None else axis
        ),
        "compat.v1.gather": _gather,
        "compat.v1.transpose": TABLE["transpose"],
        "compat.v1.pad": lambda tensor, paddings, mode="CONSTANT", name=None, constant_values=0: _pad(
            tensor, paddings, mode, constant_values
        ),
        "compat.v1.where": TABLE["where"],
        "compat.v1.nn.softmax": _softmax,
        "compat.v1.div": TABLE["math.divide"],
        "compat.v1.image.resize_bilinear": _resize,
        "nn.sigmoid": TABLE["math.sigmoid"],
        "nn.tanh": TABLE["math.tanh"],
        "nn.l2_normalize": _l2_normalize,
        "nn.swish": TABLE["nn.silu"],
        "math.argmin": lambda input, axis=None, output_type=None: ops.cast(ops.argmin(input, axis=axis or 0), "int64"),
    }
)


def is_known(function: str) -> bool:
    """True if the TensorFlow function of this public name has a counterpart here."""
    return function in TABLE


def call(function: str, name: str, args: tuple, kwargs: dict):
    """Applies the counterpart of a TensorFlow function; the operation it makes carries `name`.

    Raises:
        KeyError: no such function in `TABLE`.
        NotImplementedError: the function is known, an argument of it is not.
    """
    kwargs = {k: v for k, v in kwargs.items() if k != "name"}
    result = TABLE[function](*args, **kwargs)
    inputs = [x for x in keras.tree.flatten((args, kwargs)) if keras.backend.is_keras_tensor(x)]
    made = [x for x in keras.tree.flatten(result) if keras.backend.is_keras_tensor(x)]
    if made and not any(made[0] is x for x in inputs):
        rename(made[0], name.replace("/", "_"))
    return result
