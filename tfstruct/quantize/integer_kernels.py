"""Emulates the file's integer kernels, for the inference of a twin."""

import math
from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf

from tfstruct.graph.operation_traits import function_traits, traits_of
from tfstruct.quantize.fake import activation_scale, fake_activation
from tfstruct.quantize.grids import Grid
from tfstruct.quantize.masked_range import BeforeSoftmax
from tfstruct.quantize.ranges import Range
from tfstruct.quantize.rescaling import (
    once_rounded,
    rounded_average,
    rounded_contraction,
    rounded_down,
    rounded_input,
    rounded_interpolation,
    rounded_inverse_root,
    rounded_mean,
    rounded_product,
    rounded_sum,
    twice_rounded,
)
from tfstruct.quantize.rounding import largest_bias
from tfstruct.quantize.rounding_points import CallRanges, RoundingPoint, RoundingPoints

# What the file computes with integers of several values: how many the model gives.
_OPERANDS = {
    "add": 2,
    "subtract": 2,
    "multiply": 2,
    "divide": 2,
    "silu": 1,
    "mean": 1,
    "sqrt": 1,
    "rsqrt": 1,
    "contract": 2,
}
_range_of_sigmoid = function_traits("sigmoid").in_file.output_range
assert _range_of_sigmoid is not None
_SIGMOID: tuple[float, float] = _range_of_sigmoid


def arithmetic_of(op) -> str:
    """The kind of arithmetic on integers that an operation is in the file: `"add"`, `"subtract"`, `"multiply"`,
    `"divide"`, by a constant, `"silu"`, x sigmoid(x), `"mean"`, over all places, `"sqrt"`, `"rsqrt"`, or `"contract"`,
    sums of products of two tensors; else empty."""
    traits = traits_of(op)
    if traits.multiplies:
        return "contract"
    mean = traits.reduces == "mean" and traits.over == "positions"
    found = traits.joins or traits.function or ("mean" if mean else traits.operator.lower())
    return found if found in _OPERANDS else ""


