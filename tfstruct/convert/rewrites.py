"""Layers rewritten into operators that have integer kernels, computing the same.

A rewrite changes how a layer computes, never its weights: while a model is traced for an integer file, the layer's
class is one whose `call` uses other operators. It works on any model, subclassed ones too. Each rewrite also is a
function model -> model on a copy, for functional and Sequential models.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator

import keras
import tensorflow as tf
from keras import ops

from tfstruct.errors import ModelError
from tfstruct.graph.copying import copied
from tfstruct.graph.layer_tree import layer_paths
from tfstruct.graph.opening import composites
from tfstruct.keras_internals.graph_nodes import set_mask
from tfstruct.keras_internals.operation_types import BACKEND_FUNCTIONS
from tfstruct.keras_internals.replacing import replaced_attributes, set_untracked

# Unrolling copies the cell once a step; beyond this the file would be larger than any saving.
MOST_STEPS = 256
_DROPOUTS = ("dropout", "recurrent_dropout")


@dataclasses.dataclass(frozen=True)
class Rewrite:
    """One way to compute a layer in integer operators.

    Attributes:
        name: what it does, for the report.
        applies: says whether a layer is to be rewritten.
        change: attributes of the layer while it is, `__class__` among them.
    """

    name: str
    applies: Callable[[keras.Operation], bool]
    change: Callable[[keras.Operation], dict]


# A layer of Keras's -> the class that computes the same in integer operators.
_CLASSES: dict[type, type] = {}


def _in_place_of_its_base(own: type) -> type:
    _CLASSES[own.__bases__[0]] = own
    return own


@_in_place_of_its_base
class LayerNormalization(keras.layers.LayerNormalization):
    """See `composites`."""

    call = composites.layer_normalization


@_in_place_of_its_base
class RMSNormalization(keras.layers.RMSNormalization):
    """See `composites`."""

    call = composites.rms_normalization


@_in_place_of_its_base
class UnitNormalization(keras.layers.UnitNormalization):
    """See `composites`."""

    call = composites.unit_normalization


@_in_place_of_its_base
class GroupNormalization(keras.layers.GroupNormalization):
    """See `composites`."""

    call = composites.group_normalization


@_in_place_of_its_base
class PReLU(keras.layers.PReLU):
    """y = relu(x) + alpha (x - relu(x)): without NEG."""

    def call(self, x):
        positive = ops.relu(x)
        return positive + self.alpha * (x - positive)


@_in_place_of_its_base
class ELU(keras.layers.ELU):
    """See `elu`."""

    def call(self, x):
        return elu(x, self.alpha)


class CategoryEncoding(keras.layers.CategoryEncoding):
    """One-hot codes, their largest or their sum in place of a count of values, for which there is no operator."""

    def call(self, inputs, count_weights=None):
        if self.output_mode == "one_hot" or self.sparse or len(inputs.shape) > 2:
            return super().call(inputs, count_weights)
        codes = ops.one_hot(ops.cast(inputs, "int32"), self.num_tokens, dtype=self.compute_dtype)
        axis = min(len(inputs.shape) - 1, 1)
        if self.output_mode == "multi_hot":
            return ops.minimum(ops.sum(codes, axis), 1.0)
        weights = 1.0 if count_weights is None else ops.cast(count_weights, codes.dtype)[..., None]
        return ops.sum(codes * weights, axis)


@_in_place_of_its_base
class Embedding(keras.layers.Embedding):
    """GATHER alone: Keras's own also takes negative indices, by LESS, ADD and SELECT. Indices must be in range."""

    def call(self, inputs):
        return ops.cast(tf.gather(self.embeddings, ops.cast(inputs, "int32")), self.compute_dtype)


if hasattr(keras.layers, "ReversibleEmbedding"):  # from Keras 3.14 on

    @_in_place_of_its_base
    class ReversibleEmbedding(keras.layers.ReversibleEmbedding):
        """As `Embedding`; in reverse it is FULLY_CONNECTED as it comes."""

        def call(self, inputs, reverse=False):
            if reverse:
                return super().call(inputs, reverse)
            rows = Embedding.call(self, inputs)
            if self.mask_zero:  # which its `call` gives, not `compute_mask`
                set_mask(rows, ops.not_equal(inputs, 0))
            return rows


