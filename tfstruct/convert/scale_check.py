"""Does the calibration data have the scale that the model was trained on?"""

import contextlib
from collections.abc import Sequence

import keras
import numpy as np

from tfstruct.convert.export import Signature
from tfstruct.errors import DataError
from tfstruct.graph.layer_tree import intercepted, layer_paths
from tfstruct.graph.operation_traits import traits_of
from tfstruct.samples import Sample

# How far the spread that a batch norm sees may be from the one it was trained on. Data in 0..1 for a model
# trained on 0..255 is off by 255; another data set of the same scale rarely by more than 5.
_FACTOR = 30.0
_BRIGHT = 127  # values from 0 to 255, some above this, are pixels as files hold them


def check_scale(
    model: keras.Model, signature: Signature, samples: Sequence[Sample], *, as_is: bool = False
) -> list[str]:
    """Refuses data whose scale contradicts the model's own statistics.

    The first trained BatchNormalization says what spread its input had in training; a leading Rescaling by
    1/255 or 1/127.5 says that pixels are expected. A model with neither is not judged.

    Args:
        as_is: whether the samples go in with the values that their source holds.

    Returns:
        What the user should know: of pixels that nobody scaled, for a model that does not say what it expects.

    Raises:
        DataError: with both spreads, and what to do.
    """
    inputs = {name: np.stack([s.inputs[name] for s in samples]) for name in samples[0].inputs}
    floats = {k: v for k, v in inputs.items() if v.dtype.kind == "f"}
    if not floats:
        return []
    span = ", ".join(f"{k} in [{v.min():.4g}, {v.max():.4g}]" for k, v in floats.items())
    for path, layer in layer_paths(model).items():
        if isinstance(layer, keras.layers.Rescaling) and len(floats) == 1:
            expected = 1.0 / float(np.max(np.abs(layer.scale)))
            largest = float(np.abs(next(iter(floats.values()))).max())
            if 100 < expected < 300 and 0 < largest <= 1.0:
                raise DataError(
                    f"The layer {path!r} rescales inputs by 1/{expected:g}, so the model expects pixels up to 255. "
                    f"Received {span}. Use --scale 255 (Preprocess(scale=255)), or --no-range-check if this is meant."
                )
    found = _spread_at_first_batch_norm(model, signature, inputs)
    if found is None:
        return _of_pixels(model, floats) if as_is else []
    path, trained, seen = found
    ratio = seen / trained
    if not 1 / _FACTOR <= ratio <= _FACTOR:
        raise DataError(
            f"The samples do not have the scale the model was trained on: at {path!r} their spread is {seen:.3g}, in "
            f"training it was {trained:.3g}. Received {span}. Scale them as in training (--scale, --mean, --std), or "
            "use --no-range-check (Recipe(check_range=False)) if this is meant."
        )
    return []


def _of_pixels(model: keras.Model, floats: dict[str, np.ndarray]) -> list[str]:
    if not _weighs_pixels_first(model):
        return []
    return [
        f"input {name!r} takes pixels as they are, 0 to {values.max():g}, and nothing in the model says what it was "
        "trained on. Scale them if the training did (--scale 1/255, Preprocess(scale=1 / 255)); --no-range-check "
        "(Recipe(check_range=False)) says that this is meant"
        for name, values in floats.items()
        if values.ndim == 4 and values.min() >= 0 and _BRIGHT < values.max() <= 255
    ]


def _weighs_pixels_first(model: keras.Model) -> bool:
    """Whether the first that happens to the inputs, but for moving and padding, is a layer of Keras with weights: all
    else may be what brings pixels to the scale of the training."""
    for op in layer_paths(model).values():
        if isinstance(op, keras.Model):
            continue
        if getattr(op, "weights", None):
            return type(op).__module__.startswith("keras.") and not isinstance(op, keras.layers.Normalization)
        traits = traits_of(op)
        if not (traits.moves or traits.training_only or traits.operator == "PAD"):
            return False
    return False


class _Seen(Exception):
    """Ends a call of the model at the layer that was looked for: what comes behind it may be nearly all of the work."""


def _is_trained(op: keras.Operation) -> bool:
    """True for a batch norm whose moving statistics are no longer those that it began with."""
    return isinstance(op, keras.layers.BatchNormalization) and bool(
        np.any(np.asarray(op.moving_mean) != 0) or np.any(np.asarray(op.moving_variance) != 1)
    )


def _spread_at_first_batch_norm(model, signature, inputs) -> tuple[str, float, float] | None:
    """(path, trained standard deviation, the batch's) at the first trained batch norm that is called."""
    seen: list[tuple[str, float, float]] = []

    def route(path, layer, call):
        def run(x, *args, **kwargs):
            variance = np.asarray(layer.moving_variance)
            axes = tuple(i for i in range(len(x.shape)) if i != layer.axis % len(x.shape))
            live = variance > 1e-12
            spread = np.asarray(x, np.float64).std(axis=axes)
            # Channels without any spread, as in constant data, say nothing about its scale.
            live &= spread > 0
            if live.any():
                usual = np.sqrt(variance)
                ratio = float(np.median(spread[live] / usual[live]))
                place = float(np.median(usual[live]))
                seen.append((path, place, place * ratio))
                raise _Seen
            return call(x, *args, **kwargs)

        return run

    norms = {p: op for p, op in layer_paths(model).items() if _is_trained(op)}
    if norms:
        if signature.batch is not None:
            size = len(next(iter(inputs.values())))
            inputs = {
                k: np.repeat(v, -(-signature.batch // size), axis=0)[: signature.batch] for k, v in inputs.items()
            }
        with contextlib.suppress(_Seen), intercepted(norms, route):
            signature.call({k: keras.ops.convert_to_tensor(v) for k, v in inputs.items()})
    return seen[0] if seen else None
