"""A model that computes as its quantized file will, with the weights of the plain one."""

import contextlib
import functools

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend import AutocastScope

from tfstruct.errors import ModelError
from tfstruct.graph import trace
from tfstruct.graph.kernels import Kernel, kernels
from tfstruct.graph.layer_tree import intercepted
from tfstruct.quantize.fake import activation_scale, fake_activation, fake_weight, integer_weight, rounded_average
from tfstruct.quantize.points import CONTRACTIONS, FOUR_BITS, SEPARABLE, Point, Points
from tfstruct.quantize.scheme import Scheme


class Simulation:
    """The quantized forward pass of a model: ranges of its activations, and the layers' calls routed through them.

    Attributes:
        model: the plain model; its layers are called, its weights are used.
        scheme: how it is quantized.
        low, high, seen: lists of variables, one for each group of points.
        active: 1 where values are rounded, 0 where only their ranges are followed.
        frozen, frozen_statistics: 1 where ranges, and the statistics of batch norm, stay as they are.
        rounded: (kernel, bits).
        skipped: (layer, why its values are not rounded as in the file).
    """

    def __init__(self, model: keras.Model, scheme: Scheme):
        self.model, self.scheme = model, scheme
        self.points = Points(trace(model))
        self.groups = self.points.groups
        self.index = {name: i for i, name in enumerate(self.groups)}
        count = len(self.groups)
        make = functools.partial(keras.Variable, trainable=False, dtype="float32", aggregation="mean", autocast=False)
        self.low = [make(0.0, name="low") for _ in range(count)]
        self.high = [make(0.0, name="high") for _ in range(count)]
        self.seen = [make(0.0, name="seen") for _ in range(count)]
        self.active = make(1.0, name="active")
        self.frozen = make(0.0, name="frozen")
        self.frozen_statistics = make(0.0, name="frozen_statistics")
        ops = {id(call.op): call.op for call in self.points.graph.calls}
        self._kernels = self._kernels_of(model, ops)
        self._ops = {self.points.paths[key]: op for key, op in ops.items() if self._touches(op)}

    def _kernels_of(self, model, ops) -> dict[int, list[Kernel]]:
        found: dict[int, list[Kernel]] = {}
        self.rounded: list[tuple[str, int]] = []
        self.skipped: list[tuple[str, str]] = []
        homes = {id(v): key for key, op in ops.items() if isinstance(op, keras.Layer) for v in op.variables}
        try:
            every = kernels(model, depthwise=True)
        except ModelError:
            every = []
        for kernel in every:
            key = homes.get(id(kernel.variable))
            path = self.points.paths.get(key, "")
            bits = self._weight_bits(path, ops.get(key))
            if key is None or bits is None or isinstance(ops[key], keras.layers.Embedding):
                continue  # a table is rounded with what is looked up in it
            found.setdefault(key, []).append(kernel)
            self.rounded.append((kernel.name, bits))
        for key, op in ops.items():
            if self.scheme.weight_bits(self.points.paths[key]) is None:
                self.skipped.append((self.points.paths[key], "left in float, as the scheme says"))
            elif isinstance(op, keras.Layer) and len(list(op._flatten_layers())) > 1:
                why = "its kernels and its result are rounded, the values inside are not"
                self.skipped.append((self.points.paths[key], why))
        return found

    def _weight_bits(self, path: str, op) -> int | None:
        bits = self.scheme.weight_bits(path)
        # As the quantizer: only CONV_2D and FULLY_CONNECTED have kernels for 4 bits.
        return 8 if bits == 4 and not isinstance(op, FOUR_BITS) else bits

    def _touches(self, op) -> bool:
        key = id(op)
        return bool(
            self.points.outputs.get(key) or key in self._kernels or isinstance(op, keras.layers.BatchNormalization)
        )

    # Ranges

    def range_of(self, group: str) -> tuple[float, float] | None:
        """(low, high) of a group; None before anything was seen."""
        fixed = self.groups[group].fixed
        if fixed is not None:
            return fixed
        i = self.index[group]
        if not self.seen[i].numpy():
            return None
        return float(self.low[i].numpy()), float(self.high[i].numpy())

    def ranges(self) -> dict[str, tuple[float, float]]:
        """(low, high) by layer path, input name and `path/pre_activation`: what `Recipe.ranges` takes."""
        found = {}
        for point in self.points.input_points:
            found[point.path] = self.range_of(point.group)
        for point in (*self.points.outputs.values(), *self.points.before.values()):
            if point is not None:
                found[f"{point.path}/pre_activation" if point.before else point.path] = self.range_of(point.group)
        return {path: pair for path, pair in found.items() if pair is not None and self._rounds(path)}

    def _rounds(self, path: str) -> bool:
        return self.scheme.activation_bits(path) is not None

    def _observe(self, i: int, x) -> None:
        values = tf.cast(x, tf.float32)
        low = tf.minimum(tf.reduce_min(values), 0.0)
        high = tf.maximum(tf.reduce_max(values), 0.0)
        before_low, before_high, seen = self.low[i].value, self.high[i].value, self.seen[i].value
        if self.scheme.ranges == "minmax":
            new = tf.minimum(before_low, low), tf.maximum(before_high, high)
        else:
            rate = 1 - self.scheme.momentum
            new = before_low + rate * (low - before_low), before_high + rate * (high - before_high)
        first = seen == 0.0
        frozen = tf.logical_and(self.frozen.value > 0, tf.logical_not(first))
        for variable, value, start in zip((self.low[i], self.high[i]), new, (low, high), strict=True):
            moved = tf.where(first, start, value)
            variable.assign(tf.where(frozen, variable.value, moved))
        self.seen[i].assign(1.0)

    def _quantized(self, point: Point, x, training: bool):
        if not hasattr(x, "dtype") or not tf.as_dtype(x.dtype).is_floating or not self._rounds(point.path):
            return x
        bits = self.scheme.activation_bits(point.path)
        group = self.groups[point.group]
        if group.fixed is not None:
            return _like(x, tf.where(self.active.value > 0, fake_activation(x, *group.fixed, bits), x))
        i = self.index[point.group]
        if training and point.observes:
            self._observe(i, tf.stop_gradient(x))
        y = fake_activation(x, self.low[i].value, self.high[i].value, bits)
        on = self.active.value > 0
        if not training:
            on = tf.logical_and(on, self.seen[i].value > 0)  # nothing is known yet: float
        return _like(x, tf.where(on, y, x))

    # The forward pass

    def __call__(self, inputs, training=None, mask=None):
        """What `model.call` returns, quantized on the way."""
        training = bool(training) if training is None or isinstance(training, (bool, int)) else training
        self._folded: set[int] = set()
        names = {point.path: point for point in self.points.input_points}
        inputs = self._inputs(inputs, names, training)
        with intercepted(self._ops, functools.partial(self._route, training)):
            return type(self.model).call(self.model, inputs, training=training, mask=mask)

    def _inputs(self, inputs, names: dict[str, Point], training):
        if isinstance(inputs, dict):
            return {k: self._quantized(names[k], x, training) if k in names else x for k, x in inputs.items()}
        flat = keras.tree.flatten(inputs)
        points = self.points.input_points
        flat = [self._quantized(p, x, training) for p, x in zip(points, flat, strict=True)]
        return keras.tree.pack_sequence_as(inputs, flat)

    def _route(self, training, path, op, call):
        point = self.points.outputs.get(id(op))
        before = self.points.before.get(id(op))
        own_kernels = self._kernels.get(id(op), [])
        if isinstance(op, keras.layers.BatchNormalization):
            call = self._batch_norm(op, call)
        averages = type(op).__name__.startswith("AveragePooling")
        if id(op) in self.points.movers and not averages:
            point = None

        exact = None if training else self._integers(op, own_kernels)

        def routed(*args, **kwargs):
            if before is not None and isinstance(op, SEPARABLE) and own_kernels:
                outputs = self._separable(op, before, path, args[0], training)
            elif exact is not None:
                with _linear(op) as activation:
                    z = exact(path, call, args, kwargs)
                if before is not None:
                    z = self._quantized(before, z, training)
                outputs = z if activation is None else activation(z)
            elif before is None:
                outputs = self._with_weights(op, own_kernels, path, call, args, kwargs)
            else:
                with _linear(op) as activation:
                    z = self._with_weights(op, own_kernels, path, call, args, kwargs)
                outputs = activation(self._quantized(before, z, training))
            if point is None:
                return outputs
            if averages and not training and self._pools(point):
                return self._averaged(point, outputs)
            return keras.tree.map_structure(lambda x: self._quantized(point, x, training), outputs)

        return routed

    def _pools(self, point: Point) -> bool:
        fixed = self.groups[point.group].fixed
        return fixed is None and self.scheme.activation_bits(point.path) == 8

    def _averaged(self, point: Point, x):
        i = self.index[point.group]
        on = tf.logical_and(self.active.value > 0, self.seen[i].value > 0)
        return tf.where(on, rounded_average(x, self.low[i].value, self.high[i].value), x)

    def _with_weights(self, op, own_kernels, path, call, args, kwargs):
        if not own_kernels:
            return call(*args, **kwargs)
        bits = self._weight_bits(path, op)
        mapping = []
        for kernel in own_kernels:
            w = kernel.variable
            with AutocastScope(None):  # the stored weight is rounded, not its float16 copy
                value = tf.convert_to_tensor(w.value)
            rounded = tf.cast(fake_weight(value, kernel.order, kernel.shape, bits), value.dtype)
            mapping.append((w, tf.where(self.active.value > 0, rounded, value)))
        with keras.StatelessScope(mapping) as scope:
            outputs = call(*args, **kwargs)
        ours = {id(w) for w, _ in mapping}
        for variable in op.variables:  # seeds and states that the layer has moved on
            value = scope.get_current_value(variable)
            if value is not None and id(variable) not in ours:
                variable.assign(value)
        return outputs

    def _separable(self, op, before: Point, path: str, x, training):
        """The two halves of a separable convolution, with the integers between them."""
        bits = self._weight_bits(path, op)
        depthwise, pointwise = (
            tf.where(self.active.value > 0, fake_weight(k.variable.value, k.order, k.shape, bits), k.variable.value)
            for k in sorted(self._kernels[id(op)], key=lambda k: k.name.endswith("pointwise_kernel"))
        )
        options = {"data_format": op.data_format}
        x = keras.ops.depthwise_conv(x, depthwise, op.strides, op.padding, dilation_rate=op.dilation_rate, **options)
        x = self._quantized(before, x, training)
        x = keras.ops.conv(x, pointwise, 1, "valid", **options)
        x = x + keras.ops.reshape(op.bias, (1,) * (len(x.shape) - 1) + (-1,)) if op.use_bias else x
        return x if op.activation is None else op.activation(x)

    def _integers(self, op, own_kernels):
        """For inference: the layer on integers, as the file computes it, with the batch norm behind it folded.

        acc = conv(x / s_x, q), y = (acc + round(b' / (s_x s'))) s_x s', where s' = |g| s is the scale of the kernel
        times the batch norm's factor g, and b' the bias of both. Sums below 2^24 are exact in float32.
        """
        group = self.points.reads.get(id(op))
        known = group in self.index and not self.groups[group].fixed
        plain = isinstance(op, CONTRACTIONS) and len(own_kernels) == 1 and op.compute_dtype == "float32"
        if not (known and plain and self._rounds(self.groups[group].path)):
            return None
        norm, kernel, i = self.points.folds.get(id(op)), own_kernels[0], self.index[group]
        bits = self.scheme.activation_bits(self.groups[group].path)

        def exact(path, call, args, kwargs):
            step_in = activation_scale(self.low[i].value, self.high[i].value, bits)
            w, s_w = integer_weight(kernel.variable.value, kernel.order, kernel.shape, self._weight_bits(path, op))
            mapping = [(kernel.variable, w)]
            bias = 0.0
            if op.use_bias:
                bias = op.bias.value
                mapping.append((op.bias, tf.zeros_like(bias)))
            g = 1.0
            if norm is not None:
                g = tf.math.rsqrt(norm.moving_variance.value + norm.epsilon)
                g = g * norm.gamma.value if norm.scale else g
                bias = (bias - norm.moving_mean.value) * g + (norm.beta.value if norm.center else 0.0)
            grid = step_in * s_w * tf.maximum(tf.abs(g), 1e-30)
            with keras.StatelessScope(mapping):
                acc = call(tf.round(args[0] / step_in), *args[1:], **kwargs)
            shift = tf.round(bias / grid)
            return (acc * tf.sign(g) + shift) * grid if norm is not None else (acc + shift) * grid

        def either(path, call, args, kwargs):
            def rounded():
                return exact(path, call, args, kwargs)

            def as_it_is():
                z = call(*args, **kwargs)
                return z if norm is None else type(norm).call(norm, z, training=False)

            return tf.cond(tf.logical_and(self.active.value > 0, self.seen[i].value > 0), rounded, as_it_is)

        if norm is not None:
            self._folded.add(id(norm))
        return either

    def _batch_norm(self, op, call):
        def routed(*args, **kwargs):
            training = kwargs.get("training")
            if not training:
                return args[0] if id(op) in self._folded else call(*args, **kwargs)
            still = {**kwargs, "training": False}
            return tf.cond(
                self.frozen_statistics.value > 0, lambda: call(*args, **still), lambda: call(*args, **kwargs)
            )

        return routed

    def values(self) -> np.ndarray:
        """All `variables`, to be stored."""
        return np.asarray([float(variable.numpy()) for variable in self.variables])

    @property
    def variables(self) -> list[keras.Variable]:
        return [*self.low, *self.high, *self.seen, self.active, self.frozen, self.frozen_statistics]