@_in_place_of_its_base
class UpSampling1D(keras.layers.UpSampling1D):
    """RESIZE_NEAREST_NEIGHBOR in place of TILE."""

    def call(self, inputs):
        steps, channels = inputs.shape[1:]
        if steps is None:
            return super().call(inputs)
        return ops.reshape(_repeated(inputs[:, :, None], self.size, 1), (-1, steps * self.size, channels))


@_in_place_of_its_base
class UpSampling2D(keras.layers.UpSampling2D):
    """RESIZE_NEAREST_NEIGHBOR in place of TILE."""

    def call(self, inputs):
        if self.interpolation != "nearest" or self.data_format != "channels_last" or None in inputs.shape[1:]:
            return super().call(inputs)
        return _repeated(inputs, *self.size)


class OpenUpSampling2D(keras.layers.UpSampling2D):
    """Keras's own reads sizes as Python's numbers, which open ones are not, or loses the channels with them."""

    def call(self, inputs):
        if self.data_format != "channels_last" or None not in inputs.shape[1:3]:
            return super().call(inputs)
        return tf.image.resize(inputs, tf.shape(inputs)[1:3] * tf.constant(self.size), self.interpolation)


@_in_place_of_its_base
class UpSampling3D(keras.layers.UpSampling3D):
    """RESIZE_NEAREST_NEIGHBOR in place of TILE: over height and width of each depth, then over depth."""

    def call(self, inputs):
        if self.data_format != "channels_last" or None in inputs.shape[1:]:
            return super().call(inputs)
        depth, height, width, channels = inputs.shape[1:]
        flat = _repeated(ops.reshape(inputs, (-1, height, width, channels)), *self.size[1:])
        height, width = flat.shape[1:3]
        flat = _repeated(ops.reshape(flat, (-1, depth, 1, height * width * channels)), self.size[0], 1)
        return ops.reshape(flat, (-1, depth * self.size[0], height, width, channels))


