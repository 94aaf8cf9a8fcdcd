"""`adaround` and `blockwise`: learned rounding that minimizes the error of layers or of blocks."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfstruct.analyze.inference import in_inference
from tfstruct.analyze.losses import slices
from tfstruct.arguments import checked
from tfstruct.errors import ModelError
from tfstruct.former_names import formerly
from tfstruct.graph import rewire, trace
from tfstruct.graph.opening import open_by_itself
from tfstruct.quantize import rounding
from tfstruct.quantize.calibration import calibrate
from tfstruct.quantize.grids import LearnedGrid
from tfstruct.quantize.integer_kernels import folded_factor
from tfstruct.quantize.preactivations import channels_axis
from tfstruct.quantize.reconstruction_report import Reconstructed, Reconstruction
from tfstruct.quantize.rounding_points import RoundingPoint
from tfstruct.quantize.scheme import Scheme
from tfstruct.quantize.simulation import Simulation
from tfstruct.quantize.soft_rounding import SoftKernel
from tfstruct.quantize.subgraphs import Subgraph, Values, blocks, execute, operators
from tfstruct.quantize.twin import Twin
from tfstruct.reporting import carrying
from tfstruct.samples.for_model import samples_of
from tfstruct.terminal import Progress, Verbose, shows_progress, silent

# Samples of a unit are held in memory: so many bytes of what it reads and makes, at most.
_MOST_BYTES = 1 << 30
_WARM_UP = 0.2  # the share of the steps without a pull towards up or down
_BETA = (20.0, 2.0)


@formerly(observer="calibrator")
@in_inference
@shows_progress
@checked
def adaround(
    model: keras.Model,
    data,
    scheme: Scheme | str | None = None,
    *,
    steps: int = 1000,
    batch_size: int = 32,
    learning_rate: float = 0.1,
    pull: float = 50.0,
    calibrator: str = "percentile",
    seed: int = 0,
    progress: Progress = silent,
    verbose: Verbose = "auto",
    report: Callable[[Reconstruction], None] | None = None,
    open_layers: str | bool = "auto",
) -> Twin:
    """Learns for each weight whether it is rounded up or down, layer by layer.

    For a layer with its batch norm and activation, as one operator of the file, in order of execution: x' is what it
    reads in the quantized model so far, y what it makes in float. Over batches of the samples,
    `minimise mean |f(W', x') - y|^2 / E + pull * mean(1 - |2 h(V) - 1|^beta)` over V by Adam, W' and h as in
    `tfstruct.quantize.soft_rounding`, f with the rounding of what it makes, E the error of rounding to nearest, so that
    the scale of a layer does not matter; beta falls from 20 to 2 along half a cosine after a fifth of the steps without
    the second term. Then each weight goes up or down for good.

    Steps s are those of the least error of the weights, each input channel weighed by its mean square.

    Args:
        model: a model that can be traced, or a `Twin`, which has ranges and a scheme already; not changed.
        data: see `calibrate`; a few hundred samples, without labels.
        scheme: a precision, or a `Scheme`; by default that of the twin, or int8.
        steps: for each layer.
        batch_size: samples a step.
        pull: see above.
        calibrator: for the ranges of a model that is no twin.
        seed: of the batches.
        progress: called with (stage, steps done, steps in all).
        verbose: what is shown while it works, see `tfstruct.compress`.
        report: called with the error of each layer before and after: `report=print`.
        open_layers: `"auto"` opens custom layers, so that kernels inside are learned too; False: none. See `calibrate`.

    Returns:
        A twin of a new model, whose kernels lie on their integers; `to_tflite` writes these very integers. Its scheme
        has `steps="learned"`.

    Raises:
        ModelError: no kernel has steps of its own.

    Source: Nagel et al. 2020, arXiv:2004.10568, Eq. 25 and Sec. 3.3.

    Example:
        >>> twin = tfstruct.quantize.adaround(model, x, "int4", steps=20)
        >>> twin(x).shape
        TensorShape([64, 2])
    """
    work = _Work(model, data, scheme, calibrator, batch_size, open_layers)
    options: dict[str, Any] = {"steps": steps, "learning_rate": learning_rate, "pull": pull, "seed": seed}
    return work.done("adaround", operators(work.learned.rounding_points), progress, report, **options)


@formerly(observer="calibrator")
@in_inference
@shows_progress
@checked
def blockwise(
    model: keras.Model,
    data,
    scheme: Scheme | str | None = None,
    *,
    steps: int = 1000,
    largest: int = 8,
    batch_size: int = 32,
    learning_rate: float = 0.1,
    pull: float = 50.0,
    calibrator: str = "percentile",
    seed: int = 0,
    progress: Progress = silent,
    verbose: Verbose = "auto",
    report: Callable[[Reconstruction], None] | None = None,
    open_layers: str | bool = "auto",
) -> Twin:
    """Like `adaround`, for the layers of a block together, so that they compensate each other's errors.

    A block lies between two tensors through which everything passes: a residual block, a branch and join, or a layer
    alone. The error is that of what the block makes, all activations inside rounded.

    Args:
        steps: for each block.
        largest: blocks of more kernels are taken layer by layer.
        others: see `adaround`.

    Returns:
        As `adaround`: a `Twin` whose kernels are rounded as learned.

    Source: Li et al. 2021, BRECQ: Pushing the limit of post-training quantization by block reconstruction,
    arXiv:2102.05426, Sec. 3.2, without the weights by the Fisher information.

    Example:
        >>> twin = tfstruct.quantize.blockwise(model, x, "int4", steps=20)
        >>> twin(x).shape
        TensorShape([64, 2])
    """
    work = _Work(model, data, scheme, calibrator, batch_size, open_layers)
    options: dict[str, Any] = {"steps": steps, "learning_rate": learning_rate, "pull": pull, "seed": seed}
    parts = [part for block in blocks(work.learned.rounding_points) for part in work.split(block, largest)]
    return work.done("blockwise", parts, progress, report, **options)


class _Learning(Simulation):
    """The quantized model while kernels are learned: these are passed in from outside."""

    def __init__(self, model: keras.Model, scheme: Scheme):
        super().__init__(model, scheme)
        self.kernels: dict[int, object] = {}  # id of a weight -> its value

    def of(self, op) -> list[LearnedGrid]:
        """The grids of a layer's kernels that can be rounded up or down."""
        found = self._grids.get(id(op), ())
        return [grid for grid in found if isinstance(grid, LearnedGrid) and not grid.signs]

    def factor_of(self, grid: LearnedGrid):
        """The factor of the batch norm behind a kernel."""
        key = next(key for key, grids in self._grids.items() if any(grid is one for one in grids))
        return folded_factor(self.rounding_points, key)

    def inputs(self, values: Values) -> Values:
        """The model's inputs, rounded."""
        return {
            key: self._quantized(p, x, False)
            for p, (key, x) in zip(self.rounding_points.input_points, values.items(), strict=True)
        }

    def _quantized_kernel(self, op, grid, training, ahead=1.0):
        given = self.kernels.get(id(grid.kernel.variable))
        if given is None:
            return super()._quantized_kernel(op, grid, False, ahead)  # steps stay
        return tf.cast(given, grid.kernel.variable.dtype) * ahead

    def _quantized(self, point: RoundingPoint, x, training):
        return super()._quantized(point, x, False)  # ranges stay