@keras.saving.register_keras_serializable(package="tfstruct")
class Twin(keras.Model):
    """Computes what the quantized file of a model will compute, with the layers and weights of the model itself.

    Kernels are rounded to their integers, one scale an output channel; activations after what the converter fuses,
    one range where values only move; batch norm as it is, since a factor by channel scales a symmetric weight and its
    step alike. Ranges follow the batches it is trained on.
    """

    def __init__(self, model: keras.Model, scheme: Scheme | str | dict = "int8", **kwargs):
        super().__init__(**{"name": f"{model.name}_twin", **kwargs})
        scheme = Scheme.from_dict(scheme) if isinstance(scheme, dict) else Scheme.of(scheme)
        self.model = model
        self.simulation = Simulation(model, scheme)
        self._ranges = self.simulation.variables
        self.built = True

    def call(self, inputs, training=None, mask=None):
        return self.simulation(inputs, training=training, mask=mask)

    def ranges(self) -> dict[str, tuple[float, float]]:
        return self.simulation.ranges()

    @property
    def scheme(self) -> Scheme:
        return self.simulation.scheme

    def save_own_variables(self, store) -> None:
        store["ranges"] = self.simulation.values()

    def load_own_variables(self, store) -> None:
        for variable, value in zip(self.simulation.variables, np.asarray(store["ranges"]), strict=True):
            variable.assign(value)

    def get_config(self) -> dict:
        return {
            "name": self.name,
            "model": keras.saving.serialize_keras_object(self.model),
            "scheme": self.scheme.to_dict(),
        }

    @classmethod
    def from_config(cls, config: dict, custom_objects=None) -> "Twin":
        config = dict(config)
        model = keras.saving.deserialize_keras_object(config.pop("model"), custom_objects=custom_objects)
        return cls(model, **config)


def _like(x, y):
    """`y` with the mask that Keras hung on `x`."""
    mask = getattr(x, "_keras_mask", None)
    if mask is not None:
        y._keras_mask = mask
    return y


@contextlib.contextmanager
def _linear(op):
    """While it is open, the layer leaves out its own activation, which is handed out."""
    own = op.activation
    object.__setattr__(op, "activation", keras.activations.linear)
    try:
        yield own
    finally:
        object.__setattr__(op, "activation", own)