@_in_place_of_its_base
class Conv3D(keras.layers.Conv3D):
    """The depth taps of the kernel side by side on the channel axis, and one CONV_2D over all depths as a batch.

    CONV_3D has a float kernel only. For depth taps k = 0..K-1: x'[.., (k, c)] = x[d s + k r, .., c] with stride s and
    dilation r, and the kernel reshaped from (K, h, w, c, f) to (h, w, (k, c), f).
    """

    def call(self, x):
        depth, height, width, channels = x.shape[1:]
        taps, stride, dilation = self.kernel_size[0], self.strides[0], self.dilation_rate[0]
        span = (taps - 1) * dilation + 1
        if self.padding == "same":
            steps = -(-depth // stride)
            missing = max((steps - 1) * stride + span - depth, 0)
            x = ops.pad(x, [[0, 0], [missing // 2, missing - missing // 2], [0, 0], [0, 0], [0, 0]])
        else:
            steps = (depth - span) // stride + 1
        reach = (steps - 1) * stride + 1
        slices = [x[:, k * dilation : k * dilation + reach : stride] for k in range(taps)]
        stacked = ops.reshape(ops.concatenate(slices, axis=-1), (-1, height, width, taps * channels))
        kernel = ops.transpose(self.kernel, (1, 2, 0, 3, 4))
        kernel = ops.reshape(kernel, (*self.kernel_size[1:], taps * channels, self.filters))
        y = ops.conv(stacked, kernel, self.strides[1:], self.padding, dilation_rate=self.dilation_rate[1:])
        if self.use_bias:
            y = y + self.bias
        y = ops.reshape(y, (-1, steps, *y.shape[1:]))
        return y if self.activation is None else self.activation(y)


# An activation function of Keras's -> the function that computes the same in integer operators.
_ACTIVATIONS: dict[Callable, Callable] = {}


def _in_place_of(theirs: Callable):
    def register(own):
        _ACTIVATIONS[theirs] = own
        return own

    return register


@_in_place_of(keras.activations.elu)
def elu(x, alpha=1.0):
    """relu(x) + alpha (e^m - 1) with m = min(x, 0), and e^m - 1 = 2 t / (1 - t) for t = tanh(m / 2).

    ELU has no integer kernel; RELU, SUB, TANH and DIV have, and 1 - t lies in [1, 2].
    """
    positive = ops.relu(x)
    t = ops.tanh(0.5 * (x - positive))
    return positive + (2.0 * alpha) * t / (1.0 - t)


@_in_place_of(keras.activations.selu)
def selu(x):
    """scale * elu(x, alpha) with the constants of Klambauer et al. 2017, arXiv:1706.02515."""
    return 1.0507009873554805 * elu(x, 1.6732632423543772)


@_in_place_of(keras.activations.mish)
def mish(x):
    """x (1 - q^2) / (1 + q^2) with q = 1 - sigmoid(x), which is x tanh(softplus(x)): 1 + q^2 lies in [1, 2]."""
    q = 1.0 - ops.sigmoid(x)
    square = q * q
    return x * (1.0 - square) / (1.0 + square)


def _repeated(images, rows: int, columns: int):
    """Each pixel of (batch, height, width, channels) repeated along height and width."""
    height, width = images.shape[1:3]
    return ops.image.resize(images, (height * rows, width * columns), interpolation="nearest")


def _steps(layer) -> int | None:
    """The steps that a recurrent layer was built for; None where they are open."""
    build = (layer.get_build_config() if layer.built else None) or {}
    # One that is called with an initial state was built with the shapes of both.
    shape = build.get("input_shape") or build.get("shapes_dict", {}).get("sequences_shape")
    return shape[1] if shape and len(shape) > 1 and isinstance(shape[1], int) else None


def _unrolls(layer) -> bool:
    return isinstance(layer, keras.layers.RNN) and not layer.unroll and (_steps(layer) or 1) <= MOST_STEPS


@functools.cache
def _unrolled(kind: type) -> type:
    """A recurrent layer whose loop is written out wherever the number of its steps is known."""

    class Unrolled(kind):
        def call(self, sequences, *args, **kwargs):
            steps = sequences.shape[1]
            with replaced_attributes(self, unroll=steps is not None and steps <= MOST_STEPS):
                return super().call(sequences, *args, **kwargs)

        def inner_loop(self, sequences, initial_state, mask, training=False):
            zeroes = getattr(self, "zero_output_for_mask", False)
            if mask is None or not (self.unroll and self.go_backwards and zeroes):
                return super().inner_loop(sequences, initial_state, mask, training)
            # Unrolled, Keras zeroes the outputs of reversed steps by the mask of the steps as they came.
            with replaced_attributes(self, go_backwards=False):
                reverse = ops.flip(sequences, 1), initial_state, ops.flip(mask, 1)
                return super().inner_loop(*reverse, training)

    return Unrolled


def _recomputes(layer) -> bool:
    if isinstance(layer, keras.layers.Conv3D):
        return layer.groups == 1 and layer.data_format == "channels_last" and type(layer) in _CLASSES
    if isinstance(layer, keras.layers.UpSampling2D) and layer.interpolation != "nearest":
        return False
    return type(layer) in _CLASSES


def _activates(layer) -> bool:
    return getattr(layer, "activation", None) in _ACTIVATIONS and not isinstance(layer, keras.layers.RNN)


# mypy takes no class for hashable.
UNROLL = Rewrite("unrolled", _unrolls, lambda layer: {"__class__": _unrolled(type(layer))})  # type: ignore[arg-type]
RECOMPUTE = Rewrite("in integer operators", _recomputes, lambda layer: {"__class__": _CLASSES[type(layer)]})
ACTIVATE = Rewrite(
    "activation in integer operators", _activates, lambda layer: {"activation": _ACTIVATIONS[layer.activation]}
)
# Not in ALL: it holds for every file, and for what a file is compared with. Recurrent cells draw their dropout's masks
# in inference too, and forget them.
DRAW_NOTHING = Rewrite(
    "does not draw: a file computes the same each time",
    lambda layer: getattr(layer, "active_in_inference", False) is True,
    lambda layer: {"active_in_inference": False},
)
DROP_NOTHING = Rewrite(
    "does not draw masks for its dropout",
    lambda layer: any(getattr(layer, name, 0) for name in _DROPOUTS) and hasattr(layer, "get_dropout_mask"),
    lambda layer: dict.fromkeys((name for name in _DROPOUTS if hasattr(layer, name)), 0.0),
)
# Nor this one: TensorFlow Lite has no operator for what Keras's own does, whatever the precision.
COUNT = Rewrite(
    "in operators that there are",
    lambda layer: type(layer) is keras.layers.CategoryEncoding,
    lambda layer: {"__class__": CategoryEncoding},
)
RESIZE = Rewrite(
    "of any size",
    lambda layer: type(layer) is keras.layers.UpSampling2D and None in layer.get_build_config()["input_shape"][1:3],
    lambda layer: {"__class__": OpenUpSampling2D},
)
ALWAYS = (DRAW_NOTHING, DROP_NOTHING, COUNT, RESIZE)
ALL = (UNROLL, RECOMPUTE, ACTIVATE)


def any_apply(layers: dict[str, keras.Operation]) -> bool:
    """True if some layer would be rewritten."""
    return any(rewrite.applies(layer) for layer in layers.values() for rewrite in ALL)


@contextlib.contextmanager
def applied(layers: dict[str, keras.Operation], rewrites: Iterable[Rewrite] = ALL) -> Iterator[tuple[str, ...]]:
    """While it is open, the layers compute in their rewritten form; gives a line a rewritten layer.

    Args:
        layers: path -> layer, from `layer_tree.layer_paths`.
    """
    lines = []
    with contextlib.ExitStack() as stack:
        for path, layer in layers.items():
            for rewrite in rewrites:
                if rewrite.applies(layer):
                    stack.enter_context(replaced_attributes(layer, **rewrite.change(layer)))
                    lines.append(f"{path} {rewrite.name}")
        yield tuple(lines)


def unroll_recurrent(model: keras.Model) -> keras.Model:
    """A copy whose LSTM, GRU, SimpleRNN and RNN layers, those in Bidirectional too, are unrolled: no WHILE."""
    return _copy(model, [UNROLL])


def integer_layers(model: keras.Model) -> keras.Model:
    """A copy whose normalizations, PReLU, ELU and Conv3D layers compute in operators with integer kernels."""
    return _copy(model, [RECOMPUTE])


def integer_activations(model: keras.Model) -> keras.Model:
    """A copy whose layers with an ELU, SELU or Mish activation compute it in operators with integer kernels."""
    return _copy(model, [ACTIVATE])


def _copy(model: keras.Model, rewrites: list[Rewrite]) -> keras.Model:
    if not getattr(model, "inputs", None):
        raise ModelError(f"{model.name!r} is subclassed and cannot be copied; to_tflite rewrites it in place.")
    copy = copied(model)
    for layer in layer_paths(copy).values():
        for rewrite in rewrites:
            if rewrite.applies(layer):
                for name, value in rewrite.change(layer).items():
                    set_untracked(layer, name, value)
    return copy


@contextlib.contextmanager
def plain_operations() -> Iterator[None]:
    """While it is open, `ops.argmax` and `ops.argmin` trace to ARG_MAX and ARG_MIN, wherever they are called.

    Keras's own also tell -0.0 from 0.0, by operators that TensorFlow Lite lacks.
    """
    with replaced_attributes(BACKEND_FUNCTIONS, argmax=_extreme(tf.argmax), argmin=_extreme(tf.argmin)):
        yield


def _extreme(function: Callable) -> Callable:
    def extreme(x, axis=None, keepdims=False):
        x = tf.convert_to_tensor(x)
        found = function(tf.reshape(x, [-1]) if axis is None else x, 0 if axis is None else axis, tf.int32)
        if not keepdims:
            return found
        return tf.reshape(found, [1] * len(x.shape)) if axis is None else tf.expand_dims(found, axis)

    return extreme
