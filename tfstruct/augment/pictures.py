"""Images."""

import functools
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfstruct.arguments import checked, require_range
from tfstruct.augment.draws import Change, Draws, changed, settings
from tfstruct.augment.mixing import Mix
from tfstruct.augment.pipeline import Pipeline
from tfstruct.errors import ArgumentError

_STRENGTHS: dict[str, dict[str, Any]] = {
    "light": {"shift": 1 / 16, "angle": 0, "erase": 0.0, "operations": 0, "mix": None},
    "medium": {"shift": 1 / 8, "angle": 10, "erase": 0.25, "operations": 0, "mix": "mixup"},
    "strong": {"shift": 1 / 8, "angle": 10, "erase": 0.5, "operations": 2, "mix": "either"},
}


@checked
def images(
    strength: str = "medium",
    *,
    value_range: tuple[float, float] = (0, 255),
    classes: int | None = None,
    flip: str | None = "horizontal",
    mix: str | None = "preset",
    seed: int = 0,
    input: str | int | None = None,
) -> Pipeline:
    """A pipeline for batches of images, (batch, height, width, channels).

    In this order, by strength:

    | | light | medium | strong |
    |---|---|---|---|
    | flips, half of the images | yes | yes | yes |
    | moved by whole pixels, borders reflected (a crop of the padded image), up to | 1/16 | 1/8 | 1/8 |
    | turned by up to | | 10 degrees | 10 degrees |
    | RandAugment (arXiv:1909.13719): operations drawn for each batch | | | 2 of 11 |
    | cutout (arXiv:1708.04552): a box of 2 to 20 % in mid-grey, share of the images | | 1/4 | 1/2 |
    | samples mixed | | MixUp | MixUp or CutMix |

    Args:
        value_range: of the pixels.
        classes: how many, where integer labels are mixed; they become vectors over the classes.
        flip: "horizontal", "vertical", "horizontal_and_vertical" or None.
        mix: "mixup", "cutmix", "either", None, or "preset": by strength.
        seed, input: of `Pipeline`.

    Returns:
        `Pipeline`: a function from a dataset to a dataset, of batches in the same types and shapes.

    Raises:
        ArgumentError: a preset, range or kind of mixing that there is not.

    Example:
        >>> import tensorflow as tf
        >>> dataset = tf.data.Dataset.from_tensor_slices((255 * np.abs(images) % 255, np.arange(16))).batch(8)
        >>> changed = tfstruct.augment.images("light", mix=None)(dataset)
        >>> next(iter(changed))[0].shape
        TensorShape([8, 12, 12, 3])
    """
    chosen = settings(_STRENGTHS, strength)
    require_range("value_range", value_range)
    layers, options = keras.layers, {"dtype": "float32"}
    changes: list[Change] = []
    if flip is not None:
        changes.append(layers.RandomFlip(flip, **options))
    changes.append(
        layers.RandomTranslation(
            chosen["shift"], chosen["shift"], fill_mode="reflect", interpolation="nearest", **options
        )
    )
    if chosen["angle"]:
        changes.append(layers.RandomRotation(chosen["angle"] / 360, fill_mode="reflect", **options))
    if chosen["operations"]:
        changes.append(Choice(_operations(value_range), chosen["operations"]))
    if chosen["erase"]:
        grey = (value_range[0] + value_range[1]) / 2
        share = (chosen["erase"], chosen["erase"])
        changes.append(layers.RandomErasing(share, (0.02, 0.2), fill_value=grey, value_range=value_range, **options))
    kind = chosen["mix"] if mix == "preset" else mix
    mixing = None if kind is None else Mix(kind, classes)
    return Pipeline(tuple(changes), mixing, value_range, seed, input, "images")


@checked
class Choice:
    """Some of several changes, drawn anew for each batch, one after the other.

    `keras.layers.RandAugment` does it too, but computes all its operations for each that it draws, and has one strength
    for all, by which it posterizes most where everything else is weakest.

    Args:
        changes: as of `Pipeline`.
        count: how many of them; one may be drawn several times.
    """

    def __init__(self, changes: Sequence[Change], count: int = 1):
        if not all(map(callable, changes)):
            raise ArgumentError(f"`changes` must be layers or functions, in a list. Received: {changes!r}.")
        if not len(changes) or count < 1:
            raise ArgumentError(f"Expected changes and a positive count. Received: {len(changes)} changes, {count}.")
        self.changes, self.count = tuple(changes), count

    def __call__(self, x, draws: Draws):
        for _ in range(self.count):
            number = draws.integers((), 0, len(self.changes) - 1)
            # Their seeds are made here, since what a branch makes stays in it.
            branches = [functools.partial(changed, change, x, Draws(draws.next())) for change in self.changes]
            x = tf.ensure_shape(tf.switch_case(number, branches), x.shape)
        return x


def _operations(value_range: tuple[float, float]) -> list[Change]:
    """The operations of RandAugment, at a middling strength."""
    layers, plain = keras.layers, {"dtype": "float32"}
    ranged = {**plain, "value_range": tuple(value_range)}
    moved = {**plain, "fill_mode": "reflect"}
    return [
        layers.RandomShear(0.2, 0.2, **moved),
        layers.RandomTranslation(0.15, 0.15, **moved),
        layers.RandomRotation(20 / 360, **moved),
        layers.RandomBrightness(0.2, **ranged),
        layers.RandomColorDegeneration(0.5, **ranged),
        layers.RandomContrast(0.4, **ranged),
        layers.RandomSharpness(0.5, **ranged),
        layers.RandomPosterization((4, 8), **ranged),
        _solarize(value_range),
        layers.AutoContrast(**ranged),
        layers.Equalization(**ranged),
    ]


def _solarize(value_range: tuple[float, float]):
    """The brightest values, from a bound in the upper fifth of the range on, turned around.

    `keras.layers.Solarization` draws its bound from far below the least that it is given.
    """
    low, high = map(float, value_range)

    def change(x, draws: Draws):
        bound = draws.uniform((tf.shape(x)[0], 1, 1, 1), low + 0.8 * (high - low), high)
        return tf.where(x < bound, x, low + high - x)

    return change
