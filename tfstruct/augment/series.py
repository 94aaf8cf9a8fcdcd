"""Series of numbers, such as those of sensors."""

import tensorflow as tf

from tfstruct.arguments import checked
from tfstruct.augment.draws import Draws, settings
from tfstruct.augment.movement import warp
from tfstruct.augment.pipeline import Pipeline

_STRENGTHS = {
    "light": {"jitter": 0.02, "scale": 0.05, "warp": 0.05},
    "medium": {"jitter": 0.05, "scale": 0.1, "warp": 0.1},
    "strong": {"jitter": 0.1, "scale": 0.2, "warp": 0.2},
}


@checked
def sequences(
    strength: str = "medium",
    *,
    value_range: tuple[float, float] | None = None,
    seed: int = 0,
    input: str | int | None = None,
) -> Pipeline:
    """A pipeline for batches of series, (batch, time) or (batch, time, channels), after arXiv:1706.00527.

    Time is warped by speeds of exp(0.05 z), exp(0.1 z), exp(0.2 z) (light, medium, strong; z normal) between five
    points; each channel is multiplied by a factor of mean 1 and deviation 0.05, 0.1, 0.2; and gets normal noise of 2,
    5, 10 % of its own deviation.

    Args:
        value_range: values are kept in it; None: whatever they become.
        seed, input: of `Pipeline`.

    Returns:
        `Pipeline`: a function from a dataset to a dataset, of batches in the same types and shapes.

    Example:
        >>> import tensorflow as tf
        >>> series = tf.data.Dataset.from_tensor_slices((np.zeros((8, 50, 3), "float32"), np.arange(8))).batch(4)
        >>> next(iter(tfstruct.augment.sequences("light")(series)))[0].shape
        TensorShape([4, 50, 3])
    """
    chosen = settings(_STRENGTHS, strength)
    changes = (warp(chosen["warp"]), _scale(chosen["scale"]), _jitter(chosen["jitter"]))
    return Pipeline(changes, None, value_range, seed, input, "waves")


def _scale(deviation: float):
    def change(x, draws: Draws):
        return x * draws.normal(tf.concat([[tf.shape(x)[0], 1], tf.shape(x)[2:]], 0), 1.0, deviation)

    return change


def _jitter(share: float):
    def change(x, draws: Draws):
        return x + share * tf.math.reduce_std(x, axis=1, keepdims=True) * draws.normal(tf.shape(x))

    return change
