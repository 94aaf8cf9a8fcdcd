"""Constants beside the values of a model, as the file rounds them: kernels of products, and operands of all else."""

import contextlib
from collections.abc import Callable, Iterator

import keras
import tensorflow as tf

from tfstruct.graph import Channels
from tfstruct.graph.kernels import Kernel
from tfstruct.graph.operation_traits import traits_of
from tfstruct.quantize.folding import Folding, Linear, operands
from tfstruct.quantize.grids import LargestGrid
from tfstruct.quantize.integer_kernels import rounded_constant
from tfstruct.quantize.rounding_points import RoundingPoints
from tfstruct.quantize.scheme import Scheme


class ConstantOperands:
    """How the calls of a model read the constants that custom layers give out as tensors.

    Attributes:
        grids: id of a matmul or einsum -> the grid of its constant operand.
        kernels: (name, bits) of these.
        skipped: (layer, why its constants are not rounded as the scheme says).
    """

    def __init__(self, rounding_points: RoundingPoints, scheme: Scheme):
        self._rounding_points, self._scheme = rounding_points, scheme
        self._folding: Folding = rounding_points.folding
        self._calls = {id(call.op): call for call in rounding_points.graph.calls}
        last = [passed[-1] for passed in self._folding.past.values()]
        self._passed = {id(call.op): place for call, place in last}
        self._kept: dict[int, tf.Tensor] = {}  # id of such a sum or product -> its tensor, while the model is called
        self.grids: dict[int, LargestGrid] = {}
        self.kernels: list[tuple[str, int]] = []
        self.skipped: list[tuple[str, str]] = []
        for key, linear in self._folding.linear.items():
            if linear.place is not None and scheme.weight_bits(rounding_points.paths[key]) is not None:
                self._add(key, linear, linear.place)

    def _add(self, key: int, linear: Linear, place: int) -> None:
        path = self._rounding_points.paths[key]
        precision = self._scheme.precision_of(path)
        bits = 4 if precision == "int4" else 8
        if self._scheme.weight_bits(path) not in (bits, 16) or self._scheme.steps != "largest":
            self.skipped.append((path, "its kernel has 8 bits and a step by channel: it is no layer's"))
        weight = [x for x in operands(linear.call) if isinstance(x, Channels)][place]
        names = [call.path for call in self._folding.weights_in(weight.key)]
        name = names[0] if len(names) == 1 else f"{path}/kernel"
        kernel = Kernel(name, keras.KerasTensor(weight.shape), linear.order, linear.shape)
        self.grids[key] = LargestGrid(kernel, bits, bits)
        self.kernels.append((name, bits))

    def touches(self, op) -> bool:
        key, folding = id(op), self._folding
        known = (self.grids, folding.ahead, folding.past, self._passed, self._rounding_points.joined)
        return any(key in one for one in known) or self._others(op)

    def read_past(self, op, args, kwargs) -> tuple[tuple, dict]:
        """The arguments of a call, in inference, with the tensor that the file's operator reads, past sums and products
        with constants."""
        flat = keras.tree.flatten((args, kwargs))
        if id(op) in self._passed:
            self._kept[id(op)] = flat[self._passed[id(op)]]
        if id(op) not in self._folding.past:
            return args, kwargs
        last, _ = self._folding.past[id(op)][-1]
        tensors = [i for i, x in enumerate(operands(self._calls[id(op)])) if isinstance(x, Channels)]
        place = next(i for i in tensors if i not in self._places(op))
        flat[place] = self._kept[id(last.op)]
        return keras.tree.pack_sequence_as((args, kwargs), flat)

    @contextlib.contextmanager
    def forgetting(self) -> Iterator[None]:
        """A call of the model: what was kept in it goes at the end."""
        try:
            yield
        finally:
            self._kept.clear()

    def _others(self, op) -> bool:
        """Whether an operation reads constants that nothing here knows how the file holds."""
        call, known = self._calls[id(op)], id(op) in self._folding.linear or id(op) in self._folding.behind
        if known or self._folding.is_constant(call) or traits_of(op).moves:
            return False
        return not isinstance(op, keras.layers.Layer) and any(x.key in self._folding.constants for x in call.inputs)

    def read(self, op, call: Callable, choose: Callable, quantized: Callable, training) -> Callable:
        """The call of an operation with its constant operands as the file has them.

        Args:
            choose: (quantized, plain) -> the one that counts at present.
            quantized: (point, x) -> x rounded with the range of a point.
        """
        key = id(op)
        if key in self._folding.ahead:
            return lambda *args, **kwargs: tf.identity(keras.tree.flatten((args, kwargs))[self._folding.ahead[key]])
        if key in self.grids:
            return self._product(op, call, choose, training)
        point = self._rounding_points.joined.get(key)
        places = self._places(op) if point is not None or self._others(op) else []

        def routed(*args, **kwargs):
            flat = keras.tree.flatten((args, kwargs))
            for place in places:
                x = flat[place]
                if point is not None:
                    flat[place] = quantized(point, x)
                elif x.dtype.is_floating:
                    value = tf.cast(x, tf.float32)
                    value = symmetric(value) if traits_of(op).multiplies else rounded_constant(value)[0]
                    flat[place] = choose(tf.cast(value, x.dtype), x)
            args, kwargs = keras.tree.pack_sequence_as((args, kwargs), flat)
            return call(*args, **kwargs)

        return routed if places else call

    def _places(self, op) -> list[int]:
        given = operands(self._calls[id(op)])
        fixed = self._folding.constants
        return [i for i, x in enumerate(given) if isinstance(x, Channels) and x.key in fixed]

    def _product(self, op, call: Callable, choose: Callable, training) -> Callable:
        grid = self.grids[id(op)]
        (place,) = self._places(op)

        def routed(*args, **kwargs):
            flat = keras.tree.flatten((args, kwargs))
            w = flat[place]
            factor, shift = self.ahead_of(op, w, training)
            kernel = tf.cast(w, tf.float32) * factor
            flat[place] = tf.cast(choose(grid.fake(kernel), kernel), w.dtype)
            args, kwargs = keras.tree.pack_sequence_as((args, kwargs), flat)
            y = call(*args, **kwargs)
            return y if shift is None else y + tf.cast(shift, y.dtype)

        return routed

    def ahead_of(self, op, w, training=False):
        """(factor, sum): where a layer with a kernel w reads x c + b and its operator x, the operator's kernel is
        w times the factor, and to what it makes the sum is added; 1 and None where nothing is ahead of it."""
        linear = self._folding.linear.get(id(op))
        if linear is None or linear.axis is None:
            return 1.0, None
        factors = self._folding.factors(linear, past=not training)
        return (1.0, None) if factors is None else _of_kernel(w, linear.axis, *factors)


def _of_kernel(w, axis: int, c, b) -> tuple:
    w, shift = tf.cast(w, tf.float32), None
    if not isinstance(b, float):
        shift = tf.tensordot(tf.broadcast_to(b, [w.shape[axis]]), w, [[0], [axis]])
    if not isinstance(c, float) and len(c.shape):
        c = tf.reshape(c, [-1 if i == axis else 1 for i in range(len(w.shape))])
    return c, shift


def symmetric(w):
    """w in 8 bits with one step."""
    limit = tf.stop_gradient(tf.maximum(tf.reduce_max(tf.abs(w)), 1e-9))
    return tf.quantization.fake_quant_with_min_max_vars(w, -limit, limit, num_bits=8, narrow_range=True)
