"""Texts, as integers."""

from collections.abc import Sequence

import tensorflow as tf

from tfstruct.arguments import checked
from tfstruct.augment.draws import Draws, settings
from tfstruct.augment.pipeline import Pipeline
from tfstruct.errors import ArgumentError

_STRENGTHS = {"light": (0.05, 0.05), "medium": (0.1, 0.1), "strong": (0.2, 0.2)}


@checked
def text(
    strength: str = "medium",
    *,
    padding: int = 0,
    unknown: int | None = None,
    keep: Sequence[int] = (),
    padding_side: str = "right",
    seed: int = 0,
    input: str | int | None = None,
) -> Pipeline:
    """A pipeline for batches of token ids, (batch, length).

    5, 10, 20 % of the tokens (light, medium, strong) change places with a neighbour, and as many are dropped
    (arXiv:1901.11196): the rest moves up and padding moves in, or `unknown` stands for them. One token stays in every
    text that has one. Padding stays padding.

    Args:
        padding: the id that fills up texts.
        unknown: the id that stands for dropped tokens; None: they leave no gap.
        keep: ids that are neither dropped nor moved by a swap, such as those of beginning and end.
        padding_side: "right" or "left".
        seed, input: of `Pipeline`.

    Returns:
        `Pipeline`: a function from a dataset to a dataset, of batches in the same types and shapes.

    Example:
        >>> import tensorflow as tf
        >>> tokens = tf.data.Dataset.from_tensor_slices((np.ones((8, 12), "int32"), np.arange(8))).batch(4)
        >>> next(iter(tfstruct.augment.text("light", unknown=2)(tokens)))[0].shape
        TensorShape([4, 12])
    """
    swaps, drops = settings(_STRENGTHS, strength)
    if padding_side not in ("right", "left"):
        raise ArgumentError(f"`padding_side` must be right or left. Received: {padding_side!r}.")
    fixed = (padding, *keep)
    changes = (_swap(swaps, fixed), _drop(drops, fixed, padding, unknown, padding_side == "right"))
    return Pipeline(changes, None, None, seed, input, "tokens")


def _free(x, fixed: Sequence[int]):
    return tf.reduce_all([x != tf.cast(token, x.dtype) for token in fixed], axis=0)


def _swap(rate: float, fixed: Sequence[int]):
    def change(x, draws: Draws):
        samples, length = tf.shape(x)[0], tf.shape(x)[1]
        places = tf.range(length)[None]
        # Pairs of neighbours, from the first or from the second token on.
        counted = places + draws.integers((samples, 1), 0, 1)
        partner = tf.where(counted % 2 == 0, places + 1, places - 1)
        inside = (partner >= 0) & (partner < length)
        partner = tf.clip_by_value(partner, 0, length - 1)
        drawn = tf.gather(draws.uniform((samples, length // 2 + 1)) < rate, counted // 2, axis=1, batch_dims=1)
        free = _free(x, fixed)
        swapped = drawn & inside & free & tf.gather(free, partner, axis=1, batch_dims=1)
        return tf.where(swapped, tf.gather(x, partner, axis=1, batch_dims=1), x)

    return change


def _drop(rate: float, fixed: Sequence[int], padding: int, unknown: int | None, right: bool):
    def change(x, draws: Draws):
        noise = draws.uniform(tf.shape(x))
        # The token with the largest number is never dropped.
        last = noise >= tf.reduce_max(tf.where(_free(x, fixed), noise, 0.0), axis=1, keepdims=True)
        dropped = (noise < rate) & _free(x, fixed) & ~last
        if unknown is not None:
            return tf.where(dropped, tf.cast(unknown, x.dtype), x)
        x = tf.where(dropped, tf.cast(padding, x.dtype), x)
        behind = dropped if right else ~dropped
        order = tf.argsort(tf.cast(behind, tf.int32), axis=1, stable=True)
        return tf.gather(x, order, axis=1, batch_dims=1)

    return change
