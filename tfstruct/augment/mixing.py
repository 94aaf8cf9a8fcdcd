"""Samples mixed with others of their batch, and their labels with them."""

import dataclasses

import keras
import tensorflow as tf

from tfstruct.augment.draws import Draws
from tfstruct.errors import ArgumentError, DataError

KINDS = ("mixup", "cutmix", "either")


@dataclasses.dataclass(frozen=True)
class Mix:
    """MixUp (arXiv:1710.09412) or CutMix (arXiv:1905.04899) of images, by Keras's layers.

    A sample gets the share w of its own and 1 - w of another sample of the batch, its label too: integers become
    vectors over the classes, of sum 1 (for losses such as `categorical_crossentropy`), other labels are averaged. In
    CutMix w is the share of pixels that stay. With sample weights a, b the label is (w*a*y + (1-w)*b*y') / c, and the
    weight c = w*a + (1-w)*b, so that the loss is w and 1 - w of the two.

    Args:
        kind: "mixup", "cutmix", or "either", drawn for each batch.
        classes: how many, where labels are integers.
        alpha: of the Beta distribution that MixUp draws w from.

    Example:
        >>> tfstruct.augment.Mix("cutmix", classes=10)
        Mix(kind='cutmix', classes=10, alpha=0.2)
    """

    kind: str = "mixup"
    classes: int | None = None
    alpha: float = 0.2
    _layers: tuple[keras.layers.Layer, ...] = dataclasses.field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self):
        if not isinstance(self.kind, str) or self.kind not in KINDS:
            raise ArgumentError(f"`mix` must be one of {', '.join(KINDS)}, or None. Received: {self.kind!r}.")
        made = []
        if self.kind != "cutmix":
            made.append(keras.layers.MixUp(self.alpha, dtype="float32"))
        if self.kind != "mixup":
            made.append(keras.layers.CutMix((1.0, 1.0), dtype="float32"))
        object.__setattr__(self, "_layers", tuple(made))

    def check(self, labels, weights) -> None:
        """Raises a DataError for the specs of labels that cannot be mixed."""
        if labels is None:
            raise DataError("Mixing samples mixes their labels, and the dataset has none. Give mix=None.")
        for spec in keras.tree.flatten(labels):
            if not spec.dtype.is_floating and self.classes is None:
                raise DataError(
                    f"Mixing needs to know of how many classes the integer labels {spec} are. Give classes=, or "
                    "mix=None."
                )
        if weights is not None and not isinstance(weights, tf.TensorSpec):
            raise DataError("Mixing takes one sample weight a sample. Received a structure of them. Give mix=None.")

    def __call__(self, x, labels, weights, draws: Draws):
        """Images, labels and weights of a batch, mixed."""
        mixed = [self._by(layer, x, labels, weights, draws) for layer in self._layers]
        if len(mixed) == 1:
            return mixed[0]
        first = draws.uniform(()) < 0.5
        return keras.tree.map_structure(lambda a, b: None if a is None else tf.where(first, a, b), *mixed)

    def _by(self, layer, x, labels, weights, draws):
        how = layer.get_random_transformation(x, training=True, seed=draws)
        if "batch_masks" in how:
            # Keras's share is that of a box whose sides lie between pixels.
            how["mix_weight"] = 1.0 - tf.reduce_mean(tf.cast(how["batch_masks"], tf.float32), axis=(1, 2, 3))
        labels = keras.tree.map_structure(self._soft, labels)
        if weights is None:
            mix = lambda y: layer.transform_labels(y, how)  # noqa: E731
        else:
            old = tf.reshape(tf.cast(weights, tf.float32), (-1, 1))
            new = layer.transform_labels(old, how)
            mix = lambda y: tf.math.divide_no_nan(layer.transform_labels(old * y, how), new)  # noqa: E731
            weights = tf.cast(tf.reshape(new, tf.shape(weights)), weights.dtype)
        return layer.transform_images(x, how), keras.tree.map_structure(lambda y: _mixed(mix, y), labels), weights

    def _soft(self, label):
        if label.dtype.is_floating:
            return tf.cast(label, tf.float32)
        if label.shape.rank == 2 and label.shape[-1] == 1:
            label = tf.squeeze(label, -1)
        known = tf.reduce_all((label >= 0) & (label < tf.cast(self.classes, label.dtype)))
        what = f"`classes` is {self.classes}, and the batch has labels of others. Its labels:"
        with tf.control_dependencies([tf.debugging.Assert(known, [what, label])]):
            return tf.one_hot(label, self.classes)


def _mixed(mix, label):
    """Labels of any rank; the layers take vectors."""
    flat = tf.reshape(label, (tf.shape(label)[0], -1))
    return tf.ensure_shape(tf.reshape(mix(flat), tf.shape(label)), label.shape)