class IntegerKernels:
    """What the file's kernels compute from integers, seen in float; plain layers where ranges are not known yet.

    Args:
        rounding_points, bounds: of the simulation.
        bits_of: a point -> what its values have as integers; None where they are float.
        active: 1 where values are rounded.

    Attributes:
        used: False where layers read values that are no integers: plain layers everywhere.
    """

    def __init__(
        self,
        rounding_points: RoundingPoints,
        bounds: Mapping[str, Range],
        bits_of: Callable[[RoundingPoint], int | None],
        active: keras.Variable,
    ):
        self._rounding_points, self._bounds, self._bits_of, self._active = rounding_points, bounds, bits_of, active
        self._groups = rounding_points.groups
        self.used = True

    def input(self, point: RoundingPoint, x):
        """Rounds an input as the file's inputs are rounded."""
        if self._bits_of(point) != 8 or not tf.as_dtype(x.dtype).is_floating:
            return x
        return self._where_known([point.group], lambda v: rounded_input(v, *self._ends(point.group)), tf.identity)(x)

    def contraction(self, op, at: CallRanges, grids: list[Grid], ahead_of: Callable):
        """(call, args, kwargs) -> the outputs of a layer before its activation, with the batch norm behind it folded;
        None where it does not compute on integers.

        acc = conv(x / s_x, q), y = (acc + round(b' / (s_x s'))) s_x s', where s' is the scale of the kernel times the
        batch norm's factor, or what lets b' fit, and b' the bias of both. Sums below 2^24 are exact in float32.

        Args:
            ahead_of: (op, kernel) -> what of the operations in front is part of it, see `ConstantOperands`.
        """
        known = traits_of(op).contracts or self._is_fully_connected(op)
        if not (self.used and known and len(grids) == 1 and op.compute_dtype == "float32"):
            return None
        (group,) = at.reads or (None,)
        bits = None if group is None else self._bits_of(self._groups[group])
        if group is None or bits is None:
            return None
        norm, grid = self._rounding_points.folds.get(id(op)), grids[0]
        made = None if at.writes is None else self._bounds.get(at.writes)
        # FULLY_CONNECTED in 4 bits rounds once, as all operators in 8 do.
        fully = isinstance(op, (keras.layers.Dense, keras.layers.EinsumDense))
        rescaled = twice_rounded if grid.stored_bits == 4 and not fully else once_rounded

        def exact(call, args, kwargs):
            step_in = activation_scale(*self._ends(group), bits)
            ahead, shift = ahead_of(op, grid.kernel.variable.value)
            g = folded_factor(self._rounding_points, id(op))
            bias, mapping = 0.0, []
            if op.bias is not None:
                bias = tf.reshape(op.bias.value, [-1])
                mapping.append((op.bias, tf.zeros_like(op.bias.value)))
            if norm is not None:
                # In the converter's order, as rounding of large ones shows it.
                bias = bias * g + ((norm.beta.value if norm.center else 0.0) - norm.moving_mean.value * g)
            bias = bias if shift is None else bias + tf.reshape(shift, [-1]) * g
            least = tf.abs(bias) / (step_in * largest_bias(grid.stored_bits))
            w, s_w = grid.folded(grid.kernel.variable.value * ahead, g, least)
            mapping.append((grid.kernel.variable, w))
            step = step_in * s_w
            with keras.StatelessScope(mapping):
                acc = call(tf.round(args[0] / step_in), *args[1:], **kwargs)
            integers = tf.round(bias / step)
            if fully:  # the channels that it makes may be several axes
                step, integers = (_as_last_axes(v, acc) for v in (step, integers))
            total = (acc if norm is None else acc * tf.sign(g)) + integers
            if made is None or bits != 8 or id(op) in self._rounding_points.folding.followed:
                return total * step
            return rescaled(total, step, activation_scale(*made.now()))

        def as_it_is(call, args, kwargs):
            z = call(*args, **kwargs)
            return z if norm is None else type(norm).call(norm, z, training=False)

        return self._where_known([group], exact, as_it_is)

    def _is_fully_connected(self, op) -> bool:
        """Whether an `EinsumDense` is one FULLY_CONNECTED, with a bias for each of its channels or none."""
        linear = self._rounding_points.folding.linear.get(id(op))
        if linear is None or traits_of(op).kernel != "einsum" or self._rounding_points.folds.get(id(op)) is not None:
            return False
        return op.bias is None or math.prod(op.bias.shape) == linear.shape[2]

    def arithmetic(
        self,
        kind: str,
        at: CallRanges,
        call,
        constants: Sequence[Callable | None] = (),
    ):
        """Sum, difference and product of two values, x sigmoid(x) and means over all places; `call` for all else.

        Args:
            kind: see `arithmetic_of`; what is no such is left alone.
            at: the ranges of what it reads and makes.
            constants: of two operands one of which is a constant: what gives its value, or None where it is the
                argument, and None for the other one.
        """
        reads = at.reads or ()
        groups = [group for group in (*reads, at.writes) if group is not None]
        known = (len(constants) or len(reads)) == _OPERANDS.get(kind) and len(groups) == len(reads) + 1
        if (
            not known
            or (kind == "divide" and (len(constants) != 2 or constants[1] is None))
            or {self._bits_of(self._groups[group]) for group in groups} != {8}
        ):
            return call

        def exact(*args, **kwargs):
            x, *more = keras.tree.flatten((args, kwargs))
            dtype = next(v.dtype for v in (x, *more) if tf.is_tensor(v))
            *scales, scale = (activation_scale(*self._ends(group)) for group in groups)
            if constants:
                place = 0 if constants[0] is not None else 1
                operand = constants[place]
                assert operand is not None
                given = operand()
                given = tf.cast((x, *more)[place], tf.float32) if given is None else given
                value, step = rounded_constant(1.0 / given if kind == "divide" else given)
                scales.insert(place, step)
                x, more = (value, more) if place == 0 else (x, [value])
            if kind in ("add", "subtract"):
                made = rounded_sum(x, more[0], scales, scale, 1 if kind == "add" else -1)
            elif kind in ("multiply", "divide"):
                made = rounded_product(x, more[0], scales, scale)
            elif kind == "silu":
                gate = fake_activation(tf.sigmoid(tf.cast(x, tf.float32)), *_SIGMOID)
                made = rounded_product(x, gate, (*scales, activation_scale(*_SIGMOID)), scale)
            elif kind == "sqrt":
                made = rounded_down(tf.sqrt(tf.cast(x, tf.float32)), scale)
            elif kind == "rsqrt":
                made = rounded_inverse_root(x, scales[0], scale)
            elif kind == "contract":
                integers = [tf.round(tf.cast(v, tf.float32) / s) for v, s in zip((x, *more), scales, strict=True)]
                second = self._ends(groups[1])
                made = rounded_contraction(call(*integers), scales[0] * scales[1], scale, second)
            else:
                made = rounded_mean(x, call, scales[0], scale)
            return tf.cast(made, dtype)

        return self._where_known(groups, exact, call)

    def inverse_root(self, op, at: CallRanges, call):
        """1 / sqrt(x) of x at least one step of its integers: a file takes the integer 0 for 1. `call` for all other
        operations. Else what is rounded to zero, as a small mean of squares is, would end training."""
        (reads, *_) = at.reads or (None,)
        if arithmetic_of(op) != "rsqrt" or reads is None or (bits := self._bits_of(self._groups[reads])) is None:
            return call

        def above_zero(x):
            return call(tf.maximum(x, tf.cast(activation_scale(*self._ends(reads), bits), x.dtype)))

        return self._where_known([reads], above_zero, call)

    def average(self, point: RoundingPoint, x, interpolated: bool = False):
        """The result of average pooling, or of bilinear resizing, before it is rounded."""
        if self._groups[point.group].fixed is not None or self._bits_of(point) != 8:
            return x
        rounding = rounded_interpolation if interpolated else rounded_average
        return self._where_known([point.group], lambda v: rounding(v, *self._ends(point.group)), tf.identity)(x)

    def softmax(self, op, at: CallRanges, before: Mapping[str, BeforeSoftmax], call):
        """The shares of a `Softmax` layer that gets a mask: masked values are the least integer of the range inside it,
        which is small among the exponentials, but not nothing. `call` for all other layers.

        Args:
            before: the ranges inside such layers, by group.
        """
        point = self._rounding_points.masked_softmax.get(id(op))
        (reads, *_) = at.reads or (None,)
        bits = None if point is None else self._bits_of(point)
        if point is None or bits is None or reads is None or point.group not in before:
            return call
        inside = before[point.group]

        def exact(x, mask=None, **kwargs):
            if mask is None:
                return call(x, **kwargs)
            keep = tf.cast(mask, tf.float32) > 0.5
            low, high = inside.ends_of()
            z = fake_activation(tf.where(keep, x, tf.cast(low, x.dtype)), low, high, bits)
            return tf.where(keep, call(z, **kwargs), 0.0)

        return self._where_known([reads], exact, call)

    def batch_norm(self, op, at: CallRanges, product: RoundingPoint, call):
        """A batch norm that is not folded into a layer, with constants in 8 bits."""
        (reads,), writes = at.reads or (None,), at.writes
        if reads is None or writes is None:
            return call
        groups = (reads, product.group, writes)
        if {self._bits_of(self._groups[group]) for group in groups} != {8}:
            return call

        def exact(x, **kwargs):
            s_x, s_p, s_y = (activation_scale(*self._ends(group)) for group in groups)
            (g, s_g), (b, s_b) = map(rounded_constant, norm_constants(op, x))
            p = fake_activation(rounded_product(x, g, (s_x, s_g), s_p), *self._ends(product.group))
            return tf.cast(rounded_sum(p, b, (s_p, s_b), s_y), x.dtype)

        return self._where_known(groups, exact, call)

    def _ends(self, group: str) -> tuple[tf.Tensor, tf.Tensor]:
        """The present (low, high) of a range."""
        fixed = self._groups[group].fixed
        return fixed if fixed is not None else self._bounds[group].now()

    def _where_known(self, groups: Sequence[str], exact, plain):
        """`exact` if values are rounded and the ranges are known, else `plain`."""
        if not self.used:
            return plain
        seen = [self._bounds[group].seen for group in groups if group in self._bounds]

        def either(*args, **kwargs):
            known = tf.reduce_all([self._active.value > 0, *(one.value > 0 for one in seen)])
            return tf.cond(known, lambda: exact(*args, **kwargs), lambda: plain(*args, **kwargs))

        return either