class _Work:
    """A float model, and its copy that is quantized step by step."""

    def __init__(self, model, data, scheme: Scheme | str | None, calibrator: str, batch_size: int, open_layers):
        is_twin = isinstance(model, Twin)
        opened = open_by_itself(model, False if is_twin else open_layers)
        self.flat = samples_of(model, data).in_memory().inputs
        self.opened, self.opaque = opened.opened, opened.closed
        twin = model if is_twin else calibrate(opened.model, (self.flat,), scheme, calibrator, open_layers=False)
        self.graph, self.batch_size = trace(twin.model), batch_size
        self.has_steps = twin.scheme.steps == "learned"
        learned = twin.scheme.replace(steps="learned")
        self.made = Twin(rewire(self.graph, {}).model, learned)
        self.learned = _Learning(self.made.model, learned)
        if self.has_steps:
            self.learned.assign(twin.simulation.values())
        # By their order: an input that has no name of its own has another one in the copy.
        for old, new in zip(twin.simulation.bounds.values(), self.learned.bounds.values(), strict=True):
            new.take(old)

    def split(self, block: Subgraph, largest: int) -> list[Subgraph]:
        if len(self._grids_of(block)) <= largest:
            return [block]
        inside = {id(call) for call in block.calls}
        return [part for part in operators(self.learned.rounding_points) if id(part.calls[0]) in inside]

    def _grids_of(self, part: Subgraph) -> list[LearnedGrid]:
        ops = {id(call.op): call.op for call in part.calls}
        return [grid for op in ops.values() for grid in self.learned.of(op)]

    def done(self, stage: str, parts: Sequence[Subgraph], progress, report, *, steps: int, **options) -> Twin:
        seen: set[int] = set()
        todo = []
        for part in parts:
            grids = [grid for grid in self._grids_of(part) if id(grid) not in seen]
            seen.update(map(id, grids))  # a shared layer is rounded where it is called first
            if grids:
                todo.append((part, grids))
        if not todo:
            raise ModelError(f"`{self.graph.model.name}` has no kernel that can be rounded up or down by choice.")
        rows = []
        for number, (part, grids) in enumerate(todo):

            def after_step(step, number=number):
                progress(stage, number * steps + step, len(todo) * steps)

            rows.append(self._reconstruct(part, grids, after_step, steps=steps, **options))
        self.made.simulation.assign(self.learned.values())
        left = [name for name, grid in self.learned.grids.items() if id(grid) not in seen]
        done = Reconstruction(
            stage, self.made.scheme.precision, tuple(rows), tuple(left), opened=self.opened, opaque=self.opaque
        )
        if report is not None:
            report(done)
        return carrying(self.made, done)

    def _reconstruct(self, part: Subgraph, grids, after_step, *, steps, learning_rate, pull, seed) -> Reconstructed:
        read, wanted = self._samples(part)
        if not self.has_steps:
            self._fit(part, [grid for grid in grids if grid.nearest], read)
        kernels = [SoftKernel(grid, self.learned.factor_of(grid)) for grid in grids]
        power = float(sum(np.mean(np.square(y)) * y.shape[-1] for y in wanted)) or 1.0  # a layer that makes zeros
        for kernel in kernels:
            kernel.settle_nearest()
        nearest = self._error(part, read, wanted)
        if nearest > 0:
            self._learn(part, kernels, read, wanted, nearest, after_step, steps, learning_rate, pull, seed)
        moved = sum(kernel.settle() for kernel in kernels)
        after = self._error(part, read, wanted)
        if after > nearest:  # so few steps that nothing was found
            moved, after = 0, nearest
            for kernel in kernels:
                kernel.settle_nearest()
        after_step(steps)
        count = sum(int(np.prod(grid.kernel.shape)) for grid in grids)
        names = tuple(grid.kernel.name for grid in grids)
        return Reconstructed(part.path, names, len(read[0]), nearest / power, after / power, moved / count)

    def _learn(self, part, kernels, read, wanted, nearest, after_step, steps, learning_rate, pull, seed) -> None:
        """Learns V of all kernels by Adam."""
        variables = [kernel.v for kernel in kernels]
        count = float(sum(int(np.prod(v.shape)) for v in variables))
        optimizer = keras.optimizers.Adam(learning_rate)
        optimizer.build(variables)
        read, wanted = [tf.constant(x) for x in read], [tf.constant(y) for y in wanted]

        @tf.function
        def step(rows, beta, weight):
            with tf.GradientTape() as tape:
                soft = {id(kernel.grid.kernel.variable): kernel.soft() for kernel in kernels}
                error = self._difference(part, _rows(read, rows), _rows(wanted, rows), soft)
                undecided = tf.add_n([kernel.undecided(beta) for kernel in kernels]) / count
                loss = error / nearest + weight * undecided
            optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)

        rng, samples = np.random.default_rng(seed), read[0].shape[0]
        warm = int(_WARM_UP * steps)
        for i in range(steps):
            rows = rng.choice(samples, min(self.batch_size, samples), replace=False)
            share = max(i - warm, 0) / max(steps - warm, 1)
            beta = _BETA[1] + 0.5 * (_BETA[0] - _BETA[1]) * (1 + np.cos(np.pi * share))
            step(tf.constant(rows), tf.constant(beta, tf.float32), tf.constant(pull * (i >= warm), tf.float32))
            if i % 20 == 0:
                after_step(i)

    def _run(self, part: Subgraph, read, kernels) -> Values:
        """All values of a subgraph of the quantized model; `kernels` replace its weights."""
        self.learned.kernels = kernels
        try:
            with self.learned.routed(True):
                values = dict(zip(part.inputs, read, strict=True))
                execute(part.calls, values)
        finally:
            self.learned.kernels = {}
        return values

    def _difference(self, part: Subgraph, read, wanted, kernels):
        """Mean over samples and positions of |y' - y|^2, summed over the outputs."""
        values = self._run(part, read, kernels)
        found = [tf.cast(values[key], tf.float32) for key in part.outputs]
        return tf.add_n(
            [tf.reduce_mean(tf.reduce_sum(tf.square(a - b), axis=-1)) for a, b in zip(found, wanted, strict=True)]
        )

    def _error(self, part: Subgraph, read, wanted) -> float:
        total = 0.0
        for rows in slices(len(read[0]), self.batch_size):
            batch = [x[rows] for x in read]
            total += float(self._difference(part, batch, [y[rows] for y in wanted], {})) * len(batch[0])
        return total / len(read[0])

    def _samples(self, part: Subgraph) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """A subgraph's inputs in the quantized model, and its outputs in float."""
        ours, plain = self.learned.rounding_points.graph, self.graph
        begin = next(i for i, call in enumerate(ours.calls) if call is part.calls[0])
        end = next(i for i, call in enumerate(ours.calls) if call is part.calls[-1]) + 1
        # The copy has the calls of the original, in the same order.
        same = {
            x.key: y.key
            for a, b in zip(ours.calls, plain.calls, strict=True)
            for x, y in zip(a.outputs, b.outputs, strict=True)
        }
        read, wanted, held = [], [], 0
        for rows in slices(len(self.flat[0]), self.batch_size):
            batch = [tf.constant(x[rows]) for x in self.flat]
            values = self.learned.inputs({c.key: x for c, x in zip(ours.body.inputs, batch, strict=True)})
            with self.learned.routed(False):
                execute(ours.calls[:begin], values)
            read.append([np.asarray(values[key]) for key in part.inputs])
            values = {c.key: x for c, x in zip(plain.body.inputs, batch, strict=True)}
            execute(plain.calls[:end], values)
            wanted.append([np.asarray(tf.cast(values[same[key]], tf.float32)) for key in part.outputs])
            held += sum(x.nbytes for x in (*read[-1], *wanted[-1]))
            if held > _MOST_BYTES:
                break
        return _joined(read), _joined(wanted)

    def _fit(self, part: Subgraph, grids: Sequence[LearnedGrid], read) -> None:
        """Sets the steps with the least error of the weights, each input weighted by its mean square."""
        squares: dict[int, np.ndarray] = {}
        values = self._run(part, [x[: self.batch_size] for x in read], {})
        for call in part.calls:
            for grid in self.learned.of(call.op):
                x = np.asarray(values[call.inputs[0].key], np.float64)
                axis = channels_axis(call.op, x.ndim)
                squares.setdefault(id(grid), np.square(x).mean(tuple(i for i in range(x.ndim) if i != axis)))
        for grid in grids:
            moved = np.asarray(grid.seen(grid.kernel.variable.value, self.learned.factor_of(grid))[0])
            taps, inputs, _ = grid.kernel.shape
            square = squares[id(grid)]
            if grid.per != "channel":
                step = rounding.symmetric_scale(moved.reshape(1, -1), None, grid.stored_bits)
            else:
                weighed = np.tile(square + 1e-12, taps) if len(square) == inputs else None
                step = rounding.symmetric_scale(moved.T, weighed, grid.stored_bits)
            grid.learned.variable.assign(np.broadcast_to(step, moved.shape[1:]))


def _joined(batches: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """The arrays of all batches, in one each."""
    return [np.concatenate(values) for values in zip(*batches, strict=True)]


def _rows(values, rows):
    return [tf.gather(x, rows) for x in values]
