"""Sound, as waveforms and as spectrograms."""

from typing import Any

import tensorflow as tf

from tfstruct.arguments import checked
from tfstruct.augment.draws import Draws, settings
from tfstruct.augment.movement import shift, warp
from tfstruct.augment.pipeline import Pipeline

_AUDIO: dict[str, dict[str, Any]] = {
    "light": {"shift": 0.05, "noise": (30.0, 50.0)},
    "medium": {"shift": 0.1, "noise": (20.0, 40.0)},
    "strong": {"shift": 0.2, "noise": (10.0, 30.0)},
}
_SPECTROGRAMS: dict[str, dict[str, Any]] = {
    "light": {"shift": 0.05, "warp": 0.0, "masks": 1, "width": 0.1},
    "medium": {"shift": 0.1, "warp": 0.1, "masks": 2, "width": 0.15},
    "strong": {"shift": 0.1, "warp": 0.2, "masks": 2, "width": 0.25},
}


@checked
def audio(
    strength: str = "medium",
    *,
    value_range: tuple[float, float] = (-1.0, 1.0),
    seed: int = 0,
    input: str | int | None = None,
) -> Pipeline:
    """A pipeline for batches of waveforms, (batch, time) or (batch, time, channels).

    They are shifted in time by up to 5, 10, 20 % of their length (light, medium, strong), silence moving in, and get
    normal noise at a signal-to-noise ratio drawn from 30 to 50, 20 to 40, 10 to 30 dB of their own power.

    Args:
        value_range: of the values, (-32768, 32767) for int16.
        seed, input: of `Pipeline`.

    Returns:
        `Pipeline`: a function from a dataset to a dataset, of batches in the same types and shapes.

    Example:
        >>> import tensorflow as tf
        >>> sounds = tf.data.Dataset.from_tensor_slices((np.zeros((8, 400), "float32"), np.arange(8))).batch(4)
        >>> next(iter(tfstruct.augment.audio("light")(sounds)))[0].shape
        TensorShape([4, 400])
    """
    chosen = settings(_AUDIO, strength)
    return Pipeline((shift(chosen["shift"]), _noise(*chosen["noise"])), None, value_range, seed, input, "waves")


@checked
def spectrograms(
    strength: str = "medium",
    *,
    value_range: tuple[float, float] | None = None,
    seed: int = 0,
    input: str | int | None = None,
) -> Pipeline:
    """A pipeline for batches of spectrograms, (batch, time, frequency) or with channels behind.

    They are shifted in time by up to 5, 10, 10 % (light, medium, strong), their least value moving in, and go through
    SpecAugment (arXiv:1904.08779): time warped, but for light; 1, 2, 2 bands of frequency and as many of time, each up
    to 10, 15, 25 % wide, set to the spectrogram's mean.

    Args:
        value_range: of the values; None: whatever they are.
        seed, input: of `Pipeline`.

    Returns:
        `Pipeline`: a function from a dataset to a dataset, of batches in the same types and shapes.

    Example:
        >>> import tensorflow as tf
        >>> frames = tf.data.Dataset.from_tensor_slices((np.zeros((8, 49, 10), "float32"), np.arange(8))).batch(4)
        >>> next(iter(tfstruct.augment.spectrograms("light")(frames)))[0].shape
        TensorShape([4, 49, 10])
    """
    chosen = settings(_SPECTROGRAMS, strength)
    changes = [shift(chosen["shift"], lambda x: tf.reduce_min(x, axis=list(range(1, len(x.shape))), keepdims=True))]
    if chosen["warp"]:
        changes.append(warp(chosen["warp"]))
    changes += [_masks(axis, chosen["masks"], chosen["width"]) for axis in (2, 1)]
    return Pipeline(tuple(changes), None, value_range, seed, input, "spectrograms")


def _noise(low: float, high: float):
    def change(x, draws: Draws):
        each = (tf.shape(x)[0], *[1] * (len(x.shape) - 1))
        power = tf.sqrt(tf.reduce_mean(tf.square(x), axis=list(range(1, len(x.shape))), keepdims=True))
        return x + power * 10.0 ** (-draws.uniform(each, low, high) / 20.0) * draws.normal(tf.shape(x))

    return change


def _masks(axis: int, count: int, width: float):
    """Bands along an axis set to the sample's mean."""

    def change(x, draws: Draws):
        size, samples = tf.shape(x)[axis], tf.shape(x)[0]
        most = tf.cast(tf.round(width * tf.cast(size, tf.float32)), tf.int32)
        wide = draws.integers((samples, count), 0, most)
        start = draws.integers((samples, count), 0, size - wide)
        places = tf.range(size)[None, None]
        hidden = (places >= start[:, :, None]) & (places < (start + wide)[:, :, None])
        shape = [samples if i == 0 else size if i == axis else 1 for i in range(len(x.shape))]
        mean = tf.reduce_mean(x, axis=list(range(1, len(x.shape))), keepdims=True)
        return tf.where(tf.reshape(tf.reduce_any(hidden, axis=1), shape), mean, x)

    return change