def _as_last_axes(x, like):
    """A value for each channel, in the shape of the last axes of `like` that hold the channels."""
    sizes: list[int] = []
    count = x.shape.num_elements()
    while math.prod(sizes) < count:
        sizes.insert(0, like.shape[-1 - len(sizes)])
    return tf.reshape(x, sizes) if len(sizes) > 1 else x


def folded_factor(rounding_points: RoundingPoints, key: int):
    """The factor of each output channel by the batch norm behind a layer, once it is folded."""
    norm = rounding_points.folds.get(key)
    return 1.0 if norm is None else _factor(norm)


def _factor(norm):
    """gamma / sqrt(variance + epsilon)."""
    factor = tf.math.rsqrt(tf.convert_to_tensor(norm.moving_variance.value) + norm.epsilon)
    return factor * norm.gamma.value if norm.scale else factor


def norm_constants(norm, x):
    """g and b of a batch norm as x g + b, shaped for x."""
    g = _factor(norm)
    b = (norm.beta.value if norm.center else 0.0) - norm.moving_mean.value * g
    shape = [1] * len(x.shape)
    shape[norm.axis] = -1
    return tf.reshape(g, shape), tf.reshape(b, shape)


def rounded_constant(x):
    """(a constant, rounded as the file does, its scale)."""
    low, high = tf.minimum(tf.reduce_min(x), 0.0), tf.maximum(tf.reduce_max(x), 0.0)
    return fake_activation(x, low, high), activation_scale(low, high)
