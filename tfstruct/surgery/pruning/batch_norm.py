"""Recalibrates batch-norm statistics, which pruning and surgery shift."""

import contextlib
import dataclasses
import itertools
import warnings

import keras
import numpy as np

from tfstruct.arguments import checked
from tfstruct.errors import DataError, ModelError
from tfstruct.graph.keras_model import require_model
from tfstruct.graph.layer_tree import layer_paths, states_kept
from tfstruct.graph.sizes import fixed_batch
from tfstruct.keras_internals.layer_parts import all_layers
from tfstruct.keras_internals.replacing import replaced_attributes
from tfstruct.reporting import InPlaceReport
from tfstruct.reporting.tables import counted
from tfstruct.samples.for_model import samples_of


@checked
def recalibrate_batch_norm(
    model: keras.Model, data, *, batch_size: int = 32, steps: int | None = None
) -> InPlaceReport:
    """Sets the moving mean and variance of every batch normalization to those of the data, in place.

    The data runs through once; batch normalizations use the statistics of the batch, as in training, everything else
    runs as in inference. With the mean m_b, variance v_b and share p_b of each batch b:
    `mean = sum p_b m_b`, `variance = sum p_b (v_b + m_b^2) - mean^2`.

    Args:
        model: any built Keras model; layers that are not trainable take part too.
        data: see `tfstruct.samples`; it is streamed, and labels are ignored.
        batch_size: for data that gives no batches of its own.
        steps: at most so many batches.

    Returns:
        `InPlaceReport`: by batch normalization, how far its mean and variance moved. Its value is their number.

    Raises:
        ModelError: the model has no batch normalization.
        DataError: there is no batch.

    Example:
        >>> report = tfstruct.recalibrate_batch_norm(convnet, images)
        >>> [layer for layer, moved in report.changes]
        ['norm']
        >>> bool(abs(convnet.get_layer("norm").moving_variance.numpy() - 1).max() > 0)
        True
    """
    require_model(model)
    norms = batch_norms_of(model)
    if not norms:
        raise ModelError(f"`{model.name}` has no BatchNormalization: there is nothing to recalibrate.")
    totals = [_Total() for _ in norms]
    samples = samples_of(model, data, endless=steps is not None)
    batches, seen, left_out, size = 0, 0, 0, fixed_batch(model)
    with states_kept(model), _in_training(norms, totals):
        for batch in itertools.islice(samples.batches(size or batch_size, own=True), steps):
            if size is not None and batch.size != size:
                left_out += batch.size
                continue
            model(samples.ports.arranged(batch.inputs), training=False)
            batches += 1
            seen += batch.size
    if left_out:
        warnings.warn(
            f"The inputs of `{model.name}` fix the batch at {size}: {left_out} samples in batches of another size are "
            "left out.",
            stacklevel=2,
        )
    if not batches:
        raise DataError("`data` holds no batch. Give at least one.")
    paths = {id(layer): path for path, layer in layer_paths(model).items()}
    changes, skipped = [], []
    for norm, total in zip(norms, totals, strict=True):
        path = paths.get(id(norm), norm.name)
        if not total.count:
            skipped.append((path, "it was not called"))
            continue
        mean = total.first / total.count
        variance = np.maximum(total.second / total.count - mean**2, 0.0)
        changes.append((path, _moved(norm, mean, variance)))
        norm.moving_mean.assign(mean)
        norm.moving_variance.assign(variance)
    if left_out:
        skipped.append((counted(left_out, "sample"), f"in batches of another size than {size}"))
    title = f"{model.name}: {counted(len(changes), 'batch norm')} recalibrated on {counted(seen, 'sample')}"
    return InPlaceReport(title, tuple(changes), tuple(skipped), value=len(norms))


def batch_norms_of(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """The batch normalizations of a model, those inside other layers too."""
    return [layer for layer in all_layers(model) if isinstance(layer, keras.layers.BatchNormalization)]


def _moved(norm: keras.layers.BatchNormalization, mean, variance) -> str:
    """How far the statistics are from those that the layer has."""
    before, old = (v.numpy().astype("float64") for v in (norm.moving_mean, norm.moving_variance))
    old = old + norm.epsilon
    if not (np.isfinite(before).all() and np.isfinite(old).all() and (old > 0).all()):
        return "mean and variance in place of values that were not usable"
    by = float(np.sqrt(np.mean(np.square(mean - before) / old)))
    times = float(np.exp(np.mean(np.log((variance + norm.epsilon) / old))))
    return f"mean moved by {by:.3g} standard deviations, variance times {times:.3g}"


@dataclasses.dataclass
class _Total:
    """Sums over all calls of a layer, also of a shared one."""

    count: int = 0
    first: np.ndarray | float = 0.0
    second: np.ndarray | float = 0.0


@contextlib.contextmanager
def _in_training(norms, totals):
    """Context manager: these layers normalize by their batch; its statistics are summed, and no weight changes."""
    before = [
        (norm, norm.momentum, norm.trainable, norm.moving_mean.numpy(), norm.moving_variance.numpy()) for norm in norms
    ]
    try:
        with contextlib.ExitStack() as stack:
            for norm, total in zip(norms, totals, strict=True):
                norm.momentum, norm.trainable = 0.0, True
                norm.moving_mean.assign(keras.ops.zeros_like(norm.moving_mean))  # 0 times what is no number is none
                norm.moving_variance.assign(keras.ops.zeros_like(norm.moving_variance))
                stack.enter_context(replaced_attributes(norm, call=_summing(norm, total)))
            yield
    finally:
        for norm, momentum, trainable, mean, variance in before:
            norm.momentum, norm.trainable = momentum, trainable
            norm.moving_mean.assign(mean)
            norm.moving_variance.assign(variance)


def _summing(norm, total: _Total):
    call = norm.call

    def summing(inputs, training=None, mask=None):
        result = call(inputs, training=True, mask=mask)
        mean = norm.moving_mean.numpy().astype("float64")
        count = inputs.shape[0]
        total.count += count
        total.first = total.first + count * mean
        total.second = total.second + count * (norm.moving_variance.numpy().astype("float64") + mean**2)
        return result

    return summing
