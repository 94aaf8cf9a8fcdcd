"""The quantized forward pass of a model: its own layers, routed through rounding."""

import contextlib
import functools
import itertools
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from tfstruct.errors import ModelError
from tfstruct.graph import trace
from tfstruct.graph.endings import activation_of
from tfstruct.graph.kernels import Kernel, kernels
from tfstruct.graph.layer_tree import give_losses, intercepted, without_activation
from tfstruct.graph.operation_traits import traits_of
from tfstruct.keras_internals.graph_nodes import mask_of, set_mask
from tfstruct.quantize.constant_operands import ConstantOperands
from tfstruct.quantize.fake import fake_activation
from tfstruct.quantize.grids import Grid, LargestGrid, grid, stored
from tfstruct.quantize.integer_kernels import IntegerKernels, arithmetic_of, folded_factor, norm_constants
from tfstruct.quantize.masked_range import MaskedRange
from tfstruct.quantize.masked_ranges import MaskedRanges
from tfstruct.quantize.ranges import Range, TableRange
from tfstruct.quantize.rounding_points import CallRanges, RoundingPoint, RoundingPoints, integer_inputs, is_norm
from tfstruct.quantize.scheme import Scheme
from tfstruct.quantize.unseen import unseen


class Simulation:
    """The quantized forward pass of a model: ranges of its activations, and the layers' calls routed through them.

    Attributes:
        model: the plain model; its layers are called, its weights are used.
        scheme: how it is quantized.
        groups: every range by its name, with a point that has it.
        bounds: the ranges themselves, but for those that the specification fixes.
        grids: the grid of every kernel that is rounded, by the kernel's name.
        gated: whether rounding can be off; a pass over every value less where it cannot.
        active: 1 where values are rounded, 0 where only their ranges are followed, if `gated`.
        frozen, frozen_statistics: 1 where ranges and steps, and the statistics of batch norm, stay as they are.
        skipped: (layer, why its values are not rounded as in the file, or not as the scheme says).
    """

    def __init__(self, model: keras.Model, scheme: Scheme):
        self.model, self.scheme = model, scheme
        self.rounding_points = RoundingPoints(trace(model))
        self.groups = self.rounding_points.groups
        make = functools.partial(keras.Variable, trainable=False, dtype="float32", aggregation="mean", autocast=False)
        self._masks = MaskedRanges(self.rounding_points, self.activation_bits)
        places = self._masks.places.ranges()
        folding = self.rounding_points.folding
        tables = {name: functools.partial(folding.table_of, c) for name, c in self.rounding_points.tables.items()}
        self.bounds: dict[str, Range] = {}
        for name in (name for name, point in self.groups.items() if point.fixed is None):
            if name in places:
                self.bounds[name] = MaskedRange(scheme, make, **places[name])
            else:
                self.bounds[name] = TableRange(scheme, make, tables[name]) if name in tables else Range(scheme, make)
        self._masks.attach(self.bounds)
        self.gated = False
        self.active = make(1.0, name="active")
        self.frozen = make(0.0, name="frozen")
        self.frozen_statistics = make(0.0, name="frozen_statistics")
        self.integers = IntegerKernels(self.rounding_points, self.bounds, self._bits_of, self.active)
        self.grids: dict[str, Grid] = {}
        self.skipped: list[tuple[str, str]] = []
        ops = {id(call.op): call.op for call in self.rounding_points.graph.calls}
        self._integer_inputs = integer_inputs(self.rounding_points.graph)
        self._grids = self._grids_of(model, ops, make)
        self.constants = ConstantOperands(self.rounding_points, scheme)
        self.skipped += self.constants.skipped
        self._ops = {self.rounding_points.paths[key]: op for key, op in ops.items() if self._touches(op)}

    def _grids_of(self, model, ops, make) -> dict[int, list[Grid]]:
        found: dict[int, list[Grid]] = {}
        homes = {id(v): key for key, op in ops.items() if isinstance(op, keras.Layer) for v in op.variables}
        try:
            every = kernels(model, depthwise=True)
        except ModelError:
            every = []
        for kernel in every:
            key = homes.get(id(kernel.variable))
            if key is None:
                continue
            op, path = ops[key], self.rounding_points.paths[key]
            if self.scheme.weight_bits(path) is None or not kernel.sums:
                continue  # a table is rounded with what is looked up in it
            made = self._grid(kernel, op, path, make)
            self.grids[kernel.name] = made
            found.setdefault(key, []).append(made)
        for key, op in ops.items():
            path = self.rounding_points.paths[key]
            if self.scheme.weight_bits(path) is None:
                self.skipped.append((path, "left in float, as the scheme says"))
            elif (why := unseen(op)) and self.scheme.activation_bits(path) is not None:
                self.skipped.append((path, why))
        return found

    def _grid(self, kernel: Kernel, op, path: str, make) -> Grid:
        precision = self.scheme.precision_of(path)
        if not kernel.plain:
            self.skipped.append((kernel.name, "in 8 bits as it is stored: files round what its class makes of it"))
            return LargestGrid(kernel, 8, 8)
        few = traits_of(op).four_bits
        if precision == "float16" or traits_of(op).one_kernel:
            stored = 4 if few and self.scheme.file_of(precision) == "int4" else 8
            if precision == "int4" and not few:
                precision = "int8"
            return grid(kernel, self.scheme, precision, stored, make, folded_factor(self.rounding_points, id(op)))
        bits = self.scheme.weight_bits(path)
        stored = 4 if kernel.pointwise and self.scheme.file_of(precision) == "int4" else 8
        if (bits is not None and bits < 4) or (self.scheme.per, self.scheme.steps) != ("channel", "largest"):
            why = f"in {stored} bits, a step by channel: files take no others for this layer"
            self.skipped.append((kernel.name, why))
        return LargestGrid(kernel, stored, stored)

    def _touches(self, op) -> bool:
        key = id(op)
        inner = is_norm(op) or arithmetic_of(op)
        return bool(self.rounding_points.outputs.get(key) or key in self._grids or inner or self.constants.touches(op))

    # Ranges

    def range_of(self, group: str) -> tuple[float, float] | None:
        """(low, high) of a group; None before anything was seen."""
        fixed = self.groups[group].fixed
        if fixed is not None:
            return fixed
        return (self._masks.before_softmax.get(group) or self.bounds[group]).pair()

    def ranges(self) -> dict[str, tuple[float, float]]:
        """(low, high) by layer path, input name and `path/pre_activation`: what `Recipe.ranges` takes."""
        found = {}
        for point in self.rounding_points:
            if self.activation_bits(point) is not None:
                found[f"{point.path}/pre_activation" if point.before else point.path] = self.range_of(point.group)
        return {path: pair for path, pair in found.items() if pair is not None}

    def taken_for_masks(self) -> list[tuple[str, str]]:
        """(layer, what was guessed) where masks come out of a layer whose inside is not seen."""
        found = [group for group, bound in self.bounds.items() if isinstance(bound, MaskedRange) and bound.has_masked]
        said = "values below -1,000, which a softmax reads, are taken for masks: the operations inside are not seen"
        return [(group, said) for group in found]

    def activation_bits(self, point: RoundingPoint) -> int | None:
        """What a value has as an integer; None where it stays float: its layer does, and all that read it."""
        readers = () if point.before else sorted(self.rounding_points.read_by.get(point.path, ()))
        widths = [self.scheme.activation_bits(path) for path in (point.path, *readers)]
        return next((bits for bits in widths if bits is not None), None)

    def _bits_of(self, point: RoundingPoint) -> int | None:
        """The same, None also where integers are made of the value, which the file leaves as it is."""
        return None if point.group in self.rounding_points.exact and not point.before else self.activation_bits(point)

    def weight_limits(self) -> dict[str, np.ndarray]:
        """What the largest integer of a kernel stands for, by output channel, where the file would take another."""
        found: dict[str, np.ndarray] = {}
        for key, grids in self._grids.items():
            found |= {g.kernel.name: g.limits(folded_factor(self.rounding_points, key)) for g in grids if not g.plain}
        return found

    def quantized_weights(self, nearest: bool = True) -> dict[str, tuple[keras.Variable, np.ndarray]]:
        """Kernels on their grids, by name: (weight, the value). Without those that a file rounds by itself, given their
        steps, if not `nearest`."""
        return {
            g.kernel.name: (g.kernel.variable, g.quantized(folded_factor(self.rounding_points, key)))
            for key, grids in self._grids.items()
            for g in grids
            if nearest or not g.nearest
        }

    def _quantized(self, point: RoundingPoint, x, training: bool):
        bits = self.activation_bits(point)
        if not hasattr(x, "dtype") or not tf.as_dtype(x.dtype).is_floating or bits is None:
            return x
        group = self.groups[point.group]
        if group.fixed is not None:
            bits = self._bits_of(point)
            return x if bits is None else _like(x, self._where_active(fake_activation(x, *group.fixed, bits), x))
        bounds = self.bounds[point.group]
        learning = None
        if training and point.observes:
            learning = self._learning if bounds.ends else None
            # Ends that learn follow the batches until values are rounded.
            still = self.frozen.value if learning is None else tf.maximum(self.frozen.value, self.active.value)
            bounds.follow(tf.stop_gradient(x), still, point.positive)
        if self._bits_of(point) is None:
            return x
        y = self._where_active(bounds.quantized(x, bits, learning), x)
        if not training:
            y = tf.where(bounds.seen.value > 0, y, x)  # nothing is known yet: float
        return _like(x, y)

    def _where_active(self, y, x):
        return tf.where(self.active.value > 0, y, x) if self.gated else y

    @property
    def _learning(self):
        """1 where steps and ranges learn."""
        return self.active.value * (1.0 - self.frozen.value)

    # The forward pass

    def __call__(self, inputs, training=None, mask=None):
        """What `model.call` returns, quantized on the way."""
        training = bool(training) if training is None or isinstance(training, (bool, int)) else training
        names = {point.path: point for point in self.rounding_points.input_points}
        inputs = self._inputs(inputs, names, training)
        with self.routed(training):
            return type(self.model).call(self.model, inputs, training=training, mask=mask)

    @contextlib.contextmanager
    def routed(self, training) -> Iterator[None]:
        """While it is open, calls of the model's layers go through rounding."""
        self._folded: set[int] = set()
        still = self._masks.still() if training is False else contextlib.nullcontext()
        with still, self.constants.forgetting(), intercepted(self._ops, functools.partial(self._route, training)):
            yield

    def _inputs(self, inputs, names: dict[str, RoundingPoint], training):
        if isinstance(inputs, dict):
            return {k: self._input(names[k], x, training) if k in names else x for k, x in inputs.items()}
        flat = keras.tree.flatten(inputs)
        flat = [self._input(p, x, training) for p, x in zip(self.rounding_points.input_points, flat, strict=True)]
        return keras.tree.pack_sequence_as(inputs, flat)

    def _input(self, point: RoundingPoint, x, training):
        if point.path in self._integer_inputs:
            return tf.cast(tf.round(self._quantized(point, tf.cast(x, tf.float32), training)), x.dtype)
        x = x if training else self.integers.input(point, x)
        return self._quantized(point, x, training)

    def _route(self, training, path, op, call):
        forms = [self._form(training, op, at, call) for at in self.rounding_points.calls_of(op)]
        calls = itertools.count()
        return lambda *args, **kwargs: forms[next(calls) % len(forms)](*args, **kwargs)

    def _form(self, training, op, at: CallRanges, call):
        """The rounded call of an operation; of a shared one with the ranges at one of its calls."""
        point = self.rounding_points.outputs.get(id(op))
        before = self.rounding_points.before.get(id(op))
        grids = self._grids.get(id(op), [])
        call = self.constants.read(
            op, call, functools.partial(self._of_constant, op), lambda p, x: self._quantized(p, x, training), training
        )
        if is_norm(op):
            call = self._batch_norm(op, at, call)
        traits = traits_of(op)
        averages = traits.reduces == "mean" and traits.over == "window"
        if id(op) in self.rounding_points.movers and not averages:
            point = None

        name, norm = activation_of(op), self.rounding_points.folds.get(id(op))
        exact = None
        call = self.integers.inverse_root(op, at, call)
        if not training:
            exact = self.integers.contraction(op, at, grids, self.constants.ahead_of)
            if exact is not None and norm is not None:
                self._folded.add(id(norm))
            call = self.integers.arithmetic(arithmetic_of(op), at, call, self._masks.constants(op))
            call = self.integers.softmax(op, at, self._masks.before_softmax, call)

        def routed(*args, **kwargs):
            if not training:
                args, kwargs = self.constants.read_past(op, args, kwargs)
            if before is not None and traits.kernel == "separable" and grids:
                outputs = self._separable(op, before, args[0], training)
            elif exact is not None:
                with without_activation(op) as activation:
                    z = exact(call, args, kwargs)
                if before is not None:
                    z = self._quantized(before, z, training)
                    inner = CallRanges((before.group,), None if point is None else point.group, False)
                    activation = self.integers.arithmetic(name or "", inner, activation)
                outputs = z if activation is None else activation(z)
            elif before is None:
                outputs = self._with_weights(op, grids, training, call, args, kwargs)
            else:
                with without_activation(op) as activation:
                    z = self._with_weights(op, grids, training, call, args, kwargs)
                z = self._quantized(before, z, training)
                outputs = z if activation is None else activation(z)
            if point is None or at.absorbed:
                return outputs
            if (averages or (traits.in_file.same_scale and traits.interpolates)) and not training:
                outputs = self.integers.average(point, outputs, bool(traits.interpolates))
            return keras.tree.map_structure(lambda x: self._quantized(point, x, training), outputs)

        return routed

    def _quantized_kernel(self, op, grid: Grid, training, ahead=1.0):
        """The kernel times `ahead`, a factor by input channel, rounded."""
        value = stored(grid)
        factor = folded_factor(self.rounding_points, id(op)) if grid.per == "tensor" else 1.0
        learning = self._learning if training else None
        if isinstance(grid, LargestGrid):
            fake = grid.fake(value * ahead, factor, learning)
        else:  # its steps are those of the kernel alone
            fake = grid.fake(value, factor, learning) * ahead
        return self._where_active(tf.cast(fake, value.dtype), value * ahead)

    def _of_constant(self, op, quantized, plain):
        """A constant that an operation reads: quantized, or as it is."""
        return self._where_active(quantized, plain)

    def _with_weights(self, op, grids: list[Grid], training, call, args, kwargs):
        if not grids:
            return call(*args, **kwargs)
        ahead, shift = self.constants.ahead_of(op, stored(grids[0]), training)
        mapping = [(grid.kernel.variable, self._quantized_kernel(op, grid, training, ahead)) for grid in grids]
        with keras.StatelessScope(mapping, collect_losses=True) as scope:
            outputs = call(*args, **kwargs)
        give_losses(scope, op)
        ours = {id(w) for w, _ in mapping}
        for variable in op.variables:  # seeds and states that the layer has moved on
            value = scope.get_current_value(variable)
            if value is not None and id(variable) not in ours:
                variable.assign(value)
        return outputs if shift is None else outputs + tf.cast(shift, outputs.dtype)

    def _separable(self, op, before: RoundingPoint, x, training):
        """The two halves of a separable convolution, with the integers between them."""
        depthwise, pointwise = (
            self._quantized_kernel(op, grid, training)
            for grid in sorted(self._grids[id(op)], key=lambda g: g.kernel.pointwise)
        )
        options = {"data_format": op.data_format}
        x = keras.ops.depthwise_conv(x, depthwise, op.strides, op.padding, dilation_rate=op.dilation_rate, **options)
        x = self._quantized(before, x, training)
        x = keras.ops.conv(x, pointwise, 1, "valid", **options)
        x = x + keras.ops.reshape(op.bias, (1,) * (len(x.shape) - 1) + (-1,)) if op.use_bias else x
        return x if op.activation is None else op.activation(x)

    def _batch_norm(self, op, at: CallRanges, call):
        product = self.rounding_points.products.get(id(op))
        inference = call if product is None else self.integers.batch_norm(op, at, product, call)

        def routed(x, **kwargs):
            if not kwargs.get("training"):
                return x if id(op) in self._folded else inference(x, **kwargs)
            still = {**kwargs, "training": False}
            y = tf.cond(self.frozen_statistics.value > 0, lambda: call(x, **still), lambda: call(x, **kwargs))
            if product is None:
                return y
            p = tf.stop_gradient(tf.cast(x, tf.float32) * norm_constants(op, x)[0])
            return _like(y, y + tf.cast(tf.stop_gradient(self._quantized(product, p, True) - p), y.dtype))

        return routed

    @property
    def variables(self) -> list[keras.Variable]:
        ranges = [v for bound in self.bounds.values() for v in bound.variables]
        steps = [v for grid in self.grids.values() for v in grid.variables]
        return [*ranges, *steps, self.active, self.frozen, self.frozen_statistics]

    def values(self) -> np.ndarray:
        """All `variables` in a row, to be stored."""
        return np.concatenate([np.ravel(variable.numpy()) for variable in self.variables])

    def assign(self, values: np.ndarray) -> None:
        """Takes up what `values` gave.

        Raises:
            ModelError: they are of another model or scheme.
        """
        sizes = [int(np.prod(variable.shape)) for variable in self.variables]
        if len(values) != sum(sizes):
            raise ModelError(
                f"The stored ranges are of another model or scheme: expected {sum(sizes)} numbers. "
                f"Received: {len(values)}."
            )
        for variable, part in zip(self.variables, np.split(values, np.cumsum(sizes)[:-1]), strict=True):
            variable.assign(part.reshape(variable.shape))


def _like(x, y):
    """`y` with the mask that Keras hung on `x`."""
    mask = mask_of(x)
    if mask is not None:
        set_mask(y, mask)
    return y
